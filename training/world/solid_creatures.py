"""The creatures among the solid objects, with eyes and mouths that a picture from behind does not show."""

from __future__ import annotations

import math

from training.world.scene import Identity
from training.world.solid_shapes import (
    Piece,
    ball,
    blend,
    cut,
    ellipsoid,
    join,
    lathe,
    mirror,
    rod,
    slab,
    spin,
)


def _eyes(x: float, y: float, z: float, r: float) -> list[Piece]:
    """Return a white eye with its pupil on either side of an animal that looks to the right."""
    return [
        Piece(mirror(ball((x, y, z), r), "z"), "white"),
        Piece(mirror(ball((x + 0.3 * r, y, z + 0.55 * r), 0.62 * r), "z"), "ink"),
    ]


def make_butterfly(who: Identity) -> list[Piece]:
    """Return the pieces of a butterfly."""
    spread = 0.92 + 0.06 * who.aspect
    low = 0.5 + 0.2 * who.detail
    upper = [(0.04, 0.0), (0.14, 0.5), (0.5, 0.86), (0.84, 0.84), (spread, 0.6), (0.86, 0.22), (0.5, 0.0)]
    lower = [
        (0.04, 0.0),
        (0.5, -0.02),
        (0.68, -0.24),
        (0.62, -low),
        (0.5, -low - 0.22),
        (0.3, -low - 0.2),
        (0.12, -0.6),
    ]
    wings = mirror(join(slab(upper, 0.09, corner=0.08), slab(lower, 0.09, corner=0.08)))
    spots = mirror(mirror(ellipsoid((0.55, 0.5, 0.06), (0.17, 0.17, 0.07)), "z"))
    feelers = mirror(join(rod((0.03, 0.4, 0), (0.14, 0.76, 0), 0.03), rod((0.14, 0.76, 0), (0.32, 0.9, 0), 0.03)))
    return [
        Piece(wings),
        Piece(spots, "tint"),
        Piece(feelers, "detail"),
        Piece(ellipsoid((0, -0.06, 0), (0.12, 0.56, 0.15)), "detail"),
    ]


def make_cat(who: Identity) -> list[Piece]:
    """Return the pieces of a cat."""
    ear = 0.92 + 0.06 * who.aspect
    ears = mirror(slab([(0.84, -0.1), (0.76, ear), (0.16, 0.5)], 0.14, corner=0.06))
    head = blend(0.12, ellipsoid((0, -0.12, 0), (0.86, 0.74, 0.66)), ears)
    inner = mirror(slab([(0.68, 0.24), (0.67, ear - 0.24), (0.36, 0.44)], 0.06, corner=0.03, z=0.1))
    r = 0.14 + 0.05 * who.detail
    eyes = mirror(ellipsoid((0.34, 0.02, 0.58), (r, r * 1.25, 0.1)))
    nose = ellipsoid((0, -0.3, 0.66), (0.13, 0.09, 0.08))
    whiskers = mirror(join(*[rod((0.3, -0.38 - k * 0.12, 0.58), (0.94, -0.32 - k * 0.2, 0.44), 0.028) for k in (0, 1)]))
    return [
        Piece(head), Piece(inner, "tint"), Piece(eyes, "detail"), Piece(nose, "detail"), Piece(whiskers, "detail"),
    ]  # fmt: skip


def make_duck(who: Identity) -> list[Piece]:
    """Return the pieces of a duck."""
    r = 0.38 + 0.04 * who.aspect
    body = blend(
        0.24,
        ellipsoid((-0.04, -0.42, 0), (0.84, 0.44, 0.5)),
        rod((-0.7, -0.3, 0), (-0.94, 0.06, 0), 0.16, 0.06),
        rod((0.34, -0.2, 0), (0.38, 0.4, 0), 0.26),
        ball((0.38, 0.5, 0), r),
    )
    beak = join(ellipsoid((0.8, 0.42, 0), (0.22, 0.09, 0.2)))
    wing = mirror(spin(ellipsoid((-0.16, -0.34, 0.44), (0.4, 0.16 + 0.1 * who.detail, 0.1)), 8, (-0.16, -0.34)), "z")
    return [Piece(beak, "cream"), Piece(body), Piece(wing, "shade"), *_eyes(0.5, 0.6, r * 0.82, 0.1)]


