"""The object classes as bodies: the same names, proportions and hidden identity as the flat ones in `kinds.py`.

Every class is a function from hidden identity to a list of pieces. y points up, the object fills about -1..1, its face
looks to the viewer (+z); what only one side has (faces, doors) is what a picture cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from training.world.scene import Identity
from training.world.solid_creatures import make_butterfly, make_cat, make_duck, make_fish, make_ghost, make_whale
from training.world.solid_shapes import (
    Array,
    Piece,
    Shape,
    ball,
    blend,
    block,
    cushion,
    cut,
    ellipsoid,
    join,
    lathe,
    meet,
    mirror,
    ring,
    rod,
    slab,
    spin,
)


def _apple(who: Identity) -> list[Piece]:
    w = 0.8 - 0.06 * who.aspect
    body = blend(0.3, ring((0, -0.2, 0), 0.42 * w, 0.5, "y"), ellipsoid((0, -0.42, 0), (0.6 * w, 0.52, 0.6 * w)))
    leaf_r = 0.16 + 0.11 * who.detail
    leaf = spin(ellipsoid((0.1 + leaf_r, 0.62, 0), (leaf_r, 0.08, 0.14)), 32, (0.06, 0.62))
    return [Piece(body), Piece(rod((0.0, 0.16, 0), (0.05, 0.86, 0), 0.06), "wood"), Piece(leaf, "shade")]


def _balloon(who: Identity) -> list[Piece]:
    h = 0.06 * who.aspect
    bag = blend(0.4, ellipsoid((0, 0.34, 0), (0.66, 0.62 + h, 0.66)), rod((0, 0.1, 0), (0, -0.42, 0), 0.42, 0.08))
    knot = rod((0, -0.48, 0), (0, -0.58, 0), 0.05, 0.13)
    string = join(rod((0, -0.56, 0), (0.05, -0.78, 0), 0.03), rod((0.05, -0.78, 0), (-0.02, -1.0, 0), 0.03))
    shine = ellipsoid((-0.3, 0.56, 0.46), (0.14, 0.1 + 0.12 * who.detail, 0.1))
    return [Piece(string, "detail"), Piece(bag), Piece(knot, "shade"), Piece(shine, "tint")]


def _bell(who: Identity) -> list[Piece]:
    w = 0.72 + 0.08 * who.aspect
    profile = [(0, 0.72), (0.2 * w, 0.68), (0.4 * w, 0.5), (0.55 * w, 0.1), (0.7 * w, -0.3), (w, -0.54), (0, -0.54)]
    rim = ring((0, -0.56, 0), w - 0.04, 0.11, "y")
    return [
        Piece(ball((0, -0.72, 0), 0.13 + 0.08 * who.detail), "detail"),
        Piece(ring((0, 0.84, 0), 0.12, 0.05), "shade"),
        Piece(lathe(profile)),
        Piece(rim, "shade"),
    ]


def _boat(who: Identity) -> list[Piece]:
    hull = meet(ellipsoid((0, -0.3, 0), (0.98, 0.6, 0.42)), block((0, -0.72, 0), (1.1, 0.38, 0.6), 0.02))
    deck = cut(hull, ellipsoid((0, -0.26, 0), (0.8, 0.22, 0.32)))
    reach = 0.72 + 0.14 * who.aspect
    sail = slab([(0.08, 0.86), (0.1 + reach * 0.62, 0.3), (0.1 + reach, -0.2), (0.08, -0.2)], 0.06, corner=0.05)
    jib_r = 0.4 + 0.3 * who.detail
    jib = slab([(-0.1, 0.7), (-0.1, -0.2), (-0.12 - jib_r, -0.2)], 0.06, corner=0.05)
    mast = rod((-0.01, -0.5, 0), (-0.01, 0.95, 0), 0.06)
    return [Piece(mast, "wood"), Piece(sail), Piece(jib, "tint"), Piece(deck)]


def _cactus(who: Identity) -> list[Piece]:
    w = 0.26 + 0.04 * who.aspect
    lift = 0.3 * who.detail
    trunk = rod((0, -0.7, 0), (0, 0.95 - w, 0), w)
    left = join(rod((-0.6, -0.1, 0), (-0.6, 0.3 + lift, 0), 0.16), rod((-0.6, -0.16, 0), (0, -0.16, 0), 0.14))
    right = join(rod((0.6, 0.06, 0), (0.6, 0.46, 0), 0.16), rod((0.6, 0.04, 0), (0, 0.04, 0), 0.14))
    pot = lathe([(0, -0.54), (0.44, -0.54), (0.34, -0.95), (0, -0.95)])
    return [
        Piece(blend(0.12, trunk, left, right)),
        Piece(pot, "wood"),
        Piece(ring((0, -0.56, 0), 0.44, 0.07, "y"), "wood"),
    ]


def _car(who: Identity) -> list[Piece]:
    roof = 0.5 + 0.14 * who.aspect
    cabin = slab([(-0.66, -0.04), (-0.4, roof), (0.3, roof), (0.66, -0.04)], 0.36, corner=0.08)
    glass = join(
        slab([(-0.47, 0.02), (-0.3, roof - 0.12), (-0.08, roof - 0.12), (-0.08, 0.02)], 0.372, corner=0.01),
        slab([(0.04, 0.02), (0.04, roof - 0.12), (0.24, roof - 0.12), (0.47, 0.02)], 0.372, corner=0.01),
        slab([(-0.75, 0.0), (-0.55, roof - 0.08), (-0.36, roof - 0.08), (-0.36, 0.0)], 0.26, corner=0.04),
        slab([(0.75, 0.0), (0.45, roof - 0.08), (0.3, roof - 0.08), (0.3, 0.0)], 0.26, corner=0.04),
    )
    r = 0.22 + 0.06 * who.detail
    wheels = mirror(mirror(_disc((0.52, -0.46, 0.4), r, 0.09)), "z")
    hubs = mirror(mirror(_disc((0.52, -0.46, 0.46), r * 0.5, 0.06)), "z")
    lamps = mirror(ball((0.94, -0.12, 0.28), 0.08), "z")
    body = join(block((0, -0.21, 0), (0.98, 0.27, 0.44), 0.14), cabin)
    return [Piece(glass, "glass"), Piece(body), Piece(wheels, "ink"), Piece(hubs, "white"), Piece(lamps, "cream")]


def _disc(centre: tuple[float, float, float], radius: float, half: float) -> Shape:
    """Return a wheel that lies in the x-y plane."""
    corners = [(radius * math.cos(math.pi * k / 8), radius * math.sin(math.pi * k / 8)) for k in range(16)]
    placed = [(centre[0] + u, centre[1] + v) for u, v in corners]
    return slab(placed, half, corner=0.04, z=centre[2])


def _crown(who: Identity) -> list[Piece]:
    dip = 0.08 + 0.14 * who.detail
    tall = 0.74 + 0.1 * who.aspect
    tube = lathe([(0.62, -0.7), (0.78, -0.7), (0.86, tall), (0.7, tall)], corner=0.02)
    balls = []
    for k in range(5):
        angle = math.pi * (0.5 + 2 * k / 5)
        x, z = math.cos(angle), math.sin(angle)
        balls.append(ball((0.8 * x, tall - 0.06, 0.8 * z), 0.12))
        tube = cut(tube, _notch(angle + math.pi / 5, dip, tall))
    jewels = [ball((0.78 * math.sin(a), -0.5, 0.78 * math.cos(a)), 0.1) for a in (k * math.pi / 3 for k in range(6))]
    band = lathe([(0.6, -0.34), (0.84, -0.34), (0.8, -0.7), (0.6, -0.7)], corner=0.02)
    return [Piece(tube), Piece(join(*balls)), Piece(band, "shade"), Piece(join(*jewels), "detail")]


def _notch(angle: float, dip: float, tall: float) -> Shape:
    """Return an upright wedge that opens upwards and outwards: what is missing between two spikes of a crown."""
    out, across = math.cos(angle), math.sin(angle)

    def measure(x: Array, y: Array, z: Array) -> Array:
        sideways = np.abs(z * out - x * across)
        ahead = x * out + z * across
        wall = 0.58 * (y + dip) / (tall + dip)
        return np.maximum((sideways - wall) * 0.8, -ahead)

    return measure


def _cup(who: Identity) -> list[Piece]:
    w = 0.6 + 0.06 * who.aspect
    outer = lathe([(0, 0.6), (w, 0.6), (w - 0.08, -0.62), (w - 0.24, -0.82), (0, -0.82)])
    body = cut(outer, lathe([(0, 0.9), (w - 0.1, 0.9), (w - 0.16, -0.4), (0, -0.4)], corner=0.01))
    r = 0.3 + 0.06 * who.detail
    handle = cut(ring((w - 0.04, -0.06, 0), r, 0.1), lathe([(0, 1), (w - 0.1, 1), (w - 0.1, -1), (0, -1)], corner=0.0))
    tea = lathe([(0, 0.46), (w - 0.1, 0.46), (w - 0.1, 0.3), (0, 0.3)], corner=0.0)
    return [Piece(handle), Piece(body), Piece(ring((0, 0.6, 0), w - 0.04, 0.06, "y"), "shade"), Piece(tea, "cream")]


def _flower(who: Identity) -> list[Piece]:
    petals = 5 if who.aspect < 0 else 7
    r = 0.27 if petals == 5 else 0.22
    ring_of = []
    for k in range(petals):
        angle = 2 * math.pi * k / petals + math.pi / 2
        ring_of.append(ellipsoid((0.4 * math.cos(angle), 0.36 + 0.4 * math.sin(angle), 0), (r, r, 0.12)))
    leaf = mirror(spin(ellipsoid((0.3, -0.6, 0), (0.28, 0.12, 0.1)), 28, (0.04, -0.6)))
    core = ellipsoid((0, 0.36, 0.04), (0.2 + 0.08 * who.detail, 0.2 + 0.08 * who.detail, 0.18))
    return [
        Piece(rod((0, 0.2, -0.06), (0, -0.97, 0), 0.07), "wood"),
        Piece(leaf, "wood"),
        Piece(join(*ring_of)),
        Piece(core, "detail"),
    ]


def _heart(who: Identity) -> list[Piece]:
    w = 0.95 + 0.05 * who.aspect
    lobes = mirror(ellipsoid((0.4 * w, 0.34, 0), (0.5 * w, 0.46, 0.36)))
    point = mirror(rod((0.36 * w, 0.24, 0), (0.0, -0.82, 0), 0.4, 0.08))
    shine = ellipsoid((-0.42, 0.44, 0.3), (0.14 + 0.1 * who.detail, 0.14, 0.08))
    return [Piece(blend(0.16, lobes, point)), Piece(shine, "tint")]


def _house(who: Identity) -> list[Piece]:
    top = 0.86 + 0.1 * who.aspect
    depth = 0.5
    gable = slab([(-0.72, -0.9), (0.72, -0.9), (0.72, 0.04), (0, top - 0.16), (-0.72, 0.04)], depth, corner=0.02)
    roof = cut(
        slab([(-0.98, 0.02), (0, top), (0.98, 0.02)], depth + 0.1, corner=0.03),
        slab([(-0.98, -0.12), (0, top - 0.14), (0.98, -0.12), (0, -0.9)], 2.0, corner=0.0),
    )
    door_w = 0.15 + 0.06 * who.detail
    door = block((0, -0.62, depth), (door_w, 0.3, 0.03), 0.02)
    front = mirror(block((0.46, -0.24, depth), (0.16, 0.15, 0.03), 0.02))
    back = join(mirror(block((0.36, -0.24, -depth), (0.2, 0.15, 0.03), 0.02)))
    sides = mirror(mirror(block((0.72, -0.3, 0.28), (0.03, 0.15, 0.14), 0.02), "z"))
    chimney = block((0.42, top - 0.14, -0.2), (0.11, 0.26, 0.11), 0.02)
    return [
        Piece(gable), Piece(roof, "shade"), Piece(chimney, "wood"), Piece(door, "wood"),
        Piece(join(front, back, sides), "glass"),
    ]  # fmt: skip


def _moon(who: Identity) -> list[Piece]:
    bite = 0.34 + 0.08 * who.aspect
    crescent = cut(ellipsoid((0, 0, 0), (0.94, 0.94, 0.4)), ellipsoid((bite + 0.14, 0.16, 0), (0.74, 0.74, 0.9)))
    crater = 0.08 + 0.06 * who.detail
    spots = join(
        ball((-0.64, 0.1, 0.27), crater), ball((-0.4, -0.56, 0.26), crater), ball((-0.7, -0.2, -0.24), crater * 1.2)
    )
    return [Piece(crescent), Piece(spots, "shade")]


# Azimuth and height of a mushroom's spots in degrees, and how large they are.
_SPOTS = ((-35, 30, 1.0), (10, 52, 1.2), (48, 22, 0.9), (110, 40, 1.1), (170, 30, 1.0), (235, 45, 1.1))


def _mushroom(who: Identity) -> list[Piece]:
    top = 0.94 + 0.06 * who.aspect
    cap = meet(ellipsoid((0, -0.12, 0), (0.95, top, 0.95)), block((0, 0.9, 0), (1.2, 1.0, 1.2), 0.04))
    stem = lathe([(0, 0.0), (0.24, 0.0), (0.22, -0.5), (0.36, -0.92), (0, -0.92)], corner=0.04)
    r = 0.13 + 0.06 * who.detail
    spots = []
    for azimuth, height, factor in (
        (-35, 30, 1.0),
        (10, 52, 1.2),
        (48, 22, 0.9),
        (110, 40, 1.1),
        (170, 30, 1.0),
        (235, 45, 1.1),
    ):
        a, e = math.radians(azimuth), math.radians(height)
        x, y, z = math.sin(a) * math.cos(e) * 0.92, math.sin(e) * (top - 0.03) - 0.12, math.cos(a) * math.cos(e) * 0.92
        spots.append(ball((x, y, z), r * factor))
    return [Piece(stem, "cream"), Piece(cap), Piece(join(*spots), "white")]


def _robot(who: Identity) -> list[Piece]:
    head_w = 0.46 + 0.06 * who.aspect
    r = 0.11 + 0.05 * who.detail
    eyes = mirror(_disc((0.2, 0.52, 0.36), r, 0.07))
    return [
        Piece(join(rod((0, 0.76, 0), (0, 0.94, 0), 0.045), ball((0, 0.93, 0), 0.08)), "shade"),
        Piece(mirror(block((0.8, -0.22, 0), (0.13, 0.26, 0.15), 0.1)), "shade"),
        Piece(mirror(block((0.32, -0.79, 0.04), (0.18, 0.19, 0.24), 0.05)), "shade"),
        Piece(block((0, 0.48, 0), (head_w, 0.33, 0.36), 0.1)),
        Piece(block((0, -0.28, 0), (0.62, 0.34, 0.38), 0.1)),
        Piece(eyes, "detail"),
        Piece(block((0, 0.26, 0.36), (0.24, 0.05, 0.05), 0.02), "detail"),
        Piece(block((0, -0.2, -0.4), (0.3, 0.2, 0.1), 0.05), "shade"),
    ]


def _rocket(who: Identity) -> list[Piece]:
    w = 0.36 + 0.05 * who.aspect
    hull = lathe([(0, 0.95), (0.16, 0.74), (w - 0.02, 0.4), (w, -0.05), (w * 0.82, -0.54), (0, -0.54)])
    f = 0.3 + 0.16 * who.detail
    fin = slab([(w * 0.8, -0.06), (w + f, -0.7), (w * 0.7, -0.54)], 0.06, corner=0.05)
    fins = mirror(fin)
    deep = mirror(lambda x, y, z: fin(z, y, x), "z")
    flame = join(rod((0, -0.56, 0), (0, -0.9, 0), 0.22, 0.05))
    window = mirror(ball((0, 0.24, w - 0.08), 0.17), "z")
    return [Piece(flame, "cream"), Piece(join(fins, deep), "shade"), Piece(hull), Piece(window, "glass")]


def _star(who: Identity) -> list[Piece]:
    inner = 0.46 + 0.06 * who.aspect
    points = []
    for k in range(10):
        r = 0.98 if k % 2 == 0 else inner
        angle = math.pi * k / 5 + math.pi / 2
        points.append((r * math.cos(angle), r * math.sin(angle) - 0.04))
    r = 0.12 + 0.12 * who.detail
    return [Piece(cushion(points, 0.34)), Piece(mirror(ellipsoid((0, -0.04, 0.3), (r, r, 0.1)), "z"), "tint")]


def _tree(who: Identity) -> list[Piece]:
    w = 0.62 + 0.06 * who.aspect
    crown = blend(
        0.1,
        ellipsoid((0, 0.42, 0), (0.56, 0.52, 0.52)),
        mirror(ball((w - 0.3, 0.06, 0.1), 0.44)),
        ball((0, 0.12, -0.3), 0.4),
        ball((0, 0.06, 0.3), 0.36),
    )
    trunk_w = 0.12 + 0.06 * who.detail
    return [Piece(rod((0, 0.0, 0), (0, -0.9, 0), trunk_w, trunk_w + 0.06), "wood"), Piece(crown)]


def _umbrella(who: Identity) -> list[Piece]:
    top = 0.86 + 0.06 * who.aspect
    dome = cut(ellipsoid((0, -0.04, 0), (0.95, top, 0.95)), ellipsoid((0, -0.14, 0), (0.9, top, 0.9)))
    canopy = meet(dome, block((0, 0.94, 0), (1.2, 1.0, 1.2), 0.0))
    for k in range(8):
        angle = 2 * math.pi * (k + 0.5) / 8
        canopy = cut(canopy, ellipsoid((0.92 * math.sin(angle), -0.1, 0.92 * math.cos(angle)), (0.26, 0.2, 0.26)))
    reach = 0.2 + 0.14 * who.detail
    hook = meet(ring((reach / 2, -0.76, 0), reach / 2, 0.055), block((reach / 2, -1.2, 0), (0.6, 0.45, 0.4), 0.0))
    handle = join(rod((0, top + 0.06, 0), (0, -0.76, 0), 0.055), hook)
    return [Piece(handle, "detail"), Piece(canopy)]


SOLID_PIECES: dict[str, Callable[[Identity], list[Piece]]] = {
    "apple": _apple, "balloon": _balloon, "bell": _bell, "boat": _boat, "butterfly": make_butterfly, "cactus": _cactus,
    "car": _car, "cat": make_cat, "crown": _crown, "cup": _cup, "duck": make_duck, "fish": make_fish, "flower": _flower,
    "ghost": make_ghost, "heart": _heart, "house": _house, "moon": _moon, "mushroom": _mushroom, "robot": _robot,
    "rocket": _rocket, "star": _star, "tree": _tree, "umbrella": _umbrella, "whale": make_whale,
}  # fmt: skip
