"""Signed distances of simple bodies and how they combine: the alphabet of the solid objects.

A `Shape` is a function of points to their distance: negative inside, positive outside, never larger than the true one
by more than a few per cent, so that a ray may step by it. x points right, y up, z to the viewer.
Source: the formulas are the usual ones of constructive solid geometry with distances (Hart 1996, Sphere tracing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Shape = Callable[[Array, Array, Array], Array]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Piece:
    """One body and the tone it is painted in; the tones are those of the flat parts."""

    shape: Shape
    tone: str = "main"


def ellipsoid(centre: Point, radii: Point) -> Shape:
    """Return an ellipsoid; its distance is exact for equal radii and a first-order estimate elsewhere."""
    a, b, c = (np.float32(radius) for radius in radii)

    def measure(x: Array, y: Array, z: Array) -> Array:
        u, v, w = (x - centre[0]) / a, (y - centre[1]) / b, (z - centre[2]) / c
        near = np.sqrt(u * u + v * v + w * w)
        slope = np.sqrt((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2)
        return near * (near - 1) / np.maximum(slope, 1e-6)

    return measure


def ball(centre: Point, radius: float) -> Shape:
    """Return a ball."""

    def measure(x: Array, y: Array, z: Array) -> Array:
        return np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) - np.float32(radius)

    return measure


def block(centre: Point, half: Point, corner: float = 0.03) -> Shape:
    """Return a box with round edges; `half` are its half edges, the rounding included."""
    inner = [np.float32(max(edge - corner, 1e-3)) for edge in half]

    def measure(x: Array, y: Array, z: Array) -> Array:
        u, v, w = (np.abs(p - c) - edge for p, c, edge in zip((x, y, z), centre, inner))
        outside = np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2 + np.maximum(w, 0) ** 2)
        return outside + np.minimum(np.maximum(u, np.maximum(v, w)), 0) - np.float32(corner)

    return measure


def rod(start: Point, end: Point, radius: float, end_radius: float | None = None) -> Shape:
    """Return a rod with round ends whose radius goes evenly from `radius` to `end_radius`."""
    axis = np.subtract(end, start).astype(np.float32)
    length = np.float32(axis @ axis)
    change = np.float32((radius if end_radius is None else end_radius) - radius)

    def measure(x: Array, y: Array, z: Array) -> Array:
        u, v, w = x - start[0], y - start[1], z - start[2]
        along = np.clip((u * axis[0] + v * axis[1] + w * axis[2]) / length, 0, 1)
        gap = np.sqrt((u - along * axis[0]) ** 2 + (v - along * axis[1]) ** 2 + (w - along * axis[2]) ** 2)
        return gap - (np.float32(radius) + change * along)

    return measure


def ring(centre: Point, radius: float, thickness: float, axis: str = "z") -> Shape:
    """Return a torus around the axis "x", "y" or "z"; `thickness` is the radius of its tube."""

    def measure(x: Array, y: Array, z: Array) -> Array:
        u, v, w = x - centre[0], y - centre[1], z - centre[2]
        across, flat = {"x": (u, (v, w)), "y": (v, (u, w)), "z": (w, (u, v))}[axis]
        out = np.sqrt(flat[0] ** 2 + flat[1] ** 2) - np.float32(radius)
        return np.sqrt(out * out + across * across) - np.float32(thickness)

    return measure


def _polygon(u: Array, v: Array, corners: Sequence[tuple[float, float]]) -> Array:
    """Return the signed distance in the plane to a closed polygon."""
    nearest = np.full(u.shape, 1e9, np.float32)
    crossings = np.zeros(u.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]]):
        ex, ey = np.float32(x1 - x0), np.float32(y1 - y0)
        dx, dy = u - np.float32(x0), v - np.float32(y0)
        along = np.clip((dx * ex + dy * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (dx - ex * along) ** 2 + (dy - ey * along) ** 2)
        if y0 != y1:
            crossings ^= ((v >= y0) != (v >= y1)) & (u < x0 + (v - y0) * np.float32((x1 - x0) / (y1 - y0)))
    distance = np.sqrt(nearest)
    return np.where(crossings, -distance, distance)


def slab(corners: Sequence[tuple[float, float]], half_depth: float, *, corner: float = 0.04, z: float = 0.0) -> Shape:
    """Return a polygon of the x-y plane, made `half_depth` thick on both sides of `z`, with round edges."""

    def measure(x: Array, y: Array, depth: Array) -> Array:
        flat = _polygon(x, y, corners) + np.float32(corner)
        across = np.abs(depth - z) - np.float32(max(half_depth - corner, 1e-3))
        outside = np.sqrt(np.maximum(flat, 0) ** 2 + np.maximum(across, 0) ** 2)
        return outside + np.minimum(np.maximum(flat, across), 0) - np.float32(corner)

    return measure


def cushion(corners: Sequence[tuple[float, float]], half_depth: float) -> Shape:
    """Return a polygon of the x-y plane that swells to `half_depth` in its middle and is sharp at its rim."""
    u, v = np.meshgrid(np.linspace(-1, 1, 41, dtype=np.float32), np.linspace(-1, 1, 41, dtype=np.float32))
    inner = np.float32(max(0.05, -_polygon(u, v, corners).min()))
    slope = np.float32(half_depth) / inner

    def measure(x: Array, y: Array, z: Array) -> Array:
        flat = _polygon(x, y, corners)
        depth = np.minimum(-flat, inner) / inner
        swell = np.where(depth > 0, inner * (1 - (1 - np.maximum(depth, 0)) ** 2), -inner * 2 * np.maximum(-depth, 0))
        # The roof's slope is at most 2 half_depth / inner; divided by its length this is a distance's bound.
        return (np.abs(z) - slope * swell) / np.sqrt(1 + 4 * slope * slope)

    return measure


def lathe(corners: Sequence[tuple[float, float]], *, x: float = 0.0, z: float = 0.0, corner: float = 0.03) -> Shape:
    """Return a polygon of (radius, y) turned around the vertical axis through (x, z)."""
    middle, depth = x, z

    def measure(x: Array, y: Array, z: Array) -> Array:
        return _polygon(np.sqrt((x - middle) ** 2 + (z - depth) ** 2), y, corners) - np.float32(corner)

    return measure


def join(*shapes: Shape) -> Shape:
    """Return the union."""

    def measure(x: Array, y: Array, z: Array) -> Array:
        nearest = shapes[0](x, y, z)
        for shape in shapes[1:]:
            nearest = np.minimum(nearest, shape(x, y, z))
        return nearest

    return measure


def blend(width: float, *shapes: Shape) -> Shape:
    """Return the union with its creases filled, up to about `width`."""

    def measure(x: Array, y: Array, z: Array) -> Array:
        total = shapes[0](x, y, z)
        for shape in shapes[1:]:
            other = shape(x, y, z)
            share = np.maximum(width - np.abs(total - other), 0) / np.float32(width)
            total = np.minimum(total, other) - share * share * np.float32(width / 4)
        return total

    return measure


def cut(shape: Shape, hole: Shape) -> Shape:
    """Return the first body without the second."""
    return lambda x, y, z: np.maximum(shape(x, y, z), -hole(x, y, z))


def meet(shape: Shape, other: Shape) -> Shape:
    """Return what two bodies share."""
    return lambda x, y, z: np.maximum(shape(x, y, z), other(x, y, z))


def mirror(shape: Shape, axis: str = "x") -> Shape:
    """Return a body and its mirror image; the body itself must lie on the positive side of "x" or "z"."""
    if axis == "x":
        return lambda x, y, z: shape(np.abs(x), y, z)
    return lambda x, y, z: shape(x, y, np.abs(z))


def spin(shape: Shape, angle_deg: float, centre: tuple[float, float] = (0.0, 0.0)) -> Shape:
    """Turn a body in the x-y plane around `centre`, counter-clockwise as the viewer sees it."""
    cosine, sine = np.float32(np.cos(np.deg2rad(angle_deg))), np.float32(np.sin(np.deg2rad(angle_deg)))

    def measure(x: Array, y: Array, z: Array) -> Array:
        u, v = x - centre[0], y - centre[1]
        return shape(u * cosine + v * sine + centre[0], v * cosine - u * sine + centre[1], z)

    return measure


def turn(shape: Shape, angle_deg: float) -> Shape:
    """Turn a body around the vertical axis; a positive angle brings what is on its left to the front."""
    cosine, sine = np.float32(np.cos(np.deg2rad(angle_deg))), np.float32(np.sin(np.deg2rad(angle_deg)))
    return lambda x, y, z: shape(x * cosine - z * sine, y, x * sine + z * cosine)
