"""What dragging is tried on: drawn scenes, and the same scenes with one thing moved, scaled or stretched.

Because the world draws both pictures, everything is exact: where each handle goes, what may change, how the perfect
answer looks. Plain data; drag.py drags. `find_edits` takes the scenes of a split: training's for tuning, held-out ones
for what is quoted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.prompts import BACKGROUND_PHRASES
from training.world.caption import object_phrase
from training.world.render import draw_masks, render
from training.world.scene import (
    CANVAS_PX,
    FIRST_HELD_OUT_SEED,
    Scene,
    SceneObject,
    move_object,
    resize_object,
    sample_scene,
    stretch_object,
)

SORTS = ("moved", "scaled", "stretched")
# Seeds that nothing else draws from. Defaults are chosen on the former, figures come from the latter.
TUNING_SEEDS = 950_000_000
EDIT_SEEDS = FIRST_HELD_OUT_SEED + 1_400_000_000
MOVE_PX = (16, 64)
SCALE_PX = (12, 32)  # how far each of the four handles goes, on average
STRETCH_PX = (16, 48)
FACTORS = (0.62, 1.6)
MARGIN_PX = 10  # of the mask around what changes, as a person would paint
BORDER_PX, GAP_PX = 3, 6  # to the edge of the picture, and to the boxes of other things
MAX_MASK_FRAC = 0.8
LOOSE_PX = 4
# Sides in the order of a box: left, top, right, bottom.
LEFT, TOP, RIGHT, BOTTOM = range(4)
NUM_TRIES = 6


@dataclass(frozen=True)
class Handle:
    """A point of the thing and where the edit takes it. Units: px; (0, 0) is the middle of the top left pixel.

    `side` is the side of the thing's box that it stands for, None for the thing's middle.
    """

    x: float
    y: float
    target_x: float
    target_y: float
    side: int | None = None

    @property
    def length_px(self) -> float:
        """Return how far it goes."""
        return float(np.hypot(self.target_x - self.x, self.target_y - self.y))


@dataclass(frozen=True)
class Edit:
    """A scene, the number of the thing that changes, the scene after it, and the handles.

    Units: `matrix` (2, 2) and `shift_px` (x, y) take canvas places p of the thing to matrix p + shift.
    """

    sort: str
    before: Scene
    after: Scene
    index: int
    handles: tuple[Handle, ...]
    matrix: tuple[tuple[float, float], tuple[float, float]]
    shift_px: tuple[float, float]

    @property
    def thing(self) -> SceneObject:
        """The thing as it was."""
        return self.before.objects[self.index]

    @property
    def length_px(self) -> float:
        """Return how far the handles go on average."""
        return float(np.mean([handle.length_px for handle in self.handles]))

    @property
    def prompt(self) -> str:
        """What the picture shows, in words, before the edit and after it."""
        phrases = " and ".join(object_phrase(thing.kind, thing.colour) for thing in self.before.objects)
        place = BACKGROUND_PHRASES[self.before.background] + (" at night" if self.before.light == "night" else "")
        return f"{phrases} {place}, {self.before.style}"


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of an edit in pixels.

    Shapes: pictures (H, W, 3) uint8; masks (H, W) bool: the thing before and after, and where anything may change.
    Units:  boxes (x0, y0, x1, y1) in px, end-exclusive; `others_px` are those of the things that stay.
    """

    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray
    thing_before: np.ndarray
    thing_after: np.ndarray
    box_before: tuple[int, int, int, int]
    box_after: tuple[int, int, int, int]
    others_px: tuple[tuple[int, int, int, int], ...]

    @property
    def picture(self) -> Image.Image:
        """The picture to drag."""
        return Image.fromarray(self.before)

    @property
    def target(self) -> Image.Image:
        """The perfect answer."""
        return Image.fromarray(self.after)

    @property
    def mask_picture(self) -> Image.Image:
        """The mask as the page takes it: white may change."""
        return Image.fromarray(self.mask.astype(np.uint8) * 255)


@dataclass(frozen=True)
class Edits:
    """Edits with how many proposals were refused, and why."""

    edits: tuple[Edit, ...]
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def refused_frac(self) -> float:
        """Return the share of proposals that were refused, 0..1."""
        return self.refused.total() / max(1, self.refused.total() + len(self.edits))


def find_edits(
    n: int, first_seed: int = TUNING_SEEDS, accept: Callable[[Edit, Truth], str | None] = lambda edit, truth: None
) -> Edits:
    """Make n edits, the same ones every time, the three sorts in turn.

    A scene may refuse `NUM_TRIES` proposals before the next one is asked. `accept` may refuse more, with a reason.
    """
    split = "all" if first_seed >= FIRST_HELD_OUT_SEED else "train"
    edits: list[Edit] = []
    refused: Counter[str] = Counter()
    seed = first_seed
    while len(edits) < n:
        scene, rng = sample_scene(seed, split=split), np.random.default_rng([seed, 5])
        for _ in range(NUM_TRIES):
            edit = propose(scene, SORTS[len(edits) % len(SORTS)], rng)
            reason = find_fault(edit)
            if reason is None:
                truth = measure_truth(edit)
                is_too_much = truth.mask.mean() > MAX_MASK_FRAC
                reason = "changes nearly everything" if is_too_much else accept(edit, truth)
            if reason is None:
                edits.append(edit)
                break
            refused[reason] += 1
        seed += 1
    return Edits(tuple(edits), refused)


