"""Give back the texture that taking away noise took away with it: stripes, weave, lettering, and fine relief.

Noise is alike everywhere and in all directions; regular texture is not. What of the difference between the picture
before and after has more power, at one place and one frequency, than noise of that brightness has in the median place
and direction, was not noise alone, and comes back by that share. Relief may look like noise everywhere, but it is light
and shade, which all colours share, while noise strikes each colour by itself: how much the colours differ tells how
much of what they share is noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipelines.tiling import Blend, Span, list_tiles

BLOCK_PX = 16
STEP_PX = BLOCK_PX // 2
NUM_BANDS = 4  # of frequencies, from coarse to fine
NUM_TONES = 4  # of brightness, as many blocks each
AROUND = 9  # blocks per side whose power is averaged: one alone is chance
# Power must exceed the noise by this factor: averages of noise scatter, and a file's squares are no texture either.
MARGIN = 3.0
# Noise of its own in each colour is a sixth as strong in their mean as in how they differ: (v / 3) / (3 v - v), also
# for unequal v. A camera's colour matrix, which makes differences larger, only makes it less.
INDEPENDENT = 1 / 6
# By how much light must exceed the median's noise where colours have lost theirs: to a file, a smoothing, or as grey.
COARSE_MARGIN = 1.5
# Half-waves per block, from and up to: where colours are kept by every file, and where only by some.
KEPT_BAND, FINE_BAND = (2, 5), (9, 13)
TILE_PX = 512
TILE_MARGIN_PX = STEP_PX * (AROUND // 2) + BLOCK_PX
MAX_TILES_MEASURED = 4  # noise is measured on these
_EPS = 1e-12


@dataclass(frozen=True, eq=False)
class Blocks:
    """Hold the cosine transform of what was removed, in overlapping blocks.

    Shapes: values (3, BLOCK_PX^2, h, w); power, its squares averaged over colours and AROUND blocks per side, and
            light_power, that of the colours' mean, (BLOCK_PX^2, h, w); colour_power, summed squares of how the colours
            differ, averaged over KEPT_BAND as well, (h, w); tone, the brightness of each block, (h, w).
    """

    values: torch.Tensor
    power: torch.Tensor
    light_power: torch.Tensor
    colour_power: torch.Tensor
    tone: torch.Tensor


@dataclass(frozen=True, eq=False)
class NoisePower:
    """Hold how strong noise is.

    Shapes: borders between the tones (NUM_TONES - 1,); power (NUM_TONES, NUM_BANDS).
    Units:  doubt 0..1 as in `find_doubt`.
    """

    borders: torch.Tensor
    power: torch.Tensor
    doubt: float


def return_texture(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Give a picture that was cleaned of noise back what was no noise.

    Shapes:  before, after (3, H, W) in about -1..1; returns the same. What is under 2 BLOCK_PX comes back as `after`.
    Source:  Yaroslavsky 1996, "Local adaptive image restoration and enhancement with the use of DFT and DCT in a
             running window": Wiener's filter in overlapping blocks.
    Differs: it filters what a network removed instead of the picture. The noise's power is the median over places and
             directions, so that stripes all over a picture are not taken for noise; for what colours share it is what
             their differences allow, so that relief all over is not either. Where colours were smoothed or stored
             coarsely they tell less, and only what exceeds the median comes back.
    """
    size = (int(after.shape[1]), int(after.shape[2]))
    if min(size) < 2 * BLOCK_PX:
        return after
    tiles = list_tiles(size, TILE_PX, TILE_MARGIN_PX)
    every = math.ceil(len(tiles) / MAX_TILES_MEASURED)
    noise = measure_noise_power([_transform_tile(before, after, tile) for tile in tiles[::every]])
    blend = Blend(3, size)
    for rows, columns in tiles:
        blocks = _transform_tile(before, after, (rows, columns))
        sides = (rows.outer_last - rows.outer_first, columns.outer_last - columns.outer_first)
        share = find_share(blocks, noise)
        shared = blocks.values.mean(0) * (find_light_share(blocks, noise) - share).clamp_min(0)
        blend.add(transform_back(blocks.values * share + shared, sides), rows, columns)
    return after + blend.result()


