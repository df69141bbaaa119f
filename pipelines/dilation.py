"""Dilated views of a large picture: every k-th cell, as small pictures of the whole, and back.

What AccDiffusion's global path is made of: cutting, blurring against gaps, and exchange between the views. No model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def split_dilated(latents: torch.Tensor, factor: int) -> torch.Tensor:
    """Cut a picture into views of every `factor`-th cell.

    Shapes:  latents (b, c, h, w), sides that factor does not divide are first extended by their last cells.
    Returns: (factor^2, b, c, ceil(h / factor), ceil(w / factor)); view y * factor + x starts at cell (y, x).
    """
    pad = (0, -latents.shape[3] % factor, 0, -latents.shape[2] % factor)
    padded = F.pad(latents, pad, mode="replicate") if any(pad) else latents
    return torch.stack([padded[:, :, y::factor, x::factor] for y in range(factor) for x in range(factor)])


def join_dilated(views: torch.Tensor, size_cells: tuple[int, int]) -> torch.Tensor:
    """Put views back into one picture, without the cells that split_dilated added; inverse of split_dilated.

    Shapes: views (factor^2, b, c, h, w); size_cells (height, width); returns (b, c, *size_cells).
    """
    whole = F.pixel_shuffle(views.permute(1, 2, 0, 3, 4).flatten(1, 2), math.isqrt(len(views)))
    return whole[:, :, : size_cells[0], : size_cells[1]]


def blur(latents: torch.Tensor, radius_cells: int, sigma_cells: float) -> torch.Tensor:
    """Blur with a Gaussian and give each picture its mean and deviation back.

    Shapes: (b, c, h, w), the same back; the border is continued by its last cells.
    Units:  the kernel reaches radius_cells to each side.
    """
    places = torch.arange(-radius_cells, radius_cells + 1, dtype=torch.float32, device=latents.device)
    line = torch.exp(-0.5 * (places / sigma_cells) ** 2)
    line = (line / line.sum()).to(latents.dtype)
    flat = F.pad(latents.flatten(0, 1)[:, None], (radius_cells,) * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
    return match_statistics(flat.view(latents.shape), latents)


def match_statistics(latents: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Give each picture the mean and standard deviation of another, over all its values.

    Shapes: (b, c, h, w) and (b, c, any, any); returns the first shape.
    """
    std, mean = torch.std_mean(latents, dim=(1, 2, 3), keepdim=True)
    target_std, target_mean = torch.std_mean(target, dim=(1, 2, 3), keepdim=True)
    return (latents - mean) / std.clamp_min(1e-12) * target_std + target_mean


def draw_exchange(generators: Sequence[torch.Generator], shape: tuple[int, int, int], device: str) -> torch.Tensor:
    """Draw, for each picture and cell, an order of the views.

    Shapes:  shape (views, h, w); returns (views, b, 1, h, w) int64, a permutation along the first axis.
    """
    drawn = [torch.rand(shape, generator=generator).argsort(0) for generator in generators]
    return torch.stack(drawn, dim=1)[:, :, None].to(device)


def exchange(views: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Let views exchange cells at the same place: view i receives the cell of view order[i].

    Shapes: views (n, b, c, h, w), order (n, b, 1, h, w); `exchange(views, order.argsort(0))` undoes it.
    """
    return views.gather(0, order.expand_as(views))
