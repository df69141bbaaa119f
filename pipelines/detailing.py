"""Run the restorer over pictures of any size: one guess in tiles, and the few steps that add detail.

Tiles overlap and fade into each other at every step, and all take their noise from one canvas, so that no seam and no
repetition tells where they met.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import torch
import torch.nn.functional as F

from pipelines.residual_shift import KAPPA, make_etas, start_chain, step_back
from pipelines.restorer import SIDE_UNIT_PX, Restorer, Task, make_task
from pipelines.streams import follow
from pipelines.tiling import Blend, Span, list_tiles

# Multiples of SIDE_UNIT_PX; larger tiles waste less on margins, smaller ones stop sooner: this is half a second.
TILE_PX, MARGIN_PX = 512, 32


@torch.no_grad()
def guess_clean(
    model: Restorer,
    noisy: torch.Tensor,
    damaged: torch.Tensor,
    level: tuple[float, float],
    task: Task,
    *,
    tile_px: int = TILE_PX,
) -> Generator[None, None, torch.Tensor]:
    """Guess the clean picture once.

    Shapes:  noisy, damaged (3, H, W) of any sides; task of one picture; the generator returns (3, H, W).
    Units:   level is (sigma, share) as in `Restorer`; tile_px a multiple of SIDE_UNIT_PX.
    Returns: a generator that yields after every tile, whose return value is the guess.
    """
    height, width = noisy.shape[1:]
    pad = (0, -width % SIDE_UNIT_PX, 0, -height % SIDE_UNIT_PX)
    pair = F.pad(torch.cat([noisy, damaged])[None], pad, mode="replicate")[0]
    cells = (pair.shape[1] // SIDE_UNIT_PX, pair.shape[2] // SIDE_UNIT_PX)
    blend = Blend(3, (int(pair.shape[1]), int(pair.shape[2])))
    sigma, share = (torch.full((1,), value) for value in level)
    for tile in _list_tiles(cells, tile_px):
        rows, columns = (_scale(span) for span in tile)
        part = pair[None, :, rows.outer_first : rows.outer_last, columns.outer_first : columns.outer_last]
        part = part.contiguous(memory_format=torch.channels_last)
        blend.add(model(part[:, :3], part[:, 3:], sigma, share, task)[0], rows, columns)
        yield
    return blend.result()[:, :height, :width]


@torch.no_grad()
def add_detail(
    model: Restorer,
    picture: torch.Tensor,
    generator: torch.Generator,
    *,
    noise: float | None,
    num_steps: int,
    tile_px: int = TILE_PX,
) -> Generator[tuple[int, torch.Tensor], None, torch.Tensor]:
    """Add the detail that an enlarged picture lacks.

    Shapes:  picture (3, H, W) in -1..1; the generator returns the same.
    Units:   noise is the camera's as a strength of `Restorer`, None if it is not known.
    Returns: a generator of (finished steps, last guess), one item per tile and step; its return value is the picture.
    Source:  Yue, Wang and Loy 2023, arXiv 2307.12348 (ResShift).
    Differs: starts from a restored picture instead of a bicubic one, in pixels instead of latents.
    """
    etas = make_etas(num_steps)
    task = make_task("detail", 1, **({} if noise is None else {"noise": noise}))
    noisy = start_chain(picture, _draw(picture, generator), etas)
    clean = picture
    for done, step in enumerate(reversed(range(len(etas)))):
        stream = guess_clean(model, noisy, picture, (KAPPA * etas[step] ** 0.5, etas[step]), task, tile_px=tile_px)
        clean = yield from follow(stream, (done, clean))
        noisy = step_back(noisy, clean, step, etas, noise=_draw(picture, generator))
    return clean


def count_tiles(size: tuple[int, int]) -> int:
    """Return how many tiles one guess of a picture (H, W) takes."""
    return len(_list_tiles((-(-size[0] // SIDE_UNIT_PX), -(-size[1] // SIDE_UNIT_PX)), TILE_PX))


def _list_tiles(cells: tuple[int, int], tile_px: int) -> tuple[tuple[Span, Span], ...]:
    return list_tiles(cells, tile_px // SIDE_UNIT_PX, MARGIN_PX // SIDE_UNIT_PX)


def _draw(picture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(picture.shape, generator=generator)


def _scale(span: Span) -> Span:
    """Turn a span of the coarsest grid into one of pixels."""
    first, last = span.first * SIDE_UNIT_PX, span.last * SIDE_UNIT_PX
    return replace(
        span,
        first=first,
        last=last,
        outer_first=span.outer_first * SIDE_UNIT_PX,
        outer_last=span.outer_last * SIDE_UNIT_PX,
    )
