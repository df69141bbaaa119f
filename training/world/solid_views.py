"""Exact views of a solid by sphere tracing: picture, mask, depth and normals from any side, under a light of the world.

The camera has no perspective: at azimuth 0 and elevation 0 it looks along -z; a positive azimuth moves it towards
+x (what is on the right of the front view comes nearer), a positive elevation moves it up. A picture shows -1..1.
Source: Hart 1996, Sphere tracing; the step is the distance itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.turntable_camera import FRONT_FRAC, Angle, find_pixel_centres, make_axes
from training.world.solid_shapes import Array
from training.world.solids import Body

# Rays start on a sphere of this radius and end on its other side; bodies stay inside.
REACH = 1.45
MAX_STEPS = 64
# A few distances are too long by some per cent, see solid_shapes.
STEP_SHARE = 0.9
HIT = 2e-3
FRAME_PX = 128
BEAM = 8
_ROOM = 1.25
PAPER = np.float32(1.0)
# The light comes from the upper left of the front; it belongs to the world, so that all views agree.
LIGHT = np.array([-0.42, 0.72, 0.55], np.float32) / np.float32(np.linalg.norm([-0.42, 0.72, 0.55]))
_INK = np.array([34, 32, 40], np.float32) / 255


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures of one body.

    Shapes: rgb (v, H, W, 3) float32 in 0..1 on white; mask (v, H, W) float32, the share of each pixel that the body
            covers; depth (v, H, W) float32, along the view's axis, 0 at the middle, larger nearer, nan outside;
            normal (v, H, W, 3) float32 in the world's axes, 0 outside.
    """

    rgb: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


