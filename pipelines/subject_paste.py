"""Put the thing of one picture into others that are being drawn, where and as large as their words say."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipelines.drag_things import fill_open
from pipelines.images import decode, encode, to_tensor
from pipelines.model import ModelBundle
from pipelines.subject_source import SubjectSource

# A cell belongs to a thing if its name draws this share of its maximum there.
INSIDE = 0.3
# A thing is put in with at least and at most this share of the picture's side.
SIDE_SHARES = (0.3, 0.75)
# A latent cell counts as covered from this share of its pixels on.
COVERED = 0.3
# What was being drawn is taken away where its name drew at least this share of its maximum.
CLEARED = 0.2
# A name draws less attention near the border of its thing, so that the thing is larger than its place.
GROWN = 1.5

Box = tuple[float, float, float, float]


def find_box(place: torch.Tensor) -> Box:
    """Find where a thing is being drawn: the box (x0, y0, x1, y1) as shares of the sides.

    Shapes:  place (1, h, w) 0..1, the attention of the thing's name.
    Returns: the box of the rectangle that has the same middle and spread, which a stray cell does not move.
    """
    height, width = place.shape[1:]
    weights = (place[0].double() - min(INSIDE, 0.5 * float(place.max()))).clamp_min(0)
    weights = weights / weights.sum()
    sides = []
    for cells, share in ((width, weights.sum(0)), (height, weights.sum(1))):
        at = (torch.arange(cells, dtype=torch.double, device=place.device) + 0.5) / cells
        middle = float((share * at).sum())
        # A rectangle is the root of 12 times as long as its spread.
        half = GROWN * max(float((share * (at - middle).square()).sum()), (1 / cells) ** 2 / 12) ** 0.5 * 3**0.5
        sides.append((max(0.0, middle - half), min(1.0, middle + half)))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def fit_box(own: Box, wanted: Box) -> tuple[float, float, float]:
    """Say how a thing gets from its own box to a wanted one of the same area, whole inside of the picture.

    Returns: (scale, x, y): how much larger it becomes, and where its box's corner is then, as shares of the sides.
    """
    width, height = own[2] - own[0], own[3] - own[1]
    area = (wanted[2] - wanted[0]) * (wanted[3] - wanted[1])
    longer = max(width, height)
    scale = (area / (width * height)) ** 0.5
    scale = min(max(scale, SIDE_SHARES[0] / longer), SIDE_SHARES[1] / longer)
    corner = []
    for low, high, side in ((wanted[0], wanted[2], width * scale), (wanted[1], wanted[3], height * scale)):
        corner.append(min(max((low + high - side) / 2, 0.0), 1.0 - side))
    return scale, corner[0], corner[1]


def warp(part: torch.Tensor, own: Box, fit: tuple[float, float, float]) -> torch.Tensor:
    """Move and scale a picture (1, c, H, W) so that the box `own` of it lies as `fit` says; zero outside."""
    scale, x, y = fit
    # An output point p (0..1) reads the input at (p - corner) / scale + own corner; grids run from -1 to 1.
    shift = [2 * (own[0] - x / scale) + 1 / scale - 1, 2 * (own[1] - y / scale) + 1 / scale - 1]
    theta = part.new_tensor([[[1 / scale, 0, shift[0]], [0, 1 / scale, shift[1]]]])
    grid = F.affine_grid(theta, list(part.shape), align_corners=False)
    return F.grid_sample(part, grid, align_corners=False)


def paste(
    model: ModelBundle, latents: torch.Tensor, source: SubjectSource, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Put a cut-out thing into clean latents, whose pictures are decoded for it and encoded again.

    What was being drawn there is taken away first, so that it does not stick out behind the thing.

    Shapes:  latents (b, c, h, w), places (b, 1, h, w) 0..1.
    Returns: latents, where the thing is, and where anything is new; both (b, 1, h, w), 0 or 1.
    Raises:  ValueError if the source is not cut out.
    """
    if source.pixels is None or source.outline is None:
        raise ValueError("the subject is not cut out")
    own = find_extent(source.outline[0])
    pixels = to_tensor(decode(model, latents)).to(latents)
    old = F.max_pool2d((places >= CLEARED).to(latents), 3, 1, 1)
    open_px = F.interpolate(old, size=pixels.shape[2:])
    parts, covers = [], []
    for row, place, gone in zip(pixels, places, open_px):
        fit = fit_box(own, find_box(place))
        thing, cover = (warp(part, own, fit) for part in (source.pixels, source.outline))
        cleared = fill_open(row[None], gone[0] < 0.5)
        parts.append(torch.lerp(cleared, thing, cover))
        covers.append(cover)
    cells = (F.interpolate(torch.cat(covers), size=latents.shape[2:], mode="area") > COVERED).to(latents)
    inside = F.max_pool2d(cells, 3, 1, 1)
    return encode(model, torch.cat(parts)), inside, torch.maximum(inside, old)


def find_extent(outline: torch.Tensor) -> Box:
    """Find the box of an outline (1, h, w) as shares of the sides."""
    height, width = outline.shape[1:]
    rows, columns = (outline[0] >= 0.5 * float(outline.max())).nonzero(as_tuple=True)
    return (
        float(columns.min()) / width,
        float(rows.min()) / height,
        float(columns.max() + 1) / width,
        float(rows.max() + 1) / height,
    )
