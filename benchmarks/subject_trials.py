"""Subjects, the prompts they are asked in, and how their pictures are judged; nothing here learns or draws by a model.

Identity is read by the identity reader, which knows clean renders only; what else a prompt asks for by the scene
parser. Both are given as shares: of what clean renders of the same prompts have, and of what the plain model reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from pipelines.scene_parser import ParsedScene
from training.identity_reader import IdentityReader, cut_out
from training.world.caption import object_phrase
from training.world.render import Rendered, render
from training.world.scene import BACKGROUNDS, STYLES, Scene, SceneObject, is_held_out_style
from training.world.subject import Subject, place_subject, sample_subject

NUM_REFERENCES = 4
WORD = "my"
_PLACES = {
    "meadow": "in a meadow", "beach": "on the beach", "sea": "on the sea", "city": "in the city",
    "desert": "in the desert", "snow": "in the snow", "mountains": "in the mountains", "sky": "in the sky",
    "plain": "on a plain background",
}  # fmt: skip
_NIGHT_SHARE, _OTHER_SHARE = 0.25, 0.35


@dataclass(frozen=True)
class Ask:
    """What one prompt asks for beside the subject; other is (kind, colour) of a second thing or None."""

    background: str
    style: str
    light: str
    other: tuple[str, str] | None

    def say(self, name: str) -> str:
        """Write the prompt with a name for the subject."""
        other = f" and {object_phrase(*self.other)}" if self.other else ""
        night = " at night" if self.light == "night" else ""
        return f"{name}{other} {_PLACES[self.background]}{night}, {self.style}"


@dataclass(frozen=True, eq=False)
class Trial:
    """One subject: its pictures, the cut-outs of them, what is asked for, and the clean renders of the same asks."""

    subject: Subject
    references: tuple[Image.Image, ...]
    shown: tuple[Image.Image, ...]
    asks: tuple[Ask, ...]
    clean: tuple[Rendered, ...]
    unmarked: tuple[Rendered, ...]

    @property
    def word(self) -> str:
        """Return what the subject is called in prompts."""
        return f"{WORD} {self.subject.kind}"


def make_trial(seed: int, num_prompts: int, *, held_out: bool) -> Trial:
    """Draw one subject's trial from a seed: flat pictures in four places, and prompts in all styles and places."""
    subject = sample_subject(seed, held_out=held_out)
    rng = np.random.default_rng([seed, 31])
    places = [str(place) for place in rng.permutation(BACKGROUNDS)[:NUM_REFERENCES]]
    drawn = [render(place_subject(subject, rng, style="flat", background=place, light="day")) for place in places]
    pictures = tuple(Image.fromarray(one.rgb) for one in drawn)
    asks = tuple(_sample_ask(rng, subject, index) for index in range(num_prompts))
    plain = replace(subject, identity=replace(subject.identity, marking="none", mark_colour=""))
    return Trial(
        subject,
        pictures,
        tuple(cut_out(picture, one.boxes_px[0]) for picture, one in zip(pictures, drawn)),
        asks,
        tuple(_draw_ask(ask, subject, rng) for ask in asks),
        tuple(_draw_ask(ask, plain, rng) for ask in asks),
    )


def _sample_ask(rng: np.random.Generator, subject: Subject, index: int) -> Ask:
    """Draw what a prompt asks for; styles come in turn, so that every subject meets all that training allows."""
    allowed = [style for style in STYLES if not is_held_out_style(subject.kind, style)]
    style = allowed[index % len(allowed)]
    light = "night" if rng.random() < _NIGHT_SHARE else "day"
    other = None
    if rng.random() < _OTHER_SHARE:
        kinds = [kind for kind in ("balloon", "car", "star", "cup", "tree") if kind != subject.kind]
        other = (str(rng.choice(kinds)), str(rng.choice(["red", "blue", "yellow"])))
    return Ask(str(rng.choice(BACKGROUNDS)), style, light, other)


def _draw_ask(ask: Ask, subject: Subject, rng: np.random.Generator) -> Rendered:
    """Draw what a perfect model would, the subject first."""
    scene = place_subject(subject, rng, style=ask.style, background=ask.background, light=ask.light)
    if ask.other is None:
        return render(scene)
    left, right = (float(side) for side in rng.permutation([70.0, 186.0]))
    own = replace(scene.objects[0], x_px=left, y_px=128.0, size_px=104.0)
    other = SceneObject(ask.other[0], ask.other[1], right, 128.0, 96.0)
    two = Scene((own, other), scene.background, scene.light, scene.style, scene.look, scene.seed)
    return render(two)


def measure_clean(reader: IdentityReader, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    """Return how alike clean renders are to the subject: of itself, and of the same thing without its marks."""
    rows = []
    for drawn in (trial.clean, trial.unmarked):
        crops = [cut_out(Image.fromarray(one.rgb), one.boxes_px[0]) for one in drawn]
        rows.append(reader.compare(crops, trial.shown))
    return rows[0], rows[1]


def measure_identity(
    reader: IdentityReader, trial: Trial, images: Sequence[Image.Image], scenes: Sequence[ParsedScene]
) -> np.ndarray:
    """Return how alike each picture's subject is to the given one; 0 where there is no thing at all.

    Differs: a thing that the parser takes for something else is compared all the same, so that a picture is not
             punished twice.
    """
    found = []
    for image, scene in zip(images, scenes):
        own = [thing for thing in scene.objects if thing.kind == trial.subject.kind] or list(scene.objects)
        crops = [cut_out(image, thing.box_px) for thing in own[:1]]
        found.append(max(0.0, float(reader.compare(crops, trial.shown)[0])) if crops else 0.0)
    return np.array(found)


def measure_fidelity(trial: Trial, asks: Sequence[Ask], scenes: Sequence[ParsedScene]) -> np.ndarray:
    """Return the share of what each prompt says that its picture shows: kind, place, style, night, second thing."""
    shares = []
    for ask, scene in zip(asks, scenes):
        checks = [
            any(thing.kind == trial.subject.kind for thing in scene.objects),
            scene.background == ask.background,
            scene.style == ask.style,
        ]
        if ask.light == "night":
            checks.append(scene.light == "night")
        if ask.other:
            checks.append(any((thing.kind, thing.colour) == ask.other for thing in scene.objects))
        shares.append(float(np.mean(checks)))
    return np.array(shares)


def measure_hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Return the area between the origin and a curve's best points; both coordinates are the better the higher.

    Source: Zitzler and Thiele 1999, the size of the dominated space, with (0, 0) as the reference point.
    """
    area, height = 0.0, 0.0
    for x, y in sorted(points, reverse=True):
        if y > height:
            area += max(0.0, x) * (y - height)
            height = y
    return area
