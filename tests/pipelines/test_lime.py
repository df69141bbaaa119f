"""LIME and the guided filter: against slow solutions, never darker, monotone, safe on black."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.guided_filter import box_mean, fit_locally, smooth, upsample_guided
from pipelines.lime import MIN_LIGHT, brighten, estimate_light, refine_light, remove_noise, weigh_steps


def make_picture(height: int = 40, width: int = 52, seed: int = 0) -> torch.Tensor:
    """Draw dark blocks with a little noise, (3, H, W) in 0..1."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.uniform(0.02, 0.3, (3, 5, 5)), np.ones((1, 12, 12)))[:, :height, :width]
    return torch.from_numpy((blocks + rng.normal(0, 0.005, blocks.shape)).clip(0, 1).astype(np.float32))


def test_the_light_is_the_solution_of_the_linear_system() -> None:
    light = make_picture(12, 9).amax(0)
    height, width = light.shape
    matrix = np.eye(height * width)
    for axis in (0, 1):
        weights = weigh_steps(light, axis).double().numpy()
        for y in range(weights.shape[0]):
            for x in range(weights.shape[1]):
                row = np.zeros(height * width)
                row[y * width + x] = -1
                row[(y + 1) * width + x if axis == 0 else y * width + x + 1] = 1
                matrix += weights[y, x] * np.outer(row, row)
    exact = np.linalg.solve(matrix, light.double().numpy().ravel()).reshape(height, width)
    assert np.abs(refine_light(light, 400).numpy() - exact).max() < 1e-3
    # What the page uses is near it.
    assert np.abs(refine_light(light).numpy() - exact).mean() < 0.02


@pytest.mark.parametrize("size", [(40, 52), (1, 1), (1, 30), (700, 9)])
def test_it_never_darkens_and_more_gamma_is_brighter(size: tuple[int, int]) -> None:
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(1)) * 0.3
    light = estimate_light(picture)
    assert light.shape == (1, *size) and float(light.min()) >= MIN_LIGHT and float(light.max()) <= 1
    before = picture
    for gamma in (0.0, 0.3, 0.8, 1.0):
        after = brighten(picture, light, gamma)
        assert bool((after >= before - 1e-6).all()) and float(after.max()) <= 1
        before = after
    assert torch.equal(brighten(picture, light, 0.0), picture)


def test_black_stays_black_and_white_stays_white() -> None:
    for level in (0.0, 1.0):
        picture = torch.full((3, 20, 20), level)
        assert torch.allclose(brighten(picture, estimate_light(picture), 1.0), picture, atol=1e-5)


def test_noise_is_smoothed_only_where_little_light_was() -> None:
    noise = torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.02
    picture = (0.5 + noise).clamp(0, 1)
    light = torch.full((1, 40, 40), 0.1)
    light[..., 20:] = 1.0
    cleaned = remove_noise(picture, light, 1.0, 0.02)
    assert float((cleaned[..., :15] - 0.5).std()) < 0.4 * 0.02
    assert torch.equal(cleaned[..., 25:], picture[..., 25:])
    assert torch.equal(remove_noise(picture, light, 0.0, 0.02), picture)


def test_the_fit_is_the_least_squares_line_of_a_square() -> None:
    guide, target = (torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    line = np.polyfit(guide[0, 0, 2:7, 2:7].numpy().ravel(), target[0, 0, 2:7, 2:7].numpy().ravel(), 1)
    mean_guide, mean_target = (box_mean(one, 2)[0, 0, 4, 4] for one in (guide, target))
    slope = (box_mean(guide * target, 2)[0, 0, 4, 4] - mean_guide * mean_target) / (
        box_mean(guide * guide, 2)[0, 0, 4, 4] - mean_guide**2
    )
    assert float(slope) == pytest.approx(line[0], abs=1e-4)
    rising, _ = fit_locally(guide, -guide, 2, 1e-6, only_rising=True)
    assert float(rising.abs().max()) == 0


def test_the_filter_keeps_an_edge_that_interpolation_blurs() -> None:
    guide = torch.zeros(1, 1, 64, 64)
    guide[..., 31:] = 1.0
    small = torch.nn.functional.interpolate(guide, (16, 16), mode="area")
    large = upsample_guided(small, small, guide, 4, 1e-4)
    assert float((large - guide).abs().max()) < 0.1
    assert float((smooth(guide, 3, 1e-3) - guide).abs().max()) < 0.05
