"""The 3D preview's stream: first shape, views, model; a stop keeps the best; odd pictures are one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pipelines.backends import PROJECT_DIR
from pipelines.errors import BackendUnavailable, UserError
from pipelines.mesh import is_watertight
from pipelines.mesh_files import to_glb
from pipelines.networks import Networks
from pipelines.preview_3d import preview_3d_stream
from pipelines.preview_records import Preview3dProgress, Preview3dRequest, Preview3dResult
from pipelines.python_code import to_python
from pipelines.radiance_field import Field
from pipelines.turntable import Turntable, TurntableConfig


class TinyNetworks(Networks):
    """Networks with an untrained turntable: its views are the inflated body's."""

    @property
    def turntable(self) -> Turntable:
        """Return the untrained network."""
        torch.manual_seed(0)
        config = TurntableConfig(width=16, num_blocks=2, num_heads=2, patch_px=16, fine=4)
        return Turntable(config).eval().requires_grad_(False)


class Provider:
    """Hand out networks."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def networks(self) -> Networks:
        """Return them."""
        return self._networks


MODELS = Provider(TinyNetworks())


def draw_thing(size: int = 160) -> Image.Image:
    """Draw a red body with a green head on white paper."""
    picture = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    pen.ellipse([size * 0.25, size * 0.4, size * 0.75, size * 0.9], fill="red")
    pen.ellipse([size * 0.35, size * 0.12, size * 0.65, size * 0.45], fill="green")
    return picture


def run(**fields: object) -> list[object]:
    """Run a request to its end."""
    return list(preview_3d_stream(Preview3dRequest(**{"picture": draw_thing(), **fields}), MODELS))  # type: ignore[arg-type]


def test_inflating_gives_a_closed_model_that_looks_like_its_picture() -> None:
    *steps, result = run(method="inflate")
    assert isinstance(result, Preview3dResult) and len(steps) == 1 and steps[0].mesh is result.mesh  # type: ignore[attr-defined]
    assert result.mesh is not None and is_watertight(result.mesh)
    measures = {measure.name: measure.on for measure in result.measures}
    assert measures["front_iou"] > 0.95 and measures["front_db"] > 22
    top = result.mesh.colours[result.mesh.vertices[:, 1] > 0.5].mean(0)
    assert top[1] > 0.4 and top[0] < 0.2  # the green head is above
    assert len(result.turntable) == 24 and result.views == () and 0 < result.first_shape_s <= result.seconds


def test_polishing_goes_through_all_stages_and_a_stop_keeps_the_best() -> None:
    request = Preview3dRequest(picture=draw_thing(), method="polish", view_steps=1, fit_steps=20, polish_rounds=1)
    stream = preview_3d_stream(request, MODELS)
    steps = []
    for item in stream:
        if isinstance(item, Preview3dResult):
            break
        assert isinstance(item, Preview3dProgress) and item.preview is not None and item.keep is not None
        steps.append(item)
        if len(steps) == 2:
            kept = item.keep()
    assert [step.step for step in steps] == list(range(1, 1 + 1 + 2 + 1 + 1 + 1)) and steps[-1].num_steps == len(steps)
    assert kept.mesh is steps[0].mesh and len(kept.views) == 8
    assert item.mesh is steps[-1].mesh and item.mesh is not kept.mesh and len(item.views) == 8
    assert np.isfinite(item.mesh.vertices).all() and is_watertight(item.mesh)  # type: ignore[union-attr]
    front = {measure.name: measure.on for measure in item.measures}
    assert front["front_iou"] > 0.8


@pytest.mark.parametrize(("method", "count"), [("views", 1), ("polish", 2)])
def test_the_surface_is_chosen_for_what_the_field_is_at_the_end(
    monkeypatch: pytest.MonkeyPatch, method: str, count: int
) -> None:
    chosen: list[Field] = []

    def choose(field: Field, *_rest: object) -> float:
        chosen.append(field.copy())
        return 0.05 if len(chosen) == 1 else 0.2

    monkeypatch.setattr("pipelines.preview_3d.choose_level", choose)
    *steps, result = run(method=method, view_steps=1, fit_steps=20, polish_rounds=1)
    assert len(chosen) == count and isinstance(result, Preview3dResult) and result.mesh is not None
    extents = [float(np.ptp(step.mesh.vertices, 0).prod()) for step in steps if step.mesh is not None]  # type: ignore[attr-defined]
    if method == "polish":
        assert not torch.equal(chosen[0].density, chosen[1].density)
        assert extents[-1] < extents[-2]


def test_parallax_sways_the_whole_picture() -> None:
    *_, result = run(method="parallax")
    assert isinstance(result, Preview3dResult) and result.mesh is None and len(result.turntable) == 24
    assert result.turntable[0].size == (160, 160) and "guessed" in result.notes[-1]


def test_a_painted_mask_decides() -> None:
    painted = Image.new("L", (160, 160), 0)
    ImageDraw.Draw(painted).rectangle([60, 60, 100, 120], fill=255)
    *_, result = run(method="inflate", painted=painted)
    assert isinstance(result, Preview3dResult) and result.mesh is not None
    extents = np.ptp(result.mesh.vertices, 0)
    assert extents[1] == pytest.approx(1.5, abs=0.08) and extents[0] == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (None, "There is no picture yet"),
        (Image.new("RGB", (8, 8)), "too small"),
        (Image.new("RGB", (200, 200), "black"), "No object stands out"),
        (Image.new("RGBA", (200, 200)), "transparent everywhere"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(picture: Image.Image | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        run(picture=picture, method="inflate")
    assert str(caught.value).count(".") == 1


def test_a_transparent_picture_of_16_megapixels_is_taken() -> None:
    picture = Image.new("RGBA", (4000, 4000))
    ImageDraw.Draw(picture).ellipse([1000, 1000, 3000, 3000], fill=(200, 40, 40, 255))
    *_, result = run(picture=picture, method="inflate")
    assert isinstance(result, Preview3dResult) and result.mesh is not None and result.notes == ()


def test_copied_python_makes_the_same_model(tmp_path: Path) -> None:
    draw_thing().save(tmp_path / "picture.png")
    *_, result = run(method="inflate")
    (tmp_path / "copied.py").write_text(to_python(Preview3dRequest(method="inflate", seed=3)))
    command, home = [sys.executable, "copied.py"], {**os.environ, "PYTHONPATH": str(PROJECT_DIR)}
    subprocess.run(command, cwd=tmp_path, env=home, check=True)
    assert (tmp_path / "limelight.glb").read_bytes() == to_glb(result.mesh)  # type: ignore[attr-defined]


def test_copied_python_of_layers_saves_a_clip() -> None:
    code = to_python(Preview3dRequest(picture=draw_thing(), painted=draw_thing(), method="parallax"))
    compile(code, "copied", "exec")
    assert "limelight.webp" in code and 'painted=Image.open("painted.png")' in code and "to_glb" not in code


def test_without_weights_the_sentence_says_what_to_run(tmp_path: Path) -> None:
    networks = Networks(tmp_path)
    assert "make train-turntable" in networks.explain_missing("views") and not networks.explain_missing("inflate")
    stream = preview_3d_stream(Preview3dRequest(picture=draw_thing(), method="views"), Provider(networks))
    next(stream)
    with pytest.raises(BackendUnavailable, match="make train-turntable"):
        next(stream)
