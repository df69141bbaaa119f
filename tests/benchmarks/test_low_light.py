"""The other camera and the rulers of the low-light scenario, on drawn pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.dark_photographs import LIGHTS, SHOTS, add_electrons, make_dark_pair, to_linear, to_shown
from benchmarks.figures import Figure, RunSettings
from benchmarks.low_light import (
    describe_rows,
    equalise,
    find_worst_gain,
    keep_part,
    match_mean,
    measure_colour_error,
    measure_pair,
)
from benchmarks.super_resolution import compare
from training.leaves import draw_leaves


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A picture with edges and texture."""
    return Image.fromarray(draw_leaves(5)[:120, :140])


def test_the_other_cameras_curve_is_undone() -> None:
    values = np.linspace(0, 1, 200)
    assert np.allclose(to_linear(to_shown(values)), values, atol=1e-9) and (np.diff(to_shown(values)) > 0).all()


def test_counting_electrons_has_the_training_noises_variance() -> None:
    signal = np.full((400, 400, 1), 0.2)
    assert add_electrons(signal, 0.003, np.random.default_rng(0)).var() == pytest.approx(0.003 * 0.2, rel=0.05)


def test_less_light_and_more_noise_are_harder(picture: Image.Image) -> None:
    found = {(light, noise): make_dark_pair("leaves", picture, light, noise) for light in LIGHTS for noise in SHOTS}
    nearness = [compare(found[light, "low_noise"].oracle, picture, 4) for light in LIGHTS]
    assert nearness == sorted(nearness, reverse=True)
    assert nearness[1] > compare(found["dark01", "high_noise"].oracle, picture, 4) + 3
    means = [np.asarray(found[light, "low_noise"].dark).mean() for light in LIGHTS]
    assert means == sorted(means, reverse=True)
    again = make_dark_pair("leaves", picture, "dark01", "low_noise")
    assert np.array_equal(np.asarray(again.dark), np.asarray(found["dark01", "low_noise"].dark))


def test_without_noise_the_oracle_is_the_truth(picture: Image.Image) -> None:
    pair = make_dark_pair("leaves", picture, "dark03", "low_noise")
    assert compare(pair.oracle, picture, 4) > 22 > compare(pair.dark, picture, 4)


def test_matching_the_mean_helps_a_picture_that_is_too_dark(picture: Image.Image) -> None:
    dim = Image.fromarray((np.asarray(picture) * 0.6).astype(np.uint8))
    assert compare(match_mean(dim, picture), picture, 0) > 35 > compare(dim, picture, 0)


def test_equalising_brightens(picture: Image.Image) -> None:
    dark = make_dark_pair("leaves", picture, "dark01", "low_noise").dark
    assert np.asarray(equalise(dark)).mean() > np.asarray(dark).mean() * 1.5


def test_a_true_picture_has_no_error(picture: Image.Image) -> None:
    row = measure_pair(picture, make_dark_pair("leaves", picture, "dark01", "low_noise"))
    assert row["psnr"] == row["matched_psnr"] == 99 and row["ssim"] == pytest.approx(1, abs=1e-5)
    assert row["colour_error"] == 0 and measure_colour_error(picture.convert("L").convert("RGB"), picture) > 1


def test_the_worst_gain_is_that_of_the_worst_ruler() -> None:
    mine = [{"psnr": 25.0, "matched_psnr": 25.0}, {"psnr": 20.0, "matched_psnr": 22.0}]
    theirs = [{"psnr": 24.0, "matched_psnr": 24.5}, {"psnr": 15.0, "matched_psnr": 22.25}]
    assert find_worst_gain(mine, theirs) == (-0.25, 1)


def test_a_kept_part_is_not_measured_again(tmp_path: Path) -> None:
    settings = RunSettings(1, keep=tmp_path / "kept")
    first = keep_part(settings, "scenes", lambda: {"a": Figure(1.5, ci95=(1.0, 2.0))})
    assert keep_part(settings, "scenes", lambda: {"a": Figure(9.0)})["a"].value == first["a"].value == 1.5
    assert keep_part(RunSettings(1), "scenes", lambda: {"a": Figure(9.0)})["a"].value == 9


def test_every_light_and_noise_has_its_figures(picture: Image.Image) -> None:
    pairs = [make_dark_pair("leaves", picture, light, noise) for light in LIGHTS for noise in SHOTS]
    row = {"psnr": 20.0, "matched_psnr": 21.0, "ssim": 0.8, "noise_left": 3.0, "colour_error": 4.0, "seconds": 1.0}
    figures = describe_rows("curve", [row for _ in pairs], pairs)
    assert len(figures) == 36 and figures["curve_dark01_high_noise_matched_psnr"].value == 21
