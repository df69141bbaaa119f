"""Recolouring a model by painting on one of its views: strokes reach the corners that are seen there, and then others.

What is painted on one side is wanted on others too: on the mirrored side, or wherever the model has that colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree
from skimage.color import rgb2lab

from pipelines.errors import UserError
from pipelines.mesh import Mesh, draw_mesh, find_visible, sample_picture
from pipelines.turntable_camera import Angle, make_axes

REACHES = ("painted", "mirrored", "alike")
# World units: how far the mirror image of a painted corner may lie from a corner.
MAX_GAP = 0.05
# Lab units: colours this near are the same, colours this far are others; shading moves lightness most.
SAME, OTHER = 10.0, 22.0
LIGHTNESS_WEIGHT = 0.45
# How much darker or brighter than its surroundings a recoloured corner may stay.
SHADE_RANGE = (0.45, 1.7)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def recolour_model(mesh: Mesh, strokes: Image.Image, angle: Angle, *, reach: str = "painted") -> Mesh:
    """Paint a model.

    Units:  strokes in RGBA, any square size, over the view from `angle`; reach `painted` colours what is seen under
            them, `mirrored` also its mirror image left and right, `alike` also everything of the colours under them.
    Raises: UserError if no stroke meets the model.
    Differs: the shading that is baked into the colours stays: a stroke changes what is shaded, not the light.
    """
    layer = np.asarray(strokes.convert("RGBA"), np.float32) / np.float32(255)
    right, up, _ = make_axes(*angle)
    seen = sample_picture(layer, mesh.vertices @ right, mesh.vertices @ up)
    weight = seen[:, 3] * find_visible(mesh, angle)
    painted = np.nonzero(weight > 0.5)[0]
    if not len(painted):
        raise UserError("Nothing is painted on the model; paint over it in the view.")
    colours = seen[:, :3]
    if reach == "mirrored":
        gap, nearest = cKDTree(mesh.vertices[painted]).query(mesh.vertices * np.array([-1, 1, 1], np.float32))
        weight, colours = _join(weight, colours, gap < MAX_GAP, painted[nearest])
    elif reach == "alike":
        lab = rgb2lab(mesh.colours[None])[0] * (LIGHTNESS_WEIGHT, 1, 1)
        gap, nearest = cKDTree(lab[painted]).query(lab)
        weight, colours = _join(weight, colours, np.clip((OTHER - gap) / (OTHER - SAME), 0, 1), painted[nearest])
    return replace(mesh, colours=_mix(mesh.colours, colours, weight, painted))


def _join(weight: np.ndarray, colours: np.ndarray, share: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, ...]:
    """Let corners take the colour of others where that weighs more than their own."""
    other = share * weight[source]
    is_more = other > weight
    return np.where(is_more, other, weight), np.where(is_more[:, None], colours[source], colours)


def _mix(old: np.ndarray, new: np.ndarray, weight: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """Mix colours (n, 3), the new ones as bright for their surroundings as the old ones were."""
    luma = old @ _LUMA
    shade = np.clip(luma / max(1e-3, float(np.median(luma[painted]))), *SHADE_RANGE)[:, None]
    return np.clip(old + (new * shade - old) * weight[:, None], 0, 1).astype(np.float32)


def draw_model(mesh: Mesh, angles: Sequence[Angle], size_px: int) -> tuple[Image.Image, ...]:
    """Draw a model from several sides on white."""
    drawn, _ = draw_mesh(mesh, angles, size_px)
    return tuple(Image.fromarray(np.clip(np.rint(view * 255), 0, 255).astype(np.uint8)) for view in drawn)
