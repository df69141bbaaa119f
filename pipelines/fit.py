"""A short fit of low-rank side paths to one picture, as a stream of progress that can be stopped at every step."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipelines.cfg_batch import run_cond
from pipelines.lora import Lora, adapt, make_lora
from pipelines.model import ModelBundle, TextCond
from pipelines.schedules import add_noise, make_scheduler, to_v
from pipelines.types import Progress

FIT_SAMPLER = "ddim"


@dataclass(frozen=True)
class FitSettings:
    """Say how to fit.

    Units:  timesteps are drawn evenly from 0..max_timestep, because an edit starts below; each step takes batch_size.
    Source: the identity fit of DragDiffusion: rank 16, 80 steps of AdamW at 5e-4, batch 4, weight decay 1e-2.
    Differs: fewer steps at a higher rate, for a processor.
    """

    num_steps: int = 40
    rank: int = 8
    learning_rate: float = 2e-3
    batch_size: int = 2
    max_timestep: int = 700
    weight_decay: float = 1e-2
    seed: int = 0


def fit_lora(
    model: ModelBundle, latents: torch.Tensor, text: TextCond, settings: FitSettings = FitSettings()
) -> Generator[Progress, None, Lora]:
    """Fit side paths, so that the model predicts one picture from its noisy versions; the model itself stays as it is.

    Shapes:  latents (1, c, h, w) float32; text with one row.
    Returns: a generator of Progress, step 0, whose return value are the side paths.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    lora = make_lora(model, settings.rank, generator)
    adapted = adapt(model, lora)
    parameters = [parameter.requires_grad_(True) for parameter in lora.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    levels = make_scheduler(FIT_SAMPLER, model.scheduler_config).alphas_cumprod
    for step in range(settings.num_steps):
        timesteps = torch.randint(1, settings.max_timestep, (settings.batch_size,), generator=generator).tolist()
        noises = torch.randn((settings.batch_size, *latents.shape[1:]), generator=generator).to(latents)
        optimizer.zero_grad()
        for timestep, noise in zip(timesteps, noises[:, None]):
            alpha_bar = float(levels[timestep])
            with model.lock, torch.enable_grad():
                loss = _measure_loss(adapted, latents, noise, text, timestep=timestep, alpha_bar=alpha_bar)
                # Only the side paths: the model's own weights must not gather gradients.
                gradients = torch.autograd.grad(loss / settings.batch_size, parameters)
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        optimizer.step()
        yield Progress(0, settings.num_steps, f"learning the picture, {step + 1}/{settings.num_steps}")
    return Lora({name: (down.detach(), up.detach()) for name, (down, up) in lora.paths.items()})


def _measure_loss(
    model: ModelBundle, latents: torch.Tensor, noise: torch.Tensor, text: TextCond, *, timestep: int, alpha_bar: float
) -> torch.Tensor:
    """Compute the mean squared error of the model's own kind of prediction."""
    model.residence.place("unet")
    pred = run_cond(model, add_noise(latents, noise, alpha_bar), timestep, text)
    wanted = noise if model.spec.prediction == "eps" else to_v(latents, noise, alpha_bar)
    return F.mse_loss(pred, wanted)
