"""The scenario of personalization: prompts that say what is judged, perfect pictures that score, areas, figures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.fidelity import PARSER_FOLDER
from benchmarks.personalization import (
    DCO,
    FIRST_SEED,
    GUIDED,
    LIKENESSES,
    LORA,
    PLAIN,
    READER_FOLDER,
    Table,
    make_figures,
)
from benchmarks.subject_trials import (
    make_trial,
    measure_clean,
    measure_fidelity,
    measure_hypervolume,
    measure_identity,
)
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


def test_figures_follow_from_the_table() -> None:
    table, rng = Table(), np.random.default_rng(1)
    for _ in range(5):
        table.clean.append(np.full(4, 0.8))
        for name, identity, fidelity in ((PLAIN, 0.4, 0.9), (LORA, 0.6, 0.6), (DCO, 0.6, 0.8), (GUIDED, 0.7, 0.85)):
            key = (name, {PLAIN: 0.0, GUIDED: LIKENESSES[0]}.get(name, 1.0))
            table.add(key, identity + rng.normal(0, 0.01, 4), fidelity + rng.normal(0, 0.01, 4))
    figures = make_figures(table)
    assert figures["identity_fraction"].value == pytest.approx(0.875, abs=0.02)
    assert figures["prompt_fidelity_fraction"].value == pytest.approx(0.944, abs=0.02)
    gain = figures["hypervolume_gain"]
    assert gain.value > 0 and gain.ci95 is not None and gain.ci95[0] > 0
    assert FIRST_SEED > FIRST_HELD_OUT_SEED
