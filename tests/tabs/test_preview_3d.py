"""The 3D tab's handlers as plain functions: stages, a model that can be turned, its files, and what a stop keeps."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import trimesh
from PIL import Image

from pipelines import UserError, read_mask, write_mask
from pipelines.networks import Networks
from tabs import preview_3d
from tabs.preview_inputs import METHODS, OPTIONS, PLAIN, on_checked, on_method_changed, to_request
from tabs.preview_paint import on_recolour, on_view
from tabs.preview_picture import on_picture


class Models:
    """Run streams where they are called, with networks from a folder that may be empty."""

    def __init__(self, folder: Path) -> None:
        self._networks = Networks(folder)

    def networks(self) -> Networks:
        """Return the networks."""
        return self._networks

    def run(self, stream: Any) -> Any:
        """Pass a stream on."""
        yield from stream


@pytest.fixture
def services(tmp_path: Path) -> Any:
    """Hand out services without weights."""
    return SimpleNamespace(models=Models(tmp_path))


def make_values(**changes: Any) -> dict[str, Any]:
    """Make the values of the widgets for an example's picture."""
    row = preview_3d.load_examples()["start"]
    filled = preview_3d.on_example(row)
    return {name: filled[name] for name in ("picture", *PLAIN, "seed")} | {"method": "inflate"} | changes


def read(value: Any) -> Any:
    """Return the value of an update, whether it is a widget or plain."""
    return value.value if hasattr(value, "value") else value


def test_a_run_shows_the_first_shape_and_ends_with_a_model_that_loads(services: Any) -> None:
    *steps, last, end = list(preview_3d.on_run(services, **make_values()))
    assert any("model" in step and "live" in step for step in steps)
    # The viewer must not be told its last file again with the end of the run, nor the same name twice.
    assert end == {"trace": None}
    names = [Path(read(step["model"])["path"]).name for step in (*steps, last) if read(step.get("model"))]
    assert len(names) == len(set(names)) == 2
    path = read(last["glb"])
    path = path["path"] if isinstance(path, dict) else path
    assert trimesh.load(path, force="mesh").is_watertight
    assert "Done in" in last["status"] and "first shape" in last["facts"] and last["trace"] is None
    assert "image/webp" in last["round"] and not last["live"].visible


def test_a_stop_keeps_the_best_model(services: Any) -> None:
    stream = preview_3d.on_run(services, **make_values())
    for updates in stream:
        if updates.get("kept") is not None:
            break
    stream.close()
    stopped, end = preview_3d.on_stop(trace=updates["trace"], kept=updates["kept"])
    assert end == {"trace": None}
    assert "best model so far" in stopped["stopped"] and stopped["glb"].interactive
    assert list(preview_3d.on_stop(trace=None, kept=None)) == []
    (told,) = preview_3d.on_stop(trace=(0, 1), kept=None)
    assert "nothing was finished" in told["stopped"]


def test_a_method_without_weights_says_so_before_and_after_the_click(services: Any) -> None:
    told = on_checked(services, method="views")
    assert "make train-turntable" in told["plan"] and not told["run"].interactive
    assert on_checked(services, method="inflate")["plan"] == ""
    with pytest.raises(UserError, match="make train-turntable"):
        list(preview_3d.on_run(services, **make_values(method="polish")))


def test_every_method_shows_its_own_settings_only() -> None:
    assert set(METHODS) == set(OPTIONS)
    for method, options in OPTIONS.items():
        shown = on_method_changed(method=method)
        visible = {name.removesuffix(" group") for name, group in shown.items() if getattr(group, "visible", False)}
        assert visible - {"about", "settings"} == set(options)


def test_without_a_picture_there_is_one_sentence() -> None:
    with pytest.raises(UserError, match="no picture yet"):
        to_request(make_values(picture=None))


def test_a_picture_from_another_tab_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(path)
    taken = preview_3d.on_sent(sent={"tab": "preview", "path": str(path), "count": 1})
    assert taken["picture"] == str(path) and preview_3d.on_sent(sent={"tab": "drag", "path": "", "count": 1}) == {}


def test_the_examples_are_pictures_that_are_there() -> None:
    document = preview_3d.load_examples()
    for row in (document["start"], *document["examples"]):
        assert Path(preview_3d.find_picture(row)).is_file() and row["method"] in METHODS
        assert isinstance(preview_3d.on_example(row)["model"], gr.Model3D)


def test_the_found_object_lies_on_the_canvas_and_a_painted_one_decides(services: Any) -> None:
    filled = preview_3d.on_example(preview_3d.load_examples()["start"])
    canvas = filled["cutout"]
    found = read_mask(canvas["paint"])
    assert found.size == (canvas["width"], canvas["height"]) and 0.05 < np.asarray(found).mean() / 255 < 0.6
    values = make_values(cutout=canvas)
    assert to_request(values)[0].painted is None  # looked at, not painted
    painted = Image.new("L", found.size)
    painted.paste(255, (100, 60, 140, 120))
    request, _ = to_request({**values, "cutout": {**canvas, "paint": write_mask(painted), "touched": True}})
    assert request.painted is not None and np.array_equal(np.asarray(request.painted), np.asarray(painted))


def test_a_picture_without_object_is_there_to_be_painted(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "black").save(tmp_path / "black.png")
    told = on_picture(path=str(tmp_path / "black.png"))
    assert "No object stands out" in told["picture_notes"] and told["cutout"]["paint"] is None and told["cutout"]["key"]


def test_a_model_is_recoloured_and_its_files_with_it(services: Any) -> None:
    *_, last, _ = list(preview_3d.on_run(services, **make_values()))
    seen = on_view(mesh=last["mesh"], side="Front")["strokes"]
    strokes = Image.new("RGBA", (seen["width"], seen["height"]))
    strokes.paste((255, 0, 0, 255), (100, 110, 150, 160))
    data = io.BytesIO()
    strokes.save(data, "PNG")
    address = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    given = {"mesh": last["mesh"], "side": "Front", "spread": "alike"}
    told = on_recolour(strokes={**seen, "paint": address, "touched": True}, **given)
    assert told["mesh"].colours[:, 0].mean() > last["mesh"].colours[:, 0].mean() + 0.2
    assert told["model"] != read(last["model"]) and "Recoloured" in told["paint_notes"]
    with pytest.raises(UserError, match="Nothing is painted yet"):
        on_recolour(strokes=seen, **given)
