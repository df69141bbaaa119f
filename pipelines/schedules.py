"""Noise schedule of the trained models and the conversions between its quantities, as pure functions.

latents = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, and v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0.
Samplers are the ones of diffusers, made new for each run because they carry state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipelines.errors import UserError

Level = torch.Tensor | float
# Share of signal at timestep 981, the first of 50 steps of Stable Diffusion.
SHORT_ALPHA_BAR = 0.076**2


def make_alpha_bar(
    num_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    zero_terminal_snr: bool = True,
) -> torch.Tensor:
    """Compute the signal share of every training timestep for scaled-linear betas.

    Returns: (num_timesteps,) float64, falling; the last entry is exactly 0 with zero_terminal_snr.
    Source:  Lin et al. 2023, arXiv 2305.08891, Algorithm 1 (shift and scale of sqrt(alpha_bar)).
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1.0 - betas, dim=0)
    if not zero_terminal_snr:
        return alpha_bar
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def _roots(like: torch.Tensor, alpha_bar_t: Level) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sqrt(alpha_bar) and sqrt(1 - alpha_bar), rooted in float64, shaped to multiply `like` per image."""
    level = torch.as_tensor(alpha_bar_t, dtype=torch.float64)
    if level.ndim == 1:
        level = level.view(-1, *([1] * (like.ndim - 1)))
    signal, noise = level.sqrt(), (1.0 - level).sqrt()
    return signal.to(like.device, like.dtype), noise.to(like.device, like.dtype)


def add_noise(x0: torch.Tensor, eps: torch.Tensor, alpha_bar_t: Level) -> torch.Tensor:
    """Mix clean latents with noise.

    Shapes:  x0, eps: (b, ...) equal; alpha_bar_t: a number, or (b,) with one level per image.
    Returns: sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps.
    """
    signal, noise = _roots(x0, alpha_bar_t)
    return signal * x0 + noise * eps


def to_v(x0: torch.Tensor, eps: torch.Tensor, alpha_bar_t: Level) -> torch.Tensor:
    """Compute the velocity sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0; shapes as in add_noise.

    Source: Salimans and Ho 2022, arXiv 2202.00512, appendix D.
    """
    signal, noise = _roots(x0, alpha_bar_t)
    return signal * eps - noise * x0


def v_to_x0(v: torch.Tensor, latents: torch.Tensor, alpha_bar_t: Level) -> torch.Tensor:
    """Recover the clean estimate from a velocity; exact at every noise level; shapes as in add_noise."""
    signal, noise = _roots(latents, alpha_bar_t)
    return signal * latents - noise * v


def v_to_eps(v: torch.Tensor, latents: torch.Tensor, alpha_bar_t: Level) -> torch.Tensor:
    """Recover the noise from a velocity; at alpha_bar 0 it is the latents themselves; shapes as in add_noise."""
    signal, noise = _roots(latents, alpha_bar_t)
    return signal * v + noise * latents


def x0_to_v(x0: torch.Tensor, latents: torch.Tensor, alpha_bar_t: Level) -> torch.Tensor:
    """Turn a clean estimate back into a velocity (alpha_bar below 1); shapes as in add_noise."""
    signal, noise = _roots(latents, alpha_bar_t)
    return (signal * latents - x0) / noise


def eps_to_x0(eps: torch.Tensor, latents: torch.Tensor, alpha_bar_t: Level) -> torch.Tensor:
    """Recover the clean estimate from the noise (alpha_bar above 0); shapes as in add_noise."""
    signal, noise = _roots(latents, alpha_bar_t)
    return (latents - noise * eps) / signal


def x0_to_eps(x0: torch.Tensor, latents: torch.Tensor, alpha_bar_t: Level) -> torch.Tensor:
    """Turn a clean estimate back into noise (alpha_bar below 1); shapes as in add_noise."""
    signal, noise = _roots(latents, alpha_bar_t)
    return (latents - signal * x0) / noise


def eps_to_v(eps: torch.Tensor, latents: torch.Tensor, alpha_bar_t: Level) -> torch.Tensor:
    """Turn noise into a velocity (alpha_bar above 0); shapes as in add_noise."""
    return to_v(eps_to_x0(eps, latents, alpha_bar_t), eps, alpha_bar_t)


def pred_to_x0(pred: torch.Tensor, latents: torch.Tensor, alpha_bar_t: Level, prediction: str) -> torch.Tensor:
    """Read the clean estimate out of a network output of kind `prediction` (eps or v); shapes as in add_noise."""
    return {"eps": eps_to_x0, "v": v_to_x0}[prediction](pred, latents, alpha_bar_t)


def pred_to_eps(pred: torch.Tensor, latents: torch.Tensor, alpha_bar_t: Level, prediction: str) -> torch.Tensor:
    """Read the noise out of a network output of kind `prediction` (eps or v); shapes as in add_noise."""
    return pred if prediction == "eps" else v_to_eps(pred, latents, alpha_bar_t)


def x0_to_pred(x0: torch.Tensor, latents: torch.Tensor, alpha_bar_t: Level, prediction: str) -> torch.Tensor:
    """Write a clean estimate as a network output of kind `prediction` (eps or v); shapes as in add_noise."""
    return {"eps": x0_to_eps, "v": x0_to_v}[prediction](x0, latents, alpha_bar_t)


def make_scheduler(name: str, base_config: Mapping[str, Any]) -> Any:
    """Make a fresh sampler with the trained noise schedule.

    Units:   name is ddim, dpmpp_2m, unipc or ddim_short; base_config is the scheduler config of the weights;
             ddim_short is ddim from SHORT_ALPHA_BAR on, where Stable Diffusion begins with noise all the same.
    Returns: a diffusers scheduler with set_timesteps() and step(); all call the network once a step.
    Raises:  UserError for another name.
    Differs: clip_sample and thresholding are switched off, because latents are not bounded by 1.
    """
    # diffusers.schedulers is slow to import; training uses the formulas above without it.
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    trained = {key: value for key, value in dict(base_config).items() if not key.startswith("_")}
    trained.update(clip_sample=False, thresholding=False)
    if name == "ddim":
        return DDIMScheduler.from_config(trained)
    if name == "ddim_short":
        alpha_bar = DDIMScheduler.from_config(trained).alphas_cumprod.double()
        alpha_bar = alpha_bar[alpha_bar >= SHORT_ALPHA_BAR]
        betas = 1.0 - alpha_bar / torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])
        short = trained | {"trained_betas": betas.tolist(), "num_train_timesteps": len(betas)}
        short |= {"rescale_betas_zero_snr": False, "timestep_spacing": "trailing", "use_lu_lambdas": False}
        # Of first order, this solver is DDIM; the DDIM class itself needs a step to divide the number of timesteps.
        return DPMSolverMultistepScheduler.from_config(
            short, algorithm_type="dpmsolver++", solver_order=1, final_sigmas_type="zero"
        )
    if name == "dpmpp_2m":
        return DPMSolverMultistepScheduler.from_config(
            trained, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
        )
    if name == "unipc":
        return UniPCMultistepScheduler.from_config(trained, solver_order=2, solver_type="bh2", final_sigmas_type="zero")
    raise UserError(f"Sampler {name!r} is not known; choose one of dpmpp_2m, ddim, unipc, ddim_short.")


def list_timesteps(name: str, base_config: Mapping[str, Any], num_steps: int) -> list[int]:
    """List the training timesteps, 0..999, at which a sampler calls the network.

    Raises: UserError for an unknown sampler.
    """
    scheduler = make_scheduler(name, base_config)
    scheduler.set_timesteps(num_steps)
    return [int(timestep) for timestep in scheduler.timesteps.tolist()]
