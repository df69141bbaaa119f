"""Iteratively preconditioned guidance: undo a known linear damage with a denoiser that was never told of it.

Every step of an ordinary diffusion is corrected towards the observed picture: first by back-projection, which agrees
exactly, later by least squares, which does not repeat the noise. Knows no file, no tab and no trained network.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property

import torch

from pipelines.backprojection import Reduction
from pipelines.streams import follow

NUM_STEPS = 24
NUM_TRAINED = 1000
FIRST_BETA, LAST_BETA = 1e-4, 0.02
FIRST_TIMESTEP = 700
LEAST_ETA = 1e-4
NUM_SOLVER_ROUNDS = 40  # of conjugate gradients, where missing pixels make the damage inseparable

# Guess the clean picture (3, H, W) from clean + sigma * noise, yielding while at it, so that a stop is quick.
Denoise = Callable[[torch.Tensor, float], Generator[None, None, torch.Tensor]]


@dataclass(frozen=True)
class GuidanceSettings:
    """Hold the constants of a noise level.

    Units:  sigma in -1..1; zeta 0..1 is the share of fresh noise; gamma says how late least squares take over;
            regulariser times sigma^2 is added to the inverse; is_shrinking weakens the correction towards the end.
    """

    sigma: float
    zeta: float
    gamma: float
    regulariser: float
    is_shrinking: bool


# Garber and Tirer 2024, the released settings: of reduction, then of blur, by rising noise.
REDUCTION_SETTINGS = (
    GuidanceSettings(0.0, 0.7, 0.0, 0.0, False),
    GuidanceSettings(0.02, 1.0, 300.0, 1.0, False),
    GuidanceSettings(0.1, 1.0, 6.0, 0.3, True),
)
BLUR_SETTINGS = (
    GuidanceSettings(0.0, 1.0, 0.0, 0.0, False),
    GuidanceSettings(0.02, 0.6, 11.0, 1.0, False),
    GuidanceSettings(0.1, 0.4, 10.0, 0.7, True),
    GuidanceSettings(0.2, 0.6, 5.0, 0.7, True),
)


@dataclass(frozen=True, eq=False)
class Damage:
    """Hold what happened to a picture: blurred and reduced along each axis, then some pixels lost, then noise added.

    Shapes: seen (h, w) float32, 1 where the observed picture has a pixel, 0 where it is lost; None if none is.
    Units:  sigma is the deviation of the noise in -1..1.
    """

    reduction: Reduction
    sigma: float = 0.0
    seen: torch.Tensor | None = None

    def apply(self, picture: torch.Tensor) -> torch.Tensor:
        """Return what is observed of (3, H, W) without noise: (3, h, w), 0 where nothing is."""
        small = self.reduction.reduce(picture)
        return small if self.seen is None else small * self.seen

    def spread(self, observed: torch.Tensor) -> torch.Tensor:
        """Apply the transpose of `apply`."""
        return self.reduction.spread(observed if self.seen is None else observed * self.seen)

    def solve(self, gap: torch.Tensor, eta: float) -> torch.Tensor:
        """Apply the inverse of (damage x transposed damage + eta) to (3, h, w).

        Differs: exact through two small eigen-decompositions; with lost pixels by conjugate gradients.
        """
        if self.seen is not None:
            return self._solve_by_steps(gap * self.seen, eta)
        (values_y, vectors_y), (values_x, vectors_x) = self._eigen
        turned = vectors_y.T.to(gap) @ gap @ vectors_x.to(gap)
        weights = (values_y[:, None] * values_x + eta).to(gap)
        return vectors_y.to(gap) @ (turned / weights) @ vectors_x.T.to(gap)

    @cached_property
    def least_squares_scale(self) -> float:
        """Return the step of least squares: 1, or less where the damage amplifies."""
        strongest = float(self._eigen[0][0].max() * self._eigen[1][0].max())
        return 1 / max(1.0, strongest)

    @cached_property
    def _eigen(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Find eigenvalues (few,) and -vectors (few, few) of each axis' matrix times its transpose, in float64."""
        axes = (self.reduction.rows, self.reduction.columns)
        return tuple(tuple(torch.linalg.eigh(axis.matrix @ axis.matrix.T)) for axis in axes)

    def _solve_by_steps(self, gap: torch.Tensor, eta: float) -> torch.Tensor:
        """Solve by conjugate gradients; what is not seen stays 0."""
        solution, left = torch.zeros_like(gap), gap
        direction, power = left, float(left.square().sum())
        for _ in range(NUM_SOLVER_ROUNDS):
            if power < 1e-12:
                break
            image = self.apply(self.spread(direction)) + eta * direction
            length = power / float((direction * image).sum())
            solution, left = solution + length * direction, left - length * image
            power, before = float(left.square().sum()), power
            direction = left + (power / before) * direction
        return solution


