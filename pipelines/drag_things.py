"""What lies under the handles of a drag: found by the scene parser where it knows the model's world, else by features.

A thing is a map over the picture's pixels, 0..1. A handle on nothing takes a disc of its surroundings along.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image

from pipelines.drag_points import DragPair
from pipelines.drag_warp import Pull, fill_open, grow, warp
from pipelines.images import to_tensor
from pipelines.model import ModelBundle
from pipelines.scene_parser import ParsedObject, ParsedScene, SceneParser

# How far beside a thing's box a handle may lie.
REACH_PX = 10.0
# The disc around a handle that is on nothing, as a share of the picture's side.
DISC_FRAC = 0.1
MAX_CELLS = 32
_LIKENESS = 0.1

BOX_SLACK_PX = 6
EDGE_GAIN = 3.0
# How far inside and outside of a rough outline the true one is looked for, and what colour difference shows it.
# How far around a thing its surroundings may change with it.
MARGIN_PX = 12
CORE_PX, SEARCH_PX = 7, 7
LOW_CONTRAST = 0.12

Map = torch.Tensor
Group = tuple[Map, tuple[DragPair, ...]]


def group_handles(
    model: ModelBundle,
    picture: Image.Image,
    features: torch.Tensor | None,
    pairs: Sequence[DragPair],
    mask: Image.Image | None,
) -> tuple[list[Group], int]:
    """Find the things under the handles.

    Shapes:  features (1, c, h, w) of the picture, only needed without a parser; a thing is (1, 1, H, W) float32.
    Returns: each thing with the pairs that hold it, and how many handles are on nothing.
    """
    found: dict[object, tuple[torch.Tensor, list[DragPair]]] = {}
    num_lost = 0
    parser = model.judge.parser if model.judge else None
    scene, cells = parser.locate(picture) if parser else (None, None)
    for pair in pairs:
        key: object = pair
        thing: Map | None
        if parser and scene and cells is not None:
            index = choose_thing(scene, pair)
            thing = None if index is None else outline(scene, cells, parser, picture.size, index)
            key = pair if index is None else index
        else:
            assert features is not None
            thing = _grow(features, picture.size, pair, mask)
        if thing is None:
            thing, num_lost = _draw_disc(picture.size, pair), num_lost + 1
        if parser is None:
            # Without names, two handles hold the same thing if each lies in the other's.
            key = next((k for k, (t, p) in found.items() if _holds(t, pair) and _holds(thing, p[0])), pair)
        found.setdefault(key, (thing, []))[1].append(pair)
    if mask is not None:
        allowed = to_levels(mask)
        found = {key: (thing * allowed, group) for key, (thing, group) in found.items()}
    pixels = to_tensor([picture])
    found = {key: (sharpen(thing, pixels), group) for key, (thing, group) in found.items()}
    return [(thing, tuple(group)) for thing, group in found.values()], num_lost


def choose_thing(scene: ParsedScene, pair: DragPair) -> int | None:
    """Choose the thing whose box the handle is in, or nearest to; None if it is near none."""
    distances = []
    for index, thing in enumerate(scene.objects):
        x0, y0, x1, y1 = thing.box_px
        beside = max(x0 - pair.handle_x, pair.handle_x - x1, 0.0) + max(y0 - pair.handle_y, pair.handle_y - y1, 0.0)
        middle = abs((x0 + x1) / 2 - pair.handle_x) + abs((y0 + y1) / 2 - pair.handle_y)
        if beside <= REACH_PX:
            distances.append((beside, middle, index))
    return min(distances)[2] if distances else None


def outline(scene: ParsedScene, cells: torch.Tensor, parser: SceneParser, size_px: tuple[int, int], index: int) -> Map:
    """Draw a thing's outline: where cells are not backdrop, inside its box, and not rather another thing's.

    Shapes: cells (1 + K, h, w) as `SceneParser.locate` returns them; returns (1, 1, H, W) 0..1.
    """
    width, height = size_px
    kinds = parser.config.kinds
    thing = scene.objects[index]
    own = cells[1 + kinds.index(thing.kind)]
    rivals = {other.kind for other in scene.objects if _overlap(other, thing)} - {thing.kind}
    stronger = torch.stack([cells[1 + kinds.index(kind)] > own for kind in rivals]).any(0) if rivals else own < 0
    share = ((1 - cells[0]) * ~stronger)[None, None].cpu()
    outline = F.interpolate(share, size=(height, width), mode="bilinear")
    x0, y0, x1, y1 = (round(side) for side in thing.box_px)
    inside = torch.zeros_like(outline)
    inside[..., max(0, y0 - BOX_SLACK_PX) : y1 + BOX_SLACK_PX, max(0, x0 - BOX_SLACK_PX) : x1 + BOX_SLACK_PX] = 1
    # A steeper rise around one half, so that a cell's width of blur becomes a few pixels.
    return ((outline - 0.5) * EDGE_GAIN + 0.5).clamp(0, 1) * inside


def sharpen(thing: Map, pixels: torch.Tensor) -> Map:
    """Give a rough map the thing's own outline: near its border, what differs from the surroundings belongs to it.

    Shapes: thing (1, 1, H, W); pixels (1, 3, H, W) in -1..1.
    Source: difference matting: the surroundings are those outside of the map, carried on inwards.
    """
    inside, outside = grow(thing, -CORE_PX) > 0.5, grow(thing, SEARCH_PX) <= 0.5
    behind = fill_open(pixels, ~outside[0, 0])
    contrast = (pixels - behind).abs().amax(1, keepdim=True)
    differs = F.avg_pool2d(((contrast - LOW_CONTRAST) / LOW_CONTRAST).clamp(0, 1), 3, 1, 1)
    return torch.where(inside, 1.0, torch.where(outside, 0.0, differs))


def _overlap(first: ParsedObject, second: ParsedObject) -> bool:
    """Tell whether two boxes share anything."""
    (a0, b0, a1, b1), (c0, d0, c1, d1) = first.box_px, second.box_px
    return min(a1, c1) > max(a0, c0) and min(b1, d1) > max(b0, d0)


def _grow(features: torch.Tensor, size_px: tuple[int, int], pair: DragPair, mask: Image.Image | None) -> Map | None:
    """Let a thing grow from its handle over what looks alike to the model; None if that is next to nothing.

    Source: Grady 2006, "Random Walks for Image Segmentation": the chance to meet the handle before the surroundings.
    """
    width, height = size_px
    grid = F.interpolate(features.float().cpu(), size=_limit(features.shape[2:]), mode="area")[0]
    grid = F.normalize(grid - grid.mean((1, 2), keepdim=True), dim=0)
    rows, columns = grid.shape[1:]
    at = (int(pair.handle_y * rows / height), int(pair.handle_x * columns / width))
    seeds = torch.full((rows, columns), -1.0)
    seeds[[0, -1], :] = seeds[:, [0, -1]] = 0.0
    if mask is not None:
        free = F.interpolate(to_levels(mask), size=(rows, columns), mode="area")[0, 0]
        seeds[free == 0] = 0.0
    seeds[at] = 1.0
    share = walk(grid, seeds)
    if int((share > 0.5).sum()) < 2:
        return None
    return F.interpolate(share[None, None], size=(height, width), mode="bilinear")


def walk(grid: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Compute for each cell the chance that a random walk from it meets a seed 1 before a seed 0.

    Shapes:  grid (c, h, w), unit features; seeds (h, w): 1, 0, or -1 where nothing is known; returns (h, w).
    Symbols: L Laplacian of the grid's graph, weights exp(-|f - g|^2 / likeness) between neighbours; L_u x_u = -B x_s.
    """
    height, width = seeds.shape
    index = torch.arange(height * width).view(height, width)
    laplacian = torch.zeros(height * width, height * width)
    for down, across in ((0, 1), (1, 0)):
        first = index[: height - down, : width - across].flatten()
        second = index[down:, across:].flatten()
        flat = grid.flatten(1)
        weight = torch.exp(-(flat[:, first] - flat[:, second]).square().sum(0) / _LIKENESS) + 1e-4
        for a, b in ((first, second), (second, first)):
            laplacian[a, b] -= weight
            laplacian[a, a] += weight
    known = seeds.flatten() >= 0
    result = seeds.flatten().clone()
    result[~known] = torch.linalg.solve(laplacian[~known][:, ~known], -laplacian[~known][:, known] @ result[known])
    return result.view(height, width)


