"""Prompts read by grammar: things with their numbers, relations, settings, and where their tokens stand."""

from __future__ import annotations

import pytest

from pipelines.model import ModelBundle
from pipelines.prompt_plan import find_tokens, plan_prompt


@pytest.mark.parametrize(
    ("prompt", "nouns", "relations", "setting"),
    [
        (
            "a red boat left of a white moon, night sky, watercolor",
            ["boat", "moon"],
            ["left of"],
            "night sky, watercolor",
        ),
        ("watercolor painting of a cat and a dog on the beach", ["cat", "dog"], [""], "on the beach"),
        ("two cats, a house and a tree in a meadow, neon", ["cats", "house", "tree"], ["", ""], "in a meadow, neon"),
        ("a cat on top of the house in the snow", ["cat", "house"], ["above"], "in the snow"),
        ("red boat and white moon", ["boat", "moon"], [""], ""),
        ("a boat to the right of a moon, sea, clay", ["boat", "moon"], ["right of"], "sea, clay"),
        ("a fish in the sea and a boat", ["fish", "boat"], [""], "in the sea"),
        ("in a meadow, a red boat and a moon", ["boat", "moon"], [""], "in a meadow"),
        ("in the snow a red boat above a cat, flat", ["boat", "cat"], ["above"], "in the snow, flat"),
        ("at night two stars", ["stars"], [], "at night"),
        ("on the beach: a cat", ["cat"], [], "on the beach"),
        ("night sky, a white moon", ["moon"], [], "night sky"),
        ("in a meadow", [], [], "in a meadow"),
        ("boat, night sky", ["boat"], [], "night sky"),
        ("A Star", ["Star"], [], ""),
        ("", [], [], ""),
        (" , ,, ", [], [], ""),
        ("一只红色的船", ["一只红色的船"], [], ""),
    ],
)
def test_things_relations_and_setting_are_told_apart(
    prompt: str, nouns: list[str], relations: list[str], setting: str
) -> None:
    plan = plan_prompt(prompt)
    assert [thing.noun for thing in plan.objects] == nouns
    assert list(plan.relations) == relations and plan.setting == setting
    for thing in plan.objects:
        assert prompt[slice(*thing.span)] == thing.phrase and prompt[slice(*thing.noun_span)] == thing.noun


def test_numbers_are_read() -> None:
    assert [thing.count for thing in plan_prompt("three red stars, 2 boats and a moon").objects] == [3, 2, 1]


def test_one_thing_is_described_in_the_common_setting() -> None:
    plan = plan_prompt("a watercolor of a red boat left of a moon at sea, night")
    assert plan.describe(0) == "a watercolor of a red boat at sea, night"
    assert plan.describe(1) == "a watercolor of a moon at sea, night"


@pytest.mark.parametrize("name", ["storybook", "tiny_sd", "tiny_sdxl"])
def test_tokens_of_a_noun_are_found_in_every_tokenizer(name: str, request: pytest.FixtureRequest) -> None:
    model: ModelBundle = request.getfixturevalue(name)
    side, prompt = model.sides[0], "a cat, a red boat"
    thing = plan_prompt(prompt).objects[-1]
    ids = side.tokenizer(prompt, truncation=True, max_length=side.max_tokens).input_ids
    tokens = find_tokens(prompt, thing.noun_span, side)
    words = side.tokenizer.convert_ids_to_tokens([ids[token] for token in tokens])
    assert "boat".startswith("".join(words).replace("</w>", "")) and tokens
    long = "a red star, " * 60 + prompt
    assert find_tokens(long, plan_prompt(long).objects[-1].noun_span, side) == ()


def test_some_things_are_described_in_the_common_setting() -> None:
    plan = plan_prompt("a watercolor of a red boat left of a moon at sea, night")
    assert plan.describe_some((0, 1)) == "a watercolor of a red boat and a moon at sea, night"
    assert plan.describe_some(()) == "at sea, night, a watercolor"
    assert plan_prompt("a boat").describe_some(()) == ""
