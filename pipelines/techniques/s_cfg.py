"""S-CFG: guidance whose strength is evened out over what the picture shows, read from its own attention.

Plain guidance pulls some things harder than others. S-CFG cuts the latents into one region per word, by attention, and
scales the guidance of each region to the level of the whole foreground.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from pipelines.attention import AttentionLayer, AttentionRecorder, list_layers, patched
from pipelines.attention_maps import count_prompt_tokens, smooth, to_grid
from pipelines.cfg_batch import guide
from pipelines.model import ModelBundle
from pipelines.params import flag, ranged, validate
from pipelines.techniques.base import Hooks
from pipelines.types import RunInfo, StepContext

NUM_POWERS = 4
SCALE_LIMITS = (0.8, 3.0)
MAX_GUIDANCE = 15.0


@dataclass(frozen=True)
class SCfg:
    """Even out guidance over the regions of the prompt's words.

    Units:  strength is a fraction 0..1 of the correction; 0 is plain guidance, bit for bit. is_mean_kept off is the
            method as published.
    Points: patch (records attention of both halves at the two coarsest grids), combine.
    Source: Shen et al. 2024, arXiv 2404.05384.
    Differs: S is the mean of its first four powers, as written; the released code never multiplies beyond the second.
             Padding tokens take no part, and an empty foreground leaves guidance alone. Correction and mean are
             parted: unlimited by that, guidance of the shipped model rises from 5.5 to 10 on average, which is
             another setting, not evenness.
    """

    name: ClassVar[str] = "s_cfg"
    title: ClassVar[str] = "S-CFG"
    source: ClassVar[str] = "Shen et al. 2024, Rethinking the Spatial Inconsistency in Classifier-Free Guidance"
    points: ClassVar[tuple[str, ...]] = ("combine", "patch")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = True
    needs_whole_picture: ClassVar[bool] = True

    strength: float = ranged(1.0, 0.0, 1.0, 0.05, label="Evening out", help="0 is plain guidance, 1 the full method.")
    is_mean_kept: bool = flag(True, label="Same mean", help="Over the whole picture, guide as strongly as was asked.")

    @classmethod
    def neutral(cls) -> SCfg:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Make the hooks of one run; attention is recorded step by step."""
        validate(self)
        layers = [layer for layer, _ in list_layers(model.unet)]
        coarse = sorted({layer.cells for layer in layers})[:2]
        layers = [layer for layer in layers if layer.cells in coarse]
        num_tokens = count_prompt_tokens(model, run.text.prompt)
        yield _Evening(self, layers, num_tokens, run)


