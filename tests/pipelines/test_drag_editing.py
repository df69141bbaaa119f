"""Dragging from request to result: reports, what stays, notes, two at once, one sentence for bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines import DragPair, DragProgress, DragRequest, DragResult, Progress, UserError, drag_stream, fit_picture
from pipelines.fit import FitSettings
from pipelines.model import ModelBundle
from tests.pictures import make_ramp

PAIR = DragPair(24, 32, 36, 32)
QUICK = {"fast_drag": {}, "drag_noise": {"num_rounds": 2}, "drag_diffusion": {"num_rounds": 2}}


def make_picture(x: float = 24, colour: str = "red") -> Image.Image:
    """Draw a disc before a ramp."""
    picture = make_ramp(64)
    ImageDraw.Draw(picture).ellipse((x - 9, 23, x + 9, 41), fill=colour)
    return picture


REQUEST = DragRequest(make_picture(), pairs=(PAIR,), num_steps=4, seed=5)


def make_mask(box: tuple[int, int, int, int]) -> Image.Image:
    """Draw a mask with one white box."""
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def drag(models: Any, **changes: Any) -> tuple[list[Progress], DragResult]:
    """Run a request to its end."""
    *steps, result = drag_stream(dataclasses.replace(REQUEST, **changes), models)
    assert isinstance(result, DragResult)
    return steps, result


@pytest.mark.parametrize("name", QUICK)
def test_a_drag_from_end_to_end(tiny_model: ModelBundle, provide: Callable[[Any], Any], name: str) -> None:
    mask = make_mask((8, 16, 56, 48))
    steps, result = drag(provide(tiny_model), techniques={name: QUICK[name]}, mask=mask)
    told = [step for step in steps if isinstance(step, DragProgress)]
    assert any("inverting" in step.note for step in steps) and told[-1].step == told[-1].num_steps > 0
    assert all(len(step.handles) == 1 for step in told) and told[0].left_px < 30
    assert told[0].state is not None and told[0].left_px == 12, "a stop finds something from the first report on"
    assert np.array_equal(np.asarray(told[0].state), np.asarray(result.original))
    assert told[-1].state is not None and told[-1].state.size == (64, 64)
    held = np.asarray(mask) == 0
    for picture in (result.image, told[-1].state):
        assert np.array_equal(np.asarray(picture)[held], np.asarray(result.original)[held])
    assert not np.array_equal(np.asarray(result.image), np.asarray(result.original))
    assert (np.asarray(result.mask)[held] == 0).all()
    assert [measure.name for measure in result.measures] == ["mean_distance_px", "outside_psnr_db"]
    assert result.measures[0].off == 12 and result.measures[1].on == 99
    assert {"invert", "pull", "draw"} <= dict(result.stages_s).keys() and len(result.sketches) == 2
    assert not tiny_model.lock.locked()


def test_the_thing_arrives_on_the_shipped_weights(storybook: ModelBundle, provide: Callable[[Any], Any]) -> None:
    picture = Image.new("RGB", (256, 256), (168, 208, 240))
    ImageDraw.Draw(picture).polygon([(60, 90), (110, 90), (130, 150), (40, 150)], fill=(218, 44, 48))
    request = DragRequest(picture, pairs=(DragPair(85, 120, 145, 130),), num_steps=8, pull="move")
    *_, result = drag_stream(request, provide(storybook))
    assert isinstance(result, DragResult)
    drawn = np.asarray(result.image).astype(int)
    assert abs(drawn[130, 145] - (218, 44, 48)).max() < 40, "the thing is at the target"
    assert abs(drawn[120, 70] - (168, 208, 240)).max() < 40, "and no ghost where it was"


def test_a_picture_can_be_drawn_from_words(tiny_models: Any) -> None:
    steps, result = drag(tiny_models, picture=None, prompt="a red boat")
    assert any(step.note.startswith("drawing the picture") for step in steps)
    assert result.original.size == result.image.size == (64, 64)


def test_the_identity_fit_is_optional_and_reported(tiny_models: Any) -> None:
    steps, fitted = drag(tiny_models, fit=True)
    assert sum("learning the picture" in step.note for step in steps) == FitSettings().num_steps
    assert "fit" in dict(fitted.stages_s) and "fit" not in dict(drag(tiny_models)[1].stages_s)
    assert not any(module._forward_hooks for module in tiny_models.bundle.unet.modules())


def test_two_runs_at_once_never_meet(tiny_models: Any) -> None:
    first = dataclasses.replace(REQUEST, techniques={"drag_noise": {"num_rounds": 2}})
    other = dataclasses.replace(
        REQUEST,
        picture=make_picture(40, "blue"),
        pairs=(DragPair(40, 32, 22, 30),),
        seed=9,
        techniques={"drag_diffusion": {"num_rounds": 2}},
    )
    alone = [list(drag_stream(request, tiny_models)) for request in (first, other)]
    tiny_models.bundle.inversion_memory.clear()
    tiny_models.bundle.style_memory.clear()
    together: list[list[Any]] = [[], []]
    streams = [drag_stream(request, tiny_models) for request in (first, other)]
    while streams != [None, None]:
        for index, stream in enumerate(streams):
            if stream is not None:
                try:
                    together[index].append(next(stream))
                except StopIteration:
                    streams[index] = None  # type: ignore[call-overload]
    for before, after in zip(alone, together):
        assert np.array_equal(np.asarray(before[-1].image), np.asarray(after[-1].image))
        assert before[-1].handles == after[-1].handles


@pytest.mark.parametrize("name", QUICK)
def test_closing_at_any_point_leaves_the_model_free(tiny_models: Any, name: str) -> None:
    request = dataclasses.replace(REQUEST, techniques={name: QUICK[name]})
    *steps, expected = drag_stream(request, tiny_models)
    for stop_after in range(0, len(steps), 3):
        stream = drag_stream(request, tiny_models)
        for _ in range(stop_after):
            next(stream)
        stream.close()
        assert not tiny_models.bundle.lock.locked()
    *_, again = drag_stream(request, tiny_models)
    assert isinstance(again, DragResult) and isinstance(expected, DragResult)
    assert np.array_equal(np.asarray(again.image), np.asarray(expected.image))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"picture": None}, "There is no picture yet"),
        ({"pairs": ()}, "There is no pair yet"),
        ({"pairs": (DragPair(24, 32, 90, 32),)}, "The target of pair 1 lies outside the picture"),
        ({"pairs": (PAIR, DragPair(20, 20, 20.5, 20))}, "Handle and target of pair 2 are the same place"),
        ({"pairs": [{"handle_x": 1}]}, "unknown form"),
        ({"pairs": (DragPair(24, float("nan"), 36, 32),)}, "unknown form"),
        ({"mask": make_mask((40, 40, 60, 60))}, "The handle of pair 1 lies outside the mask"),
        ({"mask": make_mask((16, 16, 30, 48))}, "The target of pair 1 lies outside the mask"),
        ({"mask": Image.new("L", (64, 64), 0)}, "The mask marks nothing"),
        ({"mask": Image.new("L", (64, 64), 255)}, "The mask covers everything"),
        ({"mask": Image.new("L", (32, 32), 255)}, "not as large as the picture"),
        ({"picture": make_ramp(80, 64)}, "not square"),
        ({"techniques": {}}, "choose one of Instant"),
        ({"techniques": {"fast_drag": {}, "drag_noise": {}}}, "2 ways of dragging are chosen"),
        ({"techniques": {"fast_drag": {"start_frac": 2}}}, "Start 2 is too high"),
        ({"pull": "throw"}, "'throw' is not known"),
        ({"pairs": (DragPair(32, 32, 2, 32),), "pull": "stretch"}, "bring the target nearer"),
    ],
)
def test_bad_input_is_one_sentence(tiny_models: Any, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        drag(tiny_models, **changes)


def test_pictures_are_fitted_before_points_are_set() -> None:
    fitted, said = fit_picture(make_ramp(300, 200), "storybook")
    assert fitted.size == (256, 256) and said == "The picture was cropped to its middle square."
