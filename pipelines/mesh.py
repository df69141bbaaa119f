"""Triangle meshes with a colour per corner: taken out of a volume, smoothed, checked, and drawn from any side.

World axes as in `turntable_camera.py`; colours are those of a screen (sRGB) in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, sparse
from skimage.measure import marching_cubes

from pipelines.turntable_camera import Angle, find_pixel_centres, make_axes

MAX_FACES = 30_000
# Two steps that undo each other's shrinking (Taubin).
_SMOOTH_IN, _SMOOTH_OUT = 0.5, -0.53


@dataclass(frozen=True, eq=False)
class Mesh:
    """Hold a surface. Shapes: vertices (n, 3) float32, faces (m, 3) int64, colours (n, 3) float32 in 0..1."""

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray


def extract_surface(volume: np.ndarray, reach: tuple[float, float, float], *, max_faces: int = MAX_FACES) -> Mesh:
    """Take the surface where a volume changes its sign; a border of outside is put around it, so that it is closed.

    Shapes:  volume (nx, ny, nz), positive inside; sample i of n lies at ((i + 0.5) / n * 2 - 1) * reach of its axis.
    Returns: a white mesh whose triangles face outwards; a volume with too fine a surface is resampled first, so that
             it has at most max_faces.
    Raises:  ValueError if nothing is inside.
    """
    if not (volume > 0).any():
        raise ValueError("the volume is empty")
    outside = min(float(volume.min()), -1e-3)
    while True:
        padded = np.pad(volume.astype(np.float32), 1, constant_values=outside)
        corners, faces, _, _ = marching_cubes(padded, 0.0)
        if len(faces) <= max_faces:
            break
        volume = ndimage.zoom(volume, 0.97 * np.sqrt(max_faces / len(faces)), order=1, grid_mode=True, mode="nearest")
    # A sample of the padded volume lies one further.
    vertices = ((corners - 0.5) / np.array(volume.shape) * 2 - 1) * np.array(reach)
    mesh = Mesh(vertices.astype(np.float32), faces.astype(np.int64), np.ones_like(vertices, np.float32))
    return mesh if measure_volume(mesh) > 0 else replace(mesh, faces=np.ascontiguousarray(mesh.faces[:, ::-1]))


def measure_volume(mesh: Mesh) -> float:
    """Return the volume inside a closed mesh, negative if its triangles face inwards."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]].astype(np.float64) for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def is_watertight(mesh: Mesh) -> bool:
    """Tell whether every edge joins exactly two triangles that run through it in opposite directions."""
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    count = len(mesh.vertices)
    there, back = edges[:, 0] * count + edges[:, 1], edges[:, 1] * count + edges[:, 0]
    return len(np.unique(there)) == len(there) and np.array_equal(np.sort(there), np.sort(back))


def smooth_surface(mesh: Mesh, rounds: int) -> Mesh:
    """Smooth a mesh without shrinking it.

    Source: Taubin 1995, A signal processing approach to fair surface design; constants 0.5 and -0.53.
    """
    rows = np.concatenate([mesh.faces[:, a] for a in (0, 1, 2)] * 2)
    columns = np.concatenate([mesh.faces[:, a] for a in (1, 2, 0)] + [mesh.faces[:, a] for a in (2, 0, 1)])
    count = len(mesh.vertices)
    links = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (count, count))
    links.data[:] = 1.0
    mean = sparse.diags(1 / np.maximum(np.asarray(links.sum(1)).ravel(), 1)) @ links
    vertices = mesh.vertices.astype(np.float32)
    for factor in (_SMOOTH_IN, _SMOOTH_OUT) * rounds:
        vertices = vertices + np.float32(factor) * (mean @ vertices - vertices)
    return replace(mesh, vertices=vertices.astype(np.float32))


def find_normals(mesh: Mesh) -> np.ndarray:
    """Return a unit normal per corner, (n, 3) float32, the mean of its triangles weighted by their areas."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    faces = np.cross(b - a, c - a)
    total = np.stack(
        [
            sum(np.bincount(mesh.faces[:, corner], faces[:, axis], len(mesh.vertices)) for corner in range(3))
            for axis in range(3)
        ],
        axis=1,
    )
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def draw_mesh(mesh: Mesh, angles: Sequence[Angle], size_px: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Draw a mesh from several sides with its own colours on white, four rays a pixel.

    Returns: pictures (v, H, W, 3) float32 in 0..1, and the share of each pixel that is covered, (v, H, W) float32.
    """
    pictures, covers = [], []
    for angle in angles:
        rgb, near = _draw_once(mesh, angle, 2 * size_px)
        cover = np.isfinite(near)[..., None].astype(np.float32)
        blocks = [
            picture.reshape(size_px, 2, size_px, 2, -1).mean((1, 3)) for picture in (rgb * cover + 1 - cover, cover)
        ]
        pictures.append(blocks[0])
        covers.append(blocks[1][..., 0])
    return np.stack(pictures), np.stack(covers)