class _Evening(Hooks):
    """Record attention during the step's UNet call and scale the guidance afterwards."""

    def __init__(self, technique: SCfg, layers: list[AttentionLayer], num_tokens: int, run: RunInfo) -> None:
        self.technique, self.strength = technique, technique.strength
        self.layers, self.num_tokens, self.run = layers, num_tokens, run
        self.size_cells = (run.height_cells, run.width_cells)
        self.recorder = AttentionRecorder()

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Record the coarse layers."""
        if self.strength == 0.0:
            return nullcontext()
        self.recorder.clear()
        names = {layer.name for layer in self.layers}
        return patched(model.unet, lambda layer: layer.name in names, self.recorder.make)

    def combine(
        self, pred_uncond: torch.Tensor, pred_cond: torch.Tensor, latents: torch.Tensor, ctx: StepContext
    ) -> torch.Tensor:
        """Guide with one strength per cell."""
        if self.strength == 0.0 or ctx.guidance_scale == 1.0:
            return guide(pred_uncond, pred_cond, ctx.guidance_scale)
        maps = token_maps(self.recorder.maps, self.layers, self.size_cells)
        maps_uncond, maps_cond = (half[:, : self.num_tokens] for half in maps.chunk(2))
        pull = (pred_cond - pred_uncond).norm(dim=1)
        scale = even_out(pull, *to_regions(maps_uncond, maps_cond, pull.shape[-2:]), ctx.guidance_scale)
        scale = soften(scale, self.strength, is_mean_kept=self.technique.is_mean_kept)
        self.run.sketch("Where guidance is stronger", scale[0])
        return pred_uncond + ctx.guidance_scale * scale[:, None] * (pred_cond - pred_uncond)


def token_maps(
    maps: Mapping[str, torch.Tensor], layers: list[AttentionLayer], size_cells: tuple[int, int]
) -> torch.Tensor:
    """Make one map per token: cross-attention, spread along self-attention, on the finest recorded grid.

    Shapes:  maps[name] (b2, heads, n, m or n); returns (b2, m, h, w) float32; each map has a mean of 1.
    Symbols: S = self-attention, C = cross-attention of the same transformer block.
    Source:  arXiv 2404.05384.
    """
    finest = max(layer.cells for layer in layers)
    found, size = [], (0, 0)
    for layer in layers:
        if layer.kind == "cross" and layer.cells == finest:
            size = to_grid(maps[layer.name].shape[2], size_cells)
    for cross in (layer for layer in layers if layer.kind == "cross"):
        C = maps[cross.name].float().mean(1)  # noqa: N806
        S = maps[cross.name.removesuffix("attn2") + "attn1"].float().mean(1)  # noqa: N806
        spread, powers = torch.zeros_like(C), C
        for _ in range(NUM_POWERS):
            powers = S @ powers
            spread = spread + powers / NUM_POWERS
        grid = spread.transpose(1, 2).unflatten(2, to_grid(C.shape[1], size_cells))
        grid = smooth(F.interpolate(grid, size=size, mode="bilinear", align_corners=False))
        found.append(grid / grid.mean((2, 3), keepdim=True).clamp_min(1e-12))
    return torch.stack(found).mean(0)


def to_regions(
    maps_uncond: torch.Tensor, maps_cond: torch.Tensor, size_cells: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the picture into regions.

    Shapes:  maps (b, m, h, w) without padding tokens, the start token first.
    Returns: regions (b, m, H, W) bool, one token per cell; foreground (b, H, W) bool: where the start token of the
             unconditional half does not win against all others together.
    """
    labels = maps_cond.argmax(1, keepdim=True)
    others = maps_uncond[:, 1:].sum(1)
    others = others / others.mean((1, 2), keepdim=True).clamp_min(1e-12)
    is_foreground = maps_uncond[:, 0] < others
    labels = F.interpolate(labels.float(), size=size_cells, mode="nearest").long()
    regions = F.one_hot(labels[:, 0], maps_cond.shape[1]).movedim(-1, 1).bool()
    foreground = F.interpolate(is_foreground[:, None].float(), size=size_cells, mode="nearest")[:, 0] > 0.5
    return regions, foreground


def even_out(
    pull: torch.Tensor, regions: torch.Tensor, foreground: torch.Tensor, guidance_scale: float
) -> torch.Tensor:
    """Say by how much to multiply the guidance of each cell.

    Shapes:  pull (b, h, w), the length of cond - uncond; regions (b, m, h, w); foreground (b, h, w).
    Returns: (b, h, w): mean pull of the foreground over mean pull of the own region, limited and smoothed.
    Symbols: our scale = their gamma, our pull = the norm of their classifier score.
    Source:  arXiv 2404.05384, with the limits of the released code.
    """
    areas = regions.sum((2, 3)).clamp_min(1)
    own = (pull[:, None] * regions).sum((2, 3)) / areas
    num_foreground = foreground.sum((1, 2))
    level = (pull * foreground).sum((1, 2)) / num_foreground.clamp_min(1)
    scale = ((level[:, None] / own.clamp_min(1e-12))[:, :, None, None] * regions).sum(1)
    scale = torch.where(num_foreground[:, None, None] > 0, scale, torch.ones_like(scale))
    low, high = SCALE_LIMITS
    # Guidance that is stronger than the cap already is left as it is, never weakened.
    return smooth(scale.clamp(low, min(high, max(1.0, MAX_GUIDANCE / guidance_scale))))


def soften(scale: torch.Tensor, strength: float, *, is_mean_kept: bool) -> torch.Tensor:
    """Apply a share of a correction; where asked for, without making guidance stronger or weaker on average.

    Shapes: scale, and what is returned, (b, h, w).
    """
    scale = 1 + strength * (scale - 1)
    return scale / scale.mean((1, 2), keepdim=True) if is_mean_kept else scale
