"""Super-resolution as a whole: every kind of picture, every mode, Stop, and one sentence for what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines import Progress, SuperResolutionRequest, SuperResolutionResult, UserError
from pipelines.errors import BackendUnavailable
from pipelines.model import ModelBundle
from pipelines.networks import Networks
from pipelines.restorer import Restorer, RestorerConfig
from pipelines.restorer import config_to_json as restorer_to_json
from pipelines.sr_lite import SrLite, SrLiteConfig
from pipelines.sr_lite import config_to_json as enlarger_to_json
from pipelines.super_resolution import super_resolution_stream
from tests.pictures import make_ramp


class Provider:
    """Hand out networks of few channels with random weights."""

    def __init__(self, folder: Path) -> None:
        self._networks = Networks(folder)

    def networks(self) -> Networks:
        return self._networks

    def get(self, name: str) -> ModelBundle:
        raise BackendUnavailable(f"{name} is not here.")


class WithModel(Provider):
    """Hand out a model that draws, too."""

    def __init__(self, models: Provider, model: ModelBundle) -> None:
        self._networks, self._model = models.networks(), model

    def get(self, name: str) -> ModelBundle:
        return self._model


def save(model: torch.nn.Module, about: dict[str, object], folder: Path) -> None:
    """Write a network as the recipes do."""
    folder.mkdir(parents=True)
    torch.nn.init.normal_(model.get_parameter("colour.weight" if isinstance(model, SrLite) else "out.weight"), std=0.02)
    save_file({name: value.half() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    """Both networks, tiny."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("assets")
    small = SrLiteConfig(width=8, num_pairs=1, decoder_width=8)
    save(SrLite(small), enlarger_to_json(small), folder / "sr_lite")
    tiny = RestorerConfig(fine=8, middle=8, coarse=8, num_blocks=1, num_coarse_blocks=1)
    save(Restorer(tiny), restorer_to_json(tiny), folder / "restorer")
    return Provider(folder)


def run(models: Provider, picture: Image.Image | None, **fields: object) -> SuperResolutionResult:
    """Run to the end."""
    items = list(super_resolution_stream(SuperResolutionRequest(picture, **fields), models))  # type: ignore[arg-type]
    assert all(isinstance(item, Progress) and item.preview for item in items[:-1])
    assert isinstance(items[-1], SuperResolutionResult)
    return items[-1]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("scale", [1.0, 2.0, 2.37])
def test_a_picture_keeps_its_mode_and_gets_its_size(models: Provider, mode: str, scale: float) -> None:
    picture = make_ramp(20, 14).convert(mode)
    result = run(models, picture, scale=scale)
    assert result.image.mode == mode and result.baseline.mode == mode
    assert result.image.size == result.baseline.size == (round(20 * scale), round(14 * scale))
    assert result.measures[0].on > 48 or mode in ("L", "LA")


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "I;16", "F"])
def test_a_picture_of_a_rare_mode_is_understood(models: Provider, mode: str) -> None:
    if mode in ("I;16", "F"):
        levels = np.asarray(make_ramp(12).convert("L"), dtype=np.float32) * 257
        picture = Image.fromarray(levels.astype(np.uint16 if mode == "I;16" else np.float32))
    else:
        picture = make_ramp(12).convert(mode)
    result = run(models, picture, scale=2.0)
    shown = np.asarray(result.image.convert("L"), dtype=float)
    assert result.image.size == (24, 24) and 60 < shown.mean() < 195


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (16, 1000)])
def test_a_picture_of_any_shape_is_enlarged(models: Provider, size: tuple[int, int]) -> None:
    assert run(models, make_ramp(*size), scale=4.0).image.size == (size[0] * 4, size[1] * 4)


def test_scale_1_gives_the_picture_back(models: Provider) -> None:
    picture = make_ramp(20, 14)
    assert np.array_equal(np.asarray(run(models, picture, scale=1.0).image), np.asarray(picture))


def test_transparency_is_enlarged_too(models: Provider) -> None:
    picture = make_ramp(16).convert("RGBA")
    picture.putalpha(Image.new("L", (16, 16), 0))
    assert run(models, picture, scale=3.0).image.getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("source", ["clean", "camera"])
def test_detail_is_likely_and_still_agrees(models: Provider, source: str) -> None:
    first = run(models, make_ramp(20), mode="detail", source=source, seed=1, scale=2.0)
    again = run(models, make_ramp(20), mode="detail", source=source, seed=1, scale=2.0)
    other = run(models, make_ramp(20), mode="detail", source=source, seed=2, scale=2.0)
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    assert not np.array_equal(np.asarray(first.image), np.asarray(other.image))
    assert first.measures[0].on > (40 if source == "clean" else 25)


