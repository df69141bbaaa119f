"""Inflate: a silhouette becomes a round, closed body that wears the picture in front and its blurred copy behind.

The baseline that every learned way must beat, and the first shape that a visitor sees.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from pipelines.mesh import Mesh, extract_surface, find_grid, smooth_surface
from pipelines.painted_front import paint_front

GRID_PX = 96
# How thick a body is, 1 being as thick as wide for a disc; chosen on drawn training solids.
THICKNESS = 0.75
SMOOTH_ROUNDS = 6


def inflate(picture: np.ndarray, mask: np.ndarray, *, thickness: float = THICKNESS) -> Mesh:
    """Blow up a silhouette.

    Shapes:  picture (H, H, 3) float32 in 0..1, mask (H, H) float32 in 0..1, framed as in `turntable_camera.py`.
    Units:   thickness is a share of what makes a disc a ball.
    Returns: a watertight mesh with colours.
    Raises:  ValueError if the mask is empty.
    Source:  the membrane under constant pressure, whose height is the root of a solution of Poisson's equation.
    """
    small = _resize(mask, GRID_PX)
    pressure = solve_membrane(small > 0.5) * (2 / GRID_PX * thickness) ** 2
    reach = float(np.sqrt(pressure.max())) * 1.15
    depth = find_grid(max(24, round(GRID_PX * reach)), reach)
    # Outside the silhouette the value goes on falling, so that the rim lies where the mask says.
    rim = np.where(small > 0.5, 0, -(0.5 - small) * 4 / GRID_PX)
    volume = (pressure + rim)[:, :, None] - depth[None, None] ** 2
    # Rows run down, y runs up.
    mesh = extract_surface(volume.transpose(1, 0, 2)[:, ::-1], (1.0, 1.0, reach))
    return paint_front(smooth_surface(mesh, SMOOTH_ROUNDS), picture, mask)


def solve_membrane(inside: np.ndarray) -> np.ndarray:
    """Solve the Laplacian of u = -4 inside, 0 outside, on the pixel grid; for a disc u is radius^2 - distance^2.

    Shapes: inside (H, W) bool; returns (H, W) float32 in square pixels.
    """
    if not inside.any():
        raise ValueError("the mask is empty")
    padded = np.pad(inside, 1)
    number = np.full(padded.shape, -1)
    number[padded] = np.arange(padded.sum())
    rows, columns = np.nonzero(padded)
    own = number[rows, columns]
    links = [(own, number[rows + dy, columns + dx]) for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    pairs = np.concatenate([np.stack([a, b])[:, b >= 0] for a, b in links], 1)
    count = len(own)
    matrix = sparse.coo_matrix((-np.ones(pairs.shape[1]), pairs), (count, count)) + 4 * sparse.eye(count)
    result = np.zeros(padded.shape, np.float32)
    result[padded] = spsolve(matrix.tocsc(), np.full(count, 4.0))
    return result[1:-1, 1:-1]


def _resize(mask: np.ndarray, size_px: int) -> np.ndarray:
    """Bring a square mask to another size by averaging."""
    factor = size_px / len(mask)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), max(0.0, 0.35 / factor - 0.35))
    steps = (np.arange(size_px) + 0.5) / factor - 0.5
    return ndimage.map_coordinates(soft, np.meshgrid(steps, steps, indexing="ij"), order=1, mode="nearest")
