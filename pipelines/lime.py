"""LIME: brighten by an estimated illumination map, without any network.

The brightest channel of a pixel is a first guess of the light that fell on it; the guess is made smooth inside things
and kept at their edges, and the picture is divided by it. Solved small, brought to full size by the guided filter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipelines.guided_filter import smooth, upsample_guided

SOLVE_PX = 384  # longest side of the map that is solved
ALPHA, SIGMA_PX = 0.15, 2.0
EPS = 1 / 255  # below one level of a file nothing can be told from rounding
GAMMA = 0.8
NUM_ITERATIONS = 60
COARSEST_PX = 24
UPSAMPLE_RADIUS_PX, UPSAMPLE_EPS = 8, 1e-3
# Black has no light to divide by; at this illumination a pixel is made at most 1 / MIN_LIGHT times as bright.
MIN_LIGHT = 1 / 255
DENOISE_RADIUS_PX = 3


def estimate_light(picture: torch.Tensor) -> torch.Tensor:
    """Estimate how much light fell on every pixel.

    Shapes:  picture (3, H, W) in 0..1; returns (1, H, W).
    Returns: MIN_LIGHT..1, and nowhere less than the brightest channel by more than what the filter smooths.
    Source:  Guo, Li and Ling 2017, "LIME: Low-Light Image Enhancement via Illumination Map Estimation".
    Differs: solved at most SOLVE_PX large, and enlarged by a guided filter instead of being solved in full size.
    """
    brightest = picture.amax(0)[None, None]
    scale = min(1.0, SOLVE_PX / max(brightest.shape[2:]))
    sides = tuple(max(1, round(side * scale)) for side in brightest.shape[2:])
    small = F.interpolate(brightest, sides, mode="area") if scale < 1 else brightest
    refined = refine_light(small[0, 0])[None, None]
    if scale < 1:
        refined = upsample_guided(refined, small, brightest, UPSAMPLE_RADIUS_PX, UPSAMPLE_EPS)
    return refined[0].clamp(MIN_LIGHT, 1)


def refine_light(light: torch.Tensor, num_iterations: int = NUM_ITERATIONS) -> torch.Tensor:
    """Smooth a first guess of the light inside things and keep it at their edges.

    Shapes:  light (h, w) in 0..1; returns the same.
    Source:  Guo, Li and Ling 2017, weights of strategy III, the sped-up solver's linear system.
    Differs: starts from the solution of half the size, without which even areas take thousands of rounds.
    """
    height, width = light.shape
    start = light
    if max(height, width) > COARSEST_PX:
        half = F.interpolate(light[None, None], ((height + 1) // 2, (width + 1) // 2), mode="area")[0, 0]
        coarse = refine_light(half, num_iterations)[None, None]
        start = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0, 0]
    return solve(light, start, num_iterations)


def solve(light: torch.Tensor, x: torch.Tensor, num_iterations: int) -> torch.Tensor:
    """Solve the linear system of the light by conjugate gradients with the diagonal's inverse, from a first x.

    Shapes:  light, x (h, w); returns the same.
    Symbols: x = their t, matrix = their I + sum_d D_d' diag(w~_d) D_d.
    """
    down, across = weigh_steps(light, 0), weigh_steps(light, 1)
    diagonal = 1 + _spread(down, 0) + _spread(across, 1)
    residual = light - _apply(x, down, across)
    moved = residual / diagonal
    direction, energy = moved, (residual * moved).sum()
    for _ in range(num_iterations):
        if float(energy) < 1e-12:
            break
        image = _apply(direction, down, across)
        length = energy / (direction * image).sum()
        x = x + length * direction
        residual = residual - length * image
        moved = residual / diagonal
        last, energy = energy, (residual * moved).sum()
        direction = moved + energy / last * direction
    return x


def weigh_steps(light: torch.Tensor, axis: int) -> torch.Tensor:
    """Weigh the difference of every two neighbours along an axis: small where the picture has an edge.

    Shapes: light (h, w); returns (h, w) with one row or column less.
    Source: Guo, Li and Ling 2017, strategy III: a Gaussian of the weights over the Gaussian of the gradient, divided by
            the gradient itself for the sped-up solver.
    """
    step = light.diff(dim=axis)
    if step.numel() == 0:
        return step
    even = 1 / (_blur(step).abs() + EPS)
    return ALPHA * even / (step.abs() + EPS)


def brighten(picture: torch.Tensor, light: torch.Tensor, gamma: float = GAMMA) -> torch.Tensor:
    """Divide a picture by its light.

    Shapes:  picture (3, H, W) in 0..1, light (1, H, W) in MIN_LIGHT..1; returns (3, H, W) in 0..1.
    Units:   gamma 0 returns the picture, 1 removes all differences of the light.
    Returns: never darker than the picture, and brighter with every larger gamma.
    Differs: the light is bounded below instead of a constant being added, which would darken the brightest pixels.
    """
    return (picture / light.clamp(MIN_LIGHT, 1) ** gamma).clamp(0, 1)


def remove_noise(bright: torch.Tensor, light: torch.Tensor, strength: float, sigma: float) -> torch.Tensor:
    """Smooth a brightened picture where little light was, because there the noise was made large with the rest.

    Shapes:  bright (3, H, W), light (1, H, W); returns (3, H, W).
    Units:   strength 0..1, 0 returns the picture; sigma is the deviation of the noise in the brightened picture, 0..1.
    Source:  Guo, Li and Ling 2017: R T + R_d (1 - T), a mixture of the picture and its smoothed form by the light.
    Differs: smoothed by a guided filter, in all three channels, instead of BM3D in the brightness.
    """
    if strength == 0 or sigma == 0:
        return bright
    weight = strength * (1 - light)
    return bright + weight * (smooth(bright[None], DENOISE_RADIUS_PX, (3 * sigma) ** 2)[0] - bright)


def _blur(step: torch.Tensor) -> torch.Tensor:
    """Blur (h, w) with the Gaussian of the weights, edges repeated."""
    reach = round(3 * SIGMA_PX)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / SIGMA_PX) ** 2)
    taps = taps / taps.sum()
    for shape, pad in (((1, 1, -1, 1), (0, 0, reach, reach)), ((1, 1, 1, -1), (reach, reach, 0, 0))):
        step = F.conv2d(F.pad(step[None, None], pad, mode="replicate"), taps.reshape(shape))[0, 0]
    return step


def _apply(x: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    """Multiply by the matrix of the linear system."""
    return x + _turn_back(down * x.diff(dim=0), 0) + _turn_back(across * x.diff(dim=1), 1)


def _turn_back(step: torch.Tensor, axis: int) -> torch.Tensor:
    """Apply the transpose of taking differences along an axis."""
    if not step.shape[axis]:
        return step.new_zeros(_wider(step, axis))
    empty = torch.zeros_like(step.narrow(axis, 0, 1))
    return torch.cat([empty, step], axis) - torch.cat([step, empty], axis)


def _spread(weights: torch.Tensor, axis: int) -> torch.Tensor:
    """Add the weights of both neighbours of every pixel: the diagonal of the system."""
    if not weights.shape[axis]:
        return weights.new_zeros(_wider(weights, axis))
    empty = torch.zeros_like(weights.narrow(axis, 0, 1))
    return torch.cat([weights, empty], axis) + torch.cat([empty, weights], axis)


def _wider(part: torch.Tensor, axis: int) -> list[int]:
    """Return a shape with one row or column more."""
    return [side + (index == axis) for index, side in enumerate(part.shape)]
