"""Outlines of the object classes, in a unit square.

Every class is a function from hidden identity to a list of parts; y points down, the object fills about -1..1.
Nothing here knows styles, colours in RGB or pixels: that is `styles.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import skia

from training.world.scene import Identity


@dataclass(frozen=True)
class Part:
    """One closed outline and the tone it is painted in.

    `tone`: "main" (the object's colour), "shade" / "tint" (darker / lighter main colour), "detail" (contrasts with
    the main colour), "white", "ink", "glass", "wood", "cream". `is_line`: stroked, not filled.
    """

    path: skia.Path
    tone: str = "main"
    is_line: bool = False


def ellipse(x: float, y: float, rx: float, ry: float | None = None) -> skia.Path:
    """Return an ellipse around (x, y); a circle if only one radius is given."""
    ry = rx if ry is None else ry
    return skia.Path().addOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry))


def box(left: float, top: float, right: float, bottom: float, corner: float = 0.0) -> skia.Path:
    """Return a rectangle with round corners."""
    return skia.Path().addRoundRect(skia.Rect.MakeLTRB(left, top, right, bottom), corner, corner)


def polygon(*points: tuple[float, float]) -> skia.Path:
    """Return a closed polygon."""
    return skia.Path().addPoly([skia.Point(*point) for point in points], True)


def curve(start: tuple[float, float], *segments: Sequence[float], closed: bool = True) -> skia.Path:
    """Return a path of lines (2 numbers), quadratic (4) and cubic (6) segments."""
    path = skia.Path().moveTo(*start)
    for numbers in segments:
        if len(numbers) == 2:
            path.lineTo(*numbers)
        elif len(numbers) == 4:
            path.quadTo(*numbers)
        else:
            path.cubicTo(*numbers)
    return path.close() if closed else path


def join(*paths: skia.Path) -> skia.Path:
    """Return the union of several outlines."""
    result = paths[0]
    for path in paths[1:]:
        united = skia.Op(result, path, skia.PathOp.kUnion_PathOp)
        result = united if united is not None else result
    return result


def cut(path: skia.Path, hole: skia.Path) -> skia.Path:
    """Return the first outline without the second."""
    return skia.Op(path, hole, skia.PathOp.kDifference_PathOp)


def _eye(x: float, y: float, r: float) -> list[Part]:
    return [Part(ellipse(x, y, r), "white"), Part(ellipse(x + r * 0.2, y, r * 0.55), "ink")]


def _apple(who: Identity) -> list[Part]:
    w = 0.8 - 0.06 * who.aspect
    body = join(ellipse(-0.34 * w, 0.22, 0.6 * w, 0.72), ellipse(0.34 * w, 0.22, 0.6 * w, 0.72))
    stem = polygon((-0.06, -0.4), (-0.02, -0.82), (0.1, -0.82), (0.07, -0.4))
    leaf_r = 0.32 + 0.22 * who.detail
    leaf = curve((0.06, -0.52), (0.1, -0.52 - leaf_r, 0.12 + leaf_r, -0.9), (0.14 + leaf_r, -0.45, 0.06, -0.52))
    return [Part(body), Part(stem, "wood"), Part(leaf, "shade")]


def _balloon(who: Identity) -> list[Part]:
    h = 0.74 + 0.06 * who.aspect
    bag = curve((0, 0.46), (-0.74, 0.1, -0.8, -0.94 * h - 0.2, 0, -0.96), (0.8, -0.94 * h - 0.2, 0.74, 0.1, 0, 0.46))
    knot = polygon((0, 0.4), (-0.14, 0.6), (0.14, 0.6))
    string = curve((0, 0.58), (0.16, 0.72, 0, 0.82), (-0.12, 0.92, 0.02, 1.0), closed=False)
    shine = ellipse(-0.26, -0.5, 0.12, 0.1 + 0.14 * who.detail)
    return [Part(string, "detail", True), Part(bag), Part(knot, "shade"), Part(shine, "tint")]


def _bell(who: Identity) -> list[Part]:
    w = 0.72 + 0.08 * who.aspect
    body = curve(
        (-w, 0.56),
        (-0.5 * w, 0.3, -0.66 * w, -0.72, 0, -0.74),
        (0.66 * w, -0.72, 0.5 * w, 0.3, w, 0.56),
    )
    rim = box(-w - 0.06, 0.48, w + 0.06, 0.68, 0.1)
    clapper = ellipse(0, 0.76, 0.13 + 0.08 * who.detail)
    knob = ellipse(0, -0.82, 0.14)
    return [Part(clapper, "detail"), Part(knob, "shade"), Part(body), Part(rim, "shade")]


def _boat(who: Identity) -> list[Part]:
    hull = curve((-0.95, 0.34), (0.95, 0.34), (0.8, 0.9, 0.4, 0.9), (-0.45, 0.9), (-0.82, 0.88, -0.95, 0.34))
    mast = box(-0.07, -0.95, 0.05, 0.36)
    reach = 0.72 + 0.14 * who.aspect
    sail = curve((0.1, -0.88), (0.5, -0.5, 0.1 + reach, 0.2), (0.1, 0.2))
    jib_r = 0.4 + 0.3 * who.detail
    jib = polygon((-0.12, -0.7), (-0.12, 0.2), (-0.12 - jib_r, 0.2))
    return [Part(mast, "wood"), Part(sail, "main"), Part(jib, "tint"), Part(hull)]


def _butterfly(who: Identity) -> list[Part]:
    spread = 0.92 + 0.06 * who.aspect
    low = 0.5 + 0.2 * who.detail
    parts = []
    for side in (-1.0, 1.0):
        upper = curve(
            (0, 0.05),
            (side * 0.1, -0.9, side * 0.9, -1.1, side * spread, -0.6),
            (side * spread, -0.1, side * 0.5, 0.15, 0, 0.1),
        )
        lower = curve(
            (0, 0.05),
            (side * 0.7, 0.0, side * 0.85, low + 0.1, side * 0.5, low + 0.26),
            (side * 0.2, low + 0.3, side * 0.05, 0.5, 0, 0.05),
        )
        parts += [Part(lower, "main"), Part(upper, "main"), Part(ellipse(side * 0.55, -0.5, 0.17), "tint")]
    feelers = curve((-0.32, -0.92), (-0.14, -0.8, 0, -0.42), (0.14, -0.8, 0.32, -0.92), closed=False)
    return [*parts, Part(feelers, "detail", True), Part(ellipse(0, 0.06, 0.11, 0.56), "detail")]


def _cactus(who: Identity) -> list[Part]:
    w = 0.26 + 0.04 * who.aspect
    trunk = box(-w, -0.95, w, 0.66, w)
    lift = 0.3 * who.detail
    left = join(box(-0.78, -0.4 - lift, -0.46, 0.28, 0.16), box(-0.78, 0.02, 0, 0.3, 0.14))
    right = join(box(0.46, -0.62, 0.78, 0.08, 0.16), box(0, -0.18, 0.78, 0.1, 0.14))
    pot = polygon((-0.5, 0.52), (0.5, 0.52), (0.36, 0.98), (-0.36, 0.98))
    return [Part(join(trunk, left, right)), Part(pot, "wood")]


def _car(who: Identity) -> list[Part]:
    roof = -0.5 - 0.14 * who.aspect
    cabin = polygon((-0.62, 0.04), (-0.4, roof), (0.3, roof), (0.62, 0.04))
    body = join(box(-0.98, -0.06, 0.98, 0.48, 0.18), cabin)
    window_l = polygon((-0.44, 0.0), (-0.29, roof + 0.13), (-0.08, roof + 0.13), (-0.08, 0.0))
    window_r = polygon((0.04, 0.0), (0.04, roof + 0.13), (0.24, roof + 0.13), (0.44, 0.0))
    r = 0.22 + 0.06 * who.detail
    wheels = [Part(ellipse(x, 0.5, r), "ink") for x in (-0.52, 0.52)]
    hubs = [Part(ellipse(x, 0.5, r * 0.45), "white") for x in (-0.52, 0.52)]
    return [Part(body), Part(window_l, "glass"), Part(window_r, "glass"), *wheels, *hubs]


def _cat(who: Identity) -> list[Part]:
    ear = 0.92 + 0.06 * who.aspect
    head = join(
        ellipse(0, 0.12, 0.86, 0.74),
        polygon((-0.84, 0.1), (-0.76, -ear), (-0.16, -0.5)),
        polygon((0.84, 0.1), (0.76, -ear), (0.16, -0.5)),
    )
    inner = [Part(polygon((s * 0.68, -0.24), (s * 0.66, -ear + 0.3), (s * 0.36, -0.44)), "tint") for s in (-1, 1)]
    r = 0.14 + 0.05 * who.detail
    eyes = [Part(ellipse(s * 0.34, 0.0, r, r * 1.25), "detail") for s in (-1, 1)]
    nose = Part(polygon((-0.12, 0.28), (0.12, 0.28), (0, 0.42)), "detail")
    whiskers = [
        Part(curve((s * 0.36, 0.4 + k * 0.12), (s * 0.92, 0.34 + k * 0.2), closed=False), "detail", True)
        for s in (-1, 1)
        for k in (0, 1)
    ]
    return [Part(head), *inner, *eyes, nose, *whiskers]


def _crown(who: Identity) -> list[Part]:
    dip = 0.08 + 0.14 * who.detail
    tall = 0.74 + 0.1 * who.aspect
    top = polygon((-0.76, 0.74), (-0.95, -0.42), (-0.46, dip), (0, -tall), (0.46, dip), (0.95, -0.42), (0.76, 0.74))
    balls = [Part(ellipse(x, y, 0.13), "main") for x, y in ((-0.93, -0.48), (0, -tall - 0.04), (0.93, -0.48))]
    jewels = [Part(ellipse(x, 0.52, 0.1), "detail") for x in (-0.42, 0.0, 0.42)]
    return [Part(top), *balls, Part(box(-0.78, 0.36, 0.78, 0.7, 0.04), "shade"), *jewels]


def _cup(who: Identity) -> list[Part]:
    w = 0.6 + 0.06 * who.aspect
    body = curve(
        (-w, -0.6), (w, -0.6), (w - 0.1, 0.72), (w - 0.12, 0.84, w - 0.26, 0.84),
        (-w + 0.26, 0.84), (-w + 0.12, 0.84, -w + 0.1, 0.72),
    )  # fmt: skip
    r = 0.3 + 0.06 * who.detail
    handle = skia.Op(
        ellipse(w - 0.02, 0.06, r + 0.12), ellipse(w - 0.02, 0.06, r - 0.06), skia.PathOp.kDifference_PathOp
    )
    rim = ellipse(0, -0.6, w, 0.16)
    return [Part(handle, "main"), Part(body), Part(rim, "shade"), Part(ellipse(0, -0.58, w - 0.12, 0.09), "cream")]


def _duck(who: Identity) -> list[Part]:
    body = curve(
        (-0.98, -0.02), (-0.6, 0.12, -0.4, 0.06), (0.5, -0.02), (0.98, 0.06, 0.84, 0.5), (0.7, 0.86, 0, 0.86),
        (-0.8, 0.86, -0.98, -0.02),
    )  # fmt: skip
    r = 0.38 + 0.04 * who.aspect
    head = ellipse(0.38, -0.5, r)
    neck = box(0.1, -0.5, 0.62, 0.3, 0.1)
    beak = curve((0.68, -0.56), (0.95, -0.5, 1.0, -0.36), (0.8, -0.3, 0.64, -0.32))
    wing = ellipse(-0.16, 0.38, 0.4, 0.16 + 0.1 * who.detail)
    return [Part(beak, "cream"), Part(join(body, head, neck)), Part(wing, "shade"), *_eye(0.48, -0.58, 0.12)]


def _fish(who: Identity) -> list[Part]:
    h = 0.5 + 0.08 * who.aspect
    body = ellipse(0.16, 0.04, 0.78, h)
    t = 0.4 + 0.16 * who.detail
    tail = curve((-0.46, 0.04), (-0.98, -t), (-0.8, 0.04, -0.98, t + 0.08))
    fin = curve((-0.2, -0.38), (0.02, -0.92, 0.42, -0.4))
    gill = curve((0.42, -0.26), (0.26, 0.04, 0.42, 0.34), closed=False)
    return [Part(fin, "shade"), Part(tail, "shade"), Part(body), Part(gill, "detail", True), *_eye(0.62, -0.1, 0.14)]


def _flower(who: Identity) -> list[Part]:
    petals = 5 if who.aspect < 0 else 7
    ring = []
    for k in range(petals):
        angle = 2 * math.pi * k / petals - math.pi / 2
        ring.append(ellipse(0.38 * math.cos(angle), -0.36 + 0.38 * math.sin(angle), 0.27))
    stem = box(-0.06, 0.1, 0.06, 1.0)
    leaf = curve((0.02, 0.74), (0.5, 0.3, 0.66, 0.44), (0.5, 0.8, 0.02, 0.74))
    core = ellipse(0, -0.36, 0.2 + 0.08 * who.detail)
    return [Part(stem, "wood"), Part(leaf, "wood"), Part(join(*ring)), Part(core, "detail")]


def _ghost(who: Identity) -> list[Part]:
    w = 0.7 + 0.06 * who.aspect
    body = curve(
        (-w, 0.86), (-w, -0.1), (-w, -0.96, 0, -0.96), (w, -0.96, w, -0.1), (w, 0.86),
        (w * 0.66, 0.56, w * 0.34, 0.9), (0, 0.56, -w * 0.34, 0.9), (-w * 0.66, 0.56, -w, 0.86),
    )  # fmt: skip
    r = 0.12 + 0.05 * who.detail
    eyes = [Part(ellipse(s * 0.27, -0.26, r, r * 1.4), "detail") for s in (-1, 1)]
    return [Part(body), *eyes, Part(ellipse(0, 0.16, 0.12, 0.16), "detail")]


def _heart(who: Identity) -> list[Part]:
    w = 0.95 + 0.05 * who.aspect
    body = curve(
        (0, 0.94),
        (-1.16 * w, 0.2, -1.1 * w, -0.82, -0.5 * w, -0.82),
        (-0.2, -0.82, 0, -0.6, 0, -0.4),
        (0, -0.6, 0.2, -0.82, 0.5 * w, -0.82),
        (1.1 * w, -0.82, 1.16 * w, 0.2, 0, 0.94),
    )
    return [Part(body), Part(ellipse(-0.46, -0.4, 0.14 + 0.1 * who.detail, 0.14), "tint")]


def _house(who: Identity) -> list[Part]:
    wall = box(-0.72, -0.12, 0.72, 0.94)
    roof = polygon((-0.98, -0.06), (0, -0.86 - 0.1 * who.aspect), (0.98, -0.06))
    door_w = 0.15 + 0.06 * who.detail
    door = box(-door_w, 0.36, door_w, 0.94)
    windows = [Part(box(s * 0.46 - 0.16, 0.08, s * 0.46 + 0.16, 0.38), "glass") for s in (-1, 1)]
    return [Part(wall), Part(roof, "shade"), Part(door, "wood"), *windows]


def _moon(who: Identity) -> list[Part]:
    bite = 0.34 + 0.08 * who.aspect
    crescent = cut(ellipse(0, 0, 0.94), ellipse(bite + 0.1, -0.16, 0.74))
    crater = 0.07 + 0.05 * who.detail
    spots = [Part(ellipse(x, y, crater), "shade") for x, y in ((-0.66, -0.1), (-0.4, 0.56))]
    return [Part(crescent), *spots]


def _mushroom(who: Identity) -> list[Part]:
    top = -1.2 - 0.1 * who.aspect
    cap = curve((-0.95, 0.06), (-0.9, top, 0.9, top, 0.95, 0.06), (0, 0.26, -0.95, 0.06))
    stem = curve((-0.26, 0.08), (0.26, 0.08), (0.24, 0.6, 0.38, 0.94), (-0.38, 0.94), (-0.24, 0.6, -0.26, 0.08))
    r = 0.11 + 0.06 * who.detail
    spots = [
        Part(ellipse(x, y, r * f), "white") for x, y, f in ((-0.48, -0.2, 1), (0.02, -0.42, 1.2), (0.5, -0.16, 0.9))
    ]
    return [Part(stem, "cream"), Part(cap), *spots]


def _robot(who: Identity) -> list[Part]:
    head_w = 0.46 + 0.06 * who.aspect
    head = box(-head_w, -0.8, head_w, -0.14, 0.1)
    body = box(-0.62, -0.06, 0.62, 0.62, 0.1)
    legs = [Part(box(s * 0.34 - 0.17, 0.6, s * 0.34 + 0.17, 0.98, 0.04), "shade") for s in (-1, 1)]
    arms = [Part(box(s * 0.8 - 0.13, -0.02, s * 0.8 + 0.13, 0.46, 0.1), "shade") for s in (-1, 1)]
    antenna = box(-0.05, -1.0, 0.05, -0.78)
    r = 0.11 + 0.05 * who.detail
    eyes = [Part(ellipse(s * 0.2, -0.52, r), "detail") for s in (-1, 1)]
    mouth = Part(box(-0.24, -0.31, 0.24, -0.22), "detail")
    return [Part(antenna, "shade"), *arms, *legs, Part(head), Part(body), *eyes, mouth]


def _rocket(who: Identity) -> list[Part]:
    w = 0.36 + 0.05 * who.aspect
    hull = curve((0, -0.98), (w + 0.08, -0.56, w, 0.02), (w * 0.86, 0.56), (-w * 0.86, 0.56), (-w, 0.02))
    hull = join(hull, curve((-w, 0.02), (-w - 0.08, -0.56, 0, -0.98), (0, 0.02)))
    f = 0.3 + 0.16 * who.detail
    fins = [Part(polygon((s * w * 0.9, 0.1), (s * (w + f), 0.7), (s * w * 0.8, 0.56)), "shade") for s in (-1, 1)]
    flame = curve((-0.22, 0.56), (0.22, 0.56), (0.16, 0.82, 0, 1.0), (-0.16, 0.82, -0.22, 0.56))
    return [Part(flame, "cream"), *fins, Part(hull), Part(ellipse(0, -0.24, 0.17), "glass")]


def _star(who: Identity) -> list[Part]:
    inner = 0.42 + 0.06 * who.aspect
    points = []
    for k in range(10):
        r = 0.98 if k % 2 == 0 else inner
        angle = math.pi * k / 5 - math.pi / 2
        points.append((r * math.cos(angle), 0.04 + r * math.sin(angle)))
    return [Part(polygon(*points)), Part(ellipse(0, 0.04, 0.1 + 0.12 * who.detail), "tint")]


def _tree(who: Identity) -> list[Part]:
    w = 0.62 + 0.06 * who.aspect
    crown = join(ellipse(0, -0.42, 0.56, 0.52), ellipse(-w + 0.3, -0.06, 0.46), ellipse(w - 0.3, -0.06, 0.46))
    trunk_w = 0.11 + 0.06 * who.detail
    trunk = polygon((-trunk_w, 0.1), (trunk_w, 0.1), (trunk_w + 0.08, 0.98), (-trunk_w - 0.08, 0.98))
    return [Part(trunk, "wood"), Part(crown)]


def _umbrella(who: Identity) -> list[Part]:
    top = -0.86 - 0.06 * who.aspect
    canopy = curve(
        (-0.96, 0.06), (-0.9, top, 0, top), (0.9, top, 0.96, 0.06),
        (0.8, -0.12, 0.64, 0.04), (0.48, -0.12, 0.32, 0.04), (0.16, -0.12, 0, 0.04),
        (-0.16, -0.12, -0.32, 0.04), (-0.48, -0.12, -0.64, 0.04), (-0.8, -0.12, -0.96, 0.06),
    )  # fmt: skip
    reach = 0.2 + 0.14 * who.detail
    handle = curve((0, -0.2), (0, 0.74), (0, 0.98, reach * 0.6, 0.96), (reach, 0.94, reach, 0.72), closed=False)
    return [Part(handle, "detail", True), Part(canopy)]


def _whale(who: Identity) -> list[Part]:
    h = 0.1 * who.aspect
    body = curve(
        (0.94, 0.3), (0.92, -0.42 - h, 0.1, -0.44 - h), (-0.5, -0.4 - h, -0.66, 0.1), (-0.74, 0.1),
        (-0.98, -0.1, -0.98, -0.46), (-0.78, -0.42, -0.7, -0.24), (-0.6, -0.46, -0.4, -0.5),
        (-0.4, 0.0, -0.56, 0.34), (-0.4, 0.76, 0.2, 0.76), (0.9, 0.74, 0.94, 0.3),
    )  # fmt: skip
    belly = curve((0.92, 0.36), (0.2, 0.5, -0.36, 0.54), (-0.2, 0.76, 0.2, 0.76), (0.86, 0.74, 0.92, 0.36))
    r = 0.1 + 0.08 * who.detail
    spout = join(ellipse(0.08, -0.74, r + 0.06, r), ellipse(0.36, -0.74, r + 0.06, r), box(0.17, -0.74, 0.27, -0.4))
    return [Part(spout, "glass"), Part(body), Part(belly, "tint"), *_eye(0.62, 0.08, 0.1)]


_OUTLINES: dict[str, Callable[[Identity], list[Part]]] = {
    "apple": _apple, "balloon": _balloon, "bell": _bell, "boat": _boat, "butterfly": _butterfly, "cactus": _cactus,
    "car": _car, "cat": _cat, "crown": _crown, "cup": _cup, "duck": _duck, "fish": _fish, "flower": _flower,
    "ghost": _ghost, "heart": _heart, "house": _house, "moon": _moon, "mushroom": _mushroom, "robot": _robot,
    "rocket": _rocket, "star": _star, "tree": _tree, "umbrella": _umbrella, "whale": _whale,
}  # fmt: skip


def make_parts(kind: str, identity: Identity) -> list[Part]:
    """Return the parts of one object in drawing order, with its marking behind the small details.

    Units:  unit square -1..1, y down.
    Raises: KeyError for a class the world does not have.
    """
    parts = _OUTLINES[kind](identity)
    if identity.marking == "none":
        return parts
    last_main = max(index for index, part in enumerate(parts) if part.tone == "main")
    inside = skia.Op(parts[last_main].path, _make_marking(identity), skia.PathOp.kIntersect_PathOp)
    if inside is None or inside.isEmpty():
        return parts
    return [*parts[: last_main + 1], Part(inside, "mark"), *parts[last_main + 1 :]]


def _make_marking(who: Identity) -> skia.Path:
    place = who.marking_frac - 0.5
    if who.marking == "stripes":
        return join(*[box(x + 0.2 * place, -1.1, x + 0.14 + 0.2 * place, 1.1) for x in (-0.62, -0.2, 0.22, 0.64)])
    if who.marking == "dots":
        spots = [(x + 0.3 * place, y) for x, y in ((-0.46, -0.3), (0.4, -0.34), (-0.2, 0.34), (0.46, 0.4), (0.0, 0.0))]
        return join(*[ellipse(x, y, 0.12) for x, y in spots])
    if who.marking == "patch":
        return ellipse(0.7 * place, 0.2 - 0.4 * place, 0.36, 0.3)
    return box(-1.1, -0.14 + 0.5 * place, 1.1, 0.12 + 0.5 * place)
