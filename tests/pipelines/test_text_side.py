"""Prompts become the states that diffusers computes; what is not read is told; the cache is bounded."""

from __future__ import annotations

import torch

from pipelines import unknown_words
from pipelines.model import ModelBundle, TextCond
from pipelines.text_side import MAX_CACHED_PROMPTS, describe_reading, encode_prompt, find_dropped_text


def encode(model: ModelBundle, prompt: str, negative: str = "") -> TextCond:
    with torch.no_grad():
        return encode_prompt(model, prompt, negative, size_px=(64, 48))


def test_shapes_of_both_families(tiny_model: ModelBundle) -> None:
    text = encode(tiny_model, "a red boat", "fog")
    is_large = tiny_model.spec.family == "sdxl"
    assert text.hidden_cond.shape == text.hidden_uncond.shape == (1, 16, 32 if is_large else 16)
    assert text.pooled_cond.shape == (1, 16 if is_large else 0)
    assert text.time_ids.tolist() == [[48.0, 64.0, 0.0, 0.0, 48.0, 64.0]] if is_large else [[]]


def test_an_empty_negative_prompt_is_zeros_only_where_the_weights_say_so(
    tiny_sdxl: ModelBundle, tiny_sd: ModelBundle
) -> None:
    assert not encode(tiny_sdxl, "a boat").hidden_uncond.any()
    assert encode(tiny_sdxl, "a boat", "fog").hidden_uncond.any()
    assert encode(tiny_sd, "a boat").hidden_uncond.any()


def test_the_cache_returns_the_same_tensor_and_stays_small(tiny_storybook: ModelBundle) -> None:
    first = encode(tiny_storybook, "a red boat").hidden_cond
    assert encode(tiny_storybook, "a red boat").hidden_cond is first
    for index in range(MAX_CACHED_PROMPTS + 5):
        encode(tiny_storybook, f"boat {index}")
    assert len(tiny_storybook.prompt_cache) == MAX_CACHED_PROMPTS
    assert torch.equal(encode(tiny_storybook, "a red boat").hidden_cond, first)


def test_whole_words_are_known_or_named(tiny_storybook: ModelBundle, tiny_sd: ModelBundle) -> None:
    found = unknown_words("A RED dragoon, a bote and a bote!", tiny_storybook)
    assert found == (("dragoon", ()), ("bote", ("boat", "robot", "above")))
    assert unknown_words("a dragoon", tiny_sd) == ()
    assert unknown_words("", tiny_storybook) == ()
    assert {"red", "boat"} <= set(tiny_storybook.sides[0].known_words)
    assert not {"<pad>", "<unk>", ",", "."} & set(tiny_storybook.sides[0].known_words)


def test_what_does_not_fit_is_quoted_from_the_prompt_itself(tiny_model: ModelBundle) -> None:
    side = tiny_model.sides[0]
    assert find_dropped_text("a red", side) == ""
    prompt = "red boat " * 20
    dropped = find_dropped_text(prompt, side)
    assert dropped and prompt.strip().endswith(dropped)
    num_known, notes = describe_reading(prompt, tiny_model)
    assert num_known == 40 and "left out" in notes[0]


def test_fourteen_words_fit_between_start_and_end(tiny_storybook: ModelBundle) -> None:
    side = tiny_storybook.sides[0]
    assert find_dropped_text(" ".join(["red"] * 14), side) == ""
    assert find_dropped_text(" ".join(["red"] * 14 + ["boat"]), side) == "boat"
