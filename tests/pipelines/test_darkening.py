"""Physical darkening: noise as the camera's model says, nothing lost without it, grey stays grey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.darkening import Darkness, add_tone, darken, draw_lamps, draw_noise, make_read, remove_tone
from pipelines.images import round_levels

SILENT = Darkness(1.0, shot=0.0, jpeg_quality=0)


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_ramps() -> torch.Tensor:
    """Draw colours that an sRGB sensor and the four cameras hold: ramps around grey."""
    grey = torch.linspace(-0.9, 0.9, 96).expand(96, -1)
    tint = torch.linspace(-0.1, 0.1, 96)[:, None]
    return round_levels(torch.stack([grey + tint, grey, grey - tint]).clamp(-1, 1))


def test_the_variance_of_noise_is_a_line_over_the_signal() -> None:
    darkness = Darkness(1.0, shot=0.004, read=0.0003)
    signals = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0])
    noise = draw_noise(signals[:, None].expand(-1, 200_000), darkness, make_generator())
    slope, offset = np.polyfit(signals.numpy(), noise.var(1).numpy(), 1)
    assert slope == pytest.approx(0.004, rel=0.05) and offset == pytest.approx(0.0003, rel=0.05)


@pytest.mark.parametrize("sensor", range(4))
@pytest.mark.parametrize("tone_frac", [0.0, 0.4, 1.0])
def test_all_the_light_and_no_noise_give_the_picture_back(sensor: int, tone_frac: float) -> None:
    picture = draw_ramps()
    again = darken(picture, replace(SILENT, sensor=sensor, tone_frac=tone_frac, bits=14), make_generator())
    assert float((again - picture).square().mean()) < 4 * 10**-4.5


@pytest.mark.parametrize("tone_frac", [0.0, 0.001, 0.5, 1.0])
def test_the_curve_is_undone_exactly(tone_frac: float) -> None:
    values = torch.linspace(0, 1, 1001)
    shown = add_tone(values, tone_frac)
    assert (shown.diff() > 0).all() and float(shown[0]) == 0 and float(shown[-1]) == pytest.approx(1)
    assert torch.allclose(remove_tone(shown, tone_frac), values, atol=2e-4)


def test_grey_stays_grey_and_less_light_is_darker() -> None:
    card = torch.full((3, 32, 32), 0.2)
    means = []
    for light in (1.0, 0.3, 0.1, 0.03):
        dark = darken(card, replace(SILENT, light_frac=light, bits=14), make_generator())
        colour = (dark.mean((1, 2)) + 1) / 2
        assert float(colour.max() - colour.min()) < 0.01
        means.append(float(colour.mean()))
    assert means == sorted(means, reverse=True) and means[-1] < 0.1


def test_without_a_curve_light_is_a_factor() -> None:
    picture = draw_ramps()
    dark = darken(picture, replace(SILENT, light_frac=0.25, tone_frac=0.0, gamma=2.0, bits=14), make_generator())
    assert torch.allclose((dark + 1) / 2, (picture + 1) / 4, atol=0.015)


def test_noise_follows_the_generator_and_a_file_changes_it() -> None:
    picture, darkness = draw_ramps(), Darkness(0.1, shot=0.003)
    one, same, other = (darken(picture, darkness, make_generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    plain = darken(picture, replace(darkness, jpeg_quality=0), make_generator(1))
    assert not torch.equal(one, plain) and torch.equal(round_levels(plain), plain)


def test_lamps_are_brightest_at_one_and_never_out() -> None:
    lamps = draw_lamps((40, 60), 3, make_generator())
    assert lamps.shape == (1, 40, 60) and float(lamps.max()) == 1 and float(lamps.min()) > 0.02
    picture = torch.zeros(3, 40, 60)
    shown = darken(picture, replace(SILENT, light_frac=0.5), make_generator(), lamps=lamps)
    assert float(shown.std()) > 0.02


def test_read_noise_grows_with_shot_noise() -> None:
    assert make_read(0.0) == 0 < make_read(0.0005) < make_read(0.003) < 0.003


@pytest.mark.parametrize("wrong", [{"light_frac": 0.0}, {"light_frac": 1.5}, {"shot": -1.0}, {"tone_frac": 2.0}])
def test_impossible_darkness_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="outside"):
        darken(draw_ramps(), replace(SILENT, **wrong), make_generator())  # type: ignore[arg-type]
