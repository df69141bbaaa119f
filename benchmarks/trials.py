"""What each technique is tried on: prompts, layouts and sizes, and when a picture counts as right.

Plain data and judgements; techniques.py draws the pictures. No prompt here was used to choose a technique's defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from typing import Any

import numpy as np

from benchmarks.geneval import Ask, Wanted, find, shows
from benchmarks.prompts import (
    BACKGROUND_PHRASES,
    ask_attribution,
    ask_one_object_all,
    ask_position,
)
from pipelines.layout import Box
from pipelines.scene_parser import ParsedScene, box_iou
from training.world.caption import object_phrase
from training.world.render import render
from training.world.scene import (
    BACKGROUNDS,
    COLOURS,
    FIRST_HELD_OUT_SEED,
    KINDS,
    LIGHTS,
    STYLES,
    Scene,
    is_drawable,
    sample_scene,
)

SEED = 31_337
TRAINED_PX = (256, 256)
# In turns, so that no technique is judged by one shape alone.
LARGE_PX = ((512, 512), (768, 256), (256, 768))
# A box counts as filled from this IoU on: MIGC's instance success rate.
MIN_OVERLAP = 0.5
# Drawn scenes whose mean is the brightness that a prompt should have.
NUM_DRAWN = 8
ERASED_KINDS = ("boat", "cat", "flower", "star")


@dataclass(frozen=True)
class Case:
    """One picture that is drawn in every arm.

    Units: boxes as fractions of the picture; erased is the noun that is to be forgotten, if any; sides_px are width
           and height; brightness 0..1 is the mean that drawn scenes of this prompt have.
    """

    ask: Ask
    boxes: tuple[Box, ...] = ()
    erased: str = ""
    sides_px: tuple[int, int] = TRAINED_PX
    brightness: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What is known of one picture: what the scene parser reads in it, and its mean brightness 0..1."""

    parsed: ParsedScene
    brightness: float = 0.0


