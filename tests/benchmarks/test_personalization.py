"""The scenario of personalization: prompts that say what is judged, perfect pictures that score, areas, figures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.fidelity import PARSER_FOLDER
from benchmarks.figures import RunSettings
from benchmarks.held_out import load_storybook
from benchmarks.personalization import FIRST_SEED, READER_FOLDER, SubjectStudio, list_ways
from benchmarks.subject_rows import (
    DCO,
    GUIDED,
    INSTANT,
    LIKENESSES,
    LORA,
    PLAIN,
    TITLES,
    UNSHOWN,
    WEIGHTS,
    SubjectRows,
    make_figures,
)
from benchmarks.subject_trials import (
    make_trial,
    measure_clean,
    measure_fidelity,
    measure_hypervolume,
    measure_identity,
)
from benchmarks.table import make_subject_table
from pipelines.scene_parser import load_parser
from training.identity_reader import load_identity_reader
from training.world.scene import FIRST_HELD_OUT_SEED


def test_perfect_pictures_score_and_unmarked_ones_less() -> None:
    trial = make_trial(700_000_005, 6, held_out=False)
    assert all(ask.say(trial.word).startswith(trial.word) for ask in trial.asks) and len(trial.references) == 4
    reader, parser = load_identity_reader(READER_FOLDER), load_parser(PARSER_FOLDER)
    images = [Image.fromarray(one.rgb) for one in trial.clean]
    scenes = parser.parse(images)
    clean, unmarked = measure_clean(reader, trial)
    assert clean.mean() > unmarked.mean() + 0.15
    assert measure_identity(reader, trial, images, scenes).mean() > 0.8 * clean.mean()
    assert measure_fidelity(trial, trial.asks, scenes).mean() > 0.8
    empty = [Image.new("RGB", (256, 256), (235, 235, 235))] * 6
    assert measure_identity(reader, trial, empty, parser.parse(empty)).tolist() == [0.0] * 6


def test_the_dominated_area_is_the_formula() -> None:
    assert measure_hypervolume([(0.5, 1.0), (1.0, 0.5)]) == pytest.approx(0.75)
    assert measure_hypervolume([(0.5, 0.5), (1.0, 1.0)]) == pytest.approx(1.0)
    assert measure_hypervolume([]) == 0.0
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.random((5, 2))]
    drops = rng.random((40_000, 2))
    slow = np.any([(drops <= point).all(1) for point in points], 0).mean()
    assert measure_hypervolume(points) == pytest.approx(slow, abs=0.01)


POINTS = (
    (PLAIN, 0.0, 0.4, 0.9),
    (LORA, WEIGHTS[0], 0.6, 0.6),
    (DCO, 1.0, 0.6, 0.8),
    (GUIDED, LIKENESSES[0], 0.7, 0.85),
    (GUIDED, LIKENESSES[1], 0.5, 0.9),
    (UNSHOWN, LIKENESSES[0], 0.65, 0.8),
    (INSTANT, 0.0, 0.78, 0.7),
)


def make_rows(rng: np.random.Generator) -> SubjectRows:
    """One subject of four prompts."""
    rows = SubjectRows(np.full(4, 0.8), np.full(4, 0.3))
    for name, value, identity, fidelity in POINTS:
        noise = rng.normal(0, 0.01, (2, 4))
        rows.add((name, value), f"{name} {value}", identity + noise[0], fidelity + noise[1])
    return rows


def test_figures_follow_from_the_rows() -> None:
    rng = np.random.default_rng(1)
    figures = make_figures([make_rows(rng) for _ in range(5)])
    assert figures["identity_fraction"].value == pytest.approx(0.875, abs=0.02)
    assert figures["prompt_fidelity_fraction"].value == pytest.approx(0.944, abs=0.02)
    assert figures[f"{GUIDED}_{LIKENESSES[1]}_identity_fraction"].value == pytest.approx(0.625, abs=0.02)
    gain = figures["hypervolume_gain"]
    assert gain.value > 0 and gain.ci95 is not None and gain.ci95[0] > 0
    unshown = figures[f"{UNSHOWN}_hypervolume_gain"]
    assert 0 < unshown.value < gain.value
    assert FIRST_SEED > FIRST_HELD_OUT_SEED
    lines = make_subject_table({name: asdict(figure) for name, figure in figures.items()}).splitlines()
    assert len(lines) == 2 + len(TITLES) and all(line.count("|") == 4 for line in lines)
    assert "the subject's picture put in" in lines[6] and f"{figures['identity_fraction'].value:.3f} (" in lines[6]


def test_rows_are_kept_and_taken_only_for_the_same_question(tmp_path: Path) -> None:
    path, rows = tmp_path / "kept" / "subject_1.json.gz", make_rows(np.random.default_rng(0))
    rows.save(path)
    plain, guided = (PLAIN, 0.0), (GUIDED, LIKENESSES[0])
    again = SubjectRows(rows.clean, rows.unmarked)
    again.load(path, {plain: rows.asked[plain], guided: "asked otherwise"})
    assert list(again.asked) == [plain] and np.array_equal(again.identity[plain], rows.identity[plain])
    again.load(tmp_path / "nothing.json.gz", {})
    assert [path.name for path in path.parent.iterdir()] == ["subject_1.json.gz"]


def test_a_trial_goes_on_from_what_is_kept(tmp_path: Path) -> None:
    model, parser = load_storybook("cpu", "fp32"), load_parser(PARSER_FOLDER)
    studio = SubjectStudio(model, parser, load_identity_reader(READER_FOLDER), RunSettings(1, keep=tmp_path))
    studio.num_steps = 2
    seed = 700_000_005
    trial = make_trial(seed, 1, held_out=False)
    rows = SubjectRows(*measure_clean(studio.reader, trial))
    for key in list_ways():
        if key[0] not in (PLAIN, INSTANT):
            rows.add(key, studio.describe(trial, key), np.array([0.5]), np.array([1.0]))
    rows.save(tmp_path / f"subject_{seed}.json.gz")
    measured = studio.run_trial(seed, 1, held_out=False)
    assert set(measured.asked) == set(list_ways()) and measured.identity[(GUIDED, LIKENESSES[0])].tolist() == [0.5]
    assert not (tmp_path / "adapters").exists(), "nothing was learned for what is kept"
    assert studio.describe(trial, (LORA, 0.7)) != studio.describe(trial, (UNSHOWN, 0.7))
    again = studio.run_trial(seed, 1, held_out=False)
    assert again.identity[(PLAIN, 0.0)].tolist() == measured.identity[(PLAIN, 0.0)].tolist()
