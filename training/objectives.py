"""Losses of the denoiser as plain functions: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from pipelines.schedules import add_noise, to_v


def sample_timesteps(
    count: int,
    generator: torch.Generator,
    *,
    noisy_frac: float = 0.25,
    logit_mean: float = -0.5,
    num_timesteps: int = 1000,
) -> torch.Tensor:
    """Draw training timesteps: a share `noisy_frac` from the noisiest quarter, the others logit-normal.

    Shapes: returns (count,) int64 in 0..num_timesteps-1.
    Units:  logit_mean below 0 prefers little noise: texture, and with it style, is decided below 400.
    Source: Esser et al. 2024, arXiv 2403.03206, section 3.1 (logit-normal weighting).
    Differs: where things stand, and which is which, is decided in the noisiest quarter, hence the extra draws.
    """
    normal = torch.randn(count, generator=generator)
    timesteps = (torch.sigmoid(1.2 * normal + logit_mean) * num_timesteps).long()
    late = torch.randint(num_timesteps * 3 // 4, num_timesteps, (count,), generator=generator)
    is_late = torch.randperm(count, generator=generator) < round(noisy_frac * count)
    return torch.where(is_late, late, timesteps).clamp(0, num_timesteps - 1)


def make_v_target(x0: torch.Tensor, eps: torch.Tensor, alpha_bar_t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy latents and the velocity to predict; shapes (b, c, h, w), alpha_bar_t (b,)."""
    return add_noise(x0, eps, alpha_bar_t), to_v(x0, eps, alpha_bar_t)


def truth_alignment_loss(logits: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum the cross-entropies between what an inner layer says of each cell and what the scene record knows.

    Shapes:  logits (b, classes, h, w) each; truth (b, h, w) int64 each, in the same order.
    Source:  Yu et al. 2024, arXiv 2410.06940 (REPA).
    Differs: the target is the exact scene, not the features of a pretrained encoder.
    """
    parts = [F.cross_entropy(part, cells) for part, cells in zip(logits, truth, strict=True)]
    return torch.stack(parts).sum()


def slot_loss(logits: tuple[torch.Tensor, ...], slots: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of what the last text tokens hold (`text_side.SlotHead`) and what the caption says.

    Shapes: logits (b, classes, n) for kind and for colour; slots (b, 2, n) int64, negative = not stated.
    """
    is_stated = (slots >= 0).sum().clamp_min(1)
    parts = [F.cross_entropy(part, slots[:, i], ignore_index=-100, reduction="sum") for i, part in enumerate(logits)]
    return 2 * torch.stack(parts).sum() / is_stated


def charbonnier(pred: torch.Tensor, truth: torch.Tensor, width: float = 0.01) -> torch.Tensor:
    """Return the mean of sqrt(difference^2 + width^2) - width: absolute beyond the width, squared within.

    Units:  width in the pictures' own, -1..1: 0.01 is about a level of 255.
    Source: Charbonnier et al. 1994 (the penalty's form).
    """
    return ((pred - truth).square() + width**2).sqrt().mean() - width
