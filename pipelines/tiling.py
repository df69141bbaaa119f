"""Tiles of a large picture: plain ones with a margin, and overlapping ones that fade into each other.

A network of convolutions needs only the margin that it reaches; then tiles change nothing. One that sees further gives
each tile a little of its own, which fading spreads over the overlap instead of leaving a seam.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Span:
    """Hold part of an axis: first to last is kept, outer_first to outer_last is what is computed; ends exclusive."""

    first: int
    last: int
    outer_first: int
    outer_last: int


def split_axis(length: int, tile: int, margin: int) -> tuple[Span, ...]:
    """Cut an axis into parts of about equal length, at most `tile`, each with a margin where there is more picture."""
    count = -(-length // tile)
    borders = [length * index // count for index in range(count + 1)]
    return tuple(
        Span(first, last, max(0, first - margin), min(length, last + margin))
        for first, last in zip(borders, borders[1:])
    )


def list_tiles(size: tuple[int, int], tile: int, margin: int) -> tuple[tuple[Span, Span], ...]:
    """List the tiles (rows, columns) of a picture (h, w), row by row."""
    return tuple(
        (rows, columns) for rows in split_axis(size[0], tile, margin) for columns in split_axis(size[1], tile, margin)
    )


def make_fade(span: Span) -> torch.Tensor:
    """Make the weights of an overlapping tile along one axis: (outer length,) float32, a raised cosine at its ends.

    Differs: at the picture's own border there is nothing to fade into, so the weight stays 1.
    """
    weights = torch.ones(span.outer_last - span.outer_first)
    for reach, is_start in ((span.first - span.outer_first, True), (span.outer_last - span.last, False)):
        if reach:
            place = (torch.arange(2 * reach) + 0.5) / (2 * reach)
            rise = (0.5 - 0.5 * torch.cos(torch.pi * place))[: len(weights)]
            if is_start:
                weights[: len(rise)] *= rise
            else:
                weights[-len(rise) :] *= rise.flip(0)
    return weights


class Blend:
    """Gather overlapping tiles of a picture (c, H, W); where tiles overlap, they are averaged by their weights."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        self._sum = torch.zeros(channels, *size)
        self._weight = torch.zeros(1, *size)

    def add(self, tile: torch.Tensor, rows: Span, columns: Span) -> None:
        """Add what was computed for the outer part of a tile: (c, h, w)."""
        weight = make_fade(rows)[:, None] * make_fade(columns)
        part = (..., slice(rows.outer_first, rows.outer_last), slice(columns.outer_first, columns.outer_last))
        self._sum[part] += tile * weight
        self._weight[part] += weight

    def result(self) -> torch.Tensor:
        """Return the picture once every tile was added."""
        return self._sum / self._weight
