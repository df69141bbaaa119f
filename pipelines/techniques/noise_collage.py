"""NoiseCollage: the noise of every box is predicted on its own, and a collage of the predictions is taken away.

Each region's pass sees the whole picture, but only cells in its box listen to its caption; then boxes are cut out of
the passes and pasted together. One UNet call more per box than plain sampling.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from pipelines.attention import AttentionLayer, Processor, patched
from pipelines.attention_maps import pick_row
from pipelines.layout import Box
from pipelines.model import ModelBundle, TextCond
from pipelines.params import ranged, validate
from pipelines.regions import Regions, read_regions
from pipelines.techniques.base import Halves, Hooks, UNetCall
from pipelines.text_side import encode_prompt
from pipelines.types import RunInfo, StepContext

# What a cell may listen to in the pass of a region; NOTHING only where cells are dropped.
CAPTION, PROMPT, NOTHING = range(3)
# Keeps the draws of dropped cells apart from the noise of any run with a nearby seed.
_DROP_STREAM = 0x6E63_6472_6F70


@dataclass(frozen=True)
class NoiseCollage:
    """Predict the noise of each box with its own caption; without boxes, they are proposed from the prompt.

    Units:  background_weight is the weight of the whole prompt inside a box, where the box weighs 1; drop_frac is the
            share of the cells outside a box that listen to nothing in its pass; until_frac is the share of the steps
            that are a collage, 0 is plain sampling, bit for bit.
    Points: predict, patch (cross-attention).
    Source: Shirakawa and Uchida 2024, arXiv 2403.03485, and its released code.
    Differs: outside a box a pass listens to the whole prompt (the released code drops 0.75 of these cells); masks are
             cut anew for every grid, small boxes keep their best cells, cells in no box take the plain prediction; a
             caption is read with the prompt's setting, and the pooled text of a pass (SDXL) is that of its caption;
             the unconditional half is computed with every pass but taken once; until_frac is ours.
    """

    name: ClassVar[str] = "noise_collage"
    title: ClassVar[str] = "NoiseCollage"
    source: ClassVar[str] = "Shirakawa and Uchida 2024, NoiseCollage: A Layout-Aware Text-to-Image Diffusion Model"
    points: ClassVar[tuple[str, ...]] = ("predict", "patch")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    boxes: tuple[Box, ...] = ()
    background_weight: float = ranged(
        0.1, 0.0, 2.0, 0.05, label="Background weight", help="How much the whole prompt counts inside a box."
    )
    drop_frac: float = ranged(
        0.0,
        0.0,
        1.0,
        0.05,
        label="Dropped outside",
        help="Share of the cells outside a box that hear nothing in its pass.",
    )
    until_frac: float = ranged(1.0, 0.0, 1.0, 0.05, label="Until", help="Share of the steps in which boxes count.")

    @classmethod
    def neutral(cls) -> NoiseCollage:
        """Make the record that changes nothing."""
        return cls(until_frac=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Encode the captions; attention is routed only while the pass of a region runs."""
        validate(self)
        regions = read_regions(model, run, self.boxes)
        if not regions.boxes and self.until_frac:
            run.note(f"{self.title} found nothing to place; draw boxes, or name things in the prompt.")
        if self.until_frac:
            run.sketch_boxes(regions.boxes)
        with model.lock:
            nothing = [encode_prompt(model, "", size_px=(0, 0)).hidden_uncond] if self.drop_frac else []
        yield _Collage(self, regions, nothing, run.generators)


