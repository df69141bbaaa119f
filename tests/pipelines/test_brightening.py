"""Lighting: the exposure reaches its target, passes end when it is reached, grain can be kept."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch

from pipelines.brightening import (
    GUESS_RANGE,
    MAX_GAIN,
    POWER,
    RELIT_BELOW,
    TONE_FRAC,
    Brightened,
    BrightenProgress,
    brighten_stream,
    expose,
    find_gain,
    find_grain,
    guess_brightness,
    measure_brightness,
    measure_noise,
    relight,
    tell_gain,
)
from pipelines.darkening import add_tone, blur, from_linear
from pipelines.restorer import Restorer, RestorerConfig
from pipelines.texture_return import return_texture

TINY = RestorerConfig(fine=8, middle=8, coarse=8, num_blocks=1, num_coarse_blocks=1)


class DimRestorer(Restorer):
    """Return what it was given, darker by a factor: a network that shifts the brightness."""

    factor = 1.0

    def forward(self, noisy: torch.Tensor, damaged: torch.Tensor, *rest: object) -> torch.Tensor:
        return (damaged + 1) * self.factor - 1


class SmoothRestorer(Restorer):
    """Take all that is fine away: a network that removes much noise."""

    def forward(self, noisy: torch.Tensor, damaged: torch.Tensor, *rest: object) -> torch.Tensor:
        return blur(damaged[0], 4.0, 4.0)[None]


def make_dim(factor: float) -> DimRestorer:
    model = DimRestorer(TINY)
    model.factor = factor
    return model


def make_dark(brightness: float = 0.1) -> torch.Tensor:
    noise = torch.rand((3, 40, 56), generator=torch.Generator().manual_seed(3))
    return noise * (4 * brightness) - 1


def run(
    model: Restorer, dark: torch.Tensor, target: float, **fields: float
) -> tuple[list[BrightenProgress], Brightened]:
    stream: Generator[BrightenProgress, None, Brightened] = brighten_stream(
        model, dark, target, generator=torch.Generator().manual_seed(0), **fields
    )  # type: ignore[arg-type]
    seen = []
    while True:
        try:
            seen.append(next(stream))
        except StopIteration as end:
            return seen, end.value


@pytest.mark.parametrize("target", [0.3, 0.45])
def test_the_gain_reaches_the_target(target: float) -> None:
    dark = make_dark()
    assert measure_brightness(expose(dark, find_gain(dark, target))) == pytest.approx(target, abs=0.002)


def test_a_bright_picture_needs_no_gain_and_black_gets_the_most() -> None:
    assert find_gain(make_dark(0.2), 0.1) == 1
    assert torch.equal(expose(make_dark(), 1.0), make_dark())
    assert find_gain(torch.full((3, 8, 8), -1.0), 0.5) == pytest.approx(MAX_GAIN, rel=1e-3)
    assert tell_gain(MAX_GAIN) == 1


def test_a_guess_is_the_same_in_less_light_and_follows_the_scene() -> None:
    page, night = torch.full((3, 64, 64), 0.8), torch.full((3, 64, 64), -0.9)
    page[:, 20:30], night[:, 20:30] = -0.8, 0.8
    guesses = [[guess_brightness(expose_less(scene, gain)) for gain in (2.0, 6.0)] for scene in (page, night)]
    for less, least in guesses:
        assert less == pytest.approx(least, abs=0.01)
    assert guesses[0][0] > 0.65 > 0.35 > guesses[1][0]
    # A lamp in the picture is no white paper.
    lamp = expose_less(page, 4.0)
    without = guess_brightness(lamp)
    lamp[:, 50:54, 50:54] = 1
    assert guess_brightness(lamp) == pytest.approx(without, abs=0.02)
    assert guess_brightness(torch.ones(3, 9, 9)) == GUESS_RANGE[1] and guess_brightness(-torch.ones(3, 1, 1)) == 0.2


def test_a_picture_is_lit_by_three_curves_unless_much_noise_was_removed() -> None:
    ramp = torch.linspace(-0.99, -0.3, 64).expand(3, 48, -1).contiguous()
    gain = find_gain(ramp, 0.4)
    found = relight(expose(ramp, gain), gain, 0.4)
    assert measure_brightness(found) == pytest.approx(0.4, abs=0.02)
    assert (found - expose(ramp, gain)).abs().max() > 0.02
    _, clean = run(make_dim(1.0), ramp, 0.4)
    assert clean.noise_levels < 1 and (clean.picture - clean.lit).abs().max() > 0.01
    # What stays in the picture is texture, however much it looks like noise.
    _, textured = run(make_dim(1.0), make_dark(), 0.4)
    assert textured.noise_levels > RELIT_BELOW
    torch.testing.assert_close(textured.picture, relight(textured.lit, textured.gain, 0.4), atol=1e-4, rtol=0)
    _, noisy = run(SmoothRestorer(TINY), make_dark(), 0.4)
    one_curve = return_texture(noisy.lit, blur(noisy.lit, 4.0, 4.0))
    torch.testing.assert_close(noisy.picture, one_curve.clamp(-1, 1), atol=1e-4, rtol=0)


def test_light_behind_the_standard_curve_is_light() -> None:
    """What a file of half the light lacks comes back exactly, in the toe near black too."""
    light = torch.linspace(0, 0.9, 200).expand(3, 2, -1)
    scene, half = (add_tone((from_linear(part) + 1) / 2, TONE_FRAC) * 2 - 1 for part in (light, light / 2))
    lit = expose(half, 2 ** (1 / POWER), is_standard=True)
    torch.testing.assert_close(lit, scene, atol=1e-4, rtol=0)
    assert (expose(half, 2 ** (1 / POWER)) - scene).abs().max() > 0.02
    gain = find_gain(half, measure_brightness(scene), is_standard=True)
    assert gain == pytest.approx(2 ** (1 / POWER), rel=1e-3)


def expose_less(picture: torch.Tensor, gain: float) -> torch.Tensor:
    """Undo `expose`."""
    return expose(picture, 1 / gain)


def test_more_gain_is_brighter_everywhere_and_stays_in_range() -> None:
    ramp = torch.linspace(-1, 1, 300).expand(3, 4, -1)
    pictures = [expose(ramp, gain) for gain in (1.0, 1.5, 4.0, 16.0)]
    for darker, brighter in zip(pictures, pictures[1:]):
        assert (brighter >= darker - 1e-5).all() and brighter.max() <= 1 and brighter.min() >= -1


def test_noise_is_measured_and_an_edge_is_not() -> None:
    noise = torch.randn((3, 200, 200), generator=torch.Generator().manual_seed(0))
    assert measure_noise(noise * (10 / 127.5)) == pytest.approx(10, rel=0.03)
    edge = torch.zeros(3, 50, 50)
    edge[:, :, 25:] = 1
    assert measure_noise(edge) < 1e-4


def test_a_first_pass_that_is_bright_enough_is_the_last() -> None:
    seen, result = run(make_dim(1.0), make_dark(), 0.4)
    assert len(result.brightness) == 1 and [item.num_pass for item in seen] == [1]
    assert seen[0].finished_tiles == seen[0].num_tiles == 1


def test_passes_go_on_until_the_target_is_measured() -> None:
    _, result = run(make_dim(0.8), make_dark(), 0.4)
    assert result.brightness[0] < 0.35 and abs(result.brightness[-1] - 0.4) <= 0.03
    _, hopeless = run(make_dim(0.1), make_dark(), 0.4, num_passes=2)
    assert len(hopeless.brightness) == 2 and hopeless.brightness[-1] < 0.3


def test_grain_is_kept_as_far_as_asked() -> None:
    model = Restorer(TINY).eval()
    dark = make_dark()
    _, clean = run(model, dark, 0.4)
    _, grainy = run(model, dark, 0.4, noise_frac=0.0)
    added = grainy.picture - clean.picture
    inside = (clean.picture.abs() < 0.9) & (grainy.picture.abs() < 0.9)
    assert torch.allclose(added[inside], find_grain(clean.lit - clean.picture)[inside], atol=0.05)
    assert abs(measure_brightness(grainy.picture) - measure_brightness(clean.picture)) < 0.02


def test_only_detail_is_drawn_and_a_seed_gives_one_picture() -> None:
    torch.manual_seed(1)
    model = Restorer(TINY).eval()
    torch.nn.init.normal_(model.out.weight, std=0.1)
    pictures = [run(model, make_dark(), 0.4, detail_frac=share)[1].picture for share in (0.0, 1.0, 1.0)]
    assert torch.equal(pictures[1], pictures[2]) and not torch.equal(pictures[0], pictures[1])
