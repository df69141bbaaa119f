"""Wrong values become one sentence with the value and what is allowed; right ones pass unchanged."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipelines import Choice, Range, TextToImageRequest, UserError, ranges, validate


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_steps", 0, "Steps 0 is too low; choose 1 to 100."),
        ("guidance_scale", 1e9, "Guidance 1000000000 is too high; choose 0 to 20."),
        ("guidance_scale", 35, "Guidance 35 is too high; choose 0 to 20."),
        ("guidance_scale", float("nan"), "Guidance must be a finite number, not nan; choose 0 to 20."),
        ("guidance_scale", float("inf"), "Guidance must be a finite number, not inf; choose 0 to 20."),
        ("seed", -1, "Seed -1 is too low; choose 0 to 4294967295."),
        ("seed", 2**64, "Seed 18446744073709551616 is too high; choose 0 to 4294967295."),
        ("seed", 10**400, "Seed 1e400 is too high; choose 0 to 4294967295."),
        ("seed", "text", "Seed must be a number, not 'text'; choose 0 to 4294967295."),
        ("seed", 1.5, "Seed 1.5 is not a whole number; choose 0 to 4294967295."),
        ("seed", True, "Seed must be a number, not True; choose 0 to 4294967295."),
        ("seed", None, "Seed must be a number, not None; choose 0 to 4294967295."),
        ("width_px", 8, "Width 8 is too low; choose 64 to 2048 px."),
        ("sampler", "euler", "Sampler 'euler' is not known; choose one of dpmpp_2m, ddim, unipc, ddim_short."),
        ("sampler", ["ddim"], "Sampler ['ddim'] is not known; choose one of dpmpp_2m, ddim, unipc, ddim_short."),
        ("prompt", 7, "Prompt must be text, not 7; write it out in words."),
        ("prompt", "x" * 10_001, "Prompt has 10001 characters; shorten it to at most 10000."),
        ("compare", "yes", "Compare must be on or off, not 'yes'; use true or false."),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(field: str, value: Any, words: str) -> None:
    request = TextToImageRequest(**{"prompt": "a boat", field: value})
    with pytest.raises(UserError) as caught:
        validate(request)
    assert str(caught.value) == words


def test_a_long_wrong_value_is_quoted_shortly() -> None:
    with pytest.raises(UserError) as caught:
        validate(TextToImageRequest("a boat", seed="z" * 5_000_000))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 150


def test_right_values_pass_and_whole_floats_become_whole_numbers() -> None:
    request = TextToImageRequest("a boat", num_steps=20.0, guidance_scale=4)  # type: ignore[arg-type]
    checked = validate(request)
    assert isinstance(checked.num_steps, int)
    assert isinstance(checked.guidance_scale, float)
    assert checked == request
    assert validate(checked) is checked


def test_limits_themselves_are_allowed() -> None:
    for name, spec in ranges(TextToImageRequest).items():
        values = spec.options if isinstance(spec, Choice) else (spec.low, spec.high, spec.default)
        for value in values:
            validate(dataclasses.replace(TextToImageRequest("a boat"), **{name: value}))


def test_every_default_lies_inside_its_range() -> None:
    found = ranges(TextToImageRequest)
    assert {"seed", "num_steps", "guidance_scale", "sampler", "num_images"} <= set(found)
    for spec in found.values():
        if isinstance(spec, Range) and spec.default is not None:
            assert spec.low <= spec.default <= spec.high
        assert spec.label and spec.help
