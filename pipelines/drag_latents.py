"""Kernels of dragging by optimisation: decoder features, supervision of motion by regions or by points, tracking.

Places are (x, y) in cells of the latents, between cells where they must be; features are read on the same grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from pipelines.drag_task import DragTask
from pipelines.drag_warp import Pull, sample, to_cells, warp

POINT_REACH = 1
TRACK_REACH = 1.5
ARRIVED_CELLS = 0.25
# Where all places are exactly the same, distance alone decides.
SAME = 1e-6
# What the surroundings of a region weigh against it: they are to stay as they are.
STILL_WEIGHT = 0.3


@contextmanager
def watched_features(unet: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the output of the last but one decoder block of each pass inside a with-block.

    Returns: a list that gains one (b, c, h, w) per pass, gradients included.
    Source:  Shi et al. 2023, DragDiffusion, arXiv 2306.14435: the third of four decoder blocks.
    """
    seen: list[torch.Tensor] = []
    handle = unet.up_blocks[-2].register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def to_latent_grid(features: torch.Tensor, size_cells: tuple[int, int]) -> torch.Tensor:
    """Bring features to the grid of the latents, in float32; shapes (b, c, h', w') -> (b, c, h, w)."""
    return F.interpolate(features.float(), size=size_cells, mode="bilinear", align_corners=False)


def region_loss(
    features: torch.Tensor, original: torch.Tensor, pulls: Sequence[Pull], mask: torch.Tensor, frac: float
) -> torch.Tensor:
    """Ask for the features of the picture with its things taken a share of the way, and what they left filled.

    Shapes:  features, original (1, c, h, w); mask (1, 1, h, w).
    Returns: weighted mean of |F - warp(F0)| over places and channels, ().
    Source:  the motion supervision of DragDiffusion, equation 3, over whole regions and against the original features,
             as GoodDrag, arXiv 2404.07206, does for its points: in flat colours neighbouring points look alike.
    Differs: the places that a thing leaves are asked for what lies beside them, so that no ghost stays there.
    """
    wanted = warp(original, pulls, frac=frac)
    concerned = torch.maximum(wanted.arrived, wanted.left).to(features)
    weight = (concerned + STILL_WEIGHT * (1 - concerned)) * mask.to(features)
    distance = (features - wanted.grid).abs().mean(1, keepdim=True)
    return (distance * weight).sum() / weight.sum().clamp_min(1e-6)


def point_loss(features: torch.Tensor, handles: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Ask the surroundings of each handle to come one cell nearer to its target.

    Shapes:  features (1, c, h, w); handles, targets (p, 2) as (x, y).
    Returns: sum over the pairs of the mean |F(q + d) - sg F(q)| times the number of places, ().
    Symbols: d the unit vector from handle to target, q places around the handle, sg no gradient.
    Source:  DragDiffusion, equation 3, with r1 = POINT_REACH.
    Differs: a step is never longer than what is left of the way.
    """
    total = features.new_zeros(())
    for handle, target in zip(handles, targets):
        way = target - handle
        if float(way.norm()) < ARRIVED_CELLS:
            continue
        step = way / way.norm().clamp_min(1.0)
        places = _around(handle, POINT_REACH)
        still = sample(features.detach(), places)
        total = total + (sample(features, places + step) - still).abs().mean() * places[..., 0].numel()
    return total


def track_points(
    features: torch.Tensor, original: torch.Tensor, handles: torch.Tensor, starts: torch.Tensor, *, pull: float = 0.05
) -> torch.Tensor:
    """Find where the handles are: the place near the expected one whose features are most like those at the start.

    Shapes:  features, original (1, c, h, w); handles (expected places), starts (p, 2) as (x, y); returns (p, 2).
    Units:   places half a cell apart within TRACK_REACH cells; pull is added per cell of distance, as a share of the
             mean difference.
    Source:  DragDiffusion, equation 5: argmin over the neighbourhood of |F(q) - F0(start)|.
    Differs: the pull decides among places that look alike, as in flat colours.
    """
    found = []
    for handle, start in zip(handles, starts):
        places = _around(handle, TRACK_REACH, step=0.5)
        wanted = sample(original, start.view(1, 1, 2))
        distance = (sample(features, places) - wanted).abs().mean((0, 1))
        distance = distance + pull * distance.mean().clamp_min(SAME) * (places - handle).norm(dim=-1).to(distance)
        found.append(places.view(-1, 2)[int(distance.argmin())])
    return torch.stack(found)


def _around(centre: torch.Tensor, reach: float, step: float = 1.0) -> torch.Tensor:
    """List the places around a centre on a square; (n, n, 2)."""
    line = torch.arange(-reach, reach + step / 2, step)
    down, across = torch.meshgrid(line, line, indexing="ij")
    return centre + torch.stack([across, down], -1)


def ramp(done: int, num_rounds: int) -> float:
    """Return the share of the way that round `done` asks for: in quarters, and all of it from the middle on."""
    return min(4, 1 + 6 * done // num_rounds) / 4


def place_points(task: DragTask, frac: float, size_cells: tuple[int, int]) -> torch.Tensor:
    """Say where the handles should be after a share of the way, in cells; returns (p, 2)."""
    return to_cells(torch.tensor(task.place_handles(frac)), size_cells, task.pixels.shape[2:])


def to_picture(points: torch.Tensor, size_cells: tuple[int, int], task: DragTask) -> tuple[tuple[float, float], ...]:
    """Turn places in cells (p, 2) into px of the picture."""
    height, width = task.pixels.shape[2:]
    unit = torch.tensor([width / size_cells[1], height / size_cells[0]])
    return tuple((float(x), float(y)) for x, y in ((points + 0.5) * unit - 0.5).tolist())
