"""Guidance towards a known damage: exact with a perfect denoiser, in agreement with what was seen, free elsewhere."""

import math
from collections.abc import Generator

import pytest
import torch

from pipelines.backprojection import Reduction, make_axis, make_reduction
from pipelines.preconditioned_guidance import (
    Damage,
    Denoise,
    GuidanceSettings,
    choose_settings,
    correct,
    guide,
    list_alpha_bars,
)

SIDE = 24


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random numbers in -0.8..0.8."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def make_blurred(sigma: float = 0.0, scale: int = 2) -> Damage:
    """A damage that blurs, reduces and may add noise."""
    axis = make_axis(SIDE, SIDE // scale, blur_px=0.7)
    return Damage(Reduction(axis, axis), sigma)


def make_holes(sigma: float = 0.0) -> Damage:
    """A damage that loses a third of the pixels."""
    return Damage(make_reduction((SIDE, SIDE), (SIDE, SIDE)), sigma, (draw(SIDE, SIDE, seed=9) > -0.3).float())


def flatten(picture: torch.Tensor, sigma: float) -> Generator[None, None, torch.Tensor]:
    """Denoise without knowing anything: shrink towards grey."""
    yield
    return picture * (0.25 / (0.25 + sigma**2))


def know(truth: torch.Tensor) -> Denoise:
    """Denoise by knowing the answer."""

    def denoise(picture: torch.Tensor, sigma: float) -> Generator[None, None, torch.Tensor]:
        yield
        return truth

    return denoise


def run(
    denoise: Denoise, observed: torch.Tensor, damage: Damage, *, seed: int = 0, num_steps: int = 12
) -> torch.Tensor:
    """Guide to the end."""
    stream = guide(denoise, observed, damage, torch.Generator().manual_seed(seed), num_steps=num_steps)
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("damage", [make_blurred(), make_blurred(0.1), make_holes(), make_holes(0.1)])
def test_a_perfect_denoiser_gives_the_truth(damage: Damage) -> None:
    truth = draw(3, SIDE, SIDE)
    assert (run(know(truth), damage.apply(truth), damage) - truth).abs().max() < 1e-4


@pytest.mark.parametrize("damage", [make_blurred(), make_holes(), Damage(make_reduction((SIDE, SIDE), (7, 11)))])
def test_without_noise_the_result_agrees_with_what_was_seen(damage: Damage) -> None:
    observed = damage.apply(draw(3, SIDE, SIDE))
    error = (damage.apply(run(flatten, observed, damage)) - observed).square().mean()
    assert 10 * math.log10(4 / max(float(error), 1e-12)) > 45


def test_seeds_differ_only_where_the_damage_lost_something() -> None:
    damage = make_holes()
    observed = damage.apply(draw(3, SIDE, SIDE))
    gap = (run(flatten, observed, damage, seed=1) - run(flatten, observed, damage, seed=2)).abs()
    assert damage.seen is not None
    assert gap[:, damage.seen == 0].mean() > 0.05
    assert gap[:, damage.seen == 1].max() < 1e-2


@pytest.mark.parametrize("damage", [make_blurred(0.1), make_holes(0.1)])
def test_the_transpose_and_the_inverse_are_what_they_say(damage: Damage) -> None:
    picture, small = draw(3, SIDE, SIDE).double(), draw(3, *damage.reduction.small_size, seed=3).double()
    assert torch.allclose((damage.apply(picture) * small).sum(), (picture * damage.spread(small)).sum())
    gap = damage.apply(picture)
    solved = damage.solve(gap, 0.05)
    assert (damage.apply(damage.spread(solved)) + 0.05 * solved - gap).abs().max() < 1e-4


def test_late_steps_follow_least_squares() -> None:
    damage = make_blurred(0.1)
    guess, observed = draw(3, SIDE, SIDE), draw(3, SIDE // 2, SIDE // 2, seed=4)
    settings = GuidanceSettings(0.1, 1.0, 6.0, 0.3, False)
    gap = damage.apply(guess) - observed
    late = correct(guess, observed, damage, settings, (0.999999, 1.0))
    assert torch.allclose(late, guess - damage.least_squares_scale * damage.spread(gap), atol=1e-5)
    early = correct(guess, observed, damage, settings, (1e-4, 1e-3))
    assert torch.allclose(early, guess - damage.spread(damage.solve(gap, 0.1**2 * 0.3)), atol=1e-5)


def test_settings_follow_the_noise_and_levels_rise() -> None:
    assert choose_settings(make_blurred()).sigma == 0
    assert choose_settings(make_blurred(0.09)).gamma == 6.0
    assert choose_settings(make_holes(0.15)).is_shrinking
    levels = list_alpha_bars(10)
    assert levels == sorted(levels) and len(levels) == 10 and levels[0] < 0.01 < 0.9 < levels[-1]


def test_a_stop_leaves_the_best_picture_so_far() -> None:
    damage = make_holes()
    stream = guide(flatten, damage.apply(draw(3, SIDE, SIDE)), damage, torch.Generator(), num_steps=5)
    assert [step for step, _ in (next(stream), next(stream), next(stream))] == [0, 1, 1]
    stream.close()
