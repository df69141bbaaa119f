"""Requests to pictures: one sentence for every bad input, notes for every adaptation, compare, stop, same pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import (
    BackendUnavailable,
    ImageResult,
    Progress,
    TextToImageRequest,
    UserError,
    read_settings,
    settings_to_pnginfo,
    text_to_image_stream,
)
from pipelines.model import ModelBundle

RESCALE = {"cfg_rescale": {"strength": 0.8}}
REQUEST = TextToImageRequest("a red boat left of a white moon", num_steps=2, seed=5)


def draw(models: Any, **changes: Any) -> tuple[list[Progress], ImageResult]:
    """Run a request to its end."""
    *steps, result = text_to_image_stream(dataclasses.replace(REQUEST, **changes), models)
    assert isinstance(result, ImageResult)
    return steps, result


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_progress_then_one_result(tiny_model: ModelBundle, provide: Callable[[ModelBundle], Any]) -> None:
    steps, result = draw(provide(tiny_model), num_images=2)
    assert [step.step for step in steps] == [1, 2]
    assert len(result.images) == 2 and result.images[0].size == (64, 64)
    assert result.seed_used == 5 and result.seconds > 0
    assert result.baseline_images == () and result.measures == ()


def test_a_picture_of_a_batch_equals_the_single_one(tiny_model: ModelBundle, provide: Callable[[Any], Any]) -> None:
    batch = draw(provide(tiny_model), num_images=3)[1]
    single = draw(provide(tiny_model), seed=REQUEST.seed + 2)[1]
    assert np.array_equal(pixels(batch.images[2]), pixels(single.images[0]))


def test_comparing_draws_both_arms_from_one_seed(tiny_models: Any) -> None:
    steps, result = draw(tiny_models, compare=True, techniques=RESCALE, guidance_scale=9.0)
    assert [(step.step, step.num_steps) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert steps[0].note.startswith("without, ") and steps[3].note.startswith("with, ")
    plain, technique = (
        draw(tiny_models, guidance_scale=9.0)[1],
        draw(tiny_models, techniques=RESCALE, guidance_scale=9.0)[1],
    )
    assert np.array_equal(pixels(result.baseline_images[0]), pixels(plain.images[0]))
    assert np.array_equal(pixels(result.images[0]), pixels(technique.images[0]))
    assert not np.array_equal(pixels(result.images[0]), pixels(result.baseline_images[0]))
    assert {"clipped_frac", "rms_contrast"} <= {measure.name for measure in result.measures}


def test_windows_are_compared_by_their_seams(tiny_models: Any) -> None:
    def list_measures(**changes: Any) -> set[str]:
        result = draw(tiny_models, compare=True, width_px=160, techniques={"multi_diffusion": {}}, **changes)[1]
        return {measure.name for measure in result.measures}

    assert "seam_ratio" in list_measures()
    assert "seam_ratio" not in list_measures() - {"seam_ratio"}


def test_comparing_nothing_says_so(tiny_models: Any) -> None:
    steps, result = draw(tiny_models, compare=True)
    assert len(steps) == 2 and result.baseline_images == ()
    assert any("nothing to compare" in note for note in result.notes)


def test_interleaved_visitors_get_the_pictures_they_would_get_alone(tiny_models: Any) -> None:
    alone = [draw(tiny_models, seed=seed)[1].images[0] for seed in (1, 2)]
    streams = [text_to_image_stream(dataclasses.replace(REQUEST, seed=seed), tiny_models) for seed in (1, 2)]
    together: list[Any] = [None, None]
    for _ in range(3):
        for index, stream in enumerate(streams):
            together[index] = next(stream)
    for one, other in zip(alone, together):
        assert np.array_equal(pixels(one), pixels(other.images[0]))


def test_stopping_frees_the_model_and_the_next_run_is_unchanged(tiny_models: Any) -> None:
    before = draw(tiny_models)[1].images[0]
    for stop_after in (1, 2):
        stream = text_to_image_stream(REQUEST, tiny_models)
        for _ in range(stop_after):
            item = next(stream)
            assert isinstance(item, Progress) and item.preview is not None
        stream.close()
        assert not tiny_models.bundle.lock.locked()
    assert np.array_equal(pixels(before), pixels(draw(tiny_models)[1].images[0]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": " \n\t"}, "The prompt is empty"),
        ({"prompt": "xyzzy qwertz"}, "storybook knows no word of this prompt"),
        ({"prompt": "一只红色的船"}, "storybook knows no word of this prompt"),
        ({"prompt": "?!"}, "storybook knows no word of this prompt"),
        ({"num_steps": 0}, "Steps 0 is too low"),
        ({"guidance_scale": 1e9}, "Guidance 1000000000 is too high"),
        ({"seed": -1}, "Seed -1 is too low"),
        ({"seed": 2**64}, "Seed 18446744073709551616 is too high"),
        ({"seed": "text"}, "Seed must be a number, not 'text'"),
        ({"backend": "dalle"}, "Backend 'dalle' is not known; choose one of storybook, sd15, sdxl."),
        ({"width_px": 2048}, "Width 2048 is too large for storybook; choose at most 768 px."),
    ],
)
def test_bad_input_is_one_sentence_and_the_next_run_works(tiny_models: Any, changes: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        draw(tiny_models, **changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert draw(tiny_models)[1].images


def test_a_prompt_of_2000_characters_names_what_was_left_out(tiny_models: Any) -> None:
    prompt = "a red boat " * 182
    result = draw(tiny_models, prompt=prompt[:2000])[1]
    (note,) = [note for note in result.notes if "longer than the 16 tokens" in note]
    assert "left out: 'boat a red" in note and "words" in note and len(note) < 300


def test_unknown_words_are_named_with_what_is_spelled_alike(tiny_models: Any) -> None:
    notes = draw(tiny_models, prompt="a read bote and a dragon", negative_prompt="fog")[1].notes
    assert "storybook does not know 'read'; it knows red, meadow." in notes
    assert "storybook does not know 'bote'; it knows boat, robot, above." in notes
    assert "storybook does not know 'dragon'." in notes
    assert "storybook does not know 'fog'." in notes


def test_a_size_off_the_grid_is_rounded_and_said(tiny_models: Any) -> None:
    result = draw(tiny_models, width_px=72, height_px=96)[1]
    assert result.images[0].size == (64, 96)
    assert "Width 72 px was rounded to 64 px, a multiple of 16." in result.notes
    assert any("learned at 64 px" in note for note in result.notes)


def test_settings_without_effect_are_named(tiny_models: Any) -> None:
    notes = draw(tiny_models, guidance_scale=1.0, techniques=RESCALE, negative_prompt="red")[1].notes
    assert len([note for note in notes if "has no effect at guidance 1" in note]) == 2
    assert any("ignores the prompt" in note for note in draw(tiny_models, guidance_scale=0.0)[1].notes)


def test_the_negative_prompt_moves_the_picture(tiny_models: Any) -> None:
    plain, moved = draw(tiny_models)[1], draw(tiny_models, negative_prompt="blue night sky")[1]
    assert not np.array_equal(pixels(plain.images[0]), pixels(moved.images[0]))


def test_a_saved_picture_dropped_back_gives_the_same_pixels(tiny_models: Any, tmp_path: Path) -> None:
    result = draw(tiny_models, num_images=2, techniques=RESCALE, sampler="unipc", negative_prompt="blue")[1]
    for index, image in enumerate(result.images):
        path = tmp_path / f"{index}.png"
        image.save(path, pnginfo=settings_to_pnginfo(result, index))
        *_, again = text_to_image_stream(read_settings(path), tiny_models)
        assert np.array_equal(pixels(again.images[0]), pixels(Image.open(path)))


def test_a_missing_model_is_one_sentence(load_store: Callable[..., Any]) -> None:
    with pytest.raises(BackendUnavailable, match="sd15 needs its weights from the Hugging Face hub"):
        draw(load_store(), backend="sd15")
