"""Prompts name things, the parser finds things, and each found thing answers for one named thing."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipelines import BackendUnavailable
from pipelines.agreement import Judge, Mention, find_mentions, score_scene
from pipelines.backends import PROJECT_DIR
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


def test_the_shipped_parser_scores_pictures_and_stays_silent_without_names() -> None:
    judge = Judge(PROJECT_DIR / "assets" / "parser")
    blank = Image.new("RGB", (256, 256), "white")
    assert judge.score("a dragon", [blank]) is None
    score = judge.score("a red boat", [blank, blank])
    assert score is not None and 0.0 <= score <= 1.0


def test_missing_parser_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="The scene parser needs model.safetensors"):
        Judge(tmp_path).score("a red boat", [])
