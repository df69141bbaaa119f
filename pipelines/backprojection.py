"""Exact back-projection: change a large picture as little as possible so that, reduced again, it is the small one.

Reducing is separable, one matrix per axis with the taps of Pillow's resizer; so the pseudo-inverse is two small
matrices, exact at the borders and at scales that are no whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

BAND_ROWS = 128  # rows of an axis matrix that are multiplied at once, with the columns where they are not 0


@dataclass(frozen=True, eq=False)
class Axis:
    """Hold how one axis is reduced.

    Shapes: matrix (few, many) float64, each row the taps of one small pixel.
    """

    matrix: torch.Tensor

    @cached_property
    def inverse(self) -> torch.Tensor:
        """Return the inverse (few, few) float64 of matrix @ matrix^T."""
        return torch.cholesky_inverse(torch.linalg.cholesky(self.matrix @ self.matrix.T))

    def reduce(self, picture: torch.Tensor) -> torch.Tensor:
        """Reduce the last axis: (..., many) to (..., few)."""
        parts = [picture[..., columns] @ self.matrix[rows, columns].to(picture).T for rows, columns in self._bands()]
        return torch.cat(parts, -1)

    def spread(self, picture: torch.Tensor) -> torch.Tensor:
        """Apply the transpose of `reduce` to the last axis: (..., few) to (..., many)."""
        large = picture.new_zeros((*picture.shape[:-1], self.matrix.shape[1]))
        for rows, columns in self._bands():
            large[..., columns] += picture[..., rows] @ self.matrix[rows, columns].to(picture)
        return large

    def _bands(self) -> Iterator[tuple[slice, slice]]:
        for first in range(0, len(self.matrix), BAND_ROWS):
            rows = slice(first, min(first + BAND_ROWS, len(self.matrix)))
            touched = self.matrix[rows].any(0).nonzero()
            yield rows, slice(int(touched[0]), int(touched[-1]) + 1)


@dataclass(frozen=True, eq=False)
class Reduction:
    """Hold how a picture is reduced: its rows, then its columns."""

    rows: Axis
    columns: Axis

    @property
    def large_size(self) -> tuple[int, int]:
        """Return (H, W) of what is reduced."""
        return self.rows.matrix.shape[1], self.columns.matrix.shape[1]

    @property
    def small_size(self) -> tuple[int, int]:
        """Return (h, w) of the result."""
        return self.rows.matrix.shape[0], self.columns.matrix.shape[0]

    def reduce(self, picture: torch.Tensor) -> torch.Tensor:
        """Reduce (..., H, W) to (..., h, w)."""
        return self.rows.reduce(self.columns.reduce(picture).mT).mT

    def spread(self, picture: torch.Tensor) -> torch.Tensor:
        """Apply the transpose of `reduce`: (..., h, w) to (..., H, W)."""
        return self.columns.spread(self.rows.spread(picture.mT).mT)

    def fill(self, picture: torch.Tensor) -> torch.Tensor:
        """Apply the pseudo-inverse: the smallest (..., H, W) that is reduced to this (..., h, w)."""
        return self.spread(self.rows.inverse.to(picture) @ picture @ self.columns.inverse.to(picture).T)


def make_reduction(large_size: tuple[int, int], small_size: tuple[int, int]) -> Reduction:
    """Describe Pillow's bicubic reduction of (H, W) to (h, w) in exact numbers.

    Raises:  ValueError if a side would grow or is less than 1 px.
    Differs: Pillow rounds to 8 bits between its two passes; this is the same filter without rounding.
    """
    return Reduction(*(make_axis(many, few) for many, few in zip(large_size, small_size)))


def make_axis(many: int, few: int, blur_px: float = 0.0) -> Axis:
    """Describe how an axis of `many` pixels is reduced to `few`, after a Gaussian blur if there is one.

    Units:  blur_px is the deviation of the blur in pixels of the large picture.
    Raises: ValueError if the axis would grow or is less than 1 px.
    """
    if not 1 <= few <= many:
        raise ValueError(f"an axis of {many} px cannot be reduced to {few} px")
    matrix = torch.eye(many, dtype=torch.float64) if few == many else make_taps(many, few)
    if blur_px > 0:
        matrix = matrix @ make_blur(many, blur_px)
    return Axis(matrix)


def make_taps(many: int, few: int) -> torch.Tensor:
    """Make the matrix (few, many) float64 with which Pillow reduces an axis; its rows sum to 1.

    Source: Keys 1981 (cubic convolution, a = -0.5), widened by the scale, as Pillow's Resample.c does.
    """
    scale = many / few
    centre = (torch.arange(few, dtype=torch.float64)[:, None] + 0.5) * scale
    first, last = ((centre + sign * 2 * scale + 0.5).floor() for sign in (-1, 1))
    place = first.long() + torch.arange(math.ceil(4 * scale) + 2)
    at = ((place + 0.5 - centre) / scale).abs()
    near, far = (1.5 * at - 2.5) * at * at + 1, ((-0.5 * at + 2.5) * at - 4) * at + 2
    weight = torch.where(at < 1, near, torch.where(at < 2, far, 0.0))
    weight = weight * ((place >= 0) & (place < many) & (place < last))
    matrix = torch.zeros(few, many, dtype=torch.float64)
    matrix.scatter_add_(1, place.clamp(0, many - 1), weight)
    return matrix / matrix.sum(1, keepdim=True)


def make_blur(side: int, sigma_px: float) -> torch.Tensor:
    """Make the matrix (side, side) float64 of a Gaussian blur, edges repeated; its rows sum to 1."""
    reach = max(1, math.ceil(4 * sigma_px))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma_px) ** 2)
    place = torch.arange(side)[:, None] + torch.arange(-reach, reach + 1)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, place.clamp(0, side - 1), (taps / taps.sum()).expand(side, -1))


def project(large: torch.Tensor, small: torch.Tensor, reduction: Reduction | None = None) -> torch.Tensor:
    """Change a large picture as little as possible so that it is reduced to the small one.

    Shapes:  large (..., H, W) and small (..., h, w) float32 or float64; returns the shape of large, a new tensor.
    Source:  the range-null space decomposition of Wang, Yu and Zhang 2022, arXiv 2212.00490.
    Differs: the matrices of a real resizer, one per axis, instead of block means.
    """
    reduction = reduction or _find_reduction(large, small)
    return large + reduction.fill(small - reduction.reduce(large))


def _find_reduction(large: torch.Tensor, small: torch.Tensor) -> Reduction:
    return make_reduction((large.shape[-2], large.shape[-1]), (small.shape[-2], small.shape[-1]))