def choose_settings(damage: Damage) -> GuidanceSettings:
    """Choose the constants of the nearest noise level; a damage that reduces nothing counts as blur."""
    is_reduced = damage.reduction.large_size != damage.reduction.small_size
    rows = REDUCTION_SETTINGS if is_reduced else BLUR_SETTINGS
    if damage.sigma == 0:
        return rows[0]
    return min(rows[1:], key=lambda row: abs(row.sigma - damage.sigma))


def list_alpha_bars(num_steps: int) -> list[float]:
    """List the share of signal at each step, from nearly none to all but little noise."""
    betas = torch.linspace(FIRST_BETA, LAST_BETA, NUM_TRAINED, dtype=torch.float64)
    alpha_bars = (1 - betas).cumprod(0)
    steps = torch.linspace(FIRST_TIMESTEP, 0, num_steps + 1)[:-1].round().long()
    return alpha_bars[steps].tolist()


@torch.no_grad()
def guide(
    denoise: Denoise,
    observed: torch.Tensor,
    damage: Damage,
    generator: torch.Generator,
    *,
    num_steps: int = NUM_STEPS,
) -> Generator[tuple[int, torch.Tensor], None, torch.Tensor]:
    """Restore a picture whose damage is known.

    Shapes:  observed (3, h, w) in -1..1; the generator returns (3, H, W).
    Returns: a generator of (finished steps, corrected guess so far), whose return value is the picture: without noise
             it agrees with what was observed.
    Source:  Garber and Tirer 2024, arXiv 2312.16519 (DDPG); compared with tirer-lab/DDPG functions/ddpg_scheme.py.
    Symbols: delta, eta, zeta, mu as there; guess = their x0hat, fixed = their x tilde.
    Differs: matrices of a real resizer instead of a singular value decomposition; tens of steps instead of a hundred,
             and not from pure noise, but from the back-projected picture in so much noise that nothing fine is left.
    """
    settings = choose_settings(damage)
    alpha_bars = [*list_alpha_bars(num_steps), 1.0]
    shape = (3, *damage.reduction.large_size)
    guess = fixed = damage.spread(damage.solve(observed, LEAST_ETA))
    x = alpha_bars[0] ** 0.5 * fixed + (1 - alpha_bars[0]) ** 0.5 * torch.randn(shape, generator=generator)
    for step, (alpha_bar, after) in enumerate(zip(alpha_bars, alpha_bars[1:])):
        guess = yield from follow(denoise(x / alpha_bar**0.5, (1 / alpha_bar - 1) ** 0.5), (step, fixed))
        fixed = correct(guess, observed, damage, settings, (alpha_bar, after))
        noise = (x - alpha_bar**0.5 * fixed) / (1 - alpha_bar) ** 0.5
        weight = 1.0 if settings.sigma == 0 else after**settings.gamma
        fresh = torch.randn(shape, generator=generator)
        mixed = settings.zeta**0.5 * fresh + weight * (1 - settings.zeta) ** 0.5 * noise
        x = after**0.5 * fixed + (1 - after) ** 0.5 * mixed
        yield step + 1, fixed
    # The correction repeats the noise of what was observed, so that the guess before it is the better picture.
    return x if damage.sigma == 0 else guess


def correct(
    guess: torch.Tensor,
    observed: torch.Tensor,
    damage: Damage,
    settings: GuidanceSettings,
    alpha_bars: tuple[float, float],
) -> torch.Tensor:
    """Move a guess towards what was observed; alpha_bars are those of this step and of the next.

    Source: Garber and Tirer 2024, arXiv 2312.16519: back-projection and least squares, mixed by delta.
    """
    now, after = alpha_bars
    eta = max(LEAST_ETA, damage.sigma**2 * settings.regulariser)
    delta = 0.0 if damage.sigma == 0 else after**settings.gamma
    mu = (1 - after) / (1 - now) if settings.is_shrinking else 1.0
    gap = damage.apply(guess) - observed
    back = damage.spread(damage.solve(gap, eta))
    least = damage.least_squares_scale * damage.spread(gap)
    return guess - mu * ((1 - delta) * back + delta * least)