def transform(removed: torch.Tensor, after: torch.Tensor) -> Blocks:
    """Take the cosine transform of what was removed. Shapes: both (3, H, W), H and W at least BLOCK_PX."""
    pads = [0, _count_missing(int(removed.shape[2])), 0, _count_missing(int(removed.shape[1]))]
    removed, after = (F.pad(picture[None], pads, mode="reflect")[0] for picture in (removed, after))
    num_rows, num_columns = ((side - BLOCK_PX) // STEP_PX + 1 for side in removed.shape[1:])
    cut = F.unfold(removed[:, None], BLOCK_PX, stride=STEP_PX)
    values = (make_basis() @ cut).view(3, -1, num_rows, num_columns)
    light = values.mean(0)
    power, light_power = values.square().mean(0), light.square()
    colour_power = 3 * (power - light_power)[is_in_band(KEPT_BAND)].mean(0, keepdim=True)
    tone = F.avg_pool2d(after.mean(0)[None, None], BLOCK_PX, STEP_PX)[0, 0]
    return Blocks(values, _average(power), _average(light_power), _average(colour_power)[0], tone)


def transform_back(values: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    """Turn transformed blocks (3, BLOCK_PX^2, h, w) into a picture (3, *sides), blocks fading into each other."""
    window = torch.hann_window(BLOCK_PX + 1, periodic=False)[:-1] + 0.05
    window = torch.outer(window, window).flatten()[None, :, None]
    padded = tuple(side + _count_missing(side) for side in sides)
    blocks = (make_basis().T @ values.flatten(2)) * window
    total = F.fold(blocks, padded, BLOCK_PX, stride=STEP_PX)[:, 0]
    weight = F.fold(window.expand(1, -1, blocks.shape[2]), padded, BLOCK_PX, stride=STEP_PX)[0]
    return (total / weight)[:, : sides[0], : sides[1]]


def measure_noise_power(parts: list[Blocks]) -> NoisePower:
    """Measure how strong noise is at each brightness and frequency: the median over blocks and directions."""
    tone = torch.cat([part.tone.flatten() for part in parts])
    power = torch.cat([part.power.flatten(1) for part in parts], 1)
    ranked = tone.sort().values
    borders = ranked[[len(ranked) * index // NUM_TONES for index in range(1, NUM_TONES)]]
    place, bands = torch.bucketize(tone, borders), make_bands()
    found = torch.zeros(NUM_TONES, NUM_BANDS)
    for tone_index in place.unique().tolist():
        of_tone = power[:, place == tone_index]
        for band in range(NUM_BANDS):
            found[tone_index, band] = of_tone[bands == band].median()
    return NoisePower(borders, found, find_doubt(parts))


def find_doubt(parts: list[Blocks]) -> float:
    """Find how far the colours cannot be trusted to have kept all their noise.

    Returns: 0 where they are nearly as fine as light, 1 where they were kept coarsely, were smoothed, or are missing.
    """
    kept = torch.cat([part.colour_power.flatten() for part in parts]).mean()
    fine = torch.cat([3 * (part.power - part.light_power)[is_in_band(FINE_BAND)].flatten() for part in parts]).mean()
    return float((2 - 4 * fine / kept.clamp_min(_EPS)).clamp(0, 1))


def find_share(blocks: Blocks, noise: NoisePower) -> torch.Tensor:
    """Find which share of each frequency was more than noise: (BLOCK_PX^2, h, w), 0..1; none of a block's mean."""
    share = (1 - MARGIN * _spread(blocks, noise) / blocks.power.clamp_min(_EPS)).clamp(0, 1)
    share[0] = 0
    return share


def find_light_share(blocks: Blocks, noise: NoisePower) -> torch.Tensor:
    """Find which share of what the colours have in common was more than noise: (BLOCK_PX^2, h, w), 0..1."""
    by_colour = INDEPENDENT * (1 + noise.doubt) * blocks.colour_power
    expected = torch.maximum(by_colour, COARSE_MARGIN * noise.doubt * _spread(blocks, noise))
    share = (1 - expected / blocks.light_power.clamp_min(_EPS)).clamp(0, 1)
    share[0] = 0
    return share


def is_in_band(band: tuple[int, int]) -> torch.Tensor:
    """Say which frequencies are of a band: (BLOCK_PX^2,) bool."""
    radius = _make_radius()
    return (radius >= band[0]) & (radius < band[1])


def make_basis() -> torch.Tensor:
    """Make the cosine transform of a block, (BLOCK_PX^2, BLOCK_PX^2), whose inverse is its transpose."""
    index = torch.arange(BLOCK_PX, dtype=torch.float32)
    waves = torch.cos(math.pi * (index + 0.5) * index[:, None] / BLOCK_PX) * math.sqrt(2 / BLOCK_PX)
    waves[0] /= math.sqrt(2)
    return torch.kron(waves, waves)


def make_bands() -> torch.Tensor:
    """Number the band of each frequency, from coarse to fine: (BLOCK_PX^2,) int64."""
    radius = _make_radius()
    return (radius / radius.max() * NUM_BANDS).long().clamp_max(NUM_BANDS - 1)


def _make_radius() -> torch.Tensor:
    """Give the half-waves per block of each frequency: (BLOCK_PX^2,)."""
    index = torch.arange(BLOCK_PX, dtype=torch.float32)
    return (index[:, None].square() + index.square()).sqrt().flatten()


def _spread(blocks: Blocks, noise: NoisePower) -> torch.Tensor:
    """Lay the noise's power over the blocks by their tone: (BLOCK_PX^2, h, w)."""
    return noise.power.T[make_bands()][:, torch.bucketize(blocks.tone, noise.borders)]


def _average(power: torch.Tensor) -> torch.Tensor:
    """Average (n, h, w) over AROUND blocks per side."""
    padded = F.pad(power[None], (AROUND // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, AROUND, 1)[0]


def _transform_tile(before: torch.Tensor, after: torch.Tensor, tile: tuple[Span, Span]) -> Blocks:
    rows, columns = (slice(span.outer_first, span.outer_last) for span in tile)
    return transform((before - after)[:, rows, columns], after[:, rows, columns])


def _count_missing(side: int) -> int:
    """Count the pixels that fill the last block."""
    return -(side - BLOCK_PX) % STEP_PX
