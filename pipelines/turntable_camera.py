"""Where the camera of the 3D preview stands: without perspective, on a turntable, the front at azimuth 0.

World axes: x to the right of the front view, y up, z to the viewer; a picture shows -1..1 in both directions. That is
the frame of glTF files as well, so nothing is turned when a model is written.
"""

from __future__ import annotations

import numpy as np

Angle = tuple[float, float]

# Where the given picture is taken from.
FRONT: Angle = (0.0, 0.0)
# The object's longer side in the front view, as a share of the picture.
FRONT_FRAC = 0.75
# Eight views around an object, alternately a little from below and from above: staggered rows fix a shape far better
# than two aligned ones.
ZIGZAG: tuple[Angle, ...] = tuple((45.0 * index, (-5.0, 30.0)[index % 2]) for index in range(8))
# Views that nobody is given: between the others.
HELD_OUT: tuple[Angle, ...] = tuple((22.5 + 45.0 * index, (20.0, 5.0)[index % 2]) for index in range(8))


def make_axes(azimuth_deg: float, elevation_deg: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the directions (3,) to the right and upwards in the picture, and towards the camera, in world axes.

    A positive azimuth moves the camera towards +x, a positive elevation upwards.
    """
    a, e = np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg)
    right = np.array([np.cos(a), 0, -np.sin(a)], np.float32)
    up = np.array([-np.sin(a) * np.sin(e), np.cos(e), -np.cos(a) * np.sin(e)], np.float32)
    towards = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], np.float32)
    return right, up, towards


def find_pixel_centres(size_px: int) -> np.ndarray:
    """Return where the middles of a row of pixels lie, (size_px,) float32 in -1..1."""
    return ((np.arange(size_px, dtype=np.float32) + 0.5) / size_px * 2 - 1).astype(np.float32)