@dataclass(frozen=True)
class Trial:
    """One technique on its own metric.

    `against` names what the other arm uses instead of it; `is_lower_better` turns the sign of the effect, so that
    above 0 is always better; `num_steps` 0 means as many as everywhere. `is_quality` makes the distance to drawn scenes
    the metric, as for methods whose papers report FID; the score is then told beside it, and must not fall.
    """

    name: str
    label: str
    task: str
    score: Callable[[Case, Seen], float]
    techniques: tuple[str, ...]
    against: tuple[str, ...] = ()
    sampler: str = "dpmpp_2m"
    is_lower_better: bool = False
    num_steps: int = 0
    is_quality: bool = False

    def choose(self, case: Case, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what a request asks for: these techniques, with what the case says to them."""
        told: dict[str, Any] = {}
        if case.boxes:
            told["boxes"] = [asdict(box) for box in case.boxes]
        if case.erased:
            told["concept"] = case.erased
        return {name: dict(told) for name in names}


def is_right(case: Case, seen: Seen) -> float:
    """Say whether the picture shows all that was asked, as GenEval judges."""
    return float(shows(case.ask, seen.parsed))


def has_all_things(case: Case, seen: Seen) -> float:
    """Say whether every wanted thing is there, in whatever colour."""
    return float(all(find(seen.parsed, wanted) for wanted in case.ask.wanted))


def share_right(case: Case, seen: Seen) -> float:
    """Return the share of the wanted things that are there in their colour."""
    things = [(thing.kind, thing.colour) for thing in seen.parsed.objects]
    return float(np.mean([(wanted.kind, wanted.colour) in things for wanted in case.ask.wanted]))


def has_one_thing(case: Case, seen: Seen) -> float:
    """Say whether the one wanted thing is all that is there."""
    return float([thing.kind for thing in seen.parsed.objects] == [case.ask.wanted[0].kind])


def is_found(case: Case, seen: Seen) -> float:
    """Say whether the wanted kind is there."""
    return float(bool(find(seen.parsed, case.ask.wanted[0])))


def measure_overlaps(case: Case, seen: Seen) -> list[tuple[float, bool]]:
    """Compare each box with the things of its kind.

    Returns: best IoU (0 for none), and whether some thing of that kind and colour fills the box, in the boxes' order.
    """
    results = []
    for box, wanted in zip(case.boxes, case.ask.wanted, strict=True):
        edges = tuple(at * side for at, side in zip((box.x0, box.y0, box.x1, box.y1), 2 * case.sides_px))
        things = [(box_iou(edges, thing.box_px), thing.colour) for thing in find(seen.parsed, wanted)]
        best = max((overlap for overlap, _ in things), default=0.0)
        results.append((best, any(o >= MIN_OVERLAP and c == wanted.colour for o, c in things)))
    return results


def fill_boxes(case: Case, seen: Seen) -> float:
    """Return the share of boxes that hold the right thing in the right colour."""
    return float(np.mean([is_filled for _, is_filled in measure_overlaps(case, seen)]))


def overlap_boxes(case: Case, seen: Seen) -> float:
    """Return the mean IoU of the boxes with the things of their kind."""
    return float(np.mean([overlap for overlap, _ in measure_overlaps(case, seen)]))


def miss_brightness(case: Case, seen: Seen) -> float:
    """Return how far the picture's mean brightness is from that of drawn scenes of its prompt."""
    return abs(seen.brightness - case.brightness)


def measure_brightness(pixels: np.ndarray) -> float:
    """Return the mean brightness 0..1 of a picture (h, w, 3) uint8.

    Source: luma of ITU-R BT.601.
    """
    return float(pixels.mean((0, 1)) @ (0.299, 0.587, 0.114)) / 255


def make_layout(rng: np.random.Generator) -> Case:
    """Make two to four boxes that do not touch, each with a coloured thing; the prompt lists the things.

    Units: sides 0.28 to 0.45 of the picture, as large as the world draws things among others.
    """
    count = int(rng.integers(2, 5))
    boxes: list[tuple[float, float, float, float]] = []
    while len(boxes) < count:
        width, height = rng.uniform(0.28, 0.45, 2)
        x0, y0 = rng.uniform(0.02, 0.98 - width), rng.uniform(0.02, 0.98 - height)
        new = (float(x0), float(y0), float(x0 + width), float(y0 + height))
        if all(box_iou(new, box) == 0.0 for box in boxes):
            boxes.append(new)
        elif rng.random() < 0.02:
            boxes.clear()
    kinds, colours = (rng.permutation(len(names))[:count] for names in (KINDS, COLOURS))
    wanted = tuple(Wanted(KINDS[kind], COLOURS[colour]) for kind, colour in zip(kinds, colours, strict=True))
    phrases = [object_phrase(thing.kind, thing.colour) for thing in wanted]
    prompt = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    placed = tuple(Box(phrase, *(round(side, 3) for side in box)) for phrase, box in zip(phrases, boxes, strict=True))
    return Case(Ask(prompt, wanted), boxes=placed)


def ask_four(n: int, rng: np.random.Generator) -> list[Ask]:
    """Ask for four things in colours of their own: "a red boat, a white moon, a blue cat and a green cup".

    Two or three things are too easy for the shipped model to show what a technique is worth.
    """
    asks = []
    for _ in range(n):
        kinds, colours = ([str(name) for name in rng.permutation(names)[:4]] for names in (KINDS, COLOURS))
        phrases = [object_phrase(kind, colour) for kind, colour in zip(kinds, colours, strict=True)]
        asks.append(Ask(f"{', '.join(phrases[:-1])} and {phrases[-1]}", tuple(map(Wanted, kinds, colours))))
    return asks


def _make_bright(n: int, rng: np.random.Generator) -> list[Case]:
    """Ask for one thing with background, light and style, which together decide how bright the picture is."""
    cases: list[Case] = []
    while len(cases) < n:
        kind, colour, background, light, style = (
            str(rng.choice(names)) for names in (KINDS, COLOURS, BACKGROUNDS, LIGHTS, STYLES)
        )
        if not is_drawable(colour, style):
            continue
        place = BACKGROUND_PHRASES[background] + (" at night" if light == "night" else "")
        ask = Ask(
            f"{object_phrase(kind, colour)} {place}, {style}", (Wanted(kind, colour),), None, None, background, style
        )
        drawn = []
        for scene in map(_sample_single, rng.integers(2**30, size=NUM_DRAWN)):
            thing = replace(scene.objects[0], kind=kind, colour=colour)
            scene = replace(scene, objects=(thing,), background=background, light=light, style=style)
            drawn.append(measure_brightness(render(scene).rgb))
        cases.append(Case(ask, brightness=float(np.mean(drawn))))
    return cases


def _sample_single(offset: int) -> Scene:
    """Draw a held-out scene with one thing."""
    seed = FIRST_HELD_OUT_SEED + int(offset)
    while len((scene := sample_scene(seed, split="all")).objects) != 1:
        seed += 1
    return scene


def make_cases(task: str, n: int) -> list[Case]:
    """Make the pictures of a task, the same ones every time.

    Raises: KeyError for an unknown task.
    """
    rng = np.random.default_rng([SEED, *task.encode()])
    return TASKS[task](n, rng)


def _make_from(ask: Callable[[int, np.random.Generator], list[Ask]], sizes_px: Sequence[Any] = (TRAINED_PX,)) -> Any:
    return lambda n, rng: [Case(one, sides_px=sides) for one, sides in zip(ask(n, rng), cycle(sizes_px))]


def _make_erasures(n: int, rng: np.random.Generator, *, is_target: bool) -> list[Case]:
    """Ask for single things while one kind is forgotten: that very kind, or any other."""
    cases = []
    for index in range(n):
        erased = ERASED_KINDS[index % len(ERASED_KINDS)]
        others = [kind for kind in KINDS if kind != erased]
        kind = erased if is_target else others[int(rng.integers(len(others)))]
        colour = COLOURS[int(rng.integers(len(COLOURS)))]
        cases.append(Case(Ask(object_phrase(kind, colour), (Wanted(kind, colour),)), erased=erased))
    return cases


TASKS: dict[str, Callable[[int, np.random.Generator], list[Case]]] = {
    "attribution": _make_from(ask_attribution),
    "four": _make_from(ask_four),
    "brightness": _make_bright,
    "position": _make_from(ask_position),
    "layout": lambda n, rng: [make_layout(rng) for _ in range(n)],
    "large": _make_from(ask_one_object_all, LARGE_PX),
    "erased": lambda n, rng: _make_erasures(n, rng, is_target=True),
    "kept": lambda n, rng: _make_erasures(n, rng, is_target=False),
}

TRIALS: Sequence[Trial] = (
    # Its paper reports FID and agreement. Plain guidance is the matched arm: S-CFG keeps the mean.
    Trial("s_cfg", "distance to drawn scenes, same mean guidance", "four", share_right, ("s_cfg",), is_quality=True),
    Trial("attend_and_excite", "all four things are there", "four", has_all_things, ("attend_and_excite",)),
    Trial("initno", "all four things are there", "four", has_all_things, ("initno",)),
    Trial(
        "sing_diffusion",
        "error of the mean brightness, sampler ddim_short",
        "brightness",
        miss_brightness,
        ("sing_diffusion",),
        sampler="ddim_short",
        is_lower_better=True,
    ),
    Trial("regional_attention", "boxes filled", "layout", fill_boxes, ("regional_attention",)),
    Trial("noise_collage", "boxes filled", "layout", fill_boxes, ("noise_collage",)),
    Trial("draft_collage", "boxes filled", "layout", fill_boxes, ("draft_collage",), sampler="ddim"),
    # It draws every thing on its own and some twice: 20 steps would cost 13 plain pictures.
    Trial(
        "mulan",
        "share of four things in their colours, 10 steps",
        "four",
        share_right,
        ("mulan",),
        sampler="ddim",
        num_steps=10,
    ),
    Trial("multi_diffusion", "all as asked, large pictures", "large", is_right, ("multi_diffusion",), sampler="ddim"),
    Trial(
        "acc_diffusion",
        "one thing and no other, large pictures, against MultiDiffusion",
        "large",
        has_one_thing,
        ("acc_diffusion",),
        against=("multi_diffusion",),
        sampler="ddim",
    ),
    Trial("rece", "the erased thing is found", "erased", is_found, ("rece",), is_lower_better=True),
)
