"""Attend-and-Excite: in the first half of the run, the latents are moved until every named thing has attention.

A thing that no cell attends to will not be drawn. The loss is the attention of the most neglected noun; its gradient
moves the latents before each step, and more than once at three of the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.attention import AttentionLayer, list_layers
from pipelines.attention_maps import average_layers, count_prompt_tokens, observe, pick_row, to_grid, word_maps
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.prompt_plan import find_tokens, plan_prompt
from pipelines.techniques.base import Hooks
from pipelines.types import RunInfo, StepContext

# Shares of the run and the attention that must be reached there, by repeated updates (steps 0, 10, 20 of 50).
REFINEMENTS = ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8))
UPDATED_FRAC = 0.5
RANGE = (1.0, 0.5)


@dataclass(frozen=True)
class AttendAndExcite:
    """Move the latents until every noun of the prompt is attended to.

    Units:  step_frac is the length of one update as a share of the latents' own length, at full loss; 0 is plain
            sampling, bit for bit. max_refinements limits the repeated updates of one step.
    Points: before_unet.
    Source: Chefer et al. 2023, arXiv 2301.13826, and its released code.
    Differs: the update is normalised (step_frac times the loss), because a gradient's size depends on the model; the
             step indices 0, 10, 20 of 50 are shares of the run.
    """

    name: ClassVar[str] = "attend_and_excite"
    title: ClassVar[str] = "Attend-and-Excite"
    source: ClassVar[str] = "Chefer et al. 2023, Attend-and-Excite: Attention-Based Semantic Guidance"
    points: ClassVar[tuple[str, ...]] = ("before_unet",)
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    step_frac: float = ranged(0.04, 0.0, 0.2, 0.005, label="Step", help="How far one update moves the latents.")
    sharpness: float = ranged(20.0, 1.0, 100.0, 1.0, label="Sharpness", help="How strictly words compete for a cell.")
    max_refinements: int = ranged(10, 0, 20, 1, label="Refinements", help="Most updates in one step.")

    @classmethod
    def neutral(cls) -> AttendAndExcite:
        """Make the record that changes nothing."""
        return cls(step_frac=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Find the tokens of the prompt's things."""
        validate(self)
        side, prompt = model.sides[0], run.text.prompt
        words = [find_tokens(prompt, thing.noun_span, side) for thing in plan_prompt(prompt).objects]
        words = [tokens for tokens in words if tokens]
        if not words and self.step_frac:
            run.note(f"{self.title} found no thing in the prompt to attend to; name one, for example 'a boat'.")
        layers = [layer for layer, _ in list_layers(model.unet) if layer.kind == "cross"]
        layers = [layer for layer in layers if layer.cells == model.spec.coarse_cells]
        yield _Exciting(self, words, layers, count_prompt_tokens(model, prompt))


class _Exciting(Hooks):
    """Update the latents of each picture on its own, so that one picture's neglect never moves another."""

    def __init__(
        self,
        technique: AttendAndExcite,
        words: Sequence[tuple[int, ...]],
        layers: Sequence[AttentionLayer],
        num_tokens: int,
    ) -> None:
        self.technique, self.words, self.layers, self.num_tokens = technique, words, layers, num_tokens

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Update in the first half of the run, repeatedly where a threshold is set."""
        if not self.words or self.technique.step_frac == 0.0 or ctx.fraction >= UPDATED_FRAC:
            return latents
        return torch.cat([self._excite(latents[row : row + 1], row, ctx) for row in range(len(latents))])

    def _excite(self, latents: torch.Tensor, row: int, ctx: StepContext) -> torch.Tensor:
        begin, end = RANGE
        step_frac = self.technique.step_frac * (begin + (end - begin) * ctx.fraction) ** 0.5
        wanted = [threshold for share, threshold in REFINEMENTS if round(share * ctx.num_steps) == ctx.step]
        repeats = self.technique.max_refinements if wanted else 0
        for _ in range(1 + repeats):
            loss, gradient = self._look(latents, row, ctx)
            latents = latents - move(latents, gradient, step_frac * loss)
            if wanted and 1 - loss >= wanted[0]:
                break
        return latents

    def _look(self, latents: torch.Tensor, row: int, ctx: StepContext) -> tuple[float, torch.Tensor]:
        with torch.enable_grad():
            leaf = latents.detach().requires_grad_()
            maps = observe(ctx.model, leaf, ctx.timestep, pick_row(ctx.text, row), self.layers)
            average = average_layers(maps, self.layers)
            size = to_grid(average.shape[1], (latents.shape[2], latents.shape[3]))
            loss = neglect(word_maps(average, self.words, self.num_tokens, size, self.technique.sharpness))
            (gradient,) = torch.autograd.grad(loss, leaf)
        return float(loss), gradient


def neglect(maps: torch.Tensor) -> torch.Tensor:
    """Return the loss of the most neglected word.

    Shapes: maps (k, h, w) in 0..1; returns a scalar in 0..1.
    Source: arXiv 2301.13826.
    """
    return (1 - maps.flatten(1).amax(1)).clamp_min(0).amax()


def move(latents: torch.Tensor, gradient: torch.Tensor, length_frac: float) -> torch.Tensor:
    """Return the step along a gradient, of the given length as a share of the latents' own; 0 for no gradient."""
    return gradient * (length_frac * latents.norm() / gradient.norm().clamp_min(1e-12))
