"""Backgrounds of the drawn world: layers of outlines in picture pixels, for day and for night.

Only geometry and palette; the styles paint them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import skia

from training.world.kinds import box, curve, ellipse, join, polygon
from training.world.scene import CANVAS_PX

RGB = tuple[float, float, float]
Layer = tuple[skia.Path, RGB]

_SKIES: dict[str, tuple[RGB, RGB]] = {
    "meadow": ((150, 208, 244), (34, 42, 88)),
    "beach": ((142, 212, 246), (30, 40, 90)),
    "sea": ((188, 224, 240), (28, 36, 84)),
    "city": ((196, 204, 224), (40, 36, 76)),
    "desert": ((252, 214, 158), (58, 42, 84)),
    "snow": ((204, 226, 246), (38, 50, 98)),
    "mountains": ((222, 214, 240), (36, 36, 84)),
    "sky": ((124, 194, 246), (20, 26, 74)),
}
_PAPERS: tuple[RGB, ...] = ((250, 248, 242), (244, 240, 228), (236, 242, 246), (246, 236, 238))
_GROUNDS: dict[str, tuple[RGB, RGB]] = {
    "meadow": ((140, 204, 112), (36, 76, 62)),
    "beach": ((244, 222, 166), (106, 96, 104)),
    "sea": ((58, 130, 196), (24, 60, 118)),
    "city": ((136, 138, 148), (62, 62, 84)),
    "desert": ((232, 178, 106), (112, 78, 84)),
    "snow": ((246, 250, 254), (128, 146, 190)),
    "mountains": ((150, 178, 150), (48, 66, 80)),
}


def make_backdrop(background: str, light: str, rng: np.random.Generator) -> tuple[RGB, list[Layer]]:
    """Return the colour of the canvas and the layers above it, back to front.

    Units:  picture pixels; RGB 0..255.
    Raises: KeyError for an unknown background.
    """
    night = light == "night"
    if background == "plain":
        return ((44, 46, 66) if night else _PAPERS[int(rng.integers(len(_PAPERS)))]), []
    canvas = _SKIES[background][night]
    horizon = float(rng.uniform(146, 190))
    layers = _stars(rng) if night else []
    return canvas, layers + _BUILDERS[background](horizon, night, rng)


def _stars(rng: np.random.Generator) -> list[Layer]:
    points = rng.uniform((8, 6), (CANVAS_PX - 8, 120), (9, 2))
    return [(join(*[ellipse(float(x), float(y), 1.6) for x, y in points]), (232, 232, 214))]


def _scale(colour: RGB, factor: float) -> RGB:
    red, green, blue = (min(255.0, channel * factor) for channel in colour)
    return (red, green, blue)


def _ground(name: str, night: bool) -> RGB:
    return _GROUNDS[name][night]


def _hill(top: float, bulge: float, shift: float) -> skia.Path:
    right = float(CANVAS_PX + 8)
    return curve(
        (-8, top + shift),
        (64, top - bulge, 128, top + bulge * 0.2 - shift * 0.5, 190, top - bulge * 0.6),
        (220, top - bulge * 0.8, right, top - shift),
        (right, right),
        (-8, right),
    )


def _flat(top: float) -> skia.Path:
    return box(-8, top, CANVAS_PX + 8, CANVAS_PX + 8)


def _meadow(horizon: float, night: bool, rng: np.random.Generator) -> list[Layer]:
    ground = _ground("meadow", night)
    far = _hill(horizon, float(rng.uniform(8, 20)), float(rng.uniform(-8, 8)))
    near = _hill(horizon + 32, float(rng.uniform(-14, 14)), float(rng.uniform(-8, 8)))
    return [(far, _scale(ground, 0.9)), (near, ground)]


def _beach(horizon: float, night: bool, rng: np.random.Generator) -> list[Layer]:
    sea, sand = _ground("sea", night), _ground("beach", night)
    shore = _hill(horizon + 26, float(rng.uniform(-6, 6)), float(rng.uniform(-8, 8)))
    return [(_flat(horizon - 14), _scale(sea, 1.2)), (shore, sand)]


def _sea(horizon: float, night: bool, rng: np.random.Generator) -> list[Layer]:
    water = _ground("sea", night)
    dashes = []
    for row in range(3):
        x = float(rng.uniform(10, 190))
        y = horizon + 18 + 24 * row
        dashes.append(box(x, y, x + 44, y + 5, 2.5))
    return [(_flat(horizon - 20), water), (join(*dashes), _scale(water, 1.35))]


def _city(horizon: float, night: bool, rng: np.random.Generator) -> list[Layer]:
    wall: RGB = (86, 84, 124) if night else (158, 166, 192)
    towers, x = [], -8.0
    while x < CANVAS_PX:
        width = float(rng.uniform(28, 48))
        towers.append(box(x, horizon - float(rng.uniform(28, 100)), x + width - 4, horizon + 12))
        x += width
    return [(join(*towers), wall), (_flat(horizon + 8), _ground("city", night))]


def _desert(horizon: float, night: bool, rng: np.random.Generator) -> list[Layer]:
    sand = _ground("desert", night)
    far = _hill(horizon - 4, float(rng.uniform(14, 30)), float(rng.uniform(-14, 14)))
    near = _hill(horizon + 34, float(rng.uniform(-20, 6)), float(rng.uniform(-10, 10)))
    return [(far, _scale(sand, 0.9)), (near, sand)]


def _snow(horizon: float, night: bool, rng: np.random.Generator) -> list[Layer]:
    white = _ground("snow", night)
    far = _hill(horizon, float(rng.uniform(10, 22)), float(rng.uniform(-10, 10)))
    near = _hill(horizon + 30, float(rng.uniform(-12, 12)), float(rng.uniform(-8, 8)))
    return [(far, _scale(white, 0.92)), (near, white)]


def _mountains(horizon: float, night: bool, rng: np.random.Generator) -> list[Layer]:
    rock: RGB = (78, 76, 120) if night else (158, 156, 192)
    cap: RGB = (164, 166, 200) if night else (250, 250, 255)
    peaks, caps = [], []
    for middle in (40, 128, 216):
        x = middle + float(rng.uniform(-18, 18))
        height, spread = float(rng.uniform(64, 110)), float(rng.uniform(58, 84))
        top = horizon + 20 - height
        peaks.append(polygon((x - spread, horizon + 20), (x, top), (x + spread, horizon + 20)))
        caps.append(polygon((x - spread * 0.3, top + height * 0.3), (x, top), (x + spread * 0.3, top + height * 0.3)))
    ground = _hill(horizon + 14, float(rng.uniform(-6, 8)), float(rng.uniform(-6, 6)))
    return [(join(*peaks), rock), (join(*caps), cap), (ground, _ground("mountains", night))]


def _sky(horizon: float, night: bool, rng: np.random.Generator) -> list[Layer]:
    tone: RGB = (58, 66, 122) if night else (242, 248, 253)
    clouds = []
    for y in (44.0, 122.0, 206.0):
        x, r = float(rng.uniform(30, 226)), float(rng.uniform(13, 19))
        y += float(rng.uniform(-18, 18))
        clouds += [ellipse(x - 1.3 * r, y, r * 0.8), ellipse(x, y - 0.4 * r, r), ellipse(x + 1.3 * r, y, r * 0.8)]
        clouds.append(box(x - 1.7 * r, y, x + 1.7 * r, y + 0.8 * r, 0.4 * r))
    return [(join(*clouds), tone)]


_BUILDERS: dict[str, Callable[[float, bool, np.random.Generator], list[Layer]]] = {
    "meadow": _meadow,
    "beach": _beach,
    "sea": _sea,
    "city": _city,
    "desert": _desert,
    "snow": _snow,
    "mountains": _mountains,
    "sky": _sky,
}
