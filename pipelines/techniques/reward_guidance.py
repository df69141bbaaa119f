"""Reward guidance: a tuned model and the one it came from draw together, and a slider says who is heard.

The subject's adapter works in one row of each pass only: the other two are the model as it was. So the pull towards the
prompt and the pull towards the subject stay apart, and their shares can be changed without learning again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.attention import KernelProcessor, list_layers
from pipelines.cfg_batch import run_three
from pipelines.lora import Lora, side_paths
from pipelines.model import ModelBundle, TextCond
from pipelines.params import ranged, validate
from pipelines.techniques.base import Halves, Hooks, UNetCall
from pipelines.types import RunInfo, StepContext


@dataclass(frozen=True)
class RewardGuidance:
    """Draw a learned subject, with a slider between its identity and the prompt.

    Units:   likeness is the pull towards the subject as a share of the guidance: 0 is the model without the adapter,
             bit for bit, 1 the adapted model guided from the plain one's empty prompt, more goes beyond.
    Points:  predict (a third row per picture, with the adapter).
    Source:  Lee et al. 2024, Direct Consistency Optimization, arXiv 2402.12004, reward guidance.
    Differs: their w_rg is our likeness times the guidance scale, so that a slider means the same at any guidance.
    Symbols: prediction = e(empty) + w (e(class) - e(empty)) + w_rg (e'(subject) - e(class)), e' with the adapter.
    """

    name: ClassVar[str] = "reward_guidance"
    title: ClassVar[str] = "Reward guidance"
    source: ClassVar[str] = "Lee et al. 2024, Direct Consistency Optimization for Compositional Text-to-Image"
    points: ClassVar[tuple[str, ...]] = ("predict",)
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = True

    lora: Lora | None = None
    text: TextCond | None = None
    likeness: float = ranged(
        0.45, 0.0, 2.0, 0.05, label="Identity", help="0 is the prompt alone, 2 the subject above all."
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
        yield _RewardHooks(self, model)


class _RewardHooks(Hooks):
    """Ask both models at every step."""

    def __init__(self, technique: RewardGuidance, model: ModelBundle) -> None:
        self.technique, self.model = technique, model

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Return the halves whose guidance is the reward guidance."""
        technique = self.technique
        if not technique.likeness or technique.lora is None:
            return call(latents, ctx.text)
        text = technique.text or ctx.text
        if _is_plain(self.model):
            uncond, cond, subject = self._ask_at_once(latents, ctx, text)
        else:
            # Who changed the attention expects both halves and no third row, and what it saw last is the plain model.
            with side_paths(self.model.unet, technique.lora):
                _, subject = call(latents, text)
            uncond, cond = call(latents, ctx.text)
        # Guidance multiplies by w: (w_rg / w) is the likeness.
        return uncond, cond + technique.likeness * (subject - cond)

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


def _is_plain(model: ModelBundle) -> bool:
    """Say whether no other technique has changed the attention at this moment."""
    return all(type(module.processor) is KernelProcessor for _, module in list_layers(model.unet))