def propose(scene: Scene, sort: str, rng: np.random.Generator) -> Edit:
    """Propose one edit of a random thing; nothing is promised about where it ends up."""
    index = int(rng.integers(len(scene.objects)))
    outline = draw_masks(scene)[index]
    if sort == "moved":
        return _propose_move(scene, index, outline, rng)
    if sort == "scaled":
        return _propose_scale(scene, index, outline, rng)
    return _propose_stretch(scene, index, outline, rng)


def _propose_move(scene: Scene, index: int, outline: np.ndarray, rng: np.random.Generator) -> Edit:
    """Move by whole pixels, so that the outline moves exactly."""
    length, angle = rng.uniform(*MOVE_PX), rng.uniform(0, 2 * np.pi)
    shift = np.rint(length * np.array([np.cos(angle), np.sin(angle)]))
    after = move_object(scene, index, float(shift[0]), float(shift[1]))
    return _finish("moved", (scene, after), index, [(find_middle(outline), None)], (np.eye(2), shift))


def _propose_scale(scene: Scene, index: int, outline: np.ndarray, rng: np.random.Generator) -> Edit:
    """Scale around the thing's centre; the handles are its outermost points on all four sides."""
    extent = np.mean([np.ptp(np.nonzero(outline.any(axis))[0]) + 1 for axis in (0, 1)]) if outline.any() else 1.0
    factor = 1 + rng.choice([-1, 1]) * rng.uniform(*SCALE_PX) / (extent / 2)
    factor = float(np.clip(factor, *FACTORS))
    thing = scene.objects[index]
    centre = np.array([thing.x_px, thing.y_px])
    handles = [(find_extreme(outline, side), side) for side in range(4)]
    after = resize_object(scene, index, factor)
    return _finish("scaled", (scene, after), index, handles, (factor * np.eye(2), (1 - factor) * centre))


def _propose_stretch(scene: Scene, index: int, outline: np.ndarray, rng: np.random.Generator) -> Edit:
    """Make the thing taller, lower, wider or narrower by pulling one side; the opposite one stays."""
    side = int(rng.integers(4))
    along = side % 2  # axis of (x, y)
    extent = float(np.ptp(np.nonzero(outline.any(along))[0]) + 1) if outline.any() else 1.0
    factor = 1 + rng.choice([-1, 1]) * rng.uniform(*STRETCH_PX) / extent
    factor = float(np.clip(factor, *FACTORS))
    thing = scene.objects[index]
    scale = np.ones(2)
    scale[along] = factor
    tilt = np.deg2rad(thing.tilt_deg)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    matrix = turn @ np.diag(scale) @ turn.T
    anchor = np.array(find_extreme(outline, (side + 2) % 4)) + 0.5
    shift = anchor - matrix @ anchor
    centre = np.array([thing.x_px, thing.y_px])
    moved = matrix @ centre + shift - centre
    after = move_object(stretch_object(scene, index, scale[0], scale[1]), index, float(moved[0]), float(moved[1]))
    return _finish("stretched", (scene, after), index, [(find_extreme(outline, side), side)], (matrix, shift))


def _finish(
    sort: str,
    scenes: tuple[Scene, Scene],
    index: int,
    points: Sequence[tuple[tuple[int, int], int | None]],
    change: tuple[np.ndarray, np.ndarray],
) -> Edit:
    """Take the points along with the thing. Pixel (x, y) has its middle at canvas place (x + 0.5, y + 0.5)."""
    (matrix, shift), handles = change, []
    for (x, y), side in points:
        target = matrix @ np.array([x + 0.5, y + 0.5]) + shift - 0.5
        handles.append(Handle(float(x), float(y), float(target[0]), float(target[1]), side))
    rows = tuple((float(row[0]), float(row[1])) for row in matrix)
    assert len(rows) == 2
    return Edit(sort, *scenes, index, tuple(handles), (rows[0], rows[1]), (float(shift[0]), float(shift[1])))


def find_middle(outline: np.ndarray) -> tuple[int, int]:
    """Find the pixel (x, y) of a thing that is nearest to the middle of its outline's box."""
    rows, columns = np.nonzero(outline)
    if not len(rows):
        return (0, 0)
    y, x = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    nearest = int(((rows - y) ** 2 + (columns - x) ** 2).argmin())
    return (int(columns[nearest]), int(rows[nearest]))


