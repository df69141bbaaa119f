"""Plain guidance with its rescale: the shortest technique, made to be copied from.

Strong guidance inflates the contrast of the prediction; the rescale pulls it back to that of the conditional one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.cfg_batch import guide
from pipelines.errors import UserError
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.techniques.base import Hooks
from pipelines.types import RunInfo, StepContext


@dataclass(frozen=True)
class CfgRescale:
    """Guide, then take back part of the contrast that guidance added.

    Units:  strength is a fraction 0..1; 0 is plain guidance, bit for bit.
    Source: Lin et al. 2023, arXiv 2305.08891, section 3.4.
    """

    name: ClassVar[str] = "cfg_rescale"
    title: ClassVar[str] = "Guidance rescale"
    source: ClassVar[str] = "Lin et al. 2023, Common Diffusion Noise Schedules and Sample Steps are Flawed"
    points: ClassVar[tuple[str, ...]] = ("combine",)
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    strength: float = ranged(0.7, 0.0, 1.0, 0.05, label="Guidance rescale", help="0 is off, 1 takes back all of it.")

    @classmethod
    def neutral(cls) -> CfgRescale:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Make the hooks of one run; nothing is changed in the model."""
        validate(self)
        yield _Rescaling(self.strength)


class _Rescaling(Hooks):
    """Combine both halves and rescale the result."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def combine(
        self, pred_uncond: torch.Tensor, pred_cond: torch.Tensor, latents: torch.Tensor, ctx: StepContext
    ) -> torch.Tensor:
        """Guide, then rescale towards the conditional prediction."""
        return rescale_contrast(guide(pred_uncond, pred_cond, ctx.guidance_scale), pred_cond, self.strength)


def rescale_contrast(pred_guided: torch.Tensor, pred_cond: torch.Tensor, strength: float) -> torch.Tensor:
    """Pull a guided prediction back to the contrast of the conditional one.

    Shapes:  pred_guided, pred_cond: (b, c, h, w) float32, equal; the deviation is taken per picture over c, h, w.
    Units:   strength is a fraction 0..1; 0 returns pred_guided unchanged, bit for bit.
    Returns: (b, c, h, w) float32; no argument is modified.
    Raises:  UserError if strength is outside 0..1; ValueError with both shapes if they differ.
    Symbols: our strength = their phi, our pred_guided = their x_cfg, our pred_cond = their x_pos.
    Source:  Lin et al. 2023, arXiv 2305.08891, equations 15 and 16.
    Differs: a picture whose guided deviation is 0 is returned unchanged instead of dividing by zero.
    """
    if pred_guided.shape != pred_cond.shape:
        raise ValueError(f"guided {tuple(pred_guided.shape)} and conditional {tuple(pred_cond.shape)} differ")
    if not 0.0 <= strength <= 1.0:
        raise UserError(f"Guidance rescale {strength:g} is out of range; choose 0 to 1.")
    if strength == 0.0:
        return pred_guided
    axes = tuple(range(1, pred_guided.ndim))
    deviation_cond = pred_cond.std(dim=axes, keepdim=True)
    deviation = pred_guided.std(dim=axes, keepdim=True)
    ratio = torch.where(deviation > 0, deviation_cond / deviation.clamp(min=1e-12), torch.ones_like(deviation))  # eq 15
    return pred_guided * (strength * ratio + (1.0 - strength))  # eq 16