def _draw_once(mesh: Mesh, angle: Angle, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Fill triangles by their bounding squares, all of a size at once; the nearest wins.

    Returns: colours (edge, edge, 3), and how near each pixel's surface is (edge, edge), -inf where there is none.
    """
    right, up, towards = make_axes(*angle)
    x, y = (mesh.vertices @ right + 1) * edge / 2 - 0.5, (1 - mesh.vertices @ up) * edge / 2 - 0.5
    depth = mesh.vertices @ towards
    cx, cy = x[mesh.faces], y[mesh.faces]
    left, top = np.ceil(cx.min(1)).astype(np.int64), np.ceil(cy.min(1)).astype(np.int64)
    need = np.maximum(np.floor(cx.max(1)).astype(np.int64) - left, np.floor(cy.max(1)).astype(np.int64) - top) + 1
    best = np.full(edge * edge, -np.inf, np.float32)
    rgb = np.zeros((edge * edge, 3), np.float32)
    side = 1
    while side // 2 < need.max(initial=0):
        chosen = np.nonzero((need > side // 2) & (need <= side))[0]
        side *= 2
        if not len(chosen):
            continue
        grid = np.arange(side // 2)
        px = (left[chosen, None, None] + grid[None, None, :]).repeat(side // 2, 1).reshape(len(chosen), -1)
        py = (top[chosen, None, None] + grid[None, :, None]).repeat(side // 2, 2).reshape(len(chosen), -1)
        weights = _find_weights(cx[chosen], cy[chosen], px, py)
        inside = (weights.min(0) >= -1e-6) & (px >= 0) & (px < edge) & (py >= 0) & (py < edge)
        corners = np.broadcast_to(mesh.faces[chosen][:, None], (*inside.shape, 3))[inside]
        weights = weights[:, inside].T
        place = (py * edge + px)[inside]
        near = (depth[corners] * weights).sum(1).astype(np.float32)
        order = np.argsort(near, kind="stable")
        order = order[near[order] > best[place[order]]]
        # The last writer is the nearest.
        best[place[order]] = near[order]
        rgb[place[order]] = (mesh.colours[corners[order]] * weights[order][:, :, None]).sum(1)
    return rgb.reshape(edge, edge, 3), best.reshape(edge, edge)


def _find_weights(cx: np.ndarray, cy: np.ndarray, px: np.ndarray, py: np.ndarray) -> np.ndarray:
    """Return the barycentric weights (3, m, k) of points (m, k) in triangles with corners (m, 3)."""
    (x0, x1, x2), (y0, y1, y2) = ([part[:, corner, None] for corner in range(3)] for part in (cx, cy))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    area = np.where(np.abs(area) < 1e-9, np.inf, area)
    one = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
    two = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
    none = np.isinf(area)
    return np.stack([np.where(none, -1, 1 - one - two), one, two])


def find_visible(mesh: Mesh, angle: Angle, *, edge: int = 192, slack: float = 0.03) -> np.ndarray:
    """Tell which corners (n,) bool nothing hides from a side; what lies less than `slack` behind still counts."""
    right, up, towards = make_axes(*angle)
    _, near = _draw_once(mesh, angle, edge)
    # A corner between two pixels is compared with the nearer surface around it.
    near = ndimage.grey_erosion(np.where(np.isfinite(near), near, np.inf), size=(3, 3))
    columns, rows = (
        np.clip(np.rint(((sign * mesh.vertices @ axis) + 1) * edge / 2 - 0.5), 0, edge - 1).astype(np.int64)
        for sign, axis in ((1, right), (-1, up))
    )
    return mesh.vertices @ towards >= near[rows, columns] - slack


def sample_picture(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Read a picture (H, W, c) at points in -1..1, y up, between its pixels; returns (n, c) float32."""
    height, width = picture.shape[:2]
    places = np.stack([(1 - y) * height / 2 - 0.5, (x + 1) * width / 2 - 0.5])
    channels = [
        ndimage.map_coordinates(picture[..., c], places, order=1, mode="nearest") for c in range(picture.shape[2])
    ]
    return np.stack(channels, 1).astype(np.float32)


def find_grid(size_px: int, reach: float = 1.0) -> np.ndarray:
    """Return where the samples of a volume's axis lie, as `extract_surface` expects them."""
    return find_pixel_centres(size_px) * np.float32(reach)
