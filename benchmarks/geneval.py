"""GenEval's judgement in the drawn world: what is asked of a picture, and when a parsed picture shows it.

The rules are those of Ghosh et al. 2023 (GenEval, arXiv 2310.11513) with our scene parser in place of a detector.
The prompts are in prompts.py; nothing here makes a picture.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.scene_parser import ParsedObject, ParsedScene

# How far two boxes must stand apart before one is called left of the other, as a share of their summed sides.
POSITION_THRESHOLD_FRAC = 0.1


@dataclass(frozen=True)
class Wanted:
    """One thing that must be seen; colour None accepts any colour."""

    kind: str
    colour: str | None = None


@dataclass(frozen=True)
class Ask:
    """One prompt and what a picture must show to count. `count` asks for exactly that many of the first thing."""

    prompt: str
    wanted: tuple[Wanted, ...]
    count: int | None = None
    relation: str | None = None
    background: str | None = None
    style: str | None = None
    is_held_out: bool = False


def find(parsed: ParsedScene, wanted: Wanted) -> list[ParsedObject]:
    """List the parsed objects of the wanted kind, the surest first."""
    return sorted((thing for thing in parsed.objects if thing.kind == wanted.kind), key=lambda thing: -thing.score)


def stands(first: ParsedObject, second: ParsedObject) -> set[str]:
    """Say where the first object stands seen from the second.

    Units:   boxes (x0, y0, x1, y1) px.
    Returns: the relations that hold; none when the boxes' centres are too close to tell.
    Source:  GenEval's relative position: the centres' offset, shortened by a tenth of the summed sides, decides.
    """
    boxes = np.array([first.box_px, second.box_px], dtype=float)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offset = centres[0] - centres[1]
    far = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_THRESHOLD_FRAC * sides.sum(0), 0)
    if not far.any():
        return set()
    dx, dy = far / np.linalg.norm(offset)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, is_true in holds.items() if is_true}


def shows(ask: Ask, parsed: ParsedScene) -> bool:
    """Judge one picture: everything asked is there, or it does not count.

    Source:  GenEval's rule: the surest object of each wanted kind must have the wanted colour and place; other
             objects do not harm; a count must be exact.
    Differs: background and style are judged too where the prompt names them; the parser's own threshold is used for
             every task, where GenEval counts only with surer objects.
    """
    seen = [find(parsed, wanted) for wanted in ask.wanted]
    if not all(seen):
        return False
    if ask.count is not None and len(seen[0]) != ask.count:
        return False
    if any(wanted.colour not in (None, things[0].colour) for wanted, things in zip(ask.wanted, seen, strict=True)):
        return False
    if ask.relation is not None and ask.relation not in stands(seen[0][0], seen[1][0]):
        return False
    return ask.background in (None, parsed.background) and ask.style in (None, parsed.style)
