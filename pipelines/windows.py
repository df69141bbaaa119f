"""Windows of the trained size over a larger picture: where they stand, what they are told, and their average.

For techniques that draw larger than the model learned; pure geometry and sums, the UNet is called by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pipelines.model import TextCond

Window = tuple[slice, slice]
# Where the inner edges stand at step n: multiples of this, modulo 1, are spread evenly however many are used.
_GOLDEN_FRAC = (5**0.5 - 1) / 2


def place_windows(size_cells: tuple[int, int], side_cells: int, overlap: float) -> list[Window]:
    """Cover a picture with as few equally spaced windows as the overlap allows.

    Units:   size_cells (height, width), side_cells the edge of a window; overlap is a share 0..1 of the edge.
    Returns: (rows, columns) of each window, row by row; a side no longer than a window has one.
    """
    lines = []
    for length in size_cells:
        stride = max(1, int(side_cells * (1 - overlap)))
        count = 1 + max(0, -(-(length - side_cells) // stride))
        starts = [round(index * (length - side_cells) / (count - 1)) for index in range(count)] if count > 1 else [0]
        lines.append([slice(start, min(start + side_cells, length)) for start in starts])
    return [(down, across) for down in lines[0] for across in lines[1]]


def move_edges(windows: Sequence[Window], size_cells: tuple[int, int], shift_cells: tuple[int, int]) -> list[Window]:
    """Shift the edges that lie inside the picture; those on its border stay, so that every cell remains covered.

    Units:   size_cells and shift_cells (down, across); a window at the border becomes longer or shorter.
    Returns: windows in the same order; neighbours must overlap by more than the shift.
    """

    def move(line: slice, length: int, shift: int) -> slice:
        start = line.start + shift if line.start > 0 else 0
        return slice(start, line.stop + shift if line.stop < length else length)

    return [
        (move(down, size_cells[0], shift_cells[0]), move(across, size_cells[1], shift_cells[1]))
        for down, across in windows
    ]


def pick_shift(step: int, reach_cells: int, unit_cells: int) -> tuple[int, int]:
    """Say where the inner edges stand in a step: a fixed, evenly spread sequence, the same for every picture.

    Units:   shifts are multiples of unit_cells (what the UNet halves without remainder), at most reach_cells.
    Returns: (down, across); (0, 0) in the first step.
    """
    reach = reach_cells // unit_cells
    # The two axes walk at different speeds, or the edges would always move along the diagonal.
    down, across = (int((2 * reach + 1) * ((turn * _GOLDEN_FRAC + 0.5) % 1)) - reach for turn in (step, 2 * step))
    return down * unit_cells, across * unit_cells


def tell_size(text: TextCond, size_px: tuple[int, int]) -> TextCond:
    """Tell a model that is conditioned on sizes that it sees a whole picture of this size; (width, height)."""
    if not text.time_ids.shape[-1]:
        return text
    width_px, height_px = size_px
    sizes = [height_px, width_px, 0, 0, height_px, width_px]
    return replace(text, time_ids=text.time_ids.new_tensor([sizes]))


def average_windows(
    latents: torch.Tensor,
    windows: Sequence[Window],
    predict: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]],
    *,
    is_faded: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Predict every window and average both guidance halves, cell by cell.

    Shapes:  latents (b, c, h, w); predict(part, index of the window) returns two tensors of the part's shape.
    Units:   with is_faded a window counts less towards those of its edges that lie inside the picture.
    Returns: (uncond, cond), each (b, c, h, w).
    Source:  Bar-Tal et al. 2023, arXiv 2302.08113, without fading.
    """
    totals = (torch.zeros_like(latents), torch.zeros_like(latents))
    sums = torch.zeros_like(latents[:1, :1])
    for index, (down, across) in enumerate(windows):
        part = latents[:, :, down, across]
        weight = torch.ones_like(part[:1, :1])
        if is_faded:
            lines = (_fade(line, length) for line, length in zip((down, across), latents.shape[2:]))
            weight = weight * torch.outer(*(line.to(latents) for line in lines))
        for total, half in zip(totals, predict(part, index)):
            total[:, :, down, across] += half * weight
        sums[:, :, down, across] += weight
    return totals[0] / sums, totals[1] / sums


def _fade(line: slice, length: int) -> torch.Tensor:
    """Weigh the cells of a window's side by their distance from its edges inside a picture of that length."""
    cells = torch.arange(line.start, line.stop) + 0.5
    inside = [(cells - line.start)] if line.start > 0 else []
    inside += [(line.stop - cells)] if line.stop < length else []
    return torch.stack(inside).amin(0) if inside else torch.ones(len(cells))