class _Collage(Hooks):
    """Predict region by region; `routes` is None except while the pass of a region runs."""

    def __init__(
        self,
        technique: NoiseCollage,
        regions: Regions,
        nothing: Sequence[torch.Tensor],
        owners: Sequence[torch.Generator],
    ) -> None:
        self.technique, self.texts, self.nothing = technique, regions.texts, nothing
        self.cut = cache(regions.cut)
        # Streams of their own, so that what others draw from the run's generators stays the same.
        seeds = [owner.initial_seed() ^ _DROP_STREAM for owner in owners]
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.routes: Callable[[int], torch.Tensor] | None = None

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Let cross-attention follow the routes of the pass that runs, if any."""
        if not self.texts or self.technique.until_frac == 0.0:
            return nullcontext()

        def make(layer: AttentionLayer, previous: Processor) -> Processor:
            return _RoutedProcessor(self, previous)

        return patched(model.unet, lambda layer: layer.kind == "cross", make)

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Paste the conditional predictions together; the unconditional one is the same in every pass."""
        uncond, whole = call(latents, ctx.text)
        if not self.texts or ctx.fraction >= self.technique.until_frac:
            return uncond, whole
        parts = [self._predict_region(index, latents, ctx, call) for index in range(len(self.texts))]
        weights = weigh(self.cut(latents[0, 0].numel()), self.technique.background_weight).to(latents)
        return uncond, (weights[:, None, None] * torch.stack([whole, *parts])).sum(0)

    def _predict_region(self, index: int, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> torch.Tensor:
        """Return the conditional prediction of one region's pass, (b, c, h, w)."""
        region = self.texts[index]
        text = join_contexts([region.hidden_cond, ctx.text.hidden_cond, *self.nothing], region, ctx.text)
        if not self.nothing:
            with self._routed(index, None):
                return call(latents, text)[1]
        # Every picture draws its own dropped cells, as it would alone, so each has a call of its own.
        preds = []
        for row, generator in enumerate(self.generators):
            is_dropped = torch.rand(latents.shape[-2:], generator=generator) < self.technique.drop_frac
            with self._routed(index, is_dropped):
                preds.append(call(latents[row : row + 1], pick_row(text, row))[1])
        return torch.cat(preds)

    @contextmanager
    def _routed(self, index: int, is_dropped: torch.Tensor | None) -> Iterator[None]:
        """Set the routes of one call: from the number of a layer's cells to what each of them listens to."""
        self.routes = cache(lambda num_cells: choose_routes(self.cut(num_cells)[index], is_dropped))
        try:
            yield
        finally:
            self.routes = None


class _RoutedProcessor:
    """Attend to every context and give each cell the result that it listens to."""

    def __init__(self, collage: _Collage, previous: Processor) -> None:
        self.collage, self.previous = collage, previous

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Return the layer's output; shapes (b2, n, c), and in a region's pass text (b2, k m, e)."""
        if self.collage.routes is None or encoder_hidden_states is None:
            return self.previous(attn, hidden_states, encoder_hidden_states, attention_mask)
        routes = self.collage.routes(hidden_states.shape[1]).to(hidden_states.device)
        contexts = encoder_hidden_states.chunk(2 + len(self.collage.nothing), dim=1)
        outs = [self.previous(attn, hidden_states, context, attention_mask) for context in contexts]
        return follow(torch.stack(outs), routes)


_RoutedProcessor.__call__.__signature__ = inspect.signature(_RoutedProcessor.__call__)  # type: ignore[attr-defined]


def join_contexts(contexts: Sequence[torch.Tensor], region: TextCond, whole: TextCond) -> TextCond:
    """Make the condition of a region's pass: its contexts one behind the other.

    Shapes:  contexts k times (1 or b, m, e); hidden states become (1 or b, k m, e).
    Returns: a condition with the region's pooled text, whose unconditional half is that of `whole` in every place.
    """
    rows = max(len(context) for context in contexts)
    hidden_cond = torch.cat([context.expand(rows, -1, -1) for context in contexts], 1)
    hidden_uncond = whole.hidden_uncond.repeat(1, len(contexts), 1)
    return replace(whole, hidden_uncond=hidden_uncond, hidden_cond=hidden_cond, pooled_cond=region.pooled_cond)


def choose_routes(is_inside: torch.Tensor, is_dropped: torch.Tensor | None) -> torch.Tensor:
    """Choose what every cell of a grid listens to while one region is predicted.

    Shapes:  is_inside (h, w) bool; is_dropped bool on the grid of the latents, or None for no cell.
    Returns: (h * w,) int64: CAPTION inside, NOTHING outside where dropped, PROMPT elsewhere.
    """
    routes = torch.where(is_inside, CAPTION, PROMPT)
    if is_dropped is not None:
        # Nearest, so that the share stays the same on a coarser grid.
        dropped = F.interpolate(is_dropped[None, None].float(), is_inside.shape, mode="nearest")[0, 0] > 0
        routes = torch.where(dropped & ~is_inside, NOTHING, routes)
    return routes.flatten()


def follow(outs: torch.Tensor, routes: torch.Tensor) -> torch.Tensor:
    """Take for every cell the attention to what it listens to; outs (k, b, n, c), routes (n,), returns (b, n, c)."""
    index = routes[None, None, :, None].expand(1, *outs.shape[1:])
    return outs.gather(0, index)[0]


def weigh(cells: torch.Tensor, background_weight: float) -> torch.Tensor:
    """Compute how much each pass counts in each cell: the whole picture first, then the regions.

    Shapes:  cells (k, h, w) bool; returns (1 + k, h, w) float32, non-negative, with sum 1 in every cell.
    Units:   background_weight against 1 for a region.
    Source:  arXiv 2403.03485: W_i = w_i m_i / sum_j w_j m_j.
    Differs: a cell in no box takes the whole picture's prediction even if background_weight is 0.
    """
    whole = torch.where(cells.any(0), background_weight, 1.0)
    weights = torch.cat([whole[None], cells.float()])
    return weights / weights.sum(0)
