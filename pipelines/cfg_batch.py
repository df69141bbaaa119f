"""The guidance batch: order is (uncond, cond), defined here and nowhere else."""

from __future__ import annotations

import torch

from pipelines.model import ModelBundle, TextCond, run_unet


def join_halves(uncond: torch.Tensor, cond: torch.Tensor, num_images: int) -> torch.Tensor:
    """Stack both halves of a condition for a batch of pictures.

    Shapes:  uncond, cond: (1, ...) shared by all pictures, or (b, ...) one each.
    Returns: (2b, ...), first all unconditional rows, then all conditional ones.
    """
    halves = (half.expand(num_images, *half.shape[1:]) if half.shape[0] == 1 else half for half in (uncond, cond))
    return torch.cat(tuple(halves))


def split_halves(both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a guidance batch (2b, ...) into (uncond, cond), each (b, ...), without copying."""
    uncond, cond = both.chunk(2)
    return uncond, cond


def run_halves(
    model: ModelBundle, latents: torch.Tensor, timestep: int, text: TextCond
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the UNet once for both halves; latents (b, c, h, w), returns (uncond, cond) of that shape."""
    hidden = join_halves(text.hidden_uncond, text.hidden_cond, len(latents))
    pooled = join_halves(text.pooled_uncond, text.pooled_cond, len(latents))
    added = {"text_embeds": pooled, "time_ids": text.time_ids.expand(len(pooled), -1)} if pooled.shape[-1] else {}
    return split_halves(run_unet(model, torch.cat([latents, latents]), timestep, hidden, added))


def run_three(
    model: ModelBundle, latents: torch.Tensor, timestep: int, texts: tuple[TextCond, TextCond], rows: slice
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the UNet once for both halves of one text and the conditional half of another.

    Shapes:  latents (b, c, h, w), some of the pictures of a run; rows says which, where a text has one row per picture.
    Returns: (uncond, cond, other) of that shape; in the pass they stand in this order.
    """
    first, other = texts

    def stack(*halves: torch.Tensor) -> torch.Tensor:
        picked = (half if len(half) == 1 else half[rows] for half in halves)
        return torch.cat([half.expand(len(latents), *half.shape[1:]) for half in picked])

    hidden = stack(first.hidden_uncond, first.hidden_cond, other.hidden_cond)
    pooled = stack(first.pooled_uncond, first.pooled_cond, other.pooled_cond)
    added = {"text_embeds": pooled, "time_ids": first.time_ids.expand(len(pooled), -1)} if pooled.shape[-1] else {}
    uncond, cond, last = run_unet(model, torch.cat([latents] * 3), timestep, hidden, added).chunk(3)
    return uncond, cond, last


def run_cond(model: ModelBundle, latents: torch.Tensor, timestep: int | torch.Tensor, text: TextCond) -> torch.Tensor:
    """Run the UNet once for the conditional half alone; latents (b, c, h, w), returns the same shape.

    Units: timestep 0..999, one for all rows or (b,) one each.
    """
    hidden, pooled = (part.expand(len(latents), *part.shape[1:]) for part in (text.hidden_cond, text.pooled_cond))
    added = {"text_embeds": pooled, "time_ids": text.time_ids.expand(len(latents), -1)} if pooled.shape[-1] else {}
    return run_unet(model, latents, timestep, hidden, added)


def guide(pred_uncond: torch.Tensor, pred_cond: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Extrapolate from the unconditional to the conditional prediction.

    Shapes: both (b, c, h, w) float32, of the same kind (eps or v).
    Units:  guidance_scale 1 returns the conditional prediction, 0 the unconditional one.
    Source: Ho and Salimans 2022, arXiv 2207.12598, equation 6 (their w is our guidance_scale - 1).
    """
    if guidance_scale == 1.0:
        return pred_cond
    return pred_uncond + guidance_scale * (pred_cond - pred_uncond)
