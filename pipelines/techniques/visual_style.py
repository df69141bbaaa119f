"""Visual Style Prompting: the words say what is drawn, a picture says how.

In self-attention each patch of the new picture also looks at the patches of a style picture, which were read once at
the same noise levels. Cross-attention is left alone, so the text still decides what there is.
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
from pipelines.params import flag, ranged, validate
from pipelines.schedules import list_timesteps
from pipelines.style_attention import StyledProcessor, find_sources, join_keys
from pipelines.style_reference import Features, StyleSource, choose_layers, read_features
from pipelines.techniques.base import Hooks, Turn
from pipelines.types import Progress, RunInfo, StepContext


@dataclass(frozen=True)
class VisualStyle:
    """Draw in the style of a picture: colours, strokes and texture come from it, the content from the words.

    Units:   strength is the share of attention that goes to the style picture if all patches fit equally well; 0 is
             plain attention, bit for bit. blend is how much of the style is the second picture's; is_across lets it
             grow from left to right. contrast 1 lets only the prompt's half hear the style, so that guidance
             strengthens it, 0 both halves alike. negative_query lets the other half ask the style picture's own
             questions, so that guidance leads away from what is shown there.
    Points:  init (reads the style pictures), before_unet (knows the step), patch (self-attention).
    Source:  Jeong et al. 2024, arXiv 2402.12974; negative_query after StyleKeeper, Jeong et al. 2025, arXiv 2510.06827;
             the blend across the picture after VQ-I2I, Chen et al. 2022, arXiv 2207.13286.
    Differs: one softmax over the picture's own patches and the style's instead of the style's alone, which is
             strength 1; the style picture is noised, not denoised beside, and read with no words.
    """

    name: ClassVar[str] = "visual_style"
    title: ClassVar[str] = "Visual Style Prompting"
    source: ClassVar[str] = "Jeong et al. 2024, Visual Style Prompting with Swapping Self-Attention"
    points: ClassVar[tuple[str, ...]] = ("init", "before_unet", "patch")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = True

    references: tuple[StyleSource, ...] = ()
    strength: float = ranged(0.7, 0.0, 1.0, 0.05, label="Strength", help="How much is taken from the style picture.")
    depth: int = ranged(
        4, 1, 4, 1, label="Depth", help="1 changes the finest decoder layers: colours, strokes; 4 all layers."
    )
    until_frac: float = ranged(0.7, 0.0, 1.0, 0.05, label="Until", help="Share of the steps that hear the style.")
    from_frac: float = ranged(0.0, 0.0, 1.0, 0.05, label="From", help="Share of the steps before the style is heard.")
    contrast: float = ranged(1.0, 0.0, 1.0, 0.1, label="Contrast", help="How much guidance strengthens the style.")
    negative_query: float = ranged(
        0.0, 0.0, 1.0, 0.1, label="Negative query", help="How much guidance leads away from what the picture shows."
    )
    blend: float = ranged(0.0, 0.0, 1.0, 0.05, label="Blend", help="0 is the first style picture, 1 the second.")
    is_across: bool = flag(False, label="Across the picture", help="First style on the left, second on the right.")

    @classmethod
    def neutral(cls) -> VisualStyle:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Say what cannot be heard; the attention is changed step by step."""
        validate(self)
        if self.strength and not self.references:
            run.note(f"{self.title} has no style picture, so nothing changes; choose one.")
        if self.negative_query and any(
            source.latents.shape[2:] != (run.height_cells, run.width_cells) for source in self.references[:1]
        ):
            run.note("The negative query needs a style picture as large as the canvas, so it does nothing here.")
        yield _StyleHooks(self, model, run)


