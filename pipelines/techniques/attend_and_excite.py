"""Attend-and-Excite: in the first half of the run, the latents are moved until every named thing has attention.

A thing that no cell attends to will not be drawn. The loss is the attention of the most neglected noun; its gradient
moves the latents before each step, and more than once at three of the steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.attention_loss import (
    Verdict,
    Watch,
    find_things,
    list_decoder_layers,
    make_watch,
    neglect,
    see,
    walk_down,
)
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
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
             step indices 0, 10, 20 of 50 are shares of the run. Words are watched on the decoder's coarsest grid, not
             on all layers of 16 x 16 cells, where the shipped model's nouns show no place.
    """

    name: ClassVar[str] = "attend_and_excite"
    title: ClassVar[str] = "Attend-and-Excite"
    source: ClassVar[str] = "Chefer et al. 2023, Attend-and-Excite: Attention-Based Semantic Guidance"
    points: ClassVar[tuple[str, ...]] = ("before_unet",)
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    step_frac: float = ranged(0.006, 0.0, 0.1, 0.002, label="Step", help="How far one update moves the latents.")
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
        prompt = run.text.prompt
        found = find_things(model, prompt)
        if not found and self.step_frac:
            run.note(f"{self.title} found no thing in the prompt to attend to; name one, for example 'a boat'.")
        layers = list_decoder_layers(model, "cross")
        words = [tokens for _, tokens in found]
        watch = make_watch(model, prompt, words, layers, sharpness=self.sharpness)
        yield _Exciting(self, watch, [thing.noun for thing, _ in found], run)


class _Exciting(Hooks):
    """Update the latents of each picture on its own, so that one picture's neglect never moves another."""

    def __init__(self, technique: AttendAndExcite, watch: Watch, nouns: list[str], run: RunInfo) -> None:
        self.technique, self.watch, self.nouns, self.run = technique, watch, nouns, run

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Update in the first half of the run, repeatedly where a threshold is set."""
        if not self.watch.words or self.technique.step_frac == 0.0 or ctx.fraction >= UPDATED_FRAC:
            return latents
        return torch.cat([self._excite(latents[row : row + 1], row, ctx) for row in range(len(latents))])

    def _excite(self, latents: torch.Tensor, row: int, ctx: StepContext) -> torch.Tensor:
        begin, end = RANGE
        step_frac = self.technique.step_frac * (begin + (end - begin) * ctx.fraction) ** 0.5
        wanted = [threshold for share, threshold in REFINEMENTS if round(share * ctx.num_steps) == ctx.step]
        repeats = self.technique.max_refinements if wanted else 0

        def judge(leaf: torch.Tensor) -> Verdict:
            maps = see(self.watch, leaf, row, ctx).maps
            if row == 0:
                for noun, cells in zip(self.nouns, maps.detach(), strict=True):
                    self.run.sketch(f"Where \u2018{noun}\u2019 has attention", cells)
            loss = neglect(maps)
            return Verdict(loss, bool(wanted) and 1 - float(loss.detach()) >= wanted[0])

        return walk_down(latents, judge, step_frac, 1 + repeats)
