"""Many pictures that all shrink to the same small one: each clean estimate is moved to the nearest that does."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.backprojection import make_reduction, project
from pipelines.images import decode_pixels, encode, to_images
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.schedules import add_noise
from pipelines.techniques.base import Hooks, Turn
from pipelines.types import Progress, RunInfo, StepContext


@dataclass(frozen=True)
class PictureAgreement:
    """Hold what is drawn to a small picture, and leave everything else to the words.

    Shapes:  small (3, h, w) in -1..1, no side larger than the run's; None changes nothing. guess (3, H, W) in -1..1 of
             the run's size, from which a run starts that leaves its first steps out; None starts from noise alone.
    Units:   strength 1 moves an estimate all the way, 0 changes nothing, bit for bit; every n-th step is corrected.
    Points:  init, edit_x0.
    Source:  Gandikota and Chandramouli 2024, arXiv 2403.01124, with the projection of Wang et al. 2022, DDNM,
             arXiv 2212.00490.
    Differs: in the latents of any autoencoder instead of a pixel cascade; what is added is the change that the
             projection makes after encoding, so that the autoencoder's own loss is not paid at every step. The guess
             is noised as in SDEdit, Meng et al. 2021, arXiv 2108.01073: from noise alone the words place a thing
             before the small picture can, and its contours stay where the projection has taken its colours away.
    """

    name: ClassVar[str] = "picture_agreement"
    title: ClassVar[str] = "Agreement with a small picture"
    source: ClassVar[str] = "Gandikota and Chandramouli 2024, Text-guided Explorable Image Super-resolution"
    points: ClassVar[tuple[str, ...]] = ("init", "edit_x0")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    small: torch.Tensor | None = None
    guess: torch.Tensor | None = None
    strength: float = ranged(1.0, 0.0, 1.0, 0.05, label="Hold", help="1 agrees as far as the latents allow.")
    every: int = ranged(2, 1, 10, 1, label="Every", help="How many steps pass between two corrections.")

    @classmethod
    def neutral(cls) -> PictureAgreement:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Make the hooks of one run."""
        validate(self)
        yield _AgreeingHooks(self)


class _AgreeingHooks(Hooks):
    """Start from a guess, and correct the clean estimates of every n-th step, and of the last."""

    def __init__(self, technique: PictureAgreement) -> None:
        self.technique = technique

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Add the run's noise to the guess; a run from its first step on starts from noise alone."""
        guess = self.technique.guess
        if guess is None or ctx.step == 0:
            return latents
        yield Progress(0, ctx.num_steps, "reading the picture", to_images(guess[None])[0])
        with turn():
            x0 = encode(ctx.model, guess[None])
        return add_noise(x0.expand_as(latents), latents, ctx.alpha_bar)

    def edit_x0(self, x0: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Move the clean estimates towards agreement."""
        technique, is_last = self.technique, ctx.step == ctx.num_steps - 1
        if technique.small is None or technique.strength == 0.0 or (ctx.step % technique.every and not is_last):
            return x0
        return x0 + technique.strength * torch.cat([self._find_change(row, ctx.model) for row in x0.split(1)])

    def _find_change(self, x0: torch.Tensor, model: ModelBundle) -> torch.Tensor:
        """Find what one estimate (1, c, h, w) lacks to agree."""
        assert self.technique.small is not None
        pixels = decode_pixels(model, x0).float()
        reduction = make_reduction(
            (pixels.shape[2], pixels.shape[3]), (self.technique.small.shape[1], self.technique.small.shape[2])
        )
        agreed = project(pixels, self.technique.small.to(pixels), reduction).clamp(-1, 1)
        return encode(model, agreed) - encode(model, pixels)