def _make_rays(angles: Sequence[Angle], size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return origins (v, H, W, 3) on the camera's side and directions to the camera (v, 3)."""
    steps = find_pixel_centres(size_px)
    origins, ahead = [], []
    for angle in angles:
        right, up, towards = make_axes(*angle)
        plane = steps[None, :, None] * right - steps[:, None, None] * up
        origins.append(plane + np.float32(REACH) * towards)
        ahead.append(towards)
    return np.stack(origins), np.stack(ahead)


def _trace(body: Body, origins: Array, directions: Array) -> tuple[Array, Array]:
    """Walk the rays of pictures (v, H, H, 3) until they meet the body.

    A beam of BEAM x BEAM rays walks first, as far as the whole beam is free; that leaves little to the single rays.

    Returns: how far each ray went and whether it hit, both (v, H, H).
    """
    count, edge = origins.shape[:2]
    middles = origins.reshape(count, edge // BEAM, BEAM, edge // BEAM, BEAM, 3).mean((2, 4))
    spread = float(BEAM / edge * np.sqrt(2))
    beams = np.repeat(directions, (edge // BEAM) ** 2, axis=0)
    start, _ = _walk(body, middles.reshape(-1, 3), beams, np.zeros(len(beams), np.float32), spread=spread)
    start = start.reshape(count, edge // BEAM, edge // BEAM).repeat(BEAM, 1).repeat(BEAM, 2)
    rays = np.repeat(directions, edge * edge, axis=0)
    length, is_hit = _walk(body, origins.reshape(-1, 3), rays, start.reshape(-1))
    return length.reshape(origins.shape[:3]), is_hit.reshape(origins.shape[:3])


def _walk(body: Body, origins: Array, directions: Array, length: Array, *, spread: float = 0.0) -> tuple[Array, Array]:
    """Walk rays (n, 3) on from where they are; one that is `spread` thick stops where it may touch something."""
    length, is_hit = length.copy(), np.zeros(len(origins), bool)
    active = np.nonzero(length < 2 * REACH)[0]
    for _ in range(MAX_STEPS):
        if not len(active):
            break
        here = origins[active] + length[active, None] * directions[active]
        distance = body.measure(here.T) - spread
        is_hit[active] = distance < HIT
        length[active] += np.where(distance < HIT, 0, STEP_SHARE * distance)
        active = active[(distance >= HIT) & (length[active] < 2 * REACH)]
    return length, is_hit


def _find_normals(body: Body, points: Array) -> Array:
    """Return unit normals (n, 3) from differences of the distance."""
    step = np.float32(4e-3)
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
    gradient = sum(corner * body.measure((points + step * corner).T)[:, None] for corner in corners)
    return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)


def _paint(body: Body, points: Array, normals: Array) -> Array:
    """Return the colours (n, 3) of surface points: soft clay under a sky light and one lamp."""
    base = body.choose_colours(points.T)
    lamp = np.clip(normals @ LIGHT, -1, 1)
    sky = 0.5 + 0.5 * normals[:, 1]
    # How open the surface is: in a crease, the way outwards meets the body again.
    open_share = np.clip(body.measure((points + 0.14 * normals).T) / 0.14, 0, 1)
    shade = np.clip(0.5 + 0.36 * lamp + 0.14 * (2 * sky - 1), 0, 1) * (0.7 + 0.3 * open_share)
    dark = np.clip((0.7 - shade) / 0.7, 0, 1)[:, None] * 0.66
    light = np.clip((shade - 0.78) / 0.22, 0, 1)[:, None] * 0.34
    colour = base + (_INK - base) * dark
    return (colour + (1 - colour) * light).astype(np.float32)


def render_views(body: Body, angles: Sequence[Angle], size_px: int = 64, *, smooth: int = 2) -> Views:
    """Draw a body from several sides.

    Units:   angles are (azimuth, elevation) in degrees; `smooth` rays per pixel in each direction are averaged.
    Returns: views in the order of the angles.
    Raises:  ValueError if the rays of a side cannot be bundled into beams of BEAM.
    """
    edge = size_px * smooth
    if edge % BEAM:
        raise ValueError(f"{size_px} px times {smooth} must be a multiple of {BEAM}")
    origins, towards = _make_rays(angles, edge)
    length, is_hit = _trace(body, origins, -towards)
    directions = np.repeat(-towards, is_hit.sum((1, 2)), axis=0)
    points = origins[is_hit] + length[is_hit][:, None] * directions
    normals = _find_normals(body, points)
    rgb = np.full(origins.shape, PAPER, np.float32)
    rgb[is_hit] = _paint(body, points, normals)
    normal = np.zeros(origins.shape, np.float32)
    normal[is_hit] = normals
    depth = np.where(is_hit, REACH - length, np.nan).astype(np.float32)
    one = slice(smooth // 2, None, smooth)
    return Views(
        rgb=_average(rgb, smooth),
        mask=_average(is_hit[..., None].astype(np.float32), smooth)[..., 0],
        depth=np.ascontiguousarray(depth[:, one, one]),
        normal=np.ascontiguousarray(normal[:, one, one]),
    )


def _average(pictures: np.ndarray, factor: int) -> np.ndarray:
    count, edge, _, channels = pictures.shape
    small = edge // factor
    return pictures.reshape(count, small, factor, small, factor, channels).mean((2, 4))


def frame(body: Body) -> Body:
    """Bring a body into the frame of its front view: FRONT_FRAC of the picture, centred in all three directions."""
    # From further away: in its own units a body may be a little larger than the picture.
    body = replace(body, stretch=_ROOM)
    origins, towards = _make_rays([(0.0, 0.0), (90.0, 0.0)], FRAME_PX)
    _, (front, side) = _trace(body, origins, -towards)
    left, right = _find_extent(front.any(0))
    bottom, top = (-edge for edge in reversed(_find_extent(front.any(1))))
    # From azimuth 90, the picture's right is -z.
    back, face = (-edge for edge in reversed(_find_extent(side.any(0))))
    centre = (_ROOM * (left + right) / 2, _ROOM * (bottom + top) / 2, _ROOM * (back + face) / 2)
    return replace(body, centre=centre, stretch=_ROOM * max(right - left, top - bottom) / (2 * FRONT_FRAC))


def _find_extent(is_filled: np.ndarray) -> tuple[float, float]:
    """Return where the filled pixels of a row of FRAME_PX begin and end, in -1..1."""
    places = np.nonzero(is_filled)[0]
    return float(places[0]) / FRAME_PX * 2 - 1, float(places[-1] + 1) / FRAME_PX * 2 - 1
