"""The turntable's recipe: examples that are what the page makes, batches of a step, exact resume, files that load."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import UserError
from pipelines.residual_shift import KAPPA
from pipelines.turntable import CHANNELS, NUM_VIEWS, VIEW_PX, TurntableConfig, load_turntable
from training import train_turntable
from training.train_turntable import TurntableObjective, check, export_turntable, measure_overlap, measure_views
from training.trainer import Trainer
from training.turntable_data import NUM_PICTURES, draw_example, load_examples, make_turntable_batch

TINY = TurntableConfig(width=16, num_blocks=2, num_heads=2, patch_px=16, fine=4)


@pytest.fixture(scope="module")
def examples() -> np.ndarray:
    """Draw two examples."""
    return np.stack([draw_example(seed) for seed in (3, 9)])


def make_objective(examples: np.ndarray) -> TurntableObjective:
    """Make a tiny objective."""
    return TurntableObjective(TINY, examples=examples, checked=examples[:1])


def test_an_example_shows_one_object_from_all_sides(examples: np.ndarray) -> None:
    assert examples.shape == (2, NUM_PICTURES, VIEW_PX, VIEW_PX, CHANNELS) and examples.dtype == np.uint8
    values = torch.from_numpy(examples[0]).permute(0, 3, 1, 2).float() / 127.5 - 1
    views, inflated = values[1 : 1 + NUM_VIEWS], values[1 + NUM_VIEWS :]
    assert measure_views(inflated, views) > 14 and measure_overlap(inflated, views) > 0.5
    assert (examples[0][:, 0, 0] == [255, 255, 255, 0]).all()


def test_a_file_of_examples_grows(tmp_path: Path, examples: np.ndarray) -> None:
    first = load_examples(tmp_path, 1, first_seed=3)
    assert np.array_equal(first[0], examples[0])
    assert np.array_equal(load_examples(tmp_path, 1, first_seed=3), first)


def test_a_batch_is_a_function_of_its_step_and_lies_on_the_chain(examples: np.ndarray) -> None:
    a, b = (make_turntable_batch(examples, 4, np.random.default_rng([5, 1])) for _ in range(2))
    assert torch.equal(a.noisy, b.noisy) and a.noisy.shape == (4, NUM_VIEWS, CHANNELS, VIEW_PX, VIEW_PX)
    column = a.eta[:, None, None, None, None]
    noise = (a.noisy - (1 - column) * a.clean - column * a.guess) / (KAPPA * column.sqrt())
    assert float(noise.std()) == pytest.approx(1, abs=0.02) and float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert torch.equal(a.picture[:, 3].unique(), a.picture[:, 3].unique().clamp(-1, 1))


def test_a_stopped_run_goes_on_exactly(examples: np.ndarray, tmp_path: Path) -> None:
    def start(name: str) -> Trainer:
        config = replace(train_turntable.DEFAULTS, run_dir=str(tmp_path / name), total_steps=4, batch_size=2)
        return Trainer(make_objective(examples), config)

    straight = start("a")
    logs = [straight.train_step() for _ in range(4)]
    stopped = start("b")
    for _ in range(2):
        stopped.train_step()
    stopped.save()
    resumed = start("b")
    resumed.resume()
    assert [resumed.train_step() for _ in range(2)] == logs[2:]
    assert all(torch.equal(value, resumed.ema[name]) for name, value in straight.ema.items())


def test_a_run_ends_in_files_that_load(examples: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = make_objective(examples)
    config = replace(train_turntable.DEFAULTS, run_dir=str(tmp_path / "run"), total_steps=1, batch_size=2, log_every=1)
    trainer = Trainer(objective, config)
    trainer.run(minutes=5)
    with pytest.raises(UserError, match="below the gate 1.5; train on"):
        export_turntable(trainer, objective, tmp_path / "out", examples[:1])
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(train_turntable, "MIN_GAIN_DB", -9.0)
    figures = export_turntable(trainer, objective, tmp_path / "out", examples[:1])
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    network = load_turntable(tmp_path / "out")
    assert about["held_out"] == figures and network.config == TINY
    assert check(network, examples[:1])[0] == figures
    assert len(list((tmp_path / "run" / "sheets").iterdir())) == 1
