"""Scene records of the drawn world, how they are sampled, and the hold-out rule.

Pure data: nothing here draws. A scene is fully determined by its record; `sample_scene(seed)` makes one from a
seed. Captions never mention `Identity` and `Look`: they are the hidden parameters that personalization and style
prompting must carry over.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

CANVAS_PX = 256

KINDS: tuple[str, ...] = (
    "apple", "balloon", "bell", "boat", "butterfly", "cactus", "car", "cat", "crown", "cup", "duck", "fish",
    "flower", "ghost", "heart", "house", "moon", "mushroom", "robot", "rocket", "star", "tree", "umbrella", "whale",
)  # fmt: skip
COLOURS: tuple[str, ...] = (
    "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "black", "white", "grey",
)  # fmt: skip
BACKGROUNDS: tuple[str, ...] = (
    "plain", "meadow", "beach", "sea", "city", "desert", "snow", "mountains", "sky",
)  # fmt: skip
STYLES: tuple[str, ...] = (
    "flat", "line art", "pixel art", "watercolor", "neon", "clay", "crayon", "papercut",
)  # fmt: skip
LIGHTS: tuple[str, ...] = ("day", "night")
SIZES: tuple[str, ...] = ("small", "medium", "large")
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
MARKINGS: tuple[str, ...] = ("none", "stripes", "dots", "patch", "band")

# Seeds at or above this number are never drawn during training (hold-out rule, part 1).
FIRST_HELD_OUT_SEED = 2**31


@dataclass(frozen=True)
class Identity:
    """Hidden identity of one object: what makes it *this* robot.

    Units: aspect -1..1 (wide to tall), detail 0..1 (size of the secondary parts), marking is one of MARKINGS,
           marking_frac 0..1 places it; mark_colour is one of COLOURS, or "" for a shade of the object's own.
    """

    aspect: float = 0.0
    detail: float = 0.5
    marking: str = "none"
    marking_frac: float = 0.5
    # Sampled scenes never have a second colour: only subjects do, so what a record looks like in print stays the same.
    mark_colour: str = field(default="", repr=False)


@dataclass(frozen=True)
class Look:
    """Hidden style parameters, shared by everything in one picture.

    Units: stroke 0..1 (thin to thick), palette_shift -1..1 (cool to warm), grain 0..1, angle_deg 0..180
           (hatching and light direction), rounding 0..1 (sharp to round corners).
    """

    stroke: float = 0.5
    palette_shift: float = 0.0
    grain: float = 0.3
    angle_deg: float = 45.0
    rounding: float = 0.5


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, its colour, where it stands and how large it is.

    Units: x_px, y_px centre from top left; size_px edge of the square that holds it; tilt_deg clockwise; stretch
           (across, down) multiplies the edges along the object's own axes.
    """

    kind: str
    colour: str
    x_px: float
    y_px: float
    size_px: float
    size: str = "medium"
    tilt_deg: float = 0.0
    identity: Identity = Identity()
    # Sampled scenes are never stretched: only an edit does that, so what a record looks like in print stays the same.
    stretch: tuple[float, float] = field(default=(1.0, 1.0), repr=False)


@dataclass(frozen=True)
class Scene:
    """A whole picture. Objects are in drawing order, the last one in front."""

    objects: tuple[SceneObject, ...]
    background: str
    light: str
    style: str
    look: Look = Look()
    seed: int = 0


def is_held_out_pair(kind: str, colour: str) -> bool:
    """Say whether this object-colour pair never occurs in training (one colour per kind, 24 of 288)."""
    return (5 * KINDS.index(kind) + 7 * COLOURS.index(colour)) % 12 == 3


def is_held_out_style(kind: str, style: str) -> bool:
    """Say whether this object-style pair never occurs in training (one kind per style, 8 of 192)."""
    return (7 * KINDS.index(kind) + 3 * STYLES.index(style)) % 24 == 5


def is_held_out_duo(kind_a: str, kind_b: str) -> bool:
    """Say whether these two different kinds never share a training picture (about one duo in six)."""
    return kind_a != kind_b and (KINDS.index(kind_a) + KINDS.index(kind_b)) % 6 == 2


def is_drawable(colour: str, style: str) -> bool:
    """Say whether the world has this combination at all: light cannot be black, so neon never is."""
    return not (style == "neon" and colour == "black")


