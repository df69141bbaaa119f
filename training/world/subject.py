"""Subjects of personalization: one thing with an identity of its own, and the scenes that it is drawn into.

A subject has a marking in a second colour, which no scene of a training ever had: whoever draws it has learned it from
its pictures. Subjects for development come from training seeds, those that are measured from held-out ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training.world.render import COLOUR_RGB, render
from training.world.scene import (
    CANVAS_PX,
    COLOURS,
    FIRST_HELD_OUT_SEED,
    KINDS,
    MARKINGS,
    Identity,
    Look,
    Scene,
    SceneObject,
    is_held_out_pair,
    sample_look,
)

# Two colours are told apart from this distance on in RGB (0..441), also in a style that mixes them with others.
MIN_CONTRAST = 150.0
# A marking shows if it covers at least this share of the thing, and does not hide what it is if at most that.
MARKED_SHARE = (0.07, 0.5)


@dataclass(frozen=True)
class Subject:
    """One thing that keeps its identity in every picture."""

    kind: str
    colour: str
    identity: Identity

    @property
    def phrase(self) -> str:
        """Say what anybody would call it: its colour and its kind."""
        return f"{self.colour} {self.kind}"


def sample_subject(seed: int, *, held_out: bool) -> Subject:
    """Draw a subject from a seed.

    Returns: a thing whose colour the training allows, with a marking that can be seen.
    Raises:  ValueError for a seed of the other side of the hold-out rule.
    """
    if (seed >= FIRST_HELD_OUT_SEED) != held_out:
        raise ValueError(f"seed {seed} is {'not ' if held_out else ''}held out; held-out ones start at 2**31")
    rng = np.random.default_rng([seed, 23])
    while True:
        kind, colour, second = str(rng.choice(KINDS)), str(rng.choice(COLOURS)), str(rng.choice(COLOURS))
        identity = Identity(
            float(rng.uniform(-1, 1)), float(rng.random()), str(rng.choice(MARKINGS[1:])), float(rng.random()), second
        )
        subject = Subject(kind, colour, identity)
        if not is_held_out_pair(kind, colour) and differ(colour, second) and shows(subject):
            return subject


def differ(colour: str, second: str) -> bool:
    """Say whether two colours can be told apart in every style."""
    a, b = (np.array(COLOUR_RGB[name]) for name in (colour, second))
    # Neon has no black, and white paper swallows white marks.
    return "black" not in (colour, second) and float(np.linalg.norm(a - b)) >= MIN_CONTRAST


def shows(subject: Subject) -> bool:
    """Say whether the marking covers a fair share of the thing."""
    marked, plain, empty = (
        _draw_plain(*one)
        for one in (
            ([subject.identity], subject),
            ([replace(subject.identity, marking="none")], subject),
            ([], subject),
        )
    )
    low, high = MARKED_SHARE
    thing = (plain != empty).any(-1).sum()
    return bool(low <= (marked != plain).any(-1).sum() / max(1, thing) <= high)


def _draw_plain(identities: list[Identity], subject: Subject) -> np.ndarray:
    """Draw a subject with other identities on an empty background."""
    middle = CANVAS_PX / 2
    things = tuple(SceneObject(subject.kind, subject.colour, middle, middle, 160, identity=who) for who in identities)
    return render(Scene(things, "plain", "day", "flat", Look(palette_shift=0.0))).rgb


def place_subject(subject: Subject, rng: np.random.Generator, *, style: str, background: str, light: str) -> Scene:
    """Draw a scene record with the subject alone, anywhere and in any size from medium to large."""
    size_px = float(rng.uniform(110, 190))
    margin = size_px / 2 + 8
    x_px, y_px = (float(side) for side in rng.uniform(margin, CANVAS_PX - margin, 2))
    tilt_deg = float(np.clip(rng.normal(0, 5), -12, 12))
    thing = SceneObject(subject.kind, subject.colour, x_px, y_px, size_px, tilt_deg=tilt_deg, identity=subject.identity)
    return Scene((thing,), background, light, style, sample_look(rng), int(rng.integers(2**31)))
