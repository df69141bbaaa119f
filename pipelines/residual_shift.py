"""Residual shifting: from a damaged picture with noise to a clean one in a few steps that never leave the picture.

The chain starts at the damaged picture instead of at pure noise, so that four steps are enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

NUM_STEPS = 4
KAPPA = 0.4  # noise of the chain in units of -1..1
POWER = 0.3
LAST_ETA_ROOT = 0.99
FIRST_STEP = 0.2  # min_noise_level of the four-step schedule


def make_etas(num_steps: int = NUM_STEPS) -> tuple[float, ...]:
    """List how much of the way to the damaged picture each step lies, rising, each 0..1.

    Source:  Yue, Wang and Loy 2023, arXiv 2307.12348 (the exponential schedule); compared with zsyOAOA/ResShift
             models/gaussian_diffusion.py. sqrt(eta_1) = min(m / kappa, m).
    Differs: kappa is 0.4 instead of 2, because pixels lie in -1..1 and the damaged picture is nearer.
    """
    if num_steps == 1:
        return (LAST_ETA_ROOT**2,)
    first = min(FIRST_STEP / KAPPA, FIRST_STEP)
    base = (LAST_ETA_ROOT / first) ** (1 / (num_steps - 1))
    roots = (first * base ** ((index / (num_steps - 1)) ** POWER * (num_steps - 1)) for index in range(num_steps))
    return tuple(root**2 for root in roots)


def start_chain(damaged: torch.Tensor, noise: torch.Tensor, etas: Sequence[float]) -> torch.Tensor:
    """Return where the chain begins: the damaged picture under the noise of the last level."""
    return damaged + KAPPA * etas[-1] ** 0.5 * noise


def step_back(
    noisy: torch.Tensor, clean: torch.Tensor, step: int, etas: Sequence[float], *, noise: torch.Tensor
) -> torch.Tensor:
    """Go from level `step` (0-based) to the one before, given the guess of the clean picture.

    Shapes:  all tensors equal; noise is standard normal.
    Returns: a sample of the level before; at step 0 the guess itself.
    Source:  Yue, Wang and Loy 2023, arXiv 2307.12348 (mean and variance of the reverse step).
    """
    if step == 0:
        return clean
    high, low = etas[step], etas[step - 1]
    mean = (low / high) * noisy + ((high - low) / high) * clean
    return mean + KAPPA * (low * (high - low) / high) ** 0.5 * noise
