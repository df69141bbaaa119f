"""A layout: boxes on an empty canvas, each with a phrase; checked, proposed from a prompt, and turned into masks.

Pure data and geometry; which attention follows a box is the technique's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pipelines.errors import UserError
from pipelines.prompt_plan import PromptPlan, plan_prompt

MAX_BOXES = 6
MIN_SIDE_FRAC = 0.08
MAX_PHRASE_CHARS = 200
MIN_FREE_FRAC = 0.4


@dataclass(frozen=True)
class Box:
    """Ask for a phrase in one place.

    Units: x0, y0, x1, y1 are fractions 0..1 of the picture's width and height, from top left.
    """

    phrase: str
    x0: float
    y0: float
    x1: float
    y1: float


def check_boxes(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Refuse a layout that cannot be drawn.

    Returns: the boxes, unchanged.
    Raises:  UserError with one sentence: too many boxes, no phrase, outside the picture, too small.
    """
    if len(boxes) > MAX_BOXES:
        raise UserError(f"The layout has {len(boxes)} boxes; draw at most {MAX_BOXES}.")
    for number, box in enumerate(boxes, 1):
        phrase = box.phrase.strip()
        if not phrase:
            raise UserError(f'Box {number} has no phrase; say what it should hold, for example "a red boat".')
        if len(phrase) > MAX_PHRASE_CHARS:
            raise UserError(f"The phrase of box {number} is too long; use at most {MAX_PHRASE_CHARS} characters.")
        sides = (box.x0, box.y0, box.x1, box.y1)
        if not all(0.0 <= side <= 1.0 for side in sides):
            raise UserError(f"Box {number} ({phrase}) reaches outside the picture; keep it within the canvas.")
        if box.x1 - box.x0 < MIN_SIDE_FRAC or box.y1 - box.y0 < MIN_SIDE_FRAC:
            raise UserError(
                f"Box {number} ({phrase}) is too small; each side must be at least {MIN_SIDE_FRAC:.0%} of the picture."
            )
    return tuple(boxes)


def propose_boxes(plan: PromptPlan) -> tuple[Box, ...]:
    """Place the things of a prompt where its words want them: along the relation of the first two, else in a row.

    Returns: one box per thing that is asked for ("three stars" gives three); () if there is nothing or too much.
    """
    phrases = [thing.phrase for thing in plan.objects for _ in range(thing.count)]
    phrases = [_make_single(phrase) for phrase in phrases]
    if not phrases or len(phrases) > MAX_BOXES:
        return ()
    relation = plan.relations[0] if plan.relations and len(phrases) == 2 else ""
    if relation in ("right of", "below"):
        return _place_in_line(phrases[::-1], is_column=relation == "below")[::-1]
    return _place_in_line(phrases, is_column=relation == "above")


def propose_layout(prompt: str) -> list[dict[str, Any]]:
    """Place the things of a prompt, as plain boxes for the page's canvas; [] if it names none or too many."""
    return [asdict(box) for box in propose_boxes(plan_prompt(prompt))]


def to_slabs(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Stretch boxes in a row, or in a column, until together they fill the picture.

    Returns: one slab per box, with its phrase: equal shares of the picture, in the boxes' places.
    """
    is_column = len(boxes) > 1 and len({box.x0 for box in boxes}) == 1
    places = sorted(box.y0 if is_column else box.x0 for box in boxes)
    slabs = []
    for box in boxes:
        place = places.index(box.y0 if is_column else box.x0)
        begin, end = place / len(boxes), (place + 1) / len(boxes)
        slabs.append(Box(box.phrase, 0.0, begin, 1.0, end) if is_column else Box(box.phrase, begin, 0.0, end, 1.0))
    return tuple(slabs)


def _make_single(phrase: str) -> str:
    """Turn "three red stars" into "a red star", because each box holds one."""
    first, _, rest = phrase.partition(" ")
    if first.lower() not in ("two", "three", "four", "2", "3", "4"):
        return phrase
    return "a " + (rest[:-1] if rest.endswith("s") else rest)


def _place_in_line(phrases: Sequence[str], *, is_column: bool) -> tuple[Box, ...]:
    """Put boxes side by side, or one above the other, with gaps and margins of a twentieth."""
    gap = 0.05
    length = (1 - gap * (len(phrases) + 1)) / len(phrases)
    across = min(0.6, max(length, 0.4))
    boxes = []
    for index, phrase in enumerate(phrases):
        begin = gap + index * (length + gap)
        along, beside = (begin, begin + length), (0.5 - across / 2, 0.5 + across / 2)
        (x0, x1), (y0, y1) = (beside, along) if is_column else (along, beside)
        boxes.append(Box(phrase, round(x0, 3), round(y0, 3), round(x1, 3), round(y1, 3)))
    return tuple(boxes)


def make_masks(boxes: Sequence[Box], height_cells: int, width_cells: int) -> torch.Tensor:
    """Say how much of each cell every box covers.

    Shapes:  returns (k, h, w) float32, 0..1.
    Differs: a box thinner than a cell still covers the cells that it touches in part, so it never vanishes on a
             coarse grid.
    """
    masks = torch.zeros(len(boxes), height_cells, width_cells)
    for mask, box in zip(masks, boxes, strict=True):
        across = _cover(box.x0 * width_cells, box.x1 * width_cells, width_cells)
        down = _cover(box.y0 * height_cells, box.y1 * height_cells, height_cells)
        mask += down[:, None] * across[None, :]
    return masks


def make_free_mask(slab: Box, taken: Sequence[Box], height_cells: int, width_cells: int) -> torch.Tensor:
    """Say which cells a new thing may use: its slab without the things that reach into it.

    Shapes:  returns (h, w) float32, 0..1.
    Differs: where less than MIN_FREE_FRAC of the slab would be left, all of it is free.
    """
    mask = make_masks([slab], height_cells, width_cells)[0]
    free = mask * (1 - make_masks(taken, height_cells, width_cells).sum(0).clamp_max(1))
    return free if free.sum() >= MIN_FREE_FRAC * mask.sum() else mask


def choose_cells(masks: torch.Tensor) -> torch.Tensor:
    """Decide for each cell whether it belongs to a box, so that inside and outside share the grid without rest.

    Shapes:  masks (k, h, w) in 0..1, the share of each cell that a box covers; returns the same, bool.
    Returns: the cells that a box covers by half, or, for one that is too small for that, those that it covers most.
    """
    best = masks.flatten(1).amax(1).clamp(max=0.5)
    # A little below the limit: an edge in the middle of a cell must not depend on rounding.
    return masks >= 0.999 * best[:, None, None]


def _cover(begin: float, end: float, num_cells: int) -> torch.Tensor:
    """Return the share of each cell of a line that lies between two positions; shape (num_cells,)."""
    edges = torch.arange(num_cells, dtype=torch.float32)
    return ((edges + 1).clamp(max=end) - edges.clamp(min=begin)).clamp(0, 1)
