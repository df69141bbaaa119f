"""Parallax: a picture in layers of depth, whose camera sways a little; nothing is modelled and nothing is learned.

Planes parallel to the picture share its colours and differ in their transparency, as in multiplane images; behind the
object the background is filled in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pipelines.inflate import solve_membrane

NUM_PLANES = 12
NUM_FRAMES = 24
# How far the nearest plane moves, as a share of the picture's width, and the object's own depth in that range.
SWAY_FRAC = 0.03
OBJECT_DEPTH = 0.3
# How much nearer than the ground at its foot the object's outline lies.
STEP_DEPTH = 0.25
_MEMBRANE_PX = 64


@dataclass(frozen=True, eq=False)
class Layers:
    """Hold planes from far to near.

    Shapes: rgb (k, H, W, 3) and alpha (k, H, W) float32 in 0..1; the first plane is opaque. nearness (k,) 0..1.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    nearness: np.ndarray


def make_layers(picture: np.ndarray, mask: np.ndarray, num_planes: int = NUM_PLANES) -> Layers:
    """Guess depths and cut a picture into planes.

    Shapes: picture (H, W, 3), mask (H, W), float32 in 0..1.
    Source: Zhao et al. 2022, arXiv 2207.10642 (GMPI): planes share one picture, only transparency differs by plane.
    Differs: depth is guessed, from the height in the picture and the roundness of the silhouette; behind the object a
             second picture, filled in, takes the place of what it hides.
    """
    height, width = mask.shape
    ground = np.repeat(np.linspace(0.0, 0.5, height, dtype=np.float32)[:, None], width, 1)
    rows = np.nonzero((mask > 0.5).any(1))[0]
    foot = ground[rows[-1], 0] if len(rows) else 0.0
    # The object stands where its foot touches the ground, and bulges towards the viewer.
    near_object = np.clip(foot + STEP_DEPTH + OBJECT_DEPTH * _bulge(mask), 0, 1)
    behind = fill_behind(picture, ndimage.binary_dilation(mask > 0.02, iterations=max(1, width // 100)))
    levels = np.linspace(0, 1, num_planes, dtype=np.float32)
    soft = np.clip(mask, 0, 1)
    planes, alphas = [], []
    for index, level in enumerate(levels):
        ground_alpha = np.clip((ground - level) * (num_planes - 1) + 1, 0, 1) if index else np.ones_like(soft)
        object_alpha = soft * np.clip((near_object - level) * (num_planes - 1) + 1, 0, 1)
        is_object = index > 0 and level > foot
        planes.append(picture if is_object else behind)
        alphas.append(object_alpha if is_object else ground_alpha)
    return Layers(np.stack(planes), np.stack(alphas).astype(np.float32), levels)


def _bulge(mask: np.ndarray) -> np.ndarray:
    """Return how far a silhouette swells towards the viewer at every pixel, 0..1."""
    factor = _MEMBRANE_PX / max(mask.shape)
    small = ndimage.zoom(mask, factor, order=1, grid_mode=True, mode="nearest") > 0.5
    if not small.any():
        return np.zeros_like(mask)
    height = np.sqrt(solve_membrane(small))
    grown = ndimage.zoom(
        height / height.max(), np.array(mask.shape) / small.shape, order=1, grid_mode=True, mode="nearest"
    )
    return grown.astype(np.float32)


def fill_behind(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill a hole (H, W) from all sides: what is known is averaged down, what is missing comes back up."""
    known = 1 - hole.astype(np.float32)
    if hole.all() or not hole.any():
        return picture
    levels = [(picture * known[..., None], known)]
    while min(levels[-1][1].shape) > 1 and levels[-1][1].min() < 1e-3:
        levels.append(tuple(_halve(part) for part in levels[-1]))  # type: ignore[arg-type]
    filled = levels[-1][0] / np.maximum(levels[-1][1], 1e-6)[..., None]
    for colour, weight in reversed(levels[:-1]):
        rows, columns = weight.shape
        coarse = filled.repeat(2, 0).repeat(2, 1)[:rows, :columns]
        coarse = ndimage.uniform_filter(coarse, (3, 3, 0), mode="nearest")
        share = np.clip(weight, 0, 1)[..., None]
        filled = colour + (1 - share) * coarse
    return filled.astype(np.float32)


def _halve(values: np.ndarray) -> np.ndarray:
    """Average 2 x 2 pixels, an odd last row or column by itself."""
    edges = [(0, size % 2) for size in values.shape[:2]] + [(0, 0)] * (values.ndim - 2)
    even = np.pad(values, edges, mode="edge")
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def draw_frame(layers: Layers, sway: tuple[float, float]) -> np.ndarray:
    """Look at layers from a little aside.

    Units:   sway is (right, up), each -1..1, of SWAY_FRAC.
    Returns: (H, W, 3) float32 in 0..1.
    """
    height, width = layers.alpha.shape[1:]
    reach = SWAY_FRAC * width
    total = np.zeros((height, width, 3), np.float32)
    for rgb, alpha, nearness in zip(layers.rgb, layers.alpha, layers.nearness):
        # The camera turns around the middle of the depths, so that far things move the other way.
        dx, dy = (-reach * part * (nearness - 0.4) for part in (sway[0], -sway[1]))
        cover = _shift(alpha, dx, dy)[..., None]
        total = total * (1 - cover) + _shift(rgb, dx, dy) * cover
    return total


def sway_camera(layers: Layers, num_frames: int = NUM_FRAMES) -> list[np.ndarray]:
    """Draw one round of the camera on a small flat ellipse; frames as of `draw_frame`."""
    turns = 2 * np.pi * np.arange(num_frames) / num_frames
    return [draw_frame(layers, (float(np.sin(turn)), float(0.4 * np.cos(turn)))) for turn in turns]


def _shift(values: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Move a picture by parts of pixels; its edge is repeated."""
    for axis, offset in ((1, dx), (0, dy)):
        whole = int(np.floor(offset))
        part = np.float32(offset - whole)
        count = values.shape[axis]
        here = np.clip(np.arange(count) - whole, 0, count - 1)
        before = np.clip(here - 1, 0, count - 1)
        values = values.take(here, axis) * (1 - part) + values.take(before, axis) * part
    return values
