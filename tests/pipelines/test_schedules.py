"""The noise schedule against a slow formula and diffusers; conversions against each other; samplers against loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipelines import UserError
from pipelines import schedules as s
from tests.tiny_models import make_scheduler_config

LEVELS = (0.0, 1e-6, 0.3, 0.9991)


def slow_alpha_bar(zero_terminal_snr: bool) -> list[float]:
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    product, out = 1.0, []
    for index in range(1000):
        product *= 1.0 - (low + (high - low) * index / 999) ** 2
        out.append(product)
    if zero_terminal_snr:
        first, last = math.sqrt(out[0]), math.sqrt(out[-1])
        out = [((math.sqrt(value) - last) * first / (first - last)) ** 2 for value in out]
    return out


@pytest.mark.parametrize("zero", [False, True])
def test_alpha_bar_equals_the_slow_formula_and_diffusers(zero: bool) -> None:
    ours = s.make_alpha_bar(zero_terminal_snr=zero)
    assert ours.dtype == torch.float64 and ours.shape == (1000,)
    assert torch.allclose(ours, torch.tensor(slow_alpha_bar(zero), dtype=torch.float64), atol=1e-12)
    scheduler = s.make_scheduler("ddim", {**make_scheduler_config("v"), "rescale_betas_zero_snr": zero})
    # diffusers keeps the product of a thousand numbers in float32.
    assert torch.allclose(ours.float(), scheduler.alphas_cumprod, atol=2e-6)
    assert (ours[-1] == 0) == zero


@pytest.mark.parametrize("level", LEVELS)
def test_v_conversions_agree_at_every_level_even_pure_noise(level: float) -> None:
    x0, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    latents, v = s.add_noise(x0, eps, level), s.to_v(x0, eps, level)
    assert torch.allclose(s.v_to_x0(v, latents, level), x0)
    assert torch.allclose(s.v_to_eps(v, latents, level), eps)
    assert torch.allclose(s.x0_to_v(x0, latents, level), v, atol=1e-6)
    assert torch.allclose(s.x0_to_eps(x0, latents, level), eps, atol=1e-6)
    if level > 0:
        assert torch.allclose(s.eps_to_x0(eps, latents, level), x0, atol=1e-6)
        assert torch.allclose(s.eps_to_v(eps, latents, level), v, atol=1e-6)


def test_a_level_per_picture_equals_one_picture_at_a_time() -> None:
    x0, eps = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(2))
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    together = s.add_noise(x0, eps, levels)
    for index, level in enumerate(levels.tolist()):
        assert torch.equal(together[index], s.add_noise(x0[index], eps[index], level))


def test_prediction_kinds_go_there_and_back() -> None:
    latents, x0 = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    for kind in ("eps", "v"):
        pred = s.x0_to_pred(x0, latents, 0.4, kind)
        assert torch.allclose(s.pred_to_x0(pred, latents, 0.4, kind), x0, atol=1e-6)
    with pytest.raises(KeyError):
        s.pred_to_x0(x0, latents, 0.4, "flow")


def run_sampler(name: str, prediction: str, num_steps: int) -> tuple[torch.Tensor, list[tuple[float, torch.Tensor]]]:
    """Run a sampler on a fixed toy network; returns the result and (alpha_bar, clean estimate) of each step."""
    scheduler = s.make_scheduler(name, make_scheduler_config(prediction))
    scheduler.set_timesteps(num_steps)
    latents = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    seen = []
    for timestep in scheduler.timesteps.tolist():
        level = float(scheduler.alphas_cumprod[timestep])
        pred = torch.tanh(latents * 0.7 + timestep / 1000)
        seen.append((level, s.pred_to_x0(pred, latents, level, prediction)))
        latents = scheduler.step(pred, timestep, latents, return_dict=False)[0]
    return latents, seen


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_ddim_equals_its_formula(prediction: str) -> None:
    result, seen = run_sampler("ddim", prediction, 4)
    scheduler = s.make_scheduler("ddim", make_scheduler_config(prediction))
    latents = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(4)).double()
    for index, (level, x0) in enumerate(seen):
        last = index + 1 == len(seen)
        following = float(scheduler.final_alpha_cumprod) if last else seen[index + 1][0]
        eps = s.x0_to_eps(x0.double(), latents, level)
        latents = math.sqrt(following) * x0.double() + math.sqrt(1 - following) * eps
    assert torch.allclose(result.double(), latents, atol=1e-4)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_dpmpp_2m_equals_its_formula(prediction: str) -> None:
    result, seen = run_sampler("dpmpp_2m", prediction, 6)
    latents = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(4)).double()
    lambdas = [0.5 * math.log(level / (1 - level)) for level, _ in seen]
    for index, (level, x0) in enumerate(seen):
        x0 = x0.double()
        if index + 1 == len(seen):
            # The way to sigma 0 is one Euler step: exactly the clean estimate.
            latents = x0
            break
        following = seen[index + 1][0]
        h = lambdas[index + 1] - lambdas[index]
        mixed = x0
        if index > 0:
            r = (lambdas[index] - lambdas[index - 1]) / h
            mixed = x0 + (x0 - seen[index - 1][1].double()) / (2 * r)
        ratio = math.sqrt((1 - following) / (1 - level))
        latents = ratio * latents - math.sqrt(following) * math.expm1(-h) * mixed
    assert torch.allclose(result.double(), latents, atol=2e-4)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_samplers_keep_the_trained_schedule(name: str, prediction: str) -> None:
    base = make_scheduler_config(prediction)
    scheduler = s.make_scheduler(name, base)
    for key in ("beta_start", "beta_end", "beta_schedule"):
        assert scheduler.config[key] == base[key]
    assert scheduler.config.prediction_type == base.get("prediction_type", "epsilon")
    scheduler.set_timesteps(10)
    if prediction == "v":
        # Zero terminal SNR only helps if the first step starts at the last timestep.
        assert scheduler.timesteps[0] == 999


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_samplers_end_near_each_other_with_many_steps(prediction: str) -> None:
    ends: dict[str, Any] = {name: run_sampler(name, prediction, 200)[0] for name in ("ddim", "dpmpp_2m", "unipc")}
    spread = ends["ddim"].std()
    for name in ("dpmpp_2m", "unipc"):
        assert (ends[name] - ends["ddim"]).abs().mean() < 0.05 * spread + 0.02


def test_an_unknown_sampler_is_named() -> None:
    with pytest.raises(UserError, match="Sampler 'euler' is not known"):
        s.make_scheduler("euler", make_scheduler_config("eps"))
