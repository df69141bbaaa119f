"""Where a drag takes each place of a picture: whole things moved, turned, scaled or stretched by their handles.

Places are (x, y) in px of the picture, and a grid of any size is warped the same way: pixels, latents, features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipelines.drag_points import DragPair
from pipelines.errors import UserError

# A handle counts as held at an edge from here on, as a share of the way from the thing's middle to its box.
EDGE_FRAC = 0.72
# What stands this near to a thing shows its outline, glow or shadow.
RIM_PX = 7
# Ends of a line that differ by less than this share of the spread count as alike.
LIKE_FRAC = 0.02
MIN_SCALE, MAX_SCALE = 0.2, 5.0
_EPSILON = 1e-6


@dataclass(frozen=True, eq=False)
class Pull:
    """Hold one thing and where it goes: a place p of it comes to matrix p + shift.

    Shapes: thing (1, 1, H, W) float32 0..1, how much each pixel belongs to it; matrix (2, 2), shift (2,) float32.
    Units:  px of the picture, (x, y); pairs are those that hold this thing.
    """

    pairs: tuple[DragPair, ...]
    thing: torch.Tensor
    matrix: torch.Tensor
    shift: torch.Tensor

    def take(self, places: torch.Tensor, frac: float = 1.0) -> torch.Tensor:
        """Say where places (..., 2) are after a share of the way."""
        matrix, shift = self._at(frac)
        return places @ matrix.T + shift

    def find_origins(self, places: torch.Tensor, frac: float = 1.0) -> torch.Tensor:
        """Say what comes to places (..., 2) after a share of the way."""
        matrix, shift = self._at(frac)
        return (places - shift) @ torch.linalg.inv(matrix).T

    def _at(self, frac: float) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.lerp(torch.eye(2), self.matrix, frac), frac * self.shift


def make_pull(thing: torch.Tensor, pairs: Sequence[DragPair], pull: str) -> Pull:
    """Find the map of a thing that takes its handles to their targets.

    Shapes:  thing (1, 1, H, W).
    Units:   pull is move, stretch or auto: one handle near the middle moves the thing, one at its edge stretches it
             away from the opposite edge; several turn and scale it, and where that does not fit, deform it evenly.
    Raises:  UserError if the thing would be turned inside out or lose nearly all of its size.
    """
    handles = torch.tensor([[pair.handle_x, pair.handle_y] for pair in pairs], dtype=torch.float32)
    targets = torch.tensor([[pair.target_x, pair.target_y] for pair in pairs], dtype=torch.float32)
    box = _find_box(thing)
    middle, half = (box[0] + box[1]) / 2, (box[1] - box[0]).clamp_min(1) / 2
    reach = ((handles[0] - middle) / half).clamp(-1, 1)
    if len(pairs) > 1 and pull != "move":
        matrix, shift = _fit_similarity(handles, targets)
        error = (handles @ matrix.T + shift - targets).norm(dim=1).mean()
        if len(pairs) > 2 and error > 0.1 * (targets - handles).norm(dim=1).mean():
            matrix, shift = _fit_affine(handles, targets)
    elif pull == "stretch" or (pull == "auto" and float(reach.abs().max()) > EDGE_FRAC):
        matrix, shift = _stretch(handles[0], targets[0], box, reach)
    else:
        matrix, shift = torch.eye(2), (targets - handles).mean(0)
    sizes = torch.linalg.svdvals(matrix)
    if float(torch.linalg.det(matrix)) <= 0 or float(sizes.min()) < MIN_SCALE or float(sizes.max()) > MAX_SCALE:
        raise UserError("Pulled that far, the thing would collapse or turn inside out; bring the target nearer.")
    return Pull(tuple(pairs), thing, matrix, shift)


def _find_box(thing: torch.Tensor) -> torch.Tensor:
    """Return the corners ((x0, y0), (x1, y1)) of what belongs to a thing; the whole picture if nothing does."""
    inside = thing[0, 0] > 0.5
    rows, columns = torch.nonzero(inside if bool(inside.any()) else torch.ones_like(inside), as_tuple=True)
    return torch.stack([torch.stack([columns.min(), rows.min()]), torch.stack([columns.max(), rows.max()])]).float()


def _stretch(
    handle: torch.Tensor, target: torch.Tensor, box: torch.Tensor, reach: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stretch away from the side opposite to the handle; from the opposite corner, if it is held at a corner."""
    matrix = torch.eye(2)
    anchor = torch.where(reach > 0, box[0], box[1])
    way, arm = target - handle, handle - anchor
    is_corner = bool((reach.abs() > EDGE_FRAC).all())
    if is_corner:
        matrix = torch.diag(1 + way / arm)
    else:
        axis = int(reach.abs().argmax())
        matrix[:, axis] += way / arm[axis]
    return matrix, anchor - matrix @ anchor


