"""The rescale kernel against its slow formula and diffusers; plain guidance at its fixed points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines import UserError
from pipelines.cfg_batch import guide, join_halves, split_halves
from pipelines.techniques.cfg_rescale import CfgRescale, rescale_contrast


def draw_pair() -> tuple[torch.Tensor, torch.Tensor]:
    guided, cond = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    return guided * 3 + 1, cond


@pytest.mark.parametrize("strength", [0.25, 0.7, 1.0])
def test_the_rescale_equals_its_slow_formula(strength: float) -> None:
    guided, cond = draw_pair()
    out = rescale_contrast(guided, cond, strength).numpy()
    for index in range(len(out)):
        one, other = guided[index].double().numpy(), cond[index].double().numpy()
        ratio = np.std(other.ravel(), ddof=1) / np.std(one.ravel(), ddof=1)
        assert np.allclose(out[index], strength * one * ratio + (1 - strength) * one, atol=1e-5)


def test_the_rescale_equals_diffusers() -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    guided, cond = draw_pair()
    assert torch.allclose(rescale_contrast(guided, cond, 0.7), rescale_noise_cfg(guided, cond, 0.7), atol=1e-5)


def test_strength_zero_returns_the_guided_prediction_itself() -> None:
    guided, cond = draw_pair()
    assert rescale_contrast(guided, cond, 0.0) is guided


def test_full_strength_gives_the_contrast_of_the_conditional_prediction() -> None:
    guided, cond = draw_pair()
    out = rescale_contrast(guided, cond, 1.0)
    assert torch.allclose(out.std(dim=(1, 2, 3)), cond.std(dim=(1, 2, 3)), rtol=1e-4)


def test_a_flat_picture_stays_finite() -> None:
    flat = torch.full((2, 4, 5, 5), 0.5)
    assert torch.equal(rescale_contrast(flat, draw_pair()[1][:2], 1.0), flat)


def test_wrong_shapes_and_strengths_are_refused() -> None:
    guided, cond = draw_pair()
    with pytest.raises(ValueError, match=r"\(3, 4, 5, 5\) and conditional \(2, 4, 5, 5\)"):
        rescale_contrast(guided, cond[:2], 0.5)
    with pytest.raises(UserError, match="Guidance rescale 1.5 is out of range"):
        rescale_contrast(guided, cond, 1.5)


def test_guidance_one_is_the_prompt_alone_and_zero_ignores_it() -> None:
    uncond, cond = draw_pair()
    assert guide(uncond, cond, 1.0) is cond
    assert torch.equal(guide(uncond, cond, 0.0), uncond)
    assert torch.allclose(guide(uncond, cond, 3.0), 3 * cond - 2 * uncond, atol=1e-5)


def test_halves_are_uncond_first_and_come_apart_again() -> None:
    uncond, cond = torch.zeros(1, 2), torch.ones(1, 2)
    both = join_halves(uncond, cond, 3)
    assert both.tolist() == [[0, 0]] * 3 + [[1, 1]] * 3
    first, second = split_halves(both)
    assert torch.equal(first, torch.zeros(3, 2)) and torch.equal(second, torch.ones(3, 2))


def test_the_record_states_its_source_and_neutral_value() -> None:
    assert CfgRescale.neutral().strength == 0.0
    assert "Lin" in CfgRescale.source
