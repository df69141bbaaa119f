"""Reward guidance: a tuned model and the one it came from draw together, and a slider says who is heard.

The subject's adapter works in one row of each pass only: the other two are the model as it was. So the pull towards the
prompt and the pull towards the subject stay apart, and their shares can be changed without learning again. The subject
pulls only where the plain model draws the thing that is named, so that nothing else takes on its marks, and no further
than it would draw itself, so that colours do not burn. A picture of the subject, where there is one, is put into the
clean estimate of a few early steps: a minute of learning teaches its colours better than where each mark stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from pipelines.attention import KernelProcessor, list_layers
from pipelines.cfg_batch import guide, run_three
from pipelines.lora import Lora, side_paths
from pipelines.model import ModelBundle, TextCond
from pipelines.params import ranged, validate
from pipelines.subject_paste import paste
from pipelines.subject_source import SubjectSource
from pipelines.techniques.base import Halves, Hooks, UNetCall
from pipelines.types import RunInfo, StepContext
from pipelines.word_places import Watcher, WordPlaces

# Between these shares of its maximum, a name's attention goes from "not there" to "there"; parts of a thing that stick
# out draw little, so that the place also reaches further, by a share of the picture's longer side.
THERE = (0.25, 0.5)
MARGIN_SHARE = 1 / 32
# The subject is asked so many times in a run; its pull changes little from one fine step to the next.
MAX_PULLS = 10
# What the subject would draw itself is its own prediction at this guidance.
OWN_GUIDANCE = 2.0
# Earlier than at this share of the steps nobody knows where the thing will be.
HOLD_FROM = 0.25


@dataclass(frozen=True)
class RewardGuidance:
    """Draw a learned subject, with a slider between its identity and the prompt.

    Units:   likeness is the pull towards the subject as a share of the guidance: 0 is the model without the adapter,
             bit for bit, 1 the adapted model guided from the plain one's empty prompt, more goes beyond. words are
             the positions of the subject's name in the plain model's prompt; without any, it pulls everywhere; rivals
             those of other things, once or for each picture. references is a picture of the subject, cut out, or
             nothing; hold says until which share of the steps it is put in, for a likeness of 1: less likeness lets go
             earlier.
    Points:  predict (a third row per picture, with the adapter), edit_x0 (puts the subject in), patch (watches
             cross-attention).
    Source:  Lee et al. 2024, Direct Consistency Optimization, arXiv 2402.12004, reward guidance.
    Differs: the subject is asked at MAX_PULLS steps at most, evenly spread, and pulls as before in those between; their
             w_rg is our likeness times the guidance scale, so that a slider means the same at any guidance; the pull
             is weighed by the place of the subject's name, and no value goes beyond what the subject draws alone; the
             subject's picture. They know neither place nor bound nor picture.
    Symbols: prediction = g + m bound(w_rg (e'(subject) - e(class))), g = e(empty) + w (e(class) - e(empty)), e' with
             the adapter, m the place, 0..1; bound keeps each value between 0 and
             e(empty) + OWN_GUIDANCE (e'(subject) - e(empty)) - g.
    """

    name: ClassVar[str] = "reward_guidance"
    title: ClassVar[str] = "Reward guidance"
    source: ClassVar[str] = "Lee et al. 2024, Direct Consistency Optimization for Compositional Text-to-Image"
    points: ClassVar[tuple[str, ...]] = ("predict", "edit_x0", "patch")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = True

    lora: Lora | None = None
    text: TextCond | None = None
    words: tuple[int, ...] = ()
    rivals: tuple[tuple[int, ...], ...] = ()
    references: tuple[SubjectSource, ...] = ()
    likeness: float = ranged(
        0.6, 0.0, 2.0, 0.05, label="Identity", help="0 is the prompt alone, 2 the subject above all."
    )
    from_frac: float = ranged(0.1, 0.0, 1.0, 0.05, label="From", help="Share of the steps before the subject is heard.")
    hold: float = ranged(
        0.6, 0.0, 1.0, 0.05, label="Hold", help="How long its picture is put in, at identity 1; 0 never."
    )

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
        # Where to and in which place the subject pulled when it was asked last.
        self.asked_at = 0
        self.pull: torch.Tensor | None = None
        self.place: torch.Tensor | None = None
        self.places = WordPlaces(technique.words, (run.height_cells, run.width_cells), technique.rivals)
        # The estimate that the subject was put into, where it is in it, and where anything is new; found once.
        self.held: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

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
            self.place = places.take()
        return uncond, self._move(uncond, cond, ctx.guidance_scale)

    def _move(self, uncond: torch.Tensor, cond: torch.Tensor, guidance: float) -> torch.Tensor:
        """Return a half whose guidance is the reward guidance."""
        assert self.pull is not None
        plain = guide(uncond, cond, guidance)
        room = guide(uncond, cond + self.pull, OWN_GUIDANCE) - plain
        zero = torch.zeros_like(room)
        # For given latents, bounds of the prediction are bounds of the clean estimate.
        step = guidance * self.technique.likeness * self.pull
        step = step.clamp(torch.minimum(room, zero), torch.maximum(room, zero))
        where = torch.ones(1) if self.place is None else widen(self.place)
        if self.held is not None:
            # Marks draw less attention than the rest of their thing; what was put in has its place.
            where = torch.maximum(where, self.held[1])
        return cond + step / guidance * where.to(step)

    def edit_x0(self, x0: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Put the subject into the clean estimate, at the few steps that hold it there."""
        technique = self.technique
        until = HOLD_FROM + technique.hold * technique.likeness
        if not technique.references or self.place is None or not HOLD_FROM <= ctx.fraction < until:
            return x0
        if self.held is None:
            self.held = paste(ctx.model, x0, technique.references[0], self.place)
        pasted, _, new = self.held
        # What the model had begun there goes, so that nothing of it sticks out.
        return torch.lerp(x0, pasted, new)

    def _ask(
        self, latents: torch.Tensor, ctx: StepContext, call: UNetCall
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run both models; returns the halves of the plain one, and the way from its prompt's half to the subject's."""
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
        return uncond, cond, subject - cond

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
