"""The judge: each way in which a picture can miss what was asked, and what does not count against it."""

import pytest

from benchmarks.geneval import Ask, Wanted, shows, stands
from pipelines.scene_parser import ParsedObject, ParsedScene


def put(kind: str, colour: str, x: float = 128, y: float = 128, score: float = 0.9) -> ParsedObject:
    """Make a parsed object with a box of 60 px around a centre."""
    return ParsedObject(kind, colour, (x - 30, y - 30, x + 30, y + 30), score)


def see(*objects: ParsedObject, background: str = "sea", style: str = "flat") -> ParsedScene:
    """Make a parsed picture."""
    return ParsedScene(objects, background, "day", style)


BOAT, MOON = Wanted("boat", "red"), Wanted("moon", "white")
LEFT_BOAT, RIGHT_MOON = put("boat", "red", 60), put("moon", "white", 190)


@pytest.mark.parametrize(
    ("ask", "parsed", "expected"),
    [
        (Ask("a boat", (Wanted("boat"),)), see(put("boat", "blue")), True),
        (Ask("a boat", (Wanted("boat"),)), see(put("boat", "blue"), put("cat", "red")), True),
        (Ask("a boat", (Wanted("boat"),)), see(put("cat", "red")), False),
        (Ask("a boat", (Wanted("boat"),)), see(), False),
        (Ask("two boats", (Wanted("boat"),), count=2), see(put("boat", "red", 50), put("boat", "red", 200)), True),
        (Ask("two boats", (Wanted("boat"),), count=2), see(put("boat", "red")), False),
        (Ask("two boats", (Wanted("boat"),), count=2), see(*[put("boat", "red", x) for x in (40, 120, 200)]), False),
        (Ask("a red boat", (BOAT,)), see(put("boat", "red")), True),
        (Ask("a red boat", (BOAT,)), see(put("boat", "blue")), False),
        (Ask("a red boat", (BOAT,)), see(put("boat", "blue", score=0.9), put("boat", "red", score=0.5)), False),
        (Ask("both", (BOAT, MOON)), see(LEFT_BOAT, RIGHT_MOON), True),
        (Ask("both", (BOAT, MOON)), see(put("boat", "white", 60), put("moon", "red", 190)), False),
        (Ask("both", (BOAT, MOON)), see(LEFT_BOAT), False),
        (Ask("left", (BOAT, MOON), relation="left of"), see(LEFT_BOAT, RIGHT_MOON), True),
        (Ask("left", (BOAT, MOON), relation="right of"), see(LEFT_BOAT, RIGHT_MOON), False),
        (Ask("sea", (BOAT,), background="sea", style="flat"), see(LEFT_BOAT), True),
        (Ask("sea", (BOAT,), background="sea", style="flat"), see(LEFT_BOAT, background="city"), False),
        (Ask("sea", (BOAT,), background="sea", style="flat"), see(LEFT_BOAT, style="neon"), False),
    ],
)
def test_a_picture_counts_only_if_everything_asked_is_there(ask: Ask, parsed: ParsedScene, expected: bool) -> None:
    assert shows(ask, parsed) is expected


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (40, 128, {"left of"}),
        (220, 128, {"right of"}),
        (128, 40, {"above"}),
        (128, 220, {"below"}),
        (40, 40, {"left of", "above"}),
        (134, 128, set()),
    ],
)
def test_places_follow_the_offset_of_the_centres(x: float, y: float, expected: set[str]) -> None:
    assert stands(put("boat", "red", x, y), put("moon", "white")) == expected
