"""Frozen records of personalization: what is learned, what is drawn with it, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipelines.adapters import Adapter
from pipelines.backends import DEFAULT_BACKEND
from pipelines.params import checked, choice, flag, ranged, text
from pipelines.technique_catalogue import check_subject
from pipelines.types import SAMPLERS, Measure, Progress

OBJECTIVES = ("dco", "dreambooth")
WAYS_OF_DRAWING = ("auto", "reward_guidance", "subject_lora", "instant", "plain")
DEFAULT_WORD = "my thing"


@dataclass(frozen=True)
class LearnRequest:
    """Say what to learn: pictures of one thing, a word for it, and how.

    Units: captions are one per picture, each naming the subject by `word`; empty lets the machine propose them; phrase
           is the subject's common name, "" lets the machine find it. beta counts in units of the model's own error.
    """

    pictures: tuple[Image.Image, ...] = ()
    word: str = text(DEFAULT_WORD, 200, label="Word", help='What you call it in prompts, for example "my robot".')
    phrase: str = text("", 200, label="Common name", help='What anybody would call it, for example "pink robot".')
    captions: tuple[str, ...] = ()
    objective: str = choice(
        "dco", OBJECTIVES, label="Learn by", help="DCO keeps what the model knows; DreamBooth is the baseline."
    )
    sample_prompt: str = text("", 10_000, label="Sample prompt", help="Drawn now and then while it learns.")
    num_steps: int = ranged(110, 1, 2000, 1, label="Learning steps", help="More steps are slower and more alike.")
    rank: int = ranged(8, 1, 64, 1, label="Rank", help="How much the adapter can hold; its file grows with it.")
    learning_rate: float = ranged(4e-3, 1e-5, 1e-2, 1e-5, label="Learning rate", help="How big each step is.")
    beta: float = ranged(
        3.0, 0.1, 1000.0, 0.1, label="Beta", help="DCO: the higher, the sooner it is satisfied and stops."
    )
    prior_weight: float = ranged(
        0.2, 0.0, 10.0, 0.1, label="Prior preservation", help="DreamBooth: how much the class must stay as it was."
    )
    seed: int = ranged(0, 0, 2**32 - 1, 1, label="Seed", help="The same seed and settings learn the same.")
    backend: str = text(DEFAULT_BACKEND, 100, label="Backend", help="Which model learns.")


@dataclass(frozen=True)
class LearnProgress(Progress):
    """Report one step of learning.

    Units: losses are those of all steps so far; samples are (step, picture) so far; adapter is what was learned by
           then, which a stop keeps; None before the first step, and in the steps between two copies the last one.
    """

    losses: tuple[float, ...] = ()
    samples: tuple[tuple[int, Image.Image], ...] = ()
    adapter: Adapter | None = None


@dataclass(frozen=True)
class LearnResult:
    """Hold what was learned, and from what.

    Units: pictures and captions as the model saw them; phrase as it was used.
    """

    adapter: Adapter
    losses: tuple[float, ...]
    samples: tuple[tuple[int, Image.Image], ...]
    pictures: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    phrase: str
    seconds: float
    notes: tuple[str, ...]
    request: LearnRequest


@dataclass(frozen=True)
class SubjectRequest:
    """Say what to draw a subject in; it is known from adapters, or from one picture.

    Units: every adapter is an arm of its own, with the same seeds; word and phrase as in `LearnRequest`, used for the
           picture, and for adapters that do not say their own. draw_by "instant" needs a picture, "plain" draws the
           common name with the model as it is, whatever else is given.
    """

    prompt: str = text(None, 10_000, label="Prompt", help="Where it is and how it is drawn; call it by its word.")
    adapters: tuple[Adapter, ...] = ()
    picture: Image.Image | None = None
    word: str = text(DEFAULT_WORD, 200, label="Word", help='What you call it in prompts, for example "my robot".')
    phrase: str = text("", 200, label="Common name", help='What anybody would call it, for example "pink robot".')
    draw_by: str = choice(
        "auto",
        WAYS_OF_DRAWING,
        label="Draw by",
        help="auto: reward guidance for what DCO learned, else plain LoRA; instant: one picture; plain: no subject.",
    )
    techniques: dict[str, dict[str, Any]] = checked(
        dict, check_subject, label="Options", help="{technique: {option: value}}; what is left out keeps its default."
    )
    negative_prompt: str = text("", 10_000, label="Negative prompt", help="What the picture should not show.")
    seed: int = ranged(0, 0, 2**32 - 1, 1, label="Seed", help="The same seed and settings give the same picture.")
    num_steps: int = ranged(20, 1, 100, 1, label="Steps", help="More steps are slower and a little finer.")
    guidance_scale: float = ranged(5.5, 0.1, 20.0, 0.1, label="Guidance", help="How hard the prompt pulls.")
    sampler: str = choice("dpmpp_2m", SAMPLERS, label="Sampler", help="The rule that walks from noise to picture.")
    num_images: int = ranged(1, 1, 8, 1, label="Pictures", help="How many pictures, each with the next seed.")
    compare: bool = flag(False, label="Compare", help="Also draw with the plain model, same seeds.")
    backend: str = text(DEFAULT_BACKEND, 100, label="Backend", help="Which model draws.")


@dataclass(frozen=True)
class SubjectArm:
    """Hold the pictures of one way of drawing; name is a technique's, "" for the plain model."""

    name: str
    title: str
    images: tuple[Image.Image, ...]
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class SubjectResult:
    """Hold pictures of a subject: the plain model's first when comparing, then one arm per adapter or the picture's."""

    arms: tuple[SubjectArm, ...]
    seed_used: int
    seconds: float
    notes: tuple[str, ...]
    request: SubjectRequest
    sketches: tuple[tuple[str, Image.Image], ...] = ()

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """Return the pictures that were asked for."""
        return self.arms[-1].images