def _fit_similarity(handles: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit scale, turn and shift by least squares; with complex numbers, targets = a handles + b."""
    start, end = handles.mean(0), targets.mean(0)
    z, w = (torch.view_as_complex((points - mean).contiguous()) for points, mean in ((handles, start), (targets, end)))
    a = (z.conj() * w).sum() / (z.abs() ** 2).sum().clamp_min(_EPSILON)
    matrix = torch.stack([torch.stack([a.real, -a.imag]), torch.stack([a.imag, a.real])])
    return matrix, end - matrix @ start


def _fit_affine(handles: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit any even deformation by least squares."""
    start, end = handles.mean(0), targets.mean(0)
    centred = handles - start
    matrix = (torch.linalg.pinv(centred) @ (targets - end)).T
    # Handles on one line say nothing of the direction across it: it is left as it is.
    across = torch.eye(2) - (torch.linalg.pinv(centred) @ centred).T
    matrix = matrix + across
    return matrix, end - matrix @ start


@dataclass(frozen=True, eq=False)
class Warped:
    """Hold a warped grid (b, c, h, w); how much of a thing arrived in each cell, and how much left, (1, 1, h, w)."""

    grid: torch.Tensor
    arrived: torch.Tensor
    left: torch.Tensor


def warp(grid: torch.Tensor, pulls: Sequence[Pull], *, frac: float = 1.0, mode: str = "bilinear") -> Warped:
    """Take the things of a grid along and fill what they leave with what is beside it.

    Shapes: grid (b, c, h, w) over the whole picture.
    Source: the latent warp and fill of FastDrag, Zhao et al. 2024, arXiv 2405.15769.
    """
    height, width = grid.shape[2:]
    # A little more than the things, because their surroundings show their shadow and glow.
    grown = torch.stack([grow(pull.thing, RIM_PX) for pull in pulls]).amax(0)
    covered = _shrink(grown, (height, width))
    result = fill_open(grid, covered[0, 0] > 0.1)
    arrived = torch.zeros_like(covered)
    size_px = pulls[0].thing.shape[2:]
    for pull in pulls:
        # Twice as fine where a thing shrinks, so that thin lines stay whole.
        finer = 2 if mode == "bilinear" and float(torch.linalg.svdvals(pull.matrix).min()) < 0.9 else 1
        places = list_places((finer * height, finer * width), size_px)
        origins = to_cells(pull.find_origins(places, frac), (height, width), size_px)
        share = F.avg_pool2d(sample(_shrink(pull.thing, (height, width)), origins, padding="zeros"), finer)
        moved = F.avg_pool2d(sample(grid, origins, mode=mode), finer)
        opaque = share.to(grid) if mode == "bilinear" else (share > 0.5).to(grid)
        result = opaque * moved + (1 - opaque) * result
        arrived = torch.maximum(arrived, share)
    return Warped(result, arrived, (covered - arrived).clamp_min(0))


def grow(thing: torch.Tensor, reach_px: int) -> torch.Tensor:
    """Let a map (1, 1, H, W) grow on all sides, or shrink where reach_px is negative."""
    reach, sign = abs(reach_px), 1 if reach_px >= 0 else -1
    # The largest of a square is that of its rows' largest.
    rows = F.max_pool2d(sign * thing, (1, 2 * reach + 1), 1, (0, reach))
    return sign * F.max_pool2d(rows, (2 * reach + 1, 1), 1, (reach, 0))


def _shrink(thing: torch.Tensor, size_cells: tuple[int, int]) -> torch.Tensor:
    """Bring a map of the picture to a grid; returns (1, 1, h, w)."""
    return thing if thing.shape[2:] == size_cells else F.interpolate(thing, size=size_cells, mode="area")


def list_places(size_cells: tuple[int, int], size_px: Sequence[int]) -> torch.Tensor:
    """List the middle of each cell in px of the picture; sizes are (height, width); returns (h, w, 2) as (x, y)."""
    down, across = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size_cells), indexing="ij")
    unit = torch.tensor([size_px[1] / size_cells[1], size_px[0] / size_cells[0]])
    return (torch.stack([across, down], -1) + 0.5) * unit - 0.5


