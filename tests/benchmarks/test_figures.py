"""Figures: means, intervals and the JSON form; and the linear code that the autoencoder is compared with."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.autoencoder import fit_pca, from_patches, measure_psnr_db, round_trip_pca, to_patches
from benchmarks.figures import (
    Figure,
    RunSettings,
    bootstrap,
    make_figure,
    make_median_figure,
    make_result,
    mean_of_groups,
    save_result,
)


def test_interval_holds_the_mean_and_narrows_with_more_measurements() -> None:
    rng = np.random.default_rng(1)
    few, many = (make_figure(rng.normal(5, 1, size).tolist()) for size in (20, 2000))
    for figure in (few, many):
        assert figure.ci95 is not None and figure.ci95[0] < figure.value < figure.ci95[1]
    assert few.ci95 is not None and many.ci95 is not None
    assert many.ci95[1] - many.ci95[0] < (few.ci95[1] - few.ci95[0]) / 4
    # The interval of a mean is about 1.96 standard errors to either side.
    assert many.ci95[1] - many.ci95[0] == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.1)


def test_groups_count_the_same_whatever_their_size() -> None:
    groups = [np.zeros(10), np.ones(1000)]
    assert mean_of_groups(groups) == 0.5
    assert bootstrap(groups) == (0.5, 0.5)


def test_one_slow_repeat_does_not_move_the_median() -> None:
    assert make_median_figure([1.0, 1.1, 0.9, 1.0, 50.0]).value == 1.0


def test_result_has_the_promised_form_and_no_path(tmp_path: Path) -> None:
    figures = {"stop_s": Figure(0.25, None, (0.2, 0.3), "s")}
    save_result(tmp_path / "new" / "a.json", make_result("t2i_speed", RunSettings(3), figures))
    text = (tmp_path / "new" / "a.json").read_text("utf-8")
    result = json.loads(text)
    assert set(result) == {"scenario", "machine", "versions", "n", "figures"}
    assert result["figures"]["stop_s"] == {"value": 0.25, "baseline": None, "ci95": [0.2, 0.3], "unit": "s"}
    assert result["n"] == 3 and {"cpu", "cores", "ram_gb"} <= set(result["machine"])
    assert str(Path.cwd()) not in text and str(Path.home()) not in text


def test_psnr_matches_its_definition() -> None:
    truth = np.full((16, 16, 3), 100, np.uint8)
    assert measure_psnr_db(truth + np.uint8(10), truth) == pytest.approx(10 * np.log10(255**2 / 100))


def test_cells_are_cut_and_put_back() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    patches = to_patches(picture)
    assert patches.shape == (6, 192)
    assert np.array_equal(patches[3], picture[8:16, 8:16].reshape(-1))
    assert np.array_equal(from_patches(patches, picture.shape), picture)


def test_linear_code_is_exact_with_all_numbers_and_better_with_more() -> None:
    rng = np.random.default_rng(3)
    ramps = [np.cumsum(rng.integers(0, 8, (32, 32, 3)), axis=0).clip(0, 255).astype(np.uint8) for _ in range(8)]
    quality = []
    for num_numbers in (2, 8, 192):
        centre, basis = fit_pca(ramps, num_numbers)
        assert np.allclose(basis @ basis.T, np.eye(num_numbers), atol=1e-8)
        quality.append(measure_psnr_db(round_trip_pca(ramps[0], centre, basis), ramps[0]))
    assert quality[0] < quality[1] < quality[2]
    assert quality[2] > 100
