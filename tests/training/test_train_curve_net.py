"""The recipe of the curve network: batches of many kinds of darkness, exact resuming, gates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.brightening import expose, find_gain
from pipelines.curve_net import CurveNet, CurveNetConfig, load_curve_net
from pipelines.errors import UserError
from training import train_curve_net
from training.leaves import draw_leaves
from training.train_curve_net import (
    CROP_PX,
    DEFAULTS,
    CurveBatch,
    CurveNetObjective,
    check,
    export_curve_net,
    measure_losses,
)
from training.trainer import Trainer

TINY = CurveNetConfig(width=4, num_rounds=2)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """A few pictures of leaves."""
    return np.stack([draw_leaves(seed) for seed in range(2)])


def start(pictures: np.ndarray, folder: Path) -> Trainer:
    config = replace(DEFAULTS, run_dir=str(folder), total_steps=4, batch_size=3)
    return Trainer(CurveNetObjective(TINY, pictures=pictures, checked=pictures[:1]), config)


def test_batches_tell_what_is_wanted(pictures: np.ndarray, tmp_path: Path) -> None:
    batch = start(pictures, tmp_path).objective.make_batch(0, 40)
    assert batch.dark.shape == batch.clean.shape == (40, 3, CROP_PX, CROP_PX)
    assert 0.4 < float(batch.is_true.mean()) < 0.95
    assert float((batch.dark.mean((1, 2, 3)) < batch.clean.mean((1, 2, 3))).float().mean()) > 0.8


def test_a_stopped_run_goes_on_exactly(pictures: np.ndarray, tmp_path: Path) -> None:
    straight, stopped = start(pictures, tmp_path / "a"), start(pictures, tmp_path / "b")
    logs = [straight.train_step() for _ in range(4)]
    for _ in range(2):
        stopped.train_step()
    stopped.save()
    resumed = start(pictures, tmp_path / "b")
    resumed.resume()
    assert [resumed.train_step() for _ in range(2)] == logs[2:]


def make_batch(clean: torch.Tensor, dark: torch.Tensor, *, is_true: float) -> CurveBatch:
    target = clean.mean((1, 2, 3)) / 2 + 0.5
    gain = find_gain(dark[0], float(target))
    return CurveBatch(dark, clean, target, torch.tensor([np.log2(gain) / 4]), torch.tensor([is_true]))


def test_the_truth_costs_nothing_and_neither_does_a_good_exposure() -> None:
    clean = torch.full((1, 3, 32, 32), -0.1)
    dark = torch.full_like(clean, -0.7)
    flat = torch.zeros(1, 6, 32, 32)
    true = measure_losses(clean, flat, make_batch(clean, dark, is_true=1.0))
    assert sum(float(value) for value in true.values()) == 0
    free = make_batch(clean, dark, is_true=0.0)
    good = measure_losses(expose(dark[0], find_gain(dark[0], float(free.target)))[None], flat, free)
    bad = measure_losses(dark, flat, free)
    assert float(good["whole"]) < 0.01 < float(bad["whole"]) and float(good["patches"]) < float(bad["patches"])


def test_rough_curves_and_tints_cost() -> None:
    grey = torch.full((1, 3, 32, 32), -0.2)
    batch = make_batch(grey, grey - 0.4, is_true=0.0)
    rough = torch.rand((1, 6, 32, 32), generator=torch.Generator().manual_seed(0))
    assert float(measure_losses(grey, rough, batch)["smooth"]) > 1
    tinted = grey.clone()
    tinted[:, 0] += 0.3
    plain, odd = (float(measure_losses(lit, rough, batch)["colour"]) for lit in (grey, tinted))
    assert plain == 0 < odd


def test_weights_are_written_only_behind_their_gates(
    pictures: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = start(pictures, tmp_path / "run")
    objective = trainer.objective
    assert isinstance(objective, CurveNetObjective)
    with pytest.raises(UserError, match="train on"):
        export_curve_net(trainer, objective, tmp_path / "out", pictures[:1])
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(train_curve_net, "MAX_EXPOSURE_ERROR", 1.0)
    monkeypatch.setattr(train_curve_net, "MIN_GAIN_DB", -99.0)
    figures = export_curve_net(trainer, objective, tmp_path / "out", pictures[:1])
    assert load_curve_net(tmp_path / "out").config == TINY and "exposure_error" in figures
    assert (tmp_path / "out" / "MANIFEST.json").exists()


def test_a_network_that_does_nothing_is_measured_so(pictures: np.ndarray) -> None:
    model = CurveNet(TINY).eval()
    torch.nn.init.zeros_(model.layers[-1].weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(model.layers[-1].bias)  # type: ignore[arg-type]
    figures, _ = check(model, pictures[:1])
    assert figures["even_curves_db"] < figures["even_single_db"] and figures["exposure_error"] > 0.2
