"""What the identity reader learns from: families of things that look alike but are not the same.

A family shares kind and colour; its siblings differ in marking, second colour and proportions. Every sibling is drawn
several times: beside the others in one scene, and alone in scenes of all styles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from training.identity_reader import CROP_PX, SECOND_COLOURS, cut_out
from training.world.render import render
from training.world.scene import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MARKINGS,
    STYLES,
    Identity,
    Scene,
    SceneObject,
    place_apart,
    sample_look,
)
from training.world.subject import Subject, differ, place_subject, shows

NUM_SIBLINGS = 4
NUM_TOGETHER, NUM_ALONE = 4, 2
NUM_VIEWS = NUM_TOGETHER + NUM_ALONE
_WORN_FRAC = 0.4


@dataclass(frozen=True)
class Family:
    """Siblings and their pictures.

    Shapes: crops (NUM_SIBLINGS, NUM_VIEWS, 3, CROP_PX, CROP_PX) uint8; names (NUM_SIBLINGS, 4) int64: indices of kind,
            colour, marking and second colour.
    """

    crops: torch.Tensor
    names: torch.Tensor


def sample_family(rng: np.random.Generator) -> list[Subject]:
    """Draw siblings: two of their own, one like the first but for its marking or second colour, one without marks.

    Differs: the last has no second colour, as what a model draws that knows the subject's words alone.
    """
    while True:
        kind, colour = str(rng.choice(KINDS)), str(rng.choice(COLOURS))
        first, second = (_sample_marked(rng, kind, colour) for _ in range(2))
        other = _sample_marked(rng, kind, colour)
        if first is None or second is None or other is None:
            continue
        part = str(rng.choice(["marking", "mark_colour"]))
        third = replace(first, identity=replace(first.identity, **{part: getattr(other.identity, part)}))
        marking = "none" if rng.random() < 0.5 else str(rng.choice(MARKINGS[1:]))
        plain = Identity(float(rng.uniform(-1, 1)), float(rng.random()), marking, float(rng.random()))
        if len({first, second, third}) == NUM_SIBLINGS - 1:
            return [first, second, third, Subject(kind, colour, plain)]


def _sample_marked(rng: np.random.Generator, kind: str, colour: str) -> Subject | None:
    """Draw one of a family with a marking that shows; None if that does not happen soon."""
    for _ in range(20):
        marking, second = str(rng.choice(MARKINGS[1:])), str(rng.choice(COLOURS))
        who = Identity(float(rng.uniform(-1, 1)), float(rng.random()), marking, float(rng.random()), second)
        subject = Subject(kind, colour, who)
        if differ(colour, second) and shows(subject):
            return subject
    return None


def draw_family(seed: int) -> Family:
    """Draw a family from a seed."""
    rng = np.random.default_rng([seed, 29])
    siblings = sample_family(rng)
    views: list[list[torch.Tensor]] = [[] for _ in siblings]
    for _ in range(NUM_TOGETHER):
        scene = _place_together(siblings, rng)
        picture = render(scene)
        for crops, box in zip(views, picture.boxes_px):
            crops.append(_cut(picture.rgb, box, rng))
    for sibling, crops in zip(siblings, views):
        for _ in range(NUM_ALONE):
            picture = render(place_subject(sibling, rng, style=str(rng.choice(STYLES)), **_sample_place(rng)))
            crops.append(_cut(picture.rgb, picture.boxes_px[0], rng))
    names = [
        (KINDS.index(s.kind), COLOURS.index(s.colour), MARKINGS.index(s.identity.marking),
         SECOND_COLOURS.index(s.identity.mark_colour)) for s in siblings
    ]  # fmt: skip
    return Family(torch.stack([torch.stack(crops) for crops in views]), torch.tensor(names))


def _sample_place(rng: np.random.Generator) -> dict[str, str]:
    return {"background": str(rng.choice(BACKGROUNDS)), "light": "night" if rng.random() < 0.3 else "day"}


def _place_together(siblings: list[Subject], rng: np.random.Generator) -> Scene:
    """Put all siblings into one scene, where only their identity tells them apart."""
    size_px = float(rng.uniform(84, 100))
    things = [
        SceneObject(s.kind, s.colour, x, y, size_px, tilt_deg=float(rng.uniform(-10, 10)), identity=s.identity)
        for s, (x, y) in zip(siblings, place_apart(rng, len(siblings), size_px))
    ]
    place = _sample_place(rng)
    seed = int(rng.integers(2**31))
    return Scene(tuple(things), place["background"], place["light"], str(rng.choice(STYLES)), sample_look(rng), seed)


def _cut(rgb: np.ndarray, box_px: tuple[int, int, int, int], rng: np.random.Generator) -> torch.Tensor:
    """Cut a thing out a little off its box, as a parser would, sometimes soft or noisy. Shapes: returns (3, h, w)."""
    x0, y0, x1, y1 = box_px
    dx, dy = rng.normal(0, 0.04, 2) * (x1 - x0, y1 - y0)
    picture = Image.fromarray(rgb)
    if rng.random() < _WORN_FRAC:
        side = int(rgb.shape[0] * rng.uniform(0.4, 0.8))
        picture = picture.resize((side, side), Image.Resampling.BILINEAR).resize(picture.size, Image.Resampling.BICUBIC)
    crop = np.asarray(cut_out(picture, (x0 + dx, y0 + dy, x1 + dx, y1 + dy), float(rng.uniform(1.02, 1.28))), float)
    if rng.random() < _WORN_FRAC:
        crop = crop + rng.normal(0, rng.uniform(1, 10), crop.shape)
    crop = crop + rng.normal(0, 4, 3)
    return torch.from_numpy(np.clip(np.rint(crop), 0, 255).astype(np.uint8)).permute(2, 0, 1)


class FamilyBank:
    """The families of consecutive seeds, all drawn at the first use and kept."""

    def __init__(self, first_seed: int, num_families: int) -> None:
        self._seeds = range(first_seed, first_seed + num_families)
        self._crops = torch.empty(0)
        self._names = torch.empty(0)

    def _draw(self) -> None:
        families = [draw_family(seed) for seed in self._seeds]
        self._crops = torch.stack([family.crops for family in families])
        self._names = torch.stack([family.names for family in families])

    def pick(self, step: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Take two views of every sibling of some families.

        Shapes: crops (2, count * NUM_SIBLINGS, 3, CROP_PX, CROP_PX) uint8, names (count * NUM_SIBLINGS, 4) int64.
        """
        if not len(self._crops):
            self._draw()
        rng = np.random.default_rng([step, self._seeds.start])
        rows = torch.from_numpy(rng.choice(len(self._seeds), min(count, len(self._seeds)), replace=False))
        views = torch.from_numpy(rng.choice(NUM_VIEWS, 2, replace=False))
        crops = self._crops[rows][:, :, views].permute(2, 0, 1, 3, 4, 5)
        return crops.reshape(2, -1, 3, CROP_PX, CROP_PX), self._names[rows].flatten(0, 1)
