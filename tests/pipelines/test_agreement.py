"""Prompts name things, the parser finds things, and each found thing answers for one named thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines import BackendUnavailable
from pipelines.agreement import Judge, Mention, find_mentions, find_placed, score_scene
from pipelines.backends import PROJECT_DIR
from pipelines.layout import Box
from pipelines.scene_parser import ParsedObject, ParsedScene, ParserConfig

CONFIG = ParserConfig(
    kinds=("boat", "butterfly", "moon", "star"),
    colours=("red", "white", "blue"),
    styles=("flat", "line art"),
    backgrounds=("sea",),
    lights=("day",),
)


def scene(*things: tuple[str, str], style: str = "flat") -> ParsedScene:
    objects = tuple(ParsedObject(kind, colour, (0, 0, 1, 1), 0.9) for kind, colour in things)
    return ParsedScene(objects, "sea", "day", style)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red boat left of a white moon", (Mention("boat", "red"), Mention("moon", "white"))),
        ("Three RED stars, line art", (Mention("star", "red"), Mention(style="line art"))),
        ("two butterflies", (Mention("butterfly"),)),
        ("a red boat and a moon", (Mention("boat", "red"), Mention("moon"))),
        ("a dragon", ()),
        ("", ()),
    ],
)
def test_named_things_with_their_colours(prompt: str, expected: tuple[Mention, ...]) -> None:
    assert find_mentions(prompt, CONFIG) == expected


def test_the_share_of_named_things_that_are_there() -> None:
    mentions = (Mention("star"), Mention("star", "red"), Mention(style="flat"))
    assert score_scene(mentions, scene(("star", "red"), ("star", "blue"))) == 1.0
    assert score_scene(mentions, scene(("star", "red"))) == pytest.approx(2 / 3)
    assert score_scene(mentions, scene(("star", "blue"), style="line art")) == pytest.approx(1 / 3)
    assert score_scene(mentions, scene(style="line art")) == 0.0


def test_a_thing_is_right_only_in_its_colour_and_with_its_middle_in_its_box() -> None:
    left, right = (0.0, 10.0, 40.0, 50.0), (60.0, 10.0, 100.0, 50.0)
    parsed = ParsedScene(
        (ParsedObject("boat", "red", right, 0.9), ParsedObject("boat", "blue", left, 0.5)), "sea", "day", "flat"
    )
    west, east = Box("", 0.0, 0.0, 0.5, 1.0), Box("", 0.5, 0.0, 1.0, 1.0)

    def grade(kind: str, colour: str, box: Box) -> float:
        return find_placed(Mention(kind, colour), box, parsed, (100, 200))[0]

    assert grade("boat", "red", east) == grade("boat", "blue", west) == grade("boat", "", west) == 1.0
    assert grade("boat", "red", west) == grade("boat", "blue", east) == 0.5
    assert grade("star", "red", east) == 0.0
    assert find_placed(Mention("star"), east, parsed, (100, 200))[1] is None
    # The box it reports is the thing's own, in shares of the picture.
    assert find_placed(Mention("boat", "blue"), west, parsed, (100, 200))[1] == Box("boat", 0.0, 0.05, 0.4, 0.25)


def test_the_shipped_parser_scores_pictures_and_stays_silent_without_names() -> None:
    judge, before = Judge(PROJECT_DIR / "assets" / "parser"), torch.get_rng_state()
    blank = Image.new("RGB", (256, 256), "white")
    assert judge.score("a dragon", [blank]) is None
    assert judge.read("a dragon, watercolor") is None and judge.read("a red boat at sea") == Mention("boat", "red")
    score = judge.score("a red boat", [blank, blank])
    assert score is not None and 0.0 <= score <= 1.0
    assert torch.equal(torch.get_rng_state(), before), "loading the parser drew from everybody's random numbers"


def test_missing_parser_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="The scene parser needs model.safetensors"):
        Judge(tmp_path).score("a red boat", [])
