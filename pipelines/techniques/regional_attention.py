"""Regional attention: every box of a layout listens to its own phrase, the rest of the picture to the whole prompt.

The training-free fuser of MIGC: in the conditional half, the outputs of cross-attention to each phrase are mixed by
the boxes' masks, in the first part of the run. Costs no extra UNet pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pipelines.attention import AttentionLayer, Processor, patched, project_out, project_qkv, run_attention
from pipelines.layout import Box, make_masks
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.regions import read_regions
from pipelines.techniques.base import Hooks
from pipelines.types import RunInfo, StepContext


@dataclass(frozen=True)
class RegionalAttention:
    """Draw each phrase inside its box; without boxes, they are proposed from the prompt.

    Units:  weight 0 is plain attention, bit for bit; until_frac is the share of the steps that is guided.
    Points: patch (cross-attention), before_unet (knows the step).
    Source: Zhou et al. 2024, MIGC, arXiv 2402.05408; the naive fuser of its released code.
    Differs: a phrase is read with the prompt's setting ("a red boat, watercolor"), so that boxes keep its style.
    """

    name: ClassVar[str] = "regional_attention"
    title: ClassVar[str] = "Regional attention"
    source: ClassVar[str] = "Zhou et al. 2024, MIGC: Multi-Instance Generation Controller"
    points: ClassVar[tuple[str, ...]] = ("before_unet", "patch")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = True

    boxes: tuple[Box, ...] = ()
    weight: float = ranged(2.0, 0.0, 30.0, 0.5, label="Box weight", help="How much a box listens to its own phrase.")
    until_frac: float = ranged(0.7, 0.0, 1.0, 0.05, label="Until", help="Share of the steps in which boxes count.")

    @classmethod
    def neutral(cls) -> RegionalAttention:
        """Make the record that changes nothing."""
        return cls(weight=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Encode the phrases; the attention is changed step by step."""
        validate(self)
        regions = read_regions(model, run, self.boxes)
        if not regions.boxes and self.weight:
            run.note(f"{self.title} found nothing to place; draw boxes, or name things in the prompt.")
        if self.weight:
            run.sketch_boxes(regions.boxes)
        hidden = torch.cat([text.hidden_cond for text in regions.texts]) if regions.texts else None
        yield _Regions(self, regions.boxes, hidden, regions.size_cells)


class _Regions(Hooks):
    """Hold the encoded phrases of one run and patch cross-attention while they count."""

    def __init__(
        self, technique: RegionalAttention, boxes: tuple[Box, ...], hidden: torch.Tensor | None, size: tuple[int, int]
    ) -> None:
        self.technique, self.boxes, self.hidden, self.size_cells = technique, boxes, hidden, size
        self.is_guided = True

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Note whether boxes still count in this step."""
        self.is_guided = ctx.fraction < self.technique.until_frac
        return latents

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Let cross-attention listen to the phrases."""
        if self.hidden is None or self.technique.weight == 0.0:
            return nullcontext()
        finest = model.unet.config.sample_size

        def make(layer: AttentionLayer, previous: Processor) -> Processor:
            height, width = (-(-side * layer.cells // finest) for side in self.size_cells)
            masks = make_masks(self.boxes, height, width).flatten(1).to(model.plan.device)
            return _RegionalProcessor(self, previous, masks, model.plan.kernel)

        return patched(model.unet, lambda layer: layer.kind == "cross", make)


class _RegionalProcessor:
    """Attend to the whole prompt and to every phrase, and mix the results by the masks."""

    def __init__(self, regions: _Regions, previous: Processor, masks: torch.Tensor, kernel: str) -> None:
        self.regions, self.previous, self.masks, self.kernel = regions, previous, masks, kernel

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Return the layer's output; shapes (b2, n, c), text (b2, m, e), masks (k, n)."""
        out = self.previous(attn, hidden_states, encoder_hidden_states, attention_mask)
        if not self.regions.is_guided or self.regions.hidden is None:
            return out
        out_uncond, out_cond = out.chunk(2)
        cond = hidden_states.chunk(2)[1]
        outs = []
        for phrase in self.regions.hidden.to(hidden_states.dtype):
            q, k, v = project_qkv(attn, cond, phrase.expand(len(cond), -1, -1))
            outs.append(project_out(attn, run_attention(q, k, v, kernel=self.kernel), cond))
        mixed = mix_regions(out_cond, torch.stack(outs), self.masks, self.regions.technique.weight)
        return torch.cat([out_uncond, mixed])


_RegionalProcessor.__call__.__signature__ = inspect.signature(_RegionalProcessor.__call__)  # type: ignore[attr-defined]


def mix_regions(whole: torch.Tensor, parts: torch.Tensor, masks: torch.Tensor, weight: float) -> torch.Tensor:
    """Mix the attention to the whole prompt with that to each phrase.

    Shapes:  whole (b, n, c); parts (k, b, n, c); masks (k, n) in 0..1.
    Units:   weight of a box against 1 for the whole prompt; 0 returns `whole`.
    Returns: (b, n, c).
    Raises:  ValueError if the masks have another number of cells than the features.
    Source:  MIGC's released code, NaiveFuser: (O_0 + sum_i w m_i O_i) / (1 + sum_i w m_i).
    """
    if masks.shape[1] != whole.shape[1]:
        raise ValueError(f"masks of {masks.shape[1]} cells for features of {whole.shape[1]}")
    weights = weight * masks.to(whole.dtype)[:, None, :, None]
    return (whole + (weights * parts).sum(0)) / (1 + weights.sum(0))
