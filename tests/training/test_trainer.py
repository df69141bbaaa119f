"""The shared loop: a resumed run is the same run, averaging and learning rate follow their formulas."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from training.optimizers import MuonAdamW, orthogonalise
from training.trainer import Trainer, TrainerConfig


class _FitMatrix:
    """A tiny real objective: fit a linear map; the data of a step depends on the step alone."""

    adamw_names = ("bias",)

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"net": nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 3))})

    def make_batch(self, step: int, batch_size: int) -> torch.Tensor:
        return torch.randn(batch_size, 4, generator=torch.Generator().manual_seed(step))

    def compute_loss(self, batch: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        loss = (self.modules["net"](batch) - batch[:, :3]).square().mean()
        return loss, {"loss": loss.item()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        path.write_bytes(b"")
        return {"weight": float(modules["net"][0].weight.sum())}


def _config(folder: Path) -> TrainerConfig:
    return TrainerConfig(
        run_dir=str(folder), total_steps=40, batch_size=8, muon_lr=0.02, adamw_lr=0.01, warmup_steps=4, dtype="fp32"
    )


def _advance(trainer: Trainer, num_steps: int) -> None:
    for _ in range(num_steps):
        trainer.train_step()


def test_resumed_run_equals_straight_run_bit_for_bit(tmp_path: Path) -> None:
    straight = Trainer(_FitMatrix(), _config(tmp_path / "a"))
    _advance(straight, 6)
    first = Trainer(_FitMatrix(), _config(tmp_path / "b"))
    _advance(first, 3)
    first.save()
    second = Trainer(_FitMatrix(), _config(tmp_path / "b"))
    second.resume()
    _advance(second, 3)
    assert second.step == straight.step == 6
    for name, value in straight.objective.modules.state_dict().items():
        assert torch.equal(value, second.objective.modules.state_dict()[name]), name
        assert torch.equal(straight.ema[name], second.ema[name]), name
    for name, value in straight.optimizer.to_state().items():
        assert torch.equal(value, second.optimizer.to_state()[name]), name


def test_scenes_are_counted_across_a_change_of_batch_size(tmp_path: Path) -> None:
    first = Trainer(_FitMatrix(), _config(tmp_path))
    _advance(first, 2)
    first.save()
    second = Trainer(_FitMatrix(), replace(_config(tmp_path), batch_size=3))
    second.resume()
    _advance(second, 1)
    assert second.scenes_seen == 2 * 8 + 3


def test_resume_without_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Trainer(_FitMatrix(), _config(tmp_path)).resume()


def test_learning_rate_warms_up_stays_and_falls(tmp_path: Path) -> None:
    trainer = Trainer(_FitMatrix(), replace(_config(tmp_path), total_steps=100, decay_frac=0.2))
    assert [trainer.lr_scale(step) for step in (0, 1, 3)] == [0.25, 0.5, 1.0]
    assert trainer.lr_scale(79) == 1.0
    assert trainer.lr_scale(90) == pytest.approx(0.5)
    assert trainer.lr_scale(100) == 0.05


def test_averaged_weights_follow_the_formula(tmp_path: Path) -> None:
    trainer = Trainer(_FitMatrix(), _config(tmp_path))
    expected = trainer.ema["net.0.weight"].clone()
    for step in range(1, 4):
        trainer.train_step()
        decay = min(trainer.config.ema_decay, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trainer.objective.modules["net"][0].weight.detach()
    assert torch.allclose(trainer.ema["net.0.weight"], expected, atol=1e-6)


def test_sheet_is_drawn_with_averaged_weights_and_puts_live_ones_back(tmp_path: Path) -> None:
    trainer = Trainer(_FitMatrix(), _config(tmp_path))
    _advance(trainer, 3)
    live = trainer.objective.modules["net"][0].weight.detach().clone()
    trainer.write_sheet()
    assert torch.equal(trainer.objective.modules["net"][0].weight, live)
    logged = (tmp_path / "log.jsonl").read_text()
    assert f'"weight": {round(float(trainer.ema["net.0.weight"].sum()), 4)}' in logged


def test_run_lowers_the_loss_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(_FitMatrix(), _config(tmp_path))
    before = trainer.train_step()["loss"]
    trainer.run(minutes=1)
    assert trainer.train_step()["loss"] < 0.5 * before
    assert (tmp_path / "checkpoint.safetensors").exists()


def test_orthogonalise_pushes_singular_values_towards_one() -> None:
    torch.manual_seed(0)
    for shape in ((8, 20), (20, 8)):
        singular = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert singular.min() > 0.5 and singular.max() < 1.4


def test_muon_takes_matrices_and_adamw_the_rest() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3), nn.Conv2d(3, 1, 1))
    optimizer = MuonAdamW(net.named_parameters(), muon_lr=0.1, adamw_lr=0.1, adamw_names=("2.",))
    net(torch.randn(1, 2, 5, 5)).square().mean().backward()
    optimizer.step_(1.0)
    names = set(optimizer.to_state())
    assert "muon.0.weight" in names and "muon.2.weight" not in names
    assert {"adamw.exp_avg.0.bias", "adamw.exp_avg.1.weight", "adamw.exp_avg.2.weight"} <= names
