"""Wear for training pictures of the measuring instruments: what decoders, files and cameras do to a picture.

Seeded, one picture at a time, and never a model's output: an instrument must not learn the habits of what it is
going to judge. Object centres move by a few pixels at most.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

BLOCK_PX = 8
Damage = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def wear(picture: torch.Tensor, generator: torch.Generator, *, spared: tuple[Damage, ...] = ()) -> torch.Tensor:
    """Apply a random choice of the damages below, except those that are to be spared.

    Shapes:  (3, H, W) float32 in 0..1, sides multiples of 8; returns the same, a new tensor.
    """
    for probability, damage in (row for row in DAMAGES if row[1] not in spared):
        if _uniform(generator) < probability:
            picture = damage(picture, generator)
    return picture.clamp(0, 1)


def bend(picture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Warp smoothly, by 3 px at most where two standard deviations meet the edge of the range."""
    height, width = picture.shape[1:]
    reach = torch.tensor([2 / width, 2 / height]) * _uniform(generator) * 1.5
    field = torch.randn((1, 2, 6, 6), generator=generator)
    smooth = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    across, down = (torch.arange(side) * 2 / side + 1 / side - 1 for side in (width, height))
    still = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    return F.grid_sample(picture[None], still + smooth * reach, padding_mode="border", align_corners=False)[0]


def resample(picture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shrink to 0.4 .. 0.9 of the size and enlarge again."""
    height, width = picture.shape[1:]
    ratio = 0.4 + 0.5 * _uniform(generator)
    size = (round(height * ratio), round(width * ratio))
    small = F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)
    return F.interpolate(small, size=(height, width), mode="bilinear")[0]


def drop_detail(picture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Keep only coarse cosine waves of each 8x8 block, in steps: JPEG, and latents with one cell per block."""
    height, width = picture.shape[1:]
    blocks = picture.reshape(3, height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX)
    waves = torch.einsum("ui,cyixj,vj->cyuxv", _COSINES, blocks, _COSINES)
    limit = 3 + int(_uniform(generator) * 9)
    step = (1e-3 + 0.06 * _uniform(generator)) * (1 + 0.5 * _FREQUENCY)
    waves = torch.where(limit >= _FREQUENCY, torch.round(waves / step) * step, 0.0)
    return torch.einsum("ui,cyuxv,vj->cyixj", _COSINES, waves, _COSINES).reshape(3, height, width)


def shift_colours(picture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Multiply each channel by 0.94 .. 1.06 and add up to 2.5 % of white."""
    gain = 0.94 + 0.12 * torch.rand((3, 1, 1), generator=generator)
    return picture * gain + 0.05 * (torch.rand((3, 1, 1), generator=generator) - 0.5)


def stain(picture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add a smooth field of colour, standard deviation up to 3 % of white."""
    field = torch.randn((1, 3, 8, 8), generator=generator) * 0.03 * _uniform(generator)
    return picture + F.interpolate(field, size=picture.shape[1:], mode="bilinear")[0]


def add_grain(picture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add Gaussian noise, standard deviation up to 5 % of white."""
    return picture + torch.randn(picture.shape, generator=generator) * 0.05 * _uniform(generator)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _make_cosines() -> torch.Tensor:
    """Return the orthonormal cosine transform of BLOCK_PX numbers as a matrix, one wave per row."""
    place = torch.arange(BLOCK_PX)
    waves = torch.cos((2 * place[None] + 1) * place[:, None] * torch.pi / (2 * BLOCK_PX)) * (2 / BLOCK_PX) ** 0.5
    waves[0] /= 2**0.5
    return waves


_COSINES = _make_cosines()
_FREQUENCY = (torch.arange(BLOCK_PX)[:, None] + torch.arange(BLOCK_PX))[None, None, :, None, :]

DAMAGES: tuple[tuple[float, Damage], ...] = (
    (0.15, bend),
    (0.2, resample),
    (0.3, drop_detail),
    (0.45, shift_colours),
    (0.2, stain),
    (0.25, add_grain),
)