class _StyleHooks(Hooks):
    """Hold what was read in the style pictures, and what of it counts in the present step."""

    def __init__(self, technique: VisualStyle, model: ModelBundle, run: RunInfo) -> None:
        self.technique, self.run = technique, run
        self.layers = choose_layers(model, technique.depth)
        self.shown = self.layers[-1] if self.layers else ""
        self.is_last = False
        self.timesteps: list[int] = []
        self.read: list[dict[int, Features]] = []
        # None outside the technique's share of the steps, and while other techniques draft before the first.
        self.heard: list[Features] | None = None

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Read the style pictures at the steps that will hear them."""
        technique, run = self.technique, self.run
        if technique.strength and technique.references:
            steps = list_timesteps(run.sampler, ctx.model.scheduler_config, run.num_steps)
            low, high = technique.from_frac, technique.until_frac
            self.timesteps = [at for step, at in enumerate(steps) if low <= step / run.num_steps < high]
            for source in technique.references:
                read = read_features(ctx.model, source, self.timesteps, sampler=run.sampler, num_steps=run.num_steps)
                self.read.append((yield from read))
        return latents

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Take out what was read at this step's noise level."""
        is_heard = self.read and ctx.timestep in self.timesteps
        self.heard = [features[ctx.timestep] for features in self.read] if is_heard else None
        self.is_last = bool(is_heard) and ctx.timestep == self.timesteps[-1]
        return latents

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Let self-attention look at the style pictures."""
        if not self.read or not self.technique.strength:
            return nullcontext()
        finest = model.unet.config.sample_size

        def make(layer: AttentionLayer, previous: Processor) -> Processor:
            width = -(-self.run.width_cells * layer.cells // finest)
            attend = partial(self.attend, layer=layer.name, width=width, kernel=model.plan.kernel)
            return StyledProcessor(previous, model.plan.kernel, attend, lambda: self.heard is not None)

        return patched(model.unet, lambda layer: layer.name in self.layers, make)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, layer: str, width: int, kernel: str
    ) -> torch.Tensor:
        """Mix the values of both guidance halves; shapes (b2, heads, n, d), width in patches of this layer's grid."""
        assert self.heard is not None
        technique, others = self.technique, [features[layer] for features in self.heard]
        q_uncond, q_cond = q.chunk(2)
        if technique.negative_query and others[0][0].shape[2] == q.shape[2]:
            q_uncond = torch.lerp(q_uncond, others[0][0].to(q).expand_as(q_uncond), technique.negative_query)
        mixed = []
        strengths = (technique.strength * (1 - technique.contrast), technique.strength)
        for half, strength, keys, values in zip((q_uncond, q_cond), strengths, k.chunk(2), v.chunk(2)):
            if strength == 0.0:
                mixed.append(run_attention(half, keys, values, kernel=kernel))
                continue
            shares = share_out(strength, technique.blend, q.shape[2], len(others), width if technique.is_across else 0)
            keys, values, bias = join_keys((keys, values), others, shares)
            mixed.append(run_attention(half, keys, values, mask=bias, kernel=kernel))
            if half is q_cond and self.is_last and layer == self.shown:
                self.run.sketch_sources(find_sources(half, keys, bias, others), width)
        return torch.cat(mixed)


def share_out(strength: float, blend: float, count: int, num_others: int, width: int) -> list[torch.Tensor]:
    """Share the attention between a picture's own patches, the first style picture and the second.

    Units:   strength and blend 0..1; count patches that look, in rows of `width`; width 0 means one share for all.
    Returns: 1 - strength, strength (1 - a), strength a, with a = blend; across the picture, a grows with a patch's
             column from 0 to 1 around a middle that blend moves: 0.5 is even, 0 all first, 1 all second.
    Differs: VQ-I2I interpolates style codes per strip; here each patch's attention is shared out by its column.
    """
    own = torch.tensor(1.0 - strength)
    if num_others == 1:
        return [own, torch.tensor(strength)]
    a = torch.tensor(blend)
    if width:
        columns = (torch.arange(count) % width + 0.5) / width
        a = (columns + 2 * blend - 1).clamp(0, 1)
    return [own, strength * (1 - a), strength * a]
