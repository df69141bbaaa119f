"""Handles, targets and the mask of a drag in pixels of the picture: their form and their checks.

Points are (x, y) from top left, x first. Loads no torch, so that the page can check clicks at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from pipelines.errors import UserError

MAX_PAIRS = 16
MIN_DRAG_PX = 2.0
MIN_MASK_FRAC, MAX_MASK_FRAC = 0.002, 0.98


@dataclass(frozen=True)
class DragPair:
    """Ask for what is at the handle to come to the target; px of the picture, (0, 0) is its top left corner."""

    handle_x: float
    handle_y: float
    target_x: float
    target_y: float

    @property
    def length_px(self) -> float:
        """Return how far the handle has to go."""
        return math.hypot(self.target_x - self.handle_x, self.target_y - self.handle_y)


_SIDES = ("handle_x", "handle_y", "target_x", "target_y")


def read_pairs(value: Any) -> tuple[DragPair, ...]:
    """Check the form of pairs: DragPairs, or mappings of the same names as read from a file.

    Raises: UserError with one sentence.
    """
    found = []
    for pair in value if isinstance(value, list | tuple) else [value]:
        sides = asdict(pair) if isinstance(pair, DragPair) else pair
        if not isinstance(sides, Mapping) or set(sides) != set(_SIDES) or not all(map(_is_number, sides.values())):
            raise UserError("The pairs are in an unknown form; click handle and target again.")
        found.append(DragPair(*(float(sides[side]) for side in _SIDES)))
    return tuple(found)


def _is_number(value: Any) -> bool:
    """Tell finite numbers from anything else."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_pairs(pairs: Sequence[DragPair], size_px: tuple[int, int], mask: Image.Image | None) -> None:
    """Refuse pairs and masks that cannot be dragged; size_px is (width, height), a mask is as large, white moves.

    Raises: UserError with one sentence.
    """
    if not pairs:
        raise UserError("There is no pair yet; click a handle in the picture, then where it should go.")
    if len(pairs) > MAX_PAIRS:
        raise UserError(f"There are {len(pairs)} pairs; use at most {MAX_PAIRS}.")
    for number, pair in enumerate(pairs, 1):
        for label, x, y in (("handle", pair.handle_x, pair.handle_y), ("target", pair.target_x, pair.target_y)):
            if not (0 <= x < size_px[0] and 0 <= y < size_px[1]):
                raise UserError(f"The {label} of pair {number} lies outside the picture; click inside it.")
        if pair.length_px < MIN_DRAG_PX:
            raise UserError(f"Handle and target of pair {number} are the same place; move the target away.")
    if mask is None:
        return
    if mask.size != tuple(size_px):
        raise UserError("The mask is not as large as the picture; clear it and paint again.")
    share = sum(mask.convert("L").point(lambda level: level > 127 and 1).tobytes()) / (mask.width * mask.height)
    if share < MIN_MASK_FRAC:
        raise UserError("The mask marks nothing; paint over what may move, or clear it for an automatic one.")
    if share > MAX_MASK_FRAC:
        raise UserError("The mask covers everything, so nothing would be held; leave out what should stay.")
    grey = mask.convert("L")
    for number, pair in enumerate(pairs, 1):
        for label, x, y in (("handle", pair.handle_x, pair.handle_y), ("target", pair.target_x, pair.target_y)):
            if grey.getpixel((int(x), int(y))) <= 127:  # type: ignore[operator]
                raise UserError(f"The {label} of pair {number} lies outside the mask; paint it in, or clear the mask.")