def to_cells(places: torch.Tensor, size_cells: tuple[int, int], size_px: Sequence[int]) -> torch.Tensor:
    """Turn places (..., 2) in px into places of a grid, whose first cell's middle is (0, 0)."""
    unit = torch.tensor([size_px[1] / size_cells[1], size_px[0] / size_cells[0]])
    return (places + 0.5) / unit - 0.5


def sample(grid: torch.Tensor, places: torch.Tensor, mode: str = "bilinear", padding: str = "border") -> torch.Tensor:
    """Read a grid (b, c, h, w) at places (H, W, 2) given as (x, y) in cells; returns (b, c, H, W)."""
    height, width = grid.shape[2:]
    scaled = (2 * places + 1) / torch.tensor([width, height], dtype=torch.float32) - 1
    return F.grid_sample(
        grid, scaled.expand(len(grid), -1, -1, -1).to(grid), mode=mode, padding_mode=padding, align_corners=False
    )


def fill_open(grid: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
    """Fill open cells from the nearest closed ones to the left, right, above and below, nearer ones counting more.

    Shapes:  grid (b, c, h, w), is_open (h, w) bool; returns (b, c, h, w); all open: the grid itself.
    Source:  FastDrag, bilateral nearest neighbour interpolation: weights are inverse distances.
    Differs: the direction whose two ends look more alike counts more, so that an edge such as the horizon goes on
             through the hole instead of being smeared into it.
    """
    height, width = is_open.shape
    closed = ~is_open.to(grid.device)
    rows = torch.arange(height, device=grid.device)[:, None].expand(height, width)
    columns = torch.arange(width, device=grid.device)[None].expand(height, width)
    far = height + width
    values: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []
    for axis, index in ((0, rows), (1, columns)):
        before = torch.where(closed, index, -far).cummax(axis).values
        after = torch.where(closed, index, 2 * far).flip(axis).cummin(axis).values.flip(axis)
        for nearest in (before, after):
            is_there = (nearest >= 0) & (nearest < is_open.shape[axis])
            at = nearest.clamp(0, is_open.shape[axis] - 1)
            values.append(grid[:, :, at, columns] if axis == 0 else grid[:, :, rows, at])
            weights.append(is_there / (nearest - index).abs().clamp_min(1))
    down, across = (_measure_unlike(values[first : first + 2], weights[first : first + 2]) for first in (0, 2))
    # Where only one of the directions has two ends, neither can be preferred.
    is_known = down.isfinite() & across.isfinite()
    slack = (LIKE_FRAC * grid.std()).clamp_min(_EPSILON)
    ratio = torch.where(is_known, ((down + slack) / (across + slack)).square(), 1.0)
    shares = [1 / (1 + ratio)] * 2 + [ratio / (1 + ratio)] * 2
    total = torch.stack([weight * share for weight, share in zip(weights, shares)]).to(grid)
    filled = (torch.stack(values) * total[:, None, None]).sum(0) / total.sum(0).clamp_min(_EPSILON)
    return torch.where(closed | (total.sum(0) == 0), grid, filled)


def _measure_unlike(ends: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return how unlike the two ends of each cell's line are, (h, w); infinite where there is only one end."""
    unlike = (ends[0] - ends[1]).abs().mean((0, 1))
    return torch.where((weights[0] > 0) & (weights[1] > 0), unlike, torch.inf)