def find_extreme(outline: np.ndarray, side: int) -> tuple[int, int]:
    """Find the outermost pixel (x, y) of a thing on one side, the middle one of several."""
    rows, columns = np.nonzero(outline)
    if not len(rows):
        return (0, 0)
    across, along = (rows, columns) if side in (LEFT, RIGHT) else (columns, rows)
    edge = along.min() if side in (LEFT, TOP) else along.max()
    chosen = np.sort(across[along == edge])
    middle = int(chosen[len(chosen) // 2])
    return (int(edge), middle) if side in (LEFT, RIGHT) else (middle, int(edge))


def find_fault(edit: Edit) -> str | None:
    """Say why an edit cannot be judged exactly, or None: it must stay in the picture and clear of other things."""
    if edit.length_px < {"moved": MOVE_PX, "scaled": SCALE_PX, "stretched": STRETCH_PX}[edit.sort][0] - 1:
        return "too short a way"
    # A box drawn at the border is cut off there, so what the record says is looked at first.
    if any(not _is_inside(scene.objects[edit.index]) for scene in (edit.before, edit.after)):
        return "leaves the picture"
    boxes = render(edit.after).boxes_px
    x0, y0, x1, y1 = boxes[edit.index]
    if min(x0, y0) < BORDER_PX or max(x1, y1) > CANVAS_PX - BORDER_PX:
        return "leaves the picture"
    for other, (u0, v0, u1, v1) in enumerate(boxes):
        is_apart = u0 - GAP_PX >= x1 or u1 + GAP_PX <= x0 or v0 - GAP_PX >= y1 or v1 + GAP_PX <= y0
        if other != edit.index and not is_apart:
            return "meets another thing"
    if edit.sort != "moved" and _find_loose_px(edit) > LOOSE_PX:
        return "is not where its outline ends"
    alone = Scene((edit.thing,), edit.before.background, edit.before.light, edit.before.style)
    if (draw_masks(alone)[0] != draw_masks(edit.before)[edit.index]).any():
        return "is hidden in part"
    return None


def _find_loose_px(edit: Edit) -> float:
    """Return how far a thing's box reaches beyond its outline on the sides that count: strings and handles do."""
    box, outline = render(edit.before).boxes_px[edit.index], draw_masks(edit.before)[edit.index]
    rows, columns = np.nonzero(outline.any(1))[0], np.nonzero(outline.any(0))[0]
    ends = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    sides = {h.side for h in edit.handles if h.side is not None}
    return max(abs(float(box[side] - ends[side])) for side in sides | {(side + 2) % 4 for side in sides})


def _is_inside(thing: SceneObject) -> bool:
    """Say whether most of a thing lies in the picture, by its record alone."""
    reach = 0.4 * thing.size_px * np.array(thing.stretch)
    centre = np.array([thing.x_px, thing.y_px])
    return bool((centre - reach).min() >= BORDER_PX and (centre + reach).max() <= CANVAS_PX - BORDER_PX)


def measure_truth(edit: Edit) -> Truth:
    """Draw both scenes and mark what differs, and the thing itself, with a margin; other things are left out."""
    before, after = render(edit.before), render(edit.after)
    outlines = draw_masks(edit.before)
    thing_before, thing_after = outlines[edit.index], draw_masks(edit.after)[edit.index]
    changed = (before.rgb != after.rgb).any(-1)
    others = np.asarray(np.delete(outlines, edit.index, 0).any(0))
    mask = grow(thing_before | thing_after | changed, MARGIN_PX) & (~grow(others, 2) | changed)
    boxes = tuple(box for number, box in enumerate(before.boxes_px) if number != edit.index)
    return Truth(
        before.rgb,
        after.rgb,
        mask,
        thing_before,
        thing_after,
        before.boxes_px[edit.index],
        after.boxes_px[edit.index],
        boxes,
    )


def place_along(edit: Edit, frac: float) -> Scene:
    """Return the scene with the thing after a share of the way; every field that an edit changes goes in a line."""
    old, new = edit.before.objects[edit.index], edit.after.objects[edit.index]

    def mix(a: float, b: float) -> float:
        return a + frac * (b - a)

    thing = replace(
        old,
        x_px=mix(old.x_px, new.x_px),
        y_px=mix(old.y_px, new.y_px),
        size_px=mix(old.size_px, new.size_px),
        stretch=(mix(old.stretch[0], new.stretch[0]), mix(old.stretch[1], new.stretch[1])),
    )
    objects = list(edit.before.objects)
    objects[edit.index] = thing
    return replace(edit.before, objects=tuple(objects))


def grow(mask: np.ndarray, margin_px: int) -> np.ndarray:
    """Let a mask (H, W) grow by a margin on all sides."""
    side = 2 * margin_px + 1
    grown = torch.from_numpy(mask)[None, None].float()
    for window in ((side, 1), (1, side)):
        grown = F.max_pool2d(grown, window, 1, (window[0] // 2, window[1] // 2))
    return grown[0, 0].numpy() > 0
