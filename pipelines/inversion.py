"""DDIM inversion: from a picture back to the noise that it would come from, and how well that worked.

The walk goes up the noise levels without guidance; `measure_inversion` walks down again and compares the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import torch
from PIL import Image

from pipelines.cfg_batch import run_cond
from pipelines.images import decode, to_tensor
from pipelines.model import ModelBundle, TextCond
from pipelines.schedules import add_noise, eps_to_x0, list_timesteps, make_scheduler, pred_to_eps
from pipelines.types import Progress

# How far up the error is measured: the first levels of a run hold nearly no signal, and nobody edits there.
CHECKED_STEPS = 10
CHECKED_FRAC = 0.7


@torch.no_grad()
def invert(
    model: ModelBundle,
    latents: torch.Tensor,
    text: TextCond,
    timesteps: Sequence[int],
    *,
    sampler: str = "ddim",
    num_refinements: int = 1,
) -> Generator[Progress, None, dict[int, torch.Tensor]]:
    """Walk from clean latents up to noise, so that DDIM without guidance walks down the same way.

    Shapes:  latents (1, c, h, w) float32; text with one row.
    Units:   timesteps 0..999 in falling order, as a sampler lists them; num_refinements fixed-point rounds per level.
    Returns: a generator of Progress, step 0, one per level, whose return value maps each timestep to its latents.
    Source:  Song et al. 2020, arXiv 2010.02502, equation 12 run backwards: x0 = (x - sqrt(1 - a) eps) / sqrt(a) at the
             lower level, then up with the same eps; eps is asked for at the higher level's timestep.
    Differs: each level is refined by asking again at the latents it led to, which is the exact inverse once it settles.
    """
    levels = make_scheduler(sampler, model.scheduler_config).alphas_cumprod
    walk: dict[int, torch.Tensor] = {}
    below, alpha_below = latents, 1.0
    for index, timestep in enumerate(reversed(timesteps)):
        alpha_bar, here = float(levels[timestep]), below
        for _ in range(1 + num_refinements):
            with model.lock:
                eps = _ask_noise(model, here, timestep, text, alpha_bar)
            here = add_noise(eps_to_x0(eps, below, alpha_below), eps, alpha_bar)
        walk[timestep] = here
        below, alpha_below = here, alpha_bar
        yield Progress(0, len(timesteps), f"inverting the picture, {index + 1}/{len(timesteps)}")
    return walk


@torch.no_grad()
def resample(
    model: ModelBundle, noisy: torch.Tensor, text: TextCond, timesteps: Sequence[int], *, sampler: str = "ddim"
) -> Generator[Progress, None, torch.Tensor]:
    """Walk from noisy latents down to clean ones: DDIM without guidance; the way back of `invert`.

    Returns: a generator of Progress whose return value are latents of the shape of `noisy`, (1, c, h, w).
    """
    levels = [float(make_scheduler(sampler, model.scheduler_config).alphas_cumprod[at]) for at in timesteps]
    here = noisy
    for index, (timestep, alpha_bar, alpha_below) in enumerate(zip(timesteps, levels, [*levels[1:], 1.0])):
        with model.lock:
            eps = _ask_noise(model, here, timestep, text, alpha_bar)
        here = add_noise(eps_to_x0(eps, here, alpha_bar), eps, alpha_below)
        yield Progress(0, len(timesteps), f"drawing it again, {index + 1}/{len(timesteps)}")
    return here


def measure_inversion(
    model: ModelBundle, picture: Image.Image, latents: torch.Tensor, text: TextCond
) -> Generator[Progress, None, tuple[float, Image.Image]]:
    """Invert a picture to CHECKED_FRAC of the noise levels, draw it again, and compare.

    Returns: a generator of Progress whose return value is (PSNR in dB against the picture, the redrawn picture).
    """
    timesteps = list_timesteps("ddim", model.scheduler_config, CHECKED_STEPS)
    checked = timesteps[round(CHECKED_STEPS * (1 - CHECKED_FRAC)) :]
    walk = yield from invert(model, latents, text, checked)
    again = yield from resample(model, walk[checked[0]], text, checked)
    with model.lock:
        redrawn = decode(model, again)[0]
    return measure_psnr(picture, redrawn), redrawn


def measure_psnr(first: Image.Image, second: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of two pictures of one size in dB; infinite if they are equal."""
    error = float((to_tensor([first]) - to_tensor([second])).double().square().mean())
    # Pictures are tensors in -1..1, so the peak is 2.
    return math.inf if error == 0 else 10 * math.log10(4 / error)


def _ask_noise(
    model: ModelBundle, latents: torch.Tensor, timestep: int, text: TextCond, alpha_bar: float
) -> torch.Tensor:
    """Ask the plain UNet for the noise in latents."""
    model.residence.place("unet")
    return pred_to_eps(run_cond(model, latents, timestep, text), latents, alpha_bar, model.spec.prediction)