def is_held_out(scene: Scene) -> bool:
    """Say whether the hold-out rule bans this scene from training (seed, pairs, styles or duos)."""
    kinds = [thing.kind for thing in scene.objects]
    return (
        scene.seed >= FIRST_HELD_OUT_SEED
        or any(is_held_out_pair(thing.kind, thing.colour) for thing in scene.objects)
        or any(is_held_out_style(kind, scene.style) for kind in kinds)
        or any(is_held_out_duo(a, b) for index, a in enumerate(kinds) for b in kinds[index + 1 :])
    )


def sample_scene(seed: int, *, split: str = "train") -> Scene:
    """Draw one scene record from a seed.

    Returns: for split "train" a scene that the hold-out rule allows; for split "all" any scene of the world.
    Raises:  ValueError for an unknown split, or for a held-out seed in split "train".
    """
    if split not in ("train", "all"):
        raise ValueError(f"split must be 'train' or 'all', got {split!r}")
    if split == "train" and not 0 <= seed < FIRST_HELD_OUT_SEED:
        raise ValueError(f"seed {seed} is held out; training seeds are 0 to {FIRST_HELD_OUT_SEED - 1}")
    rng = np.random.default_rng(seed)
    while True:
        scene = _sample_once(rng, seed)
        if split == "all" or not is_held_out(scene):
            return scene


def _sample_once(rng: np.random.Generator, seed: int) -> Scene:
    style = str(rng.choice(STYLES))
    background = str(rng.choice(BACKGROUNDS, p=[0.2] + [0.1] * 8))
    light = "night" if rng.random() < 0.3 else "day"
    layout = str(rng.choice(["one", "two", "count", "three"], p=[0.36, 0.4, 0.19, 0.05]))
    if layout == "one":
        objects: tuple[SceneObject, ...] = (_sample_single(rng, style),)
    elif layout == "two":
        objects = _sample_two(rng, style)
    elif layout == "count":
        objects = _sample_group(rng, style, count=int(rng.integers(2, 5)), same=True)
    else:
        objects = _sample_group(rng, style, count=3, same=False)
    return Scene(objects, background, light, style, sample_look(rng), seed)


