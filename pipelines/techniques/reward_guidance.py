"""Reward guidance: a tuned model and the one it came from draw together, and a slider says who is heard.

The subject's adapter works in one row of each pass only: the other two are the model as it was. So the pull towards the
prompt and the pull towards the subject stay apart, and their shares can be changed without learning again. The subject
pulls only where the plain model draws the thing that is named, so that nothing else takes on its marks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from pipelines.attention import KernelProcessor, list_layers
from pipelines.cfg_batch import run_three
from pipelines.lora import Lora, side_paths
from pipelines.model import ModelBundle, TextCond
from pipelines.params import ranged, validate
from pipelines.techniques.base import Halves, Hooks, UNetCall
from pipelines.types import RunInfo, StepContext
from pipelines.word_places import Watcher, WordPlaces

# Between these shares of its maximum, a name's attention goes from "not there" to "there"; parts of a thing that stick
# out draw little, so that the place also reaches further, by a share of the picture's longer side.
THERE = (0.25, 0.5)
MARGIN_SHARE = 1 / 32
# The subject is asked so many times in a run; its pull changes little from one fine step to the next.
MAX_PULLS = 10


@dataclass(frozen=True)
class RewardGuidance:
    """Draw a learned subject, with a slider between its identity and the prompt.

    Units:   likeness is the pull towards the subject as a share of the guidance: 0 is the model without the adapter,
             bit for bit, 1 the adapted model guided from the plain one's empty prompt, more goes beyond. words are
             the positions of the subject's name in the plain model's prompt; without any, it pulls everywhere; rivals
             those of other things, once or for each picture.
    Points:  predict (a third row per picture, with the adapter), patch (watches cross-attention).
    Source:  Lee et al. 2024, Direct Consistency Optimization, arXiv 2402.12004, reward guidance.
    Differs: the subject is asked at MAX_PULLS steps at most, evenly spread, and pulls as before in those between; their
             w_rg is our likeness times the guidance scale, so that a slider means the same at any guidance; the pull
             is weighed by the place of the subject's name, which they do not know.
    Symbols: prediction = e(empty) + w (e(class) - e(empty)) + w_rg m (e'(subject) - e(class)), e' with the adapter,
             m the place, 0..1.
    """

    name: ClassVar[str] = "reward_guidance"
    title: ClassVar[str] = "Reward guidance"
    source: ClassVar[str] = "Lee et al. 2024, Direct Consistency Optimization for Compositional Text-to-Image"
    points: ClassVar[tuple[str, ...]] = ("predict", "patch")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = True

    lora: Lora | None = None
    text: TextCond | None = None
    words: tuple[int, ...] = ()
    rivals: tuple[tuple[int, ...], ...] = ()
    likeness: float = ranged(
        0.6, 0.0, 2.0, 0.05, label="Identity", help="0 is the prompt alone, 2 the subject above all."
    )
    from_frac: float = ranged(0.1, 0.0, 1.0, 0.05, label="From", help="Share of the steps before the subject is heard.")

    @classmethod
    def neutral(cls) -> RewardGuidance:
        """Make the record that changes nothing."""
        return cls(likeness=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Say what cannot be heard."""
        validate(self)
        if self.likeness and self.lora is None:
            run.note(f"{self.title} has no subject, so nothing changes; learn or load one.")
        yield _RewardHooks(self, model, run)


class _RewardHooks(Hooks):
    """Ask both models at every step."""

    def __init__(self, technique: RewardGuidance, model: ModelBundle, run: RunInfo) -> None:
        self.technique, self.model = technique, model
        self.stride = max(1, round(run.num_steps / MAX_PULLS))
        # Where the subject pulled when it was asked last.
        self.asked_at = 0
        self.pull: torch.Tensor | None = None
        self.places = WordPlaces(technique.words, (run.height_cells, run.width_cells), technique.rivals)

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Watch where the subject's name draws attention."""
        is_heard = self.technique.likeness and self.technique.lora is not None
        return self.places.watch(model) if is_heard and self.technique.words else nullcontext()

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Return the halves whose guidance is the reward guidance."""
        technique, places = self.technique, self.places
        if not technique.likeness or technique.lora is None or ctx.fraction < technique.from_frac:
            places.is_watching = False
            return call(latents, ctx.text)
        if self.pull is not None and (ctx.step - self.asked_at) < self.stride:
            places.is_watching = False
            uncond, cond = call(latents, ctx.text)
        else:
            self.asked_at = ctx.step
            uncond, cond, self.pull = self._ask(latents, ctx, call)
        # Guidance multiplies by w: (w_rg / w) is the likeness.
        return uncond, cond + technique.likeness * self.pull

    def _ask(
        self, latents: torch.Tensor, ctx: StepContext, call: UNetCall
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run both models; returns the halves of the plain one, and where the subject pulls."""
        technique, places = self.technique, self.places
        assert technique.lora is not None
        text = technique.text or ctx.text
        if _is_plain(self.model):
            places.num_parts, places.is_watching = 3, True
            uncond, cond, subject = self._ask_at_once(latents, ctx, text)
        else:
            # Who changed the attention expects both halves and no third row, and what it saw last is the plain model.
            places.is_watching = False
            with side_paths(self.model.unet, technique.lora):
                _, subject = call(latents, text)
            places.num_parts, places.is_watching = 2, True
            uncond, cond = call(latents, ctx.text)
        place = places.take()
        pull = subject - cond
        return uncond, cond, pull if place is None else pull * widen(place)

    def _ask_at_once(
        self, latents: torch.Tensor, ctx: StepContext, text: TextCond
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the UNet once per group of pictures, with the adapter in the last third of the rows."""
        lora, parts = self.technique.lora, []
        assert lora is not None
        size = self.model.plan.images_per_call or len(latents)
        for first in range(0, len(latents), size):
            rows = slice(first, first + size)
            count = len(latents[rows])
            with side_paths(self.model.unet, lora, slice(2 * count, None)):
                parts.append(run_three(self.model, latents[rows], ctx.timestep, (ctx.text, text), rows))
        uncond, cond, subject = (torch.cat(column) for column in zip(*parts))
        return uncond, cond, subject


def widen(place: torch.Tensor) -> torch.Tensor:
    """Make a weight of a name's attention: 1 where its thing is and a little around it, 0 elsewhere.

    Shapes: place (b, 1, h, w), 0..1; returns the same.
    """
    low, high = THERE
    inside = ((place - low) / (high - low)).clamp(0, 1)
    margin = round(MARGIN_SHARE * max(place.shape[2:]))
    return F.max_pool2d(inside, 2 * margin + 1, 1, margin)


def _is_plain(model: ModelBundle) -> bool:
    """Say whether nobody but an onlooker has touched the attention at this moment."""
    processors = (module.processor for _, module in list_layers(model.unet))
    return all(
        type(processor.previous if isinstance(processor, Watcher) else processor) is KernelProcessor
        for processor in processors
    )