def test_no_detail_is_the_faithful_picture(models: Provider) -> None:
    faithful = np.asarray(run(models, make_ramp(20), scale=2.0).image, dtype=int)
    none = np.asarray(run(models, make_ramp(20), scale=2.0, mode="detail", detail_frac=0.0).image, dtype=int)
    assert np.abs(faithful - none).max() <= 1


def test_a_camera_picture_is_not_forced_to_agree_and_this_is_said(models: Provider) -> None:
    assert "does not agree exactly" in run(models, make_ramp(20), source="camera").notes[0]


@pytest.mark.parametrize(
    "fields", [{"blur_px": 1.0}, {"noise_levels": 10.0}, {"missing": "black"}, {"scale": 2.0, "noise_levels": 5.0}]
)
def test_a_known_damage_is_undone(models: Provider, fields: dict[str, object]) -> None:
    picture = make_ramp(20)
    picture.putpixel((4, 4), (0, 0, 0))
    result = run(models, picture, **{"mode": "damage", "scale": 1.0, "num_steps": 4, **fields})
    scale = 2 if "scale" in fields else 1
    assert result.image.size == (20 * scale, 20 * scale)
    if "missing" in fields:
        assert result.image.getpixel((4, 4)) != (0, 0, 0)


def test_transparent_pixels_can_be_the_lost_ones(models: Provider) -> None:
    picture = make_ramp(16).convert("RGBA")
    picture.putpixel((3, 3), (9, 9, 9, 0))
    result = run(models, picture, mode="damage", scale=1.0, missing="transparent", num_steps=4)
    assert result.image.mode == "RGB"


@pytest.mark.parametrize(
    ("picture", "fields", "sentence"),
    [
        (None, {}, "There is no picture yet"),
        (make_ramp(20), {"scale": 9.0}, "Scale 9 is too high; choose 1 to 8"),
        (Image.new("L", (16, 4000)), {}, "64 x 16000 px; choose a scale of at most 1"),
        (Image.new("L", (1500, 1200)), {}, "6000 x 4800 px; choose a scale of at most 2.7"),
        (make_ramp(400), {"mode": "damage", "blur_px": 1.0}, "choose a scale of at most 2.5"),
        (Image.new("L", (1, 5000)), {"scale": 1.0}, "choose one of at most 4096 px"),
        (make_ramp(20), {"mode": "damage", "scale": 1.0}, "No damage is described"),
        (make_ramp(20), {"mode": "damage", "missing": "transparent"}, "not transparent anywhere"),
        (
            Image.new("RGB", (20, 20), "grey"),
            {"mode": "damage", "missing": "white"},
            "No pixel of this picture is white",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    models: Provider, picture: Image.Image | None, fields: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        run(models, picture, **fields)


def test_answers_differ_and_all_shrink_to_the_same_picture(tiny_sd: ModelBundle, models: Provider) -> None:
    fields = {"mode": "explore", "prompt": "a boat", "num_images": 2, "num_steps": 4, "scale": 4.0}
    result = run(WithModel(models, tiny_sd), make_ramp(80, 60), **fields)
    side = tiny_sd.spec.image_px
    assert [image.size for image in result.images] == [(side, side)] * 2 and result.original.size == (side // 4,) * 2
    assert "cropped" in result.notes[0] and result.measures[0].on > 40
    assert result.measures[-1].on > 0.2
    shrunk = [np.asarray(image.resize(result.original.size, Image.Resampling.BICUBIC), int) for image in result.images]
    assert np.abs(shrunk[0] - shrunk[1]).mean() < 2  # Pillow rounds between its passes
    with pytest.raises(UserError, match="Exploring needs words"):
        run(WithModel(models, tiny_sd), make_ramp(20), mode="explore")


def test_less_freedom_leaves_more_of_the_first_steps_out(tiny_sd: ModelBundle, models: Provider) -> None:
    def list_steps(freedom_frac: float) -> list[int]:
        fields = {"mode": "explore", "prompt": "a boat", "num_images": 1, "num_steps": 10, "scale": 4.0}
        request = SuperResolutionRequest(make_ramp(80), **fields, freedom_frac=freedom_frac)  # type: ignore[arg-type]
        items = super_resolution_stream(request, WithModel(models, tiny_sd))
        return [item.step for item in items if isinstance(item, Progress) and item.note.startswith("step")]

    assert list_steps(1.0) == list(range(1, 11)) and list_steps(0.3) == [8, 9, 10] and list_steps(0.1) == [10]


def test_a_stop_between_tiles_leaves_nothing_behind(models: Provider) -> None:
    stream = super_resolution_stream(SuperResolutionRequest(make_ramp(20), mode="detail", scale=2.0), models)
    first = next(stream)
    stream.close()
    assert isinstance(first, Progress) and first.step == 1 and first.num_steps > 1


def test_missing_weights_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="holds no enlarger"):
        run(Provider(tmp_path), make_ramp(20))