def sample_look(rng: np.random.Generator) -> Look:
    """Draw hidden style parameters, uniform over their ranges."""
    return Look(
        stroke=float(rng.random()),
        palette_shift=float(rng.uniform(-1, 1)),
        grain=float(rng.random()),
        angle_deg=float(rng.uniform(0, 180)),
        rounding=float(rng.random()),
    )


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw hidden identity parameters; half of the objects carry no marking."""
    marking = "none" if rng.random() < 0.5 else str(rng.choice(MARKINGS[1:]))
    return Identity(float(rng.uniform(-1, 1)), float(rng.random()), marking, float(rng.random()))


def _sample_colour(rng: np.random.Generator, style: str) -> str:
    while True:
        colour = str(rng.choice(COLOURS))
        if is_drawable(colour, style):
            return colour


def _sample_single(rng: np.random.Generator, style: str) -> SceneObject:
    size = str(rng.choice(SIZES, p=[0.2, 0.5, 0.3]))
    low, high = {"small": (72, 92), "medium": (108, 142), "large": (158, 196)}[size]
    size_px = float(rng.uniform(low, high))
    margin = size_px / 2 + 8
    x_px, y_px = rng.uniform(margin, CANVAS_PX - margin, 2)
    return _make_object(
        rng, str(rng.choice(KINDS)), _sample_colour(rng, style), (x_px, y_px), size_px=size_px, size=size
    )


def _make_object(
    rng: np.random.Generator, kind: str, colour: str, centre: tuple[float, float], *, size_px: float, size: str
) -> SceneObject:
    tilt_deg = float(np.clip(rng.normal(0, 5), -12, 12))
    return SceneObject(
        kind, colour, float(centre[0]), float(centre[1]), float(size_px), size, tilt_deg, sample_identity(rng)
    )


def _sample_two(rng: np.random.Generator, style: str) -> tuple[SceneObject, ...]:
    """Two different kinds, clearly beside each other or clearly one above the other."""
    kinds = [str(kind) for kind in rng.choice(KINDS, 2, replace=False)]
    sizes_px = rng.uniform(78, 112, 2)
    near = float(sizes_px.sum()) / 2 + 4
    margins = sizes_px / 2 + 6
    first = rng.uniform(margins[0], CANVAS_PX - margins[1] - near)
    second = rng.uniform(first + near, CANVAS_PX - margins[1])
    middle = rng.uniform(96, 160)
    across = np.clip(middle + rng.uniform(-26, 26, 2), margins, CANVAS_PX - margins)
    along = np.array([first, second])
    if rng.random() < 0.5:
        centres = np.stack([along, across], 1)
    else:
        centres = np.stack([across, along], 1)
    order = rng.permutation(2)
    return tuple(
        _make_object(
            rng, kinds[i], _sample_colour(rng, style), tuple(centres[i]), size_px=float(sizes_px[i]), size="medium"
        )
        for i in order
    )


def _sample_group(rng: np.random.Generator, style: str, *, count: int, same: bool) -> tuple[SceneObject, ...]:
    """Several objects that do not touch: the same kind and colour, or all different."""
    kinds = [str(k) for k in rng.choice(KINDS, count, replace=False)]
    colours = [_sample_colour(rng, style) for _ in range(count)]
    if same:
        kinds, colours = kinds[:1] * count, colours[:1] * count
    low, high = {2: (76, 108), 3: (68, 88), 4: (64, 82)}[count]
    size_px = float(rng.uniform(low, high))
    centres = place_apart(rng, count, size_px)
    return tuple(
        _make_object(rng, kind, colour, centre, size_px=size_px * float(rng.uniform(0.92, 1.0)), size="medium")
        for kind, colour, centre in zip(kinds, colours, centres, strict=True)
    )


def place_apart(rng: np.random.Generator, count: int, size_px: float) -> list[tuple[float, float]]:
    """Place `count` squares of edge size_px on the canvas so that no two touch.

    Units:   size_px in picture pixels; returned centres (x, y) in px from top left.
    Returns: a list of centres; starts over when a placement leaves no room.
    """
    margin = size_px / 2 + 4
    while True:
        centres: list[tuple[float, float]] = []
        for _ in range(60):
            x, y = (float(value) for value in rng.uniform(margin, CANVAS_PX - margin, 2))
            if all(max(abs(x - u), abs(y - v)) > size_px + 4 for u, v in centres):
                centres.append((x, y))
            if len(centres) == count:
                return centres


def find_relation(a: SceneObject, b: SceneObject) -> str:
    """Name where `a` stands seen from `b`: the axis with the larger distance decides.

    Returns: one of RELATIONS, to be read as "a RELATION b".
    """
    dx, dy = a.x_px - b.x_px, a.y_px - b.y_px
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def move_object(scene: Scene, index: int, dx_px: float, dy_px: float) -> Scene:
    """Return the same scene with one object shifted; everything else, hidden parameters included, is kept."""
    thing = scene.objects[index]
    return _replace_object(scene, index, replace(thing, x_px=thing.x_px + dx_px, y_px=thing.y_px + dy_px))


def resize_object(scene: Scene, index: int, factor: float) -> Scene:
    """Return the same scene with one object's edge length multiplied by `factor`."""
    thing = scene.objects[index]
    return _replace_object(scene, index, replace(thing, size_px=thing.size_px * factor))


def stretch_object(scene: Scene, index: int, across: float, down: float) -> Scene:
    """Return the same scene with one object made wider or taller along its own axes, around its centre."""
    thing = scene.objects[index]
    stretch = (thing.stretch[0] * across, thing.stretch[1] * down)
    return _replace_object(scene, index, replace(thing, stretch=stretch))


def recolour_object(scene: Scene, index: int, colour: str) -> Scene:
    """Return the same scene with one object in another colour.

    Raises: ValueError if the world has no such colour in this scene's style.
    """
    if colour not in COLOURS or not is_drawable(colour, scene.style):
        raise ValueError(f"colour {colour!r} cannot be drawn in style {scene.style!r}")
    return _replace_object(scene, index, replace(scene.objects[index], colour=colour))


def restyle(scene: Scene, style: str, look: Look | None = None) -> Scene:
    """Return the same scene in another style, with the same or other hidden style parameters.

    Raises: ValueError for an unknown style, or one that cannot show a colour of the scene.
    """
    if style not in STYLES or not all(is_drawable(thing.colour, style) for thing in scene.objects):
        raise ValueError(f"style {style!r} cannot draw this scene")
    return replace(scene, style=style, look=look or scene.look)


def _replace_object(scene: Scene, index: int, thing: SceneObject) -> Scene:
    objects = list(scene.objects)
    objects[index] = thing
    return replace(scene, objects=tuple(objects))
