"""S-CFG: regions, their scale, and the smoothing against slow formulas; attention spread on a case done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipelines.attention import AttentionLayer
from pipelines.attention_maps import smooth, to_grid
from pipelines.techniques.s_cfg import SCALE_LIMITS, even_out, soften, to_regions, token_maps


def test_smoothing_equals_the_slow_formula() -> None:
    maps = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))
    padded = np.pad(maps.numpy(), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    weights = np.array([[math.exp(-((dx**2 + dy**2) / (2 * 0.5) ** 2)) for dx in (-1, 0, 1)] for dy in (-1, 0, 1)])
    expected = np.zeros(maps.shape)
    for index in np.ndindex(*maps.shape):
        window = padded[index[0], index[1] : index[1] + 3, index[2] : index[2] + 3]
        expected[index] = (window * weights).sum() / weights.sum()
    assert torch.allclose(smooth(maps), torch.from_numpy(expected).float(), atol=1e-6)


def test_grids_are_halvings_of_the_latents() -> None:
    assert to_grid(16 * 16, (32, 32)) == (16, 16)
    assert to_grid(8 * 24, (32, 96)) == (8, 24)
    assert to_grid(3 * 5, (5, 9)) == (3, 5)
    with pytest.raises(ValueError, match="no grid of latents of 32 x 32"):
        to_grid(100, (32, 32))


def test_each_region_is_scaled_to_the_level_of_the_foreground() -> None:
    pull = torch.rand(1, 4, 6, generator=torch.Generator().manual_seed(1)) + 0.5
    regions = torch.zeros(1, 3, 4, 6, dtype=torch.bool)
    regions[0, 0, :2], regions[0, 1, 2:, :3], regions[0, 2, 2:, 3:] = True, True, True
    foreground = torch.zeros(1, 4, 6, dtype=torch.bool)
    foreground[0, 2:] = True
    rows = pull[0].numpy()
    expected = np.zeros((4, 6))
    for mask in regions[0].numpy():
        expected[mask] = np.clip(rows[foreground[0].numpy()].mean() / rows[mask].mean(), *SCALE_LIMITS)
    scale = even_out(pull, regions, foreground, 4.0)
    assert torch.allclose(scale[0], smooth(torch.from_numpy(expected).float()), atol=1e-5)


def test_the_scale_respects_the_cap_and_an_empty_foreground_changes_nothing() -> None:
    pull, regions = torch.ones(1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert torch.allclose(even_out(pull, regions, torch.zeros(1, 2, 2, dtype=torch.bool), 4.0), torch.ones(1, 2, 2))
    pull[0, 0], regions = 10.0, torch.tensor([[[[True, True], [False, False]], [[False, False], [True, True]]]])
    scale = even_out(pull, regions, torch.ones(1, 2, 2, dtype=torch.bool), 12.0)
    assert scale.max() <= 15 / 12 + 1e-6
    assert even_out(pull, regions, torch.ones(1, 2, 2, dtype=torch.bool), 20.0).max() <= 1


def test_a_correction_is_softened_and_leaves_the_mean_alone_where_asked() -> None:
    scale = torch.tensor([[[1.0, 3.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert torch.equal(soften(scale, 0.5, is_mean_kept=False)[0], torch.tensor([[1.0, 2.0], [1.5, 1.5]]))
    kept = soften(scale, 1.0, is_mean_kept=True)
    assert torch.equal(kept[0], scale[0] / 2) and torch.equal(kept[1], scale[1])


def test_regions_take_the_strongest_token_and_the_start_token_marks_the_background() -> None:
    cond = torch.zeros(1, 3, 2, 2)
    cond[0, 0, 0], cond[0, 1, 1, 0], cond[0, 2, 1, 1] = 1, 1, 1
    uncond = torch.zeros(1, 3, 2, 2)
    uncond[0, 0, 0], uncond[0, 1, 1], uncond[0, 2, 1] = 5, 1, 1
    regions, foreground = to_regions(uncond, cond, (4, 4))
    assert regions[0, 0, :2].all() and regions[0, 1, 2:, :2].all() and regions[0, 2, 2:, 2:].all()
    assert regions.sum(1).eq(1).all()
    assert not foreground[0, :2].any() and foreground[0, 2:].all()


def test_maps_follow_self_attention_and_have_a_mean_of_one() -> None:
    layers = [AttentionLayer(f"block.attn{i}", kind, "up", 4) for i, kind in ((1, "self"), (2, "cross"))]
    generator = torch.Generator().manual_seed(2)
    own = torch.rand(2, 1, 16, 16, generator=generator).softmax(-1)
    cross = torch.rand(2, 1, 16, 3, generator=generator).softmax(-1)
    maps = token_maps({"block.attn1": own, "block.attn2": cross}, layers, (8, 8))
    assert maps.shape == (2, 3, 4, 4) and torch.allclose(maps.mean((2, 3)), torch.ones(2, 3), atol=1e-5)
    powers = [np.linalg.matrix_power(own[0, 0].double().numpy(), power) for power in (1, 2, 3, 4)]
    spread = (np.mean(powers, axis=0) @ cross[0, 0].double().numpy()).T.reshape(3, 4, 4)
    expected = smooth(torch.from_numpy(spread).float())
    assert torch.allclose(maps[0], expected / expected.mean((1, 2), keepdim=True), atol=1e-4)
