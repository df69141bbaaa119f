"""Give a picture the large-scale colours of another one: its own fine bands, the other's coarse band.

Generated detail drifts in colour from tile to tile; where no exact agreement is asked for, this holds it in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

NUM_BANDS = 5
_TAPS = (0.25, 0.5, 0.25)


def fix_colours(picture: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Replace what is coarser than 2 ** NUM_BANDS pixels.

    Shapes: both (3, H, W), any range; returns the same, a new tensor.
    Source: Wang et al. 2023, arXiv 2305.07015 (StableSR), its wavelet colour correction: a [1 2 1] blur whose taps lie
            1, 2, 4, 8 and 16 px apart.
    """
    return picture + take_coarse(reference - picture)


def take_coarse(picture: torch.Tensor) -> torch.Tensor:
    """Return the coarse band of (3, H, W), edges repeated."""
    for band in range(NUM_BANDS):
        for axis in (1, 2):
            picture = _blur(picture, 2**band, axis)
    return picture


def _blur(picture: torch.Tensor, gap: int, axis: int) -> torch.Tensor:
    pad = (0, 0, gap, gap) if axis == 1 else (gap, gap, 0, 0)
    wide = F.pad(picture[None], pad, mode="replicate")[0]
    length = picture.shape[axis]
    parts = (tap * wide.narrow(axis, index * gap, length) for index, tap in enumerate(_TAPS))
    return sum(parts, start=torch.zeros_like(picture))
