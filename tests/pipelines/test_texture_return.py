"""Texture returned: stripes come back where noise does not, tiles leave no trace, the transform has an inverse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipelines import texture_return
from pipelines.darkening import blur
from pipelines.texture_return import (
    BLOCK_PX,
    INDEPENDENT,
    find_doubt,
    make_basis,
    return_texture,
    transform,
    transform_back,
)


def make_noise(height: int, width: int, strength: float = 0.1) -> torch.Tensor:
    return strength * torch.randn((3, height, width), generator=torch.Generator().manual_seed(5))


def make_stripes(height: int, width: int, strength: float = 0.15) -> torch.Tensor:
    x = torch.arange(width, dtype=torch.float32)
    return (strength * torch.sin(x * 1.3)).expand(3, height, -1).clone()


def test_the_transform_keeps_lengths_and_has_an_inverse() -> None:
    basis = make_basis()
    torch.testing.assert_close(basis @ basis.T, torch.eye(BLOCK_PX**2), atol=1e-5, rtol=0)
    picture = make_noise(37, 50)
    torch.testing.assert_close(transform_back(transform(picture, picture).values, (37, 50)), picture)


def test_stripes_come_back_and_noise_does_not() -> None:
    clean, noise = make_stripes(96, 128), make_noise(96, 128)
    flat = torch.zeros(3, 96, 128)
    back = return_texture(clean + noise, flat)
    # Stripes lie all over: their frequency's median block is no noise, but the median direction is.
    assert (back - clean).square().mean() < 0.15 * clean.square().mean()
    assert return_texture(noise, flat).square().mean() < 0.1 * noise.square().mean()


def test_relief_that_looks_like_noise_comes_back_as_all_colours_share_it() -> None:
    relief = 1.5 * make_noise(96, 128, 0.1)[:1].expand(3, -1, -1)
    noise = 0.1 * torch.randn((3, 96, 128), generator=torch.Generator().manual_seed(6))
    back = return_texture(relief + noise, torch.zeros(3, 96, 128))
    kept = float((back * relief).mean() / relief.square().mean())
    assert kept > 0.75
    # Of what came back the colours do not differ: that was noise alone.
    assert (back - back.mean(0)).square().mean() < 0.02 * noise.square().mean()


def test_a_grey_picture_s_noise_does_not_come_back() -> None:
    noise = make_noise(96, 128)[:1].expand(3, -1, -1)
    back = return_texture(noise, torch.zeros(3, 96, 128))
    assert back.square().mean() < 0.1 * noise.square().mean()


def test_grain_whose_colours_were_smoothed_does_not_come_back() -> None:
    noise = make_noise(96, 128)
    light = noise.mean(0, keepdim=True)
    smoothed = light + blur(noise - light, 3.0, 3.0)
    back = return_texture(smoothed, torch.zeros(3, 96, 128))
    assert back.square().mean() < 0.1 * smoothed.square().mean()


def test_colours_tell_the_noise_of_light_where_a_file_kept_them() -> None:
    flat, noise = torch.zeros(3, 256, 256), make_noise(256, 256)
    # A sixth is exact where each colour has a noise of its own, however strong each is.
    weighed = noise * torch.tensor([1.8, 1.0, 1.6])[:, None, None]
    light, differences = weighed.mean(0).square().mean(), (weighed - weighed.mean(0)).square().sum(0).mean()
    assert float(light / differences) == pytest.approx(INDEPENDENT, rel=0.03)
    assert find_doubt([transform(weighed, flat)]) == 0
    few = F.avg_pool2d((noise - noise.mean(0))[None], 4)
    coarse = F.interpolate(few, scale_factor=4, mode="bilinear")[0]
    assert find_doubt([transform(noise.mean(0) + coarse, flat)]) == pytest.approx(1, abs=0.1)
    assert find_doubt([transform(noise[:1].expand(3, -1, -1), flat)]) == 1


def test_light_and_colour_do_not_come_back() -> None:
    flat = torch.zeros(3, 64, 64)
    torch.testing.assert_close(return_texture(flat + 0.3, flat), flat, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (33, 90), (61, 47)])
def test_any_size_keeps_its_size_and_small_ones_stay(size: tuple[int, int]) -> None:
    picture = make_noise(*size)
    assert return_texture(picture, picture * 0.5).shape == picture.shape
    small = make_noise(2 * BLOCK_PX - 1, 50)
    assert return_texture(small, small * 0.5) is not small
    assert torch.equal(return_texture(small, small * 0.5), small * 0.5)


def test_tiles_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_stripes(160, 176) + make_noise(160, 176)
    after = torch.zeros_like(before)
    whole = return_texture(before, after)
    monkeypatch.setattr(texture_return, "TILE_PX", 88)
    tiled = return_texture(before, after)
    # Blocks fall otherwise in each tile, and the noise is measured on more of them.
    assert (tiled - whole).abs().mean() < 0.02 * whole.abs().mean() + 0.01
