"""Batches of the scene parser's training: worn pictures with the exact answer for every cell.

Half of the world's scenes show one object; a crowded picture teaches several shapes at the price of one, so most
training pictures are crowds. Every pair is shown (split "all"), training seeds only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pipelines.scene_parser import BOX_UNIT_PX, STRIDE_PX
from training.wear import wear
from training.world.render import draw_truth_maps, render
from training.world.scene import (
    BACKGROUNDS,
    CANVAS_PX,
    COLOURS,
    KINDS,
    LIGHTS,
    STYLES,
    Scene,
    SceneObject,
    is_drawable,
    sample_identity,
    sample_scene,
)

GRID_CELLS = CANVAS_PX // STRIDE_PX
SPREAD_FRAC = 0.11  # standard deviation of a centre's hill, as a share of the box
ANSWERING = 0.5  # cells this high on the hill answer for their object


@dataclass(frozen=True)
class ParserBatch:
    """Pictures and what the network should say about them.

    Shapes: pictures (b, 3, 256, 256) uint8; hill (b, g, g) float32, 1 at centres; kind, colour (b, g, g) int64 and
            box (b, 4, g, g) float32 at the cells that answer; weight (b, g, g) float32, sums to 1 per object;
            cells (b, 2, g, g) int64, 0 = backdrop; scene (b, 3) int64 with style, background, light.
    """

    pictures: torch.Tensor
    hill: torch.Tensor
    kind: torch.Tensor
    colour: torch.Tensor
    box: torch.Tensor
    weight: torch.Tensor
    cells: torch.Tensor
    scene: torch.Tensor


def draw_batch(first_seed: int, batch_size: int, *, crowd_frac: float, worn_frac: float) -> ParserBatch:
    """Draw the batch of consecutive seeds.

    Units: crowd_frac, worn_frac 0..1: share of crowded and of worn pictures.
    """
    rows = [_draw_row(first_seed + index, crowd_frac, worn_frac) for index in range(batch_size)]
    return ParserBatch(*(torch.stack(column) for column in zip(*rows)))


def _draw_row(seed: int, crowd_frac: float, worn_frac: float) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng([seed, 17])
    is_crowd, is_worn = rng.random(2) < (crowd_frac, worn_frac)
    scene = sample_scene(seed, split="all")
    if is_crowd:
        scene = crowd(scene, rng)
    rendered = render(scene)
    picture = torch.from_numpy(rendered.rgb).permute(2, 0, 1)
    if is_worn:
        worn = wear(picture / 255, torch.Generator().manual_seed(int(rng.integers(2**62))))
        picture = (worn * 255).round().to(torch.uint8)
    cells = torch.from_numpy(np.stack(draw_truth_maps(scene, GRID_CELLS))).long()
    names = (STYLES.index(scene.style), BACKGROUNDS.index(scene.background), LIGHTS.index(scene.light))
    return (picture, *make_targets(scene, rendered.boxes_px), cells, torch.tensor(names))


def crowd(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the same scene with three to nine objects on a loose grid, kinds and colours free.

    Differs: not a scene of the world; only the parser's training sees these.
    """
    columns, rows = ((2, 2), (3, 2), (2, 3), (3, 3))[int(rng.integers(4))]
    width, height = CANVAS_PX / columns, CANVAS_PX / rows
    objects = []
    for place in rng.permutation(columns * rows)[: int(rng.integers(3, columns * rows + 1))]:
        row, column = divmod(int(place), columns)
        size_px = float(rng.uniform(0.72, 0.98) * min(width, height))
        slack_x, slack_y = (width - size_px) / 2, (height - size_px) / 2
        x = (column + 0.5) * width + float(rng.uniform(-slack_x, slack_x))
        y = (row + 0.5) * height + float(rng.uniform(-slack_y, slack_y))
        colours = [colour for colour in COLOURS if is_drawable(colour, scene.style)]
        tilt_deg = float(np.clip(rng.normal(0, 5), -12, 12))
        names = (str(rng.choice(KINDS)), str(rng.choice(colours)))
        objects.append(SceneObject(*names, x, y, size_px, "medium", tilt_deg, sample_identity(rng)))
    return replace(scene, objects=tuple(objects))


def make_targets(scene: Scene, boxes_px: tuple[tuple[int, int, int, int], ...]) -> tuple[torch.Tensor, ...]:
    """Return hill, kind, colour, box and weight of one picture, without the batch axis of `ParserBatch`.

    Source:  Zhou et al. 2019, arXiv 1904.07850, section 3 (Gaussian around each centre).
    Differs: spread proportional to the box in both directions; all cells above ANSWERING answer, not the centre alone.
    """
    shape = (GRID_CELLS, GRID_CELLS)
    hill, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    kind, colour, box = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros((4, *shape), np.float32)
    down, across = np.mgrid[0:GRID_CELLS, 0:GRID_CELLS] * STRIDE_PX + STRIDE_PX / 2
    for thing, (x0, y0, x1, y1) in zip(scene.objects, boxes_px):
        spread_x, spread_y = (max(0.7 * STRIDE_PX, SPREAD_FRAC * side) for side in (x1 - x0, y1 - y0))
        away = ((across - (x0 + x1) / 2) / spread_x) ** 2 + ((down - (y0 + y1) / 2) / spread_y) ** 2
        own = np.exp(-away / 2).astype(np.float32)
        own /= own.max()
        nearest = own > hill
        hill = np.maximum(hill, own)
        answers = nearest & (own > ANSWERING)
        weight[nearest] = 0
        weight[answers] = 1 / max(1, answers.sum())
        kind[answers], colour[answers] = KINDS.index(thing.kind), COLOURS.index(thing.colour)
        distances = np.stack([across - x0, down - y0, x1 - across, y1 - down]) / BOX_UNIT_PX
        box[:, answers] = distances[:, answers]
    return tuple(torch.from_numpy(values) for values in (hill, kind, colour, box, weight))
