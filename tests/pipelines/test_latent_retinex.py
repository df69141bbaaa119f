"""Latent Retinex on the shipped autoencoder: reflectance that does not depend on the exposure, black, adaptation."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import pytest
import torch

from pipelines.images import to_tensor
from pipelines.latent_retinex import MIN_LIGHT, decode_lit, decompose, find_power, keep_detail, light_pixels
from pipelines.model import ModelBundle
from tests.pictures import make_ramp

Value = TypeVar("Value")


def finish(stream: Generator[object, None, Value]) -> Value:
    """Run a stream to its end."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def make_picture() -> torch.Tensor:
    """Draw a ramp with a bright and a dark box, (3, 64, 96) in -1..1."""
    picture = to_tensor([make_ramp(96, 64)])[0] * 0.6
    picture[:, 20:40, 20:44] = 0.8
    picture[:, 10:50, 60:80] = -0.7
    return picture


def test_reflectance_does_not_depend_on_the_exposure(storybook: ModelBundle) -> None:
    picture = make_picture()
    whole = finish(decompose(storybook, picture))
    dark = ((picture + 1) * 0.2 * 127.5).round() / 127.5 - 1
    for exposed, most in (((picture + 1) * 0.2 - 1, 0.01), (dark, 0.05)):
        parts = finish(decompose(storybook, exposed))
        change = (parts.reflectance - whole.reflectance).abs().mean() / whole.reflectance.abs().mean()
        assert float(change) < most
        assert float((parts.light / whole.light).mean()) == pytest.approx(0.2, abs=0.01)


def test_both_parts_give_the_latents_back(storybook: ModelBundle) -> None:
    parts = finish(decompose(storybook, make_picture()))
    assert torch.allclose(parts.compose(1.0), parts.black + parts.reflectance * parts.light)
    assert float(parts.light.min()) >= MIN_LIGHT and float(parts.light.max()) <= 1


def test_black_is_no_division_by_zero(storybook: ModelBundle) -> None:
    parts = finish(decompose(storybook, torch.full((3, 16, 16), -1.0)))
    assert bool(torch.isfinite(parts.reflectance).all()) and float(parts.reflectance.abs().max()) < 0.1


def test_the_power_reaches_the_brightness() -> None:
    picture, light = (make_picture() + 1) * 0.2 - 1, torch.full((1, 1, 8, 12), 0.2)
    power = find_power(picture, light, 0.3)
    assert float(light_pixels(picture, light, power).mean() + 1) / 2 == pytest.approx(0.3, abs=0.02)
    assert find_power(picture, torch.full((1, 1, 8, 12), 0.9), 0.8) < 0.01


def test_adapting_brings_the_decoder_nearer_and_leaves_the_model_alone(storybook: ModelBundle) -> None:
    picture = (make_picture() + 1) * 0.2 - 1
    layer = storybook.vae.decoder.conv_out
    weights = layer.weight.clone()
    with torch.no_grad():
        parts = finish(decompose(storybook, picture))
        power = find_power(picture, parts.light, 0.4)
        lit = light_pixels(picture, parts.light, power)
        cleaned, before, after = finish(decode_lit(storybook, parts, lit, power, 1.0))
    assert after < before and torch.equal(layer.weight, weights) and not layer.weight.requires_grad
    assert cleaned.shape == lit.shape and float((cleaned - lit).abs().mean()) < 0.15


def test_only_what_stands_out_of_the_noise_is_kept() -> None:
    rest = torch.tensor([-0.3, -0.05, 0.0, 0.05, 0.3])
    assert keep_detail(rest, 0.1).tolist() == pytest.approx([-0.2, 0.0, 0.0, 0.0, 0.2])
    assert keep_detail(rest, 0.0) is rest
