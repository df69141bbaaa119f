"""The seam measure: how much harder a picture changes across the borders of its windows than beside them.

Works on finished pictures; where the windows stood is given by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipelines.windows import Window

# Inside a window means here: this many cells before and after a border.
_BESIDE_CELLS = 2


def measure_seams(images: Sequence[Image.Image], windows: Sequence[Window], px_per_cell: int = 1) -> float:
    """Compare neighbouring pixels across window borders with those inside the windows.

    Units:   windows in cells of px_per_cell pixels; all pictures have the size that the windows cover.
    Returns: mean absolute difference across the borders over the same inside, about 1 without seams; 1.0 where there
             is no border, or where nothing changes beside one.
    Raises:  ValueError if the windows do not end where the pictures end, or leave no room between their borders.
    Differs: "inside" is a whole number of cells beside each border: a picture's things stand where borders often are,
             in its middle, and a decoder leaves a faint grid of its cells, so that any other pixels would compare
             content with background.
    """
    width_px, height_px = images[0].size
    ends = [max(window[axis].stop for window in windows) * px_per_cell for axis in (0, 1)]
    if ends != [height_px, width_px] or any(image.size != images[0].size for image in images):
        raise ValueError(f"windows over {ends[1]} x {ends[0]} px for pictures of {width_px} x {height_px} px")
    stack = np.stack([np.asarray(image.convert("RGB"), dtype=np.float64) for image in images])
    at_border = beside = 0.0
    for axis in (0, 1):
        # Both directions are read as rows; pair i is pixel i and i + 1.
        change = np.abs(np.diff(stack, axis=1 + axis)).mean(axis=(0, 3))
        change = change if axis == 0 else change.T
        is_border = _find_borders(windows, axis, px_per_cell, change.shape)
        for row in np.flatnonzero(is_border.any(axis=1)):
            near = [row + side * _BESIDE_CELLS * px_per_cell for side in (-1, 1)]
            near = [other for other in near if 0 <= other < len(change) and not is_border[other].any()]
            if not near:
                raise ValueError(f"borders stand every {_BESIDE_CELLS} cells; there is no inside to compare with")
            at_border += float(change[row][is_border[row]].sum())
            beside += float(change[near].mean(axis=0)[is_border[row]].sum())
    return at_border / beside if beside > 0 else 1.0


def _find_borders(windows: Sequence[Window], axis: int, px_per_cell: int, shape: tuple[int, ...]) -> np.ndarray:
    """Mark the pairs of neighbours along an axis, (pair, place along the border), that an edge of a window parts."""
    is_border = np.zeros(shape, dtype=bool)
    for window in windows:
        edge, along = window[axis], window[1 - axis]
        for position in (edge.start * px_per_cell - 1, edge.stop * px_per_cell - 1):
            if 0 <= position < len(is_border):
                is_border[position, along.start * px_per_cell : along.stop * px_per_cell] = True
    return is_border
