"""A picture on the front of a mesh: all of it for an inflated body, only where the camera sees for a fitted one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from pipelines.mesh import Mesh, find_normals, find_visible, sample_picture
from pipelines.turntable_camera import FRONT

BACK_BLUR_FRAC = 0.012


def paint_front(mesh: Mesh, picture: np.ndarray, mask: np.ndarray) -> Mesh:
    """Colour a mesh by the picture straight ahead of each corner; what looks away gets a blurred copy."""
    filled = spread_colours(picture, mask)
    soft = ndimage.gaussian_filter(filled, (BACK_BLUR_FRAC * len(picture),) * 2 + (0,))
    front, back = (sample_picture(layer, mesh.vertices[:, 0], mesh.vertices[:, 1]) for layer in (filled, soft))
    facing = np.clip(find_normals(mesh)[:, 2:] * 4 + 1, 0, 1)
    return replace(mesh, colours=np.clip(back + (front - back) * facing, 0, 1).astype(np.float32))


def spread_colours(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Carry the colours of the object's inner pixels over its rim and everything outside; shapes as in `inflate`."""
    solid = ndimage.binary_erosion(mask > 0.9, iterations=max(1, len(mask) // 128))
    if not solid.any():
        solid = mask >= mask.max()
    nearest = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    return picture[tuple(nearest)]


def paint_seen(mesh: Mesh, picture: np.ndarray, mask: np.ndarray) -> Mesh:
    """Sharpen the colours of a mesh where the given picture shows it; shapes as in `paint_front`.

    The steeper the surface, the less the picture knows of it: its weight is the cosine squared.
    """
    filled = spread_colours(picture, mask)
    inside = sample_picture(mask[..., None], mesh.vertices[:, 0], mesh.vertices[:, 1])[:, 0] > 0.5
    facing = np.clip(find_normals(mesh)[:, 2], 0, 1) ** 2 * (find_visible(mesh, FRONT) & inside)
    seen = sample_picture(filled, mesh.vertices[:, 0], mesh.vertices[:, 1])
    return replace(mesh, colours=(mesh.colours + (seen - mesh.colours) * facing[:, None]).astype(np.float32))