def _limit(sides: torch.Size) -> tuple[int, int]:
    """Return a grid of the same form with at most MAX_CELLS cells a side."""
    ratio = min(1.0, MAX_CELLS / max(sides))
    return (round(sides[0] * ratio), round(sides[1] * ratio))


def _holds(thing: Map, pair: DragPair) -> bool:
    """Tell whether a handle lies in a thing."""
    return bool(thing[0, 0, int(pair.handle_y), int(pair.handle_x)] > 0.5)


def _draw_disc(size_px: tuple[int, int], pair: DragPair) -> Map:
    """Draw a soft disc around a handle."""
    down, across = torch.meshgrid(torch.arange(size_px[1]), torch.arange(size_px[0]), indexing="ij")
    away = torch.hypot(across - pair.handle_x, down - pair.handle_y) / (DISC_FRAC * min(size_px))
    return (1.5 - away).clamp(0, 1)[None, None].float()


def to_levels(mask: Image.Image) -> Map:
    """Turn a mask into (1, 1, H, W) of 0 and 1."""
    levels = torch.frombuffer(bytearray(mask.convert("L").tobytes()), dtype=torch.uint8)
    return (levels.reshape(1, 1, mask.height, mask.width) > 127).float()


def find_region(pulls: Sequence[Pull], mask: Image.Image | None) -> Map:
    """Mark what may change: where things were and where they come to, with a margin, but nothing outside of a mask."""
    was = torch.stack([pull.thing for pull in pulls]).amax(0)
    comes = warp(was, pulls).arrived
    region = (grow(torch.maximum(was, comes), MARGIN_PX) > 0.1).float()
    return region if mask is None else region * to_levels(mask)
