"""The recipe of the initial mean: what it learns, what it writes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.backends import PROJECT_DIR
from pipelines.errors import BackendUnavailable
from pipelines.initial_mean import load_mean
from training.train_mean import DEFAULTS, MeanObjective, export_mean
from training.trainer import Trainer


@pytest.fixture(scope="module")
def objective() -> MeanObjective:
    """The recipe on few scenes and the shipped text side."""
    return MeanObjective(PROJECT_DIR / "assets/storybook", num_scenes=64, num_checked=16)


def test_a_few_steps_lower_the_loss_and_an_export_loads_again(objective: MeanObjective, tmp_path: Path) -> None:
    config = replace(DEFAULTS, run_dir=str(tmp_path / "run"), total_steps=12, batch_size=64, warmup_steps=1)
    trainer = Trainer(objective, config)
    losses = [trainer.train_step()["loss"] for _ in range(12)]
    assert losses[-1] < losses[0]
    figures = export_mean(trainer, objective, tmp_path / "export")
    about = json.loads((tmp_path / "export/config.json").read_text())
    assert about["held_out"] == figures and about["recipe"]["parameters"] < 1_000_000
    model, hidden = load_mean(tmp_path / "export"), objective.encode(["a red boat", "a red boat at sea, watercolor"])
    assert model(hidden).shape == (2, 8, 8, 8)
    assert model.knows(hidden[1:]) and not model.knows(hidden[:1])


def test_batches_depend_on_the_step_alone(objective: MeanObjective) -> None:
    first, second = objective.make_batch(5, 8), objective.make_batch(5, 8)
    assert first[0] == second[0] and torch.equal(first[1], second[1])
    assert objective.make_batch(6, 8)[0] != first[0]


def test_missing_and_foreign_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="holds no initial mean"):
        load_mean(tmp_path)
    (tmp_path / "config.json").write_text('{"text_width": 8}')
    with pytest.raises(BackendUnavailable, match="make train-mean"):
        load_mean(tmp_path)


def test_the_shipped_mean_explains_brightness(objective: MeanObjective) -> None:
    about = json.loads((PROJECT_DIR / "assets/initial_mean/config.json").read_text())
    assert about["held_out"]["explained_mean"] > 0.5
