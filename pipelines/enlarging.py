"""Enlarge a picture of any size: the network tile by tile, then exact agreement with the small picture.

Yields after every tile, so that a stop is quick and a visitor sees tiles appear. Knows tensors and one network; files,
modes and sentences are `super_resolution.py`'s business.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F

from pipelines.backprojection import Reduction
from pipelines.sr_lite import Places, SrLite, enlarge, make_places
from pipelines.tiling import Span, list_tiles

TILE_PX = 160  # of the small picture: activations of one tile stay below 50 MB
WINDOW_PX = 192  # of the large picture: what is decoded at once stays in the processor's cache
# A picture is enlarged in several orientations while megapixels times orientations stay below this: 2 to 3 s.
MAX_VIEWED_MEGAPIXELS = 2.1
# How far a picture with noise is agreed with at most, and the part of its windows where what the network smoothed away
# counts as noise alone; and bicubic interpolation's share, whose errors are partly others than the network's. Chosen on
# held-out drawn pictures: the worst ones gain most so, if not the mean.
MAX_SHARE, CALM_FRAC, PLAIN_SHARE = 0.4, 0.25, 0.1
NUM_ROUNDS = 2  # of cutting off what no file can hold and projecting again
HALF_LEVEL = 1 / 255  # of a file of 8 bits, in -1..1: as much a file leaves open
ROUNDING_POWER = (2 * HALF_LEVEL) ** 2 / 12  # of an error that is as likely anywhere within half a level

# What a stream of tiles yields: how many are finished, of how many, and the large picture so far (3, H, W).
TileProgress = tuple[int, int, torch.Tensor]


@dataclass(frozen=True)
class View:
    """An orientation of a picture (..., H, W): mirrored along some of its last two axes, then perhaps transposed."""

    flips: tuple[int, ...] = ()
    is_transposed: bool = False

    def turn(self, picture: torch.Tensor) -> torch.Tensor:
        """Bring a picture into this orientation."""
        flipped = picture.flip(self.flips)
        return flipped.transpose(-1, -2) if self.is_transposed else flipped

    def turn_back(self, picture: torch.Tensor) -> torch.Tensor:
        """Bring it back."""
        return (picture.transpose(-1, -2) if self.is_transposed else picture).flip(self.flips)


# The first two and the first four are as different from each other as can be.
VIEWS = (
    View(),
    View((-1, -2), is_transposed=True),
    View((-1,)),
    View((-2,), is_transposed=True),
    View((-1, -2)),
    View(is_transposed=True),
    View((-2,)),
    View((-1,), is_transposed=True),
)


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


@torch.no_grad()
def enlarge_by_views(
    model: SrLite, small: torch.Tensor, size: tuple[int, int], *, damage: float = 0.0
) -> Generator[TileProgress, None, torch.Tensor]:
    """Enlarge a picture in several orientations, and take the mean: what only one of them shows is no detail.

    Shapes:  as in `enlarge_in_tiles`.
    Returns: a generator of (finished tiles of all orientations, all tiles, picture so far), whose return value is the
             picture.
    Source:  Timofte, Rothe and Van Gool 2016, "Seven ways to improve example-based single image super resolution"
             (enhanced prediction, the self-ensemble of later work).
    Differs: fewer than eight orientations, down to one, where the result is large.
    """
    num_views, large = count_views(size), enlarge(small[None], size)[0]
    for index, view in enumerate(VIEWS[:num_views]):
        sides = (size[1], size[0]) if view.is_transposed else size
        stream = enlarge_in_tiles(model, view.turn(small), sides, damage=damage)
        while True:
            try:
                done, total, seen = next(stream)
            except StopIteration as end:
                large = large + (view.turn_back(end.value) - large) / (index + 1)
                break
            yield index * total + done, num_views * total, large if index else seen
    return large


def count_views(size: tuple[int, int]) -> int:
    """Return in how many orientations a picture of (H, W) is enlarged: 8, 4, 2 or 1."""
    affordable = MAX_VIEWED_MEGAPIXELS * 10**6 / (size[0] * size[1])
    return next(count for count in (8, 4, 2, 1) if count == 1 or count <= affordable)


def drop_trifles(large: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """Take back what differs from plain interpolation by no more than a file's rounding: smooth skies stay smooth.

    Shapes: large (3, H, W) and small (3, h, w) in -1..1; returns (3, H, W), a new tensor.
    """
    change = large - enlarge(small[None], (int(large.shape[1]), int(large.shape[2])))[0]
    return torch.addcmul(large, find_signal(change, ROUNDING_POWER) - 1, change)


def make_exact(large: torch.Tensor, small: torch.Tensor, reduction: Reduction) -> Generator[None, None, torch.Tensor]:
    """Move a large picture so that, reduced and rounded to the levels of a file, it is the small one; within -1..1.

    Returns: a generator that yields now and then, whose return value is the picture, a new tensor.
    Differs: the pseudo-inverse makes more of the small picture's own rounding than interpolation does, which shows
             where all is smooth: so the gap is first weighed against it, and then only what exceeds half a level is
             closed. What a file cannot hold is cut off, which breaks the agreement a little; so all is done in turn.
    """
    for index in range(NUM_ROUNDS):
        gap = small - reduction.reduce(large)
        yield
        told = gap - gap.clamp(-HALF_LEVEL, HALF_LEVEL) if index else find_signal(gap, ROUNDING_POWER) * gap
        large = (large + reduction.fill(told)).clamp_(-1, 1)
        yield
    return large


def make_closer(large: torch.Tensor, small: torch.Tensor, reduction: Reduction) -> Generator[None, None, torch.Tensor]:
    """Move a large picture towards agreement with a small one that has noise, and keep it within -1..1.

    Returns: a generator that yields now and then, whose return value is the picture, a new tensor.
    """
    gap = small - reduction.reduce(large)
    yield
    large = large + reduction.fill(MAX_SHARE * find_signal(gap) * gap)
    yield
    plain = enlarge(small[None], reduction.large_size)[0]
    return (large + PLAIN_SHARE * (plain - large)).clamp_(-1, 1)


def find_signal(gap: torch.Tensor, noise: float | None = None) -> torch.Tensor:
    """Return which share of a gap's power around each pixel is more than noise.

    Shapes:  gap (3, h, w); returns (1, h, w) in 0..1.
    Units:   noise is a power in those of -1..1.
    Source:  Wiener's filter in local windows (Lee 1980, IEEE PAMI 2(2)).
    Differs: where nobody tells the noise's power, it is what the calmest quarter of the windows does not exceed.
    """
    power = F.avg_pool2d(gap.square().mean(0, keepdim=True), 3, 1, 1, count_include_pad=False)
    if noise is None:
        noise = float(power.flatten().kthvalue(max(1, round(CALM_FRAC * power.numel()))).values)
    return (1 - noise / power.clamp(min=1e-9)).clamp(0, 1)


def _split(span: Span, many: int, few: int) -> list[tuple[int, Places]]:
    """Cut what a tile covers of an axis of the large picture into windows: (first pixel, places in the tile)."""
    first, last = round(span.first * many / few), round(span.last * many / few)
    windows = []
    for start in range(first, last, WINDOW_PX):
        places = make_places(many, few, start, min(WINDOW_PX, last - start))
        windows.append((start, replace(places, matrix=places.matrix[:, span.outer_first : span.outer_last])))
    return windows
