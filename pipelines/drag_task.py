"""What every way of dragging is given: the inverted picture, the things that are held, and what may change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from PIL import Image

from pipelines.drag_points import DragPair
from pipelines.drag_warp import Pull
from pipelines.style_reference import StyleSource
from pipelines.types import DragProgress


@dataclass(frozen=True, eq=False)
class DragTask:
    """Hold what is to be dragged.

    Shapes: source.walk has the inverted latents (1, c, h, w) of every step from the drag on; pixels (1, 3, H, W) in
            -1..1; mask (1, 1, h, w) on the grid of the latents, 1 may change.
    Units:  pairs in px of the picture, in the user's order; pulls are the things that they hold.
    """

    source: StyleSource
    pixels: torch.Tensor
    pairs: tuple[DragPair, ...]
    pulls: tuple[Pull, ...]
    mask: torch.Tensor

    def place_handles(self, frac: float) -> tuple[tuple[float, float], ...]:
        """Say where the handles are after a share of the way, in px."""
        places: dict[DragPair, tuple[float, float]] = {}
        for pull in self.pulls:
            starts = torch.tensor([[pair.handle_x, pair.handle_y] for pair in pull.pairs], dtype=torch.float32)
            for pair, (x, y) in zip(pull.pairs, pull.take(starts, frac).tolist()):
                places[pair] = (x, y)
        return tuple(places[pair] for pair in self.pairs)

    def report(
        self,
        num_steps: int,
        note: str,
        handles: tuple[tuple[float, float], ...],
        picture: Image.Image | None = None,
    ) -> DragProgress:
        """Make a report, step 0, of where the handles are in px."""
        ways = [math.hypot(p.target_x - x, p.target_y - y) for p, (x, y) in zip(self.pairs, handles, strict=True)]
        return DragProgress(0, num_steps, note, picture, handles=handles, left_px=sum(ways) / len(ways))
