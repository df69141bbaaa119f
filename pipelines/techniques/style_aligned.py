"""StyleAligned: every self-attention layer shares the keys and values of a style picture, on its statistics.

The baseline of Visual Style Prompting: all layers take part, so more of the picture's layout comes along.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from pipelines.attention import AttentionLayer, Processor, patched, run_attention
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.schedules import list_timesteps
from pipelines.style_attention import StyledProcessor, join_keys
from pipelines.style_reference import Features, StyleSource, read_features
from pipelines.techniques.base import Hooks, Turn
from pipelines.types import Progress, RunInfo, StepContext

_EPSILON = 1e-5


@dataclass(frozen=True)
class StyleAligned:
    """Share the attention of a style picture in all layers.

    Units:   weight multiplies the attention to the style picture, 1 is as in the paper's sets; align 0..1 is how far
             queries and keys take the style picture's statistics. Both 0 is plain attention, bit for bit.
    Points:  init (reads the style picture), before_unet (knows the step), patch (self-attention).
    Source:  Hertz et al. 2023, arXiv 2312.02133; released code, sa_handler.py.
    Differs: the style picture is noised at every step instead of inverted, and read with no words; normalisation
             layers are not shared.
    """

    name: ClassVar[str] = "style_aligned"
    title: ClassVar[str] = "StyleAligned"
    source: ClassVar[str] = "Hertz et al. 2023, Style Aligned Image Generation via Shared Attention"
    points: ClassVar[tuple[str, ...]] = ("init", "before_unet", "patch")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    references: tuple[StyleSource, ...] = ()
    weight: float = ranged(1.0, 0.0, 4.0, 0.1, label="Shared attention", help="Weight of the style picture's patches.")
    align: float = ranged(1.0, 0.0, 1.0, 0.05, label="Shared statistics", help="1 takes mean and spread from it.")

    @classmethod
    def neutral(cls) -> StyleAligned:
        """Make the record that changes nothing."""
        return cls(weight=0.0, align=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Say what cannot be shared; the attention is changed step by step."""
        validate(self)
        if (self.weight or self.align) and not self.references:
            run.note(f"{self.title} has no style picture, so nothing changes; choose one.")
        if len(self.references) > 1:
            run.note(f"{self.title} takes one style picture; the second one is not used.")
        yield _SharedHooks(self, run)


class _SharedHooks(Hooks):
    """Hold what was read in the style picture."""

    def __init__(self, technique: StyleAligned, run: RunInfo) -> None:
        self.technique, self.run = technique, run
        self.read: dict[int, Features] = {}
        # None while other techniques draft before the first step.
        self.heard: Features | None = None

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Read the style picture at every step of the run."""
        run, technique = self.run, self.technique
        if technique.references and (technique.weight or technique.align):
            timesteps = list_timesteps(run.sampler, ctx.model.scheduler_config, run.num_steps)
            source = technique.references[0]
            self.read = yield from read_features(
                ctx.model, source, timesteps, sampler=run.sampler, num_steps=run.num_steps
            )
        return latents

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Take out what was read at this step's noise level."""
        self.heard = self.read.get(ctx.timestep)
        return latents

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Let self-attention share the style picture."""
        if not self.read:
            return nullcontext()

        def make(layer: AttentionLayer, previous: Processor) -> Processor:
            attend = partial(self.attend, layer.name, model.plan.kernel)
            return StyledProcessor(previous, model.plan.kernel, attend, lambda: self.heard is not None)

        return patched(model.unet, lambda layer: layer.kind == "self", make)

    def attend(self, layer: str, kernel: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Mix the values of both guidance halves alike; shapes (b2, heads, n, d)."""
        assert self.heard is not None
        heard, technique = self.heard[layer], self.technique
        q = torch.lerp(q, align_statistics(q, heard[0]), technique.align)
        k = torch.lerp(k, align_statistics(k, heard[1]), technique.align)
        # The weight of one patch of theirs against one of ours, whatever the sizes.
        ratio = heard[1].shape[2] / k.shape[2]
        shares = [torch.tensor(1.0), torch.tensor(technique.weight * ratio)]
        keys, values, bias = join_keys((k, v), [heard], shares)
        return run_attention(q, keys, values, mask=bias, kernel=kernel)


def align_statistics(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Give queries or keys the mean and spread that the style picture's have (AdaIN).

    Shapes:  own (b, heads, n, d), other (1, heads, m, d); statistics over the patches, per head and channel.
    Returns: the shape of `own`.
    Source:  Huang and Belongie 2017, arXiv 1703.06868, equation 8, as StyleAligned uses it.
    """
    other = other.to(own)
    spread, mean = torch.std_mean(own, 2, keepdim=True, correction=0)
    spread_other, mean_other = torch.std_mean(other, 2, keepdim=True, correction=0)
    return (own - mean) / (spread**2 + _EPSILON).sqrt() * (spread_other**2 + _EPSILON).sqrt() + mean_other
