"""Enlarge a picture of any size: the network tile by tile, then exact agreement with the small picture.

Yields after every tile, so that a stop is quick and a visitor sees tiles appear. Knows tensors and one network; files,
modes and sentences are `super_resolution.py`'s business.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from itertools import product

import torch

from pipelines.backprojection import Reduction
from pipelines.sr_lite import Places, SrLite, enlarge, make_places
from pipelines.tiling import Span, list_tiles

TILE_PX = 160  # of the small picture: activations of one tile stay below 50 MB
WINDOW_PX = 192  # of the large picture: what is decoded at once stays in the processor's cache
NUM_ROUNDS = 2  # of cutting off what no file can hold and projecting again

# What a stream of tiles yields: how many are finished, of how many, and the large picture so far (3, H, W).
TileProgress = tuple[int, int, torch.Tensor]


@torch.no_grad()
def enlarge_in_tiles(
    model: SrLite, small: torch.Tensor, size: tuple[int, int], *, damage: float = 0.0
) -> Generator[TileProgress, None, torch.Tensor]:
    """Enlarge one picture with the network.

    Shapes:  small (3, h, w) in -1..1 and (H, W); the generator returns (3, H, W).
    Units:   damage 0..1 as in `SrLite`.
    Returns: a generator of (finished tiles, tiles, picture so far), whose return value is the picture.
    Differs: tiles are exact, because the network's reach is known and none of its layers looks further.
    """
    large = enlarge(small[None], size)[0]
    tiles = list_tiles((int(small.shape[1]), int(small.shape[2])), TILE_PX, model.config.reach_px)
    condition = torch.full((1,), damage)
    for index, (rows, columns) in enumerate(tiles):
        part = small[None, :, rows.outer_first : rows.outer_last, columns.outer_first : columns.outer_last]
        features = model.encode(part.contiguous(memory_format=torch.channels_last), condition)
        down, across = (_split(*axis) for axis in ((rows, size[0], small.shape[1]), (columns, size[1], small.shape[2])))
        for (top, tall), (left, wide) in product(down, across):
            change = model.decode(features.contiguous(), tall, wide)[0]
            large[:, top : top + len(tall.phases), left : left + len(wide.phases)] += change.float()
        yield index + 1, len(tiles), large
    return large


def make_exact(
    large: torch.Tensor, small: torch.Tensor, reduction: Reduction, share: float = 1.0
) -> Generator[None, None, torch.Tensor]:
    """Project a large picture so that it is reduced to the small one, and keep it within -1..1.

    Units:   share 0..1 is how far it is moved; 1 makes it agree.
    Returns: a generator that yields now and then, whose return value is the picture, a new tensor.
    Differs: what a file cannot hold is cut off, which breaks the agreement a little; so both are done in turn.
    """
    for _ in range(NUM_ROUNDS if share == 1 else 1):
        gap = small - reduction.reduce(large)
        yield
        large = (large + share * reduction.fill(gap)).clamp_(-1, 1)
        yield
    return large


def _split(span: Span, many: int, few: int) -> list[tuple[int, Places]]:
    """Cut what a tile covers of an axis of the large picture into windows: (first pixel, places in the tile)."""
    first, last = round(span.first * many / few), round(span.last * many / few)
    windows = []
    for start in range(first, last, WINDOW_PX):
        places = make_places(many, few, start, min(WINDOW_PX, last - start))
        windows.append((start, replace(places, matrix=places.matrix[:, span.outer_first : span.outer_last])))
    return windows
