"""Style prompting from request to result: arms, preparation, extension, notes, and one sentence for bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import Progress, StyleRequest, StyleResult, UserError, style_stream
from pipelines.model import ModelBundle
from pipelines.style_measures import compare_colours, compare_textures, gram
from pipelines.style_sketches import draw_sources
from tests.pictures import make_ramp

REQUEST = StyleRequest("a red boat", reference=make_ramp(64), num_steps=2, num_images=2, seed=5)


def draw(models: Any, **changes: Any) -> tuple[list[Progress], StyleResult]:
    """Run a request to its end."""
    *steps, result = style_stream(dataclasses.replace(REQUEST, **changes), models)
    assert isinstance(result, StyleResult)
    return steps, result


def test_one_arm_with_its_pictures(tiny_model: ModelBundle, provide: Callable[[Any], Any]) -> None:
    tiny_model.inversion_memory.clear()
    steps, result = draw(provide(tiny_model))
    assert [arm.title for arm in result.arms] == ["Visual Style Prompting"]
    assert len(result.images) == 2 and result.images[0].size == (64, 64)
    assert len(result.references) == len(result.inversions_db) == 1
    assert any("inverting" in step.note for step in steps) and steps[-1].step == steps[-1].num_steps == 2
    assert result.sketches and not tiny_model.lock.locked()
    later = draw(provide(tiny_model))[0]
    assert [step.step for step in later] == [1, 2], "a known style picture is not inverted or read again"


def test_comparing_draws_words_only_and_the_baseline_first(tiny_models: Any) -> None:
    steps, result = draw(tiny_models, compare=True)
    assert [arm.name for arm in result.arms] == ["", "style_aligned", "visual_style"]
    assert (steps[-1].step, steps[-1].num_steps) == (6, 6)
    plain, aligned, asked = result.arms
    assert asked.images == result.images
    for arm in result.arms:
        assert [measure.off for measure in arm.measures] == [measure.on for measure in plain.measures]
    words = draw(tiny_models, techniques={})[1]
    assert np.array_equal(np.asarray(words.images[1]), np.asarray(plain.images[1]))
    assert not np.array_equal(np.asarray(aligned.images[0]), np.asarray(asked.images[0]))
    two = draw(tiny_models, compare=True, techniques={"style_aligned": {}})[1]
    assert [arm.name for arm in two.arms] == ["", "style_aligned"]


def test_style_pictures_can_be_drawn_from_words(tiny_models: Any) -> None:
    steps, result = draw(
        tiny_models, reference=None, reference_prompt="a blue star, watercolor", second_prompt="a house, neon"
    )
    assert len(result.references) == 2 and result.references[0].size == (64, 64)
    assert sum(step.note.startswith("drawing the style picture") for step in steps) == 2
    assert all(step.step == 0 for step in steps if "drawing" in step.note)


def test_extending_keeps_the_picture_at_its_place(tiny_models: Any) -> None:
    for extend, width in (("right", 128), ("left", 128), ("both", 192)):
        assert draw(tiny_models, extend=extend, num_images=1)[1].images[0].size == (width, 64)


def test_reading_by_inversion_reads_other_latents(tiny_models: Any) -> None:
    steps, inverted = draw(tiny_models, read_by="inversion")
    assert sum("inverting the picture" in step.note for step in steps) >= 2
    assert not np.array_equal(np.asarray(inverted.images[0]), np.asarray(draw(tiny_models)[1].images[0]))


def test_what_was_adapted_is_said(tiny_models: Any) -> None:
    notes = draw(tiny_models, reference=make_ramp(200, 100), second=make_ramp(90), prompt="a red dragon")[1].notes
    assert "The style picture was cropped to its middle square." in notes
    assert any("second style picture was resized from 90 x 90 px" in note for note in notes)
    assert any("does not know 'dragon'" in note for note in notes)
    assert any("none of its world" in note for note in notes), "random weights know no picture"
    idle = draw(tiny_models, extend="right", num_images=1, techniques={"visual_style": {"negative_query": 1.0}})[1]
    assert any("negative query needs a style picture as large" in note for note in idle.notes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"reference": None}, "There is no style picture"),
        ({"prompt": "xyzzy"}, "knows no word of this prompt"),
        ({"techniques": {"s_cfg": {}}}, "'s_cfg' is not known; choose one of visual_style, style_aligned"),
        ({"techniques": {"visual_style": {}, "style_aligned": {}}}, "both change the same attention"),
        ({"techniques": {"visual_style": {"strength": 2.0}}}, "Strength 2 is too high; choose 0 to 1"),
        ({"num_images": 20}, "Pictures 20 is too high"),
        ({"extend": "up"}, "'up' is not known"),
    ],
)
def test_bad_input_is_one_sentence(tiny_models: Any, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        draw(tiny_models, **changes)


def test_closing_at_any_point_leaves_the_model_free(tiny_models: Any) -> None:
    tiny_models.bundle.style_memory.clear()
    tiny_models.bundle.inversion_memory.clear()
    count = sum(1 for _ in style_stream(REQUEST, tiny_models))
    expected = draw(tiny_models)[1].images[0]
    for stop_after in range(0, count, 3):
        tiny_models.bundle.style_memory.clear()
        tiny_models.bundle.inversion_memory.clear()
        stream = style_stream(REQUEST, tiny_models)
        for _ in range(stop_after):
            next(stream)
        stream.close()
        assert not tiny_models.bundle.lock.locked()
    assert np.array_equal(np.asarray(draw(tiny_models)[1].images[0]), np.asarray(expected))


def test_colour_distance_ignores_places() -> None:
    picture = make_ramp(64)
    assert compare_colours(picture, picture.rotate(180)) < 0.02
    black, white = (Image.new("RGB", (64, 64), colour) for colour in ("black", "white"))
    assert compare_colours(black, white) == 1.0


def test_texture_distance_is_the_gram_formula(storybook: ModelBundle) -> None:
    assert storybook.judge is not None
    flat, ramp = Image.new("RGB", (256, 256), "red"), make_ramp(256)
    same, other = compare_textures(storybook.judge.parser, ramp, [ramp, flat])
    assert same == pytest.approx(0, abs=1e-9) and other > 0.05
    grid = torch.randn(2, 3, 4, dtype=torch.float64)
    slow = [[float((grid[a] * grid[b]).sum() / grid.numel()) for b in range(2)] for a in range(2)]
    assert torch.allclose(gram(grid), torch.tensor(slow, dtype=torch.float64))


def test_the_collage_is_made_of_the_patches_that_were_looked_at() -> None:
    """Every patch of the picture looks at the style picture's patch of the mirrored column."""
    reference, picture = make_ramp(64), Image.new("RGB", (64, 64), "grey")
    looks = torch.zeros(64, 64)
    for patch in range(64):
        looks[patch, patch // 8 * 8 + 7 - patch % 8] = 1
    places, colours, collage = (drawn for _, drawn in draw_sources(picture, [reference], (looks, 8)))
    assert places.size == colours.size == collage.size == (64, 64)
    columns = np.asarray(reference).reshape(64, 8, 8, 3)[:, ::-1].reshape(64, 64, 3)
    assert np.abs(np.asarray(collage).astype(int) - columns).max() <= 1
    assert draw_sources(picture, [reference], None) == ()