def make_fish(who: Identity) -> list[Piece]:
    """Return the pieces of a fish."""
    h = 0.5 + 0.08 * who.aspect
    t = 0.4 + 0.16 * who.detail
    tail = slab([(-0.42, -0.04), (-0.96, t), (-0.82, -0.04), (-0.96, -t - 0.08)], 0.07, corner=0.06)
    fin = slab([(-0.2, 0.3), (-0.02, 0.72), (0.14, 0.78), (0.42, 0.3)], 0.06, corner=0.05)
    side = mirror(spin(ellipsoid((0.1, -0.14, 0.36), (0.22, 0.1, 0.06)), 24, (0.1, -0.14)), "z")
    body = ellipsoid((0.16, -0.04, 0), (0.78, h, 0.36))
    return [
        Piece(fin, "shade"), Piece(tail, "shade"), Piece(body), Piece(side, "shade"), *_eyes(0.62, 0.1, 0.24, 0.13),
    ]  # fmt: skip


def make_ghost(who: Identity) -> list[Piece]:
    """Return the pieces of a ghost."""
    w = 0.7 + 0.06 * who.aspect
    skirt = lathe([(0, 0.3), (w, 0.3), (w, -0.86), (0, -0.86)], corner=0.0)
    body = join(ellipsoid((0, 0.26, 0), (w, 0.7, w)), skirt)
    for k in range(7):
        angle = 2 * math.pi * (k + 0.5) / 7
        body = cut(body, ellipsoid((w * math.sin(angle), -0.92, w * math.cos(angle)), (0.2, 0.26, 0.2)))
    r = 0.12 + 0.05 * who.detail
    eyes = mirror(ellipsoid((0.27, 0.26, w * 0.92), (r, r * 1.4, 0.1)))
    arms = mirror(rod((w - 0.06, 0.02, 0.12), (w + 0.12, -0.14, 0.24), 0.13, 0.09))
    return [
        Piece(join(body, arms)), Piece(eyes, "detail"), Piece(ellipsoid((0, -0.16, w), (0.12, 0.16, 0.08)), "detail"),
    ]  # fmt: skip


def make_whale(who: Identity) -> list[Piece]:
    """Return the pieces of a whale."""
    h = 0.1 * who.aspect
    body = blend(
        0.3,
        ellipsoid((0.2, -0.16, 0), (0.74, 0.56 + h, 0.52)),
        rod((-0.3, -0.2, 0), (-0.74, 0.16, 0), 0.26, 0.12),
    )
    tail = mirror(rod((-0.74, 0.2, 0.04), (-0.9, 0.42, 0.34), 0.12, 0.07), "z")
    fin = mirror(rod((0.2, -0.5, 0.4), (-0.02, -0.68, 0.66), 0.13, 0.06), "z")
    belly = ellipsoid((0.24, -0.3, 0), (0.68, 0.46, 0.47))
    r = 0.1 + 0.08 * who.detail
    spout = join(
        rod((0.22, 0.34, 0), (0.22, 0.66, 0), 0.06),
        ellipsoid((0.08, 0.74, 0), (r + 0.06, r, r)),
        ellipsoid((0.36, 0.74, 0), (r + 0.06, r, r)),
    )
    return [
        Piece(spout, "glass"), Piece(tail, "shade"), Piece(fin, "shade"), Piece(belly, "tint"), Piece(body),
        *_eyes(0.66, -0.04, 0.34, 0.09),
    ]  # fmt: skip
