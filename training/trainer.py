"""The loop that every training shares: steps, learning-rate schedule, averaging, log, checkpoint, resume, samples.

What a run optimises is an `Objective`; the two halves meet only in this file's protocol. Everything random is a
function of the step number, so a resumed run continues bit for bit where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.errors import UserError
from training.optimizers import MuonAdamW


@dataclass(frozen=True)
class TrainerConfig:
    """How a run is carried out.

    Units: total_steps, warmup_steps, log_every in steps; decay_frac is the last fraction 0..1 of the run in which the
           learning rate falls linearly to a twentieth; *_every_s in seconds; ema_decay per step (0..1).
    """

    run_dir: str
    total_steps: int
    batch_size: int
    muon_lr: float
    adamw_lr: float
    warmup_steps: int = 200
    decay_frac: float = 0.3
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    grad_clip: float = 1.0
    log_every: int = 50
    save_every_s: float = 180.0
    sheet_every_s: float = 420.0
    seed: int = 0
    device: str = "cpu"
    dtype: str = "bf16"
    num_threads: int = 2


class Objective(Protocol):
    """What a run optimises. `modules` holds everything that is trained, averaged and saved."""

    modules: nn.ModuleDict

    @property
    def adamw_names(self) -> tuple[str, ...]:
        """Name parts of the matrices that take AdamW steps."""

    def make_batch(self, step: int, batch_size: int) -> Any:
        """Return the batch of this step; a pure function of the step."""

    def compute_loss(self, batch: Any, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss to minimise and figures for the log."""

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Write a contact sheet made with the averaged weights; return figures for the log."""


class Trainer:
    """Runs an objective for a while, so that it can go on another day.

    Points: `run(minutes)` trains; checkpoints are `run_dir/checkpoint.safetensors` (weights, averaged weights,
            optimiser) and `run_dir/progress.json`; the log is `run_dir/log.jsonl`, sheets are `run_dir/sheets/`.
    """

    def __init__(self, objective: Objective, config: TrainerConfig) -> None:
        torch.set_num_threads(config.num_threads)
        self.objective, self.config = objective, config
        self.run_dir = Path(config.run_dir)
        (self.run_dir / "sheets").mkdir(parents=True, exist_ok=True)
        objective.modules.to(config.device)
        self.optimizer = MuonAdamW(
            objective.modules.named_parameters(),
            muon_lr=config.muon_lr,
            adamw_lr=config.adamw_lr,
            weight_decay=config.weight_decay,
            adamw_names=objective.adamw_names,
        )
        self.ema = {name: value.detach().clone() for name, value in objective.modules.state_dict().items()}
        self.step = self.scenes_seen = 0

    def lr_scale(self, step: int) -> float:
        """Return the factor 0..1 on the learning rates: linear warm-up, constant, linear decay to 0.05."""
        config = self.config
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        decay_steps = max(1.0, config.decay_frac * config.total_steps)
        return warm * min(1.0, max(0.05, (config.total_steps - step) / decay_steps))

    def run(self, minutes: float) -> None:
        """Train until `total_steps` or until the minutes are over, then save and write a last sheet."""
        config, start = self.config, time.monotonic()
        last_save = last_sheet = last_log = start
        while self.step < config.total_steps and time.monotonic() - start < minutes * 60:
            logs = self.train_step()
            now = time.monotonic()
            if self.step % config.log_every == 0:
                rate = config.batch_size * config.log_every / (now - last_log)
                self._log({"step": self.step, "scenes": self.scenes_seen, "per_s": round(rate, 1), **logs})
                last_log = now
            if now - last_save > config.save_every_s:
                self.save()
                last_save = now
            if now - last_sheet > config.sheet_every_s:
                self.save()
                self.write_sheet()
                last_sheet = last_log = time.monotonic()
        self.save()
        self.write_sheet()

    def train_step(self) -> dict[str, float]:
        """Do one optimiser step and one averaging step; return the log figures of the objective."""
        config = self.config
        batch = self.objective.make_batch(self.step, config.batch_size)
        with torch.autocast(config.device, torch.bfloat16, enabled=config.dtype == "bf16"):
            loss, logs = self.objective.compute_loss(batch, self.step)
        loss.backward()
        nn.utils.clip_grad_norm_(self.objective.modules.parameters(), config.grad_clip)
        self.optimizer.step_(self.lr_scale(self.step))
        self.step += 1
        self.scenes_seen += config.batch_size
        self._update_ema_()
        return logs

    @torch.no_grad()
    def _update_ema_(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.objective.modules.state_dict().items():
            if value.is_floating_point():
                self.ema[name].lerp_(value, 1 - decay)
            else:
                self.ema[name].copy_(value)

    def _log(self, figures: dict[str, Any]) -> None:
        with (self.run_dir / "log.jsonl").open("a") as file:
            file.write(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}) + "\n")

    def write_sheet(self) -> None:
        """Write a contact sheet with the averaged weights and put the live weights back."""
        modules = self.objective.modules
        live = {name: value.detach().clone() for name, value in modules.state_dict().items()}
        modules.load_state_dict(self.ema)
        modules.eval()
        try:
            path = self.run_dir / "sheets" / f"{self.step:07d}.png"
            with torch.no_grad():
                figures = self.objective.write_samples(modules, path)
            self._log({"step": self.step, "sheet": path.name, **figures})
        finally:
            modules.load_state_dict(live)
            modules.train()

    def save(self) -> None:
        """Write the checkpoint atomically."""
        tensors = {f"live.{k}": v for k, v in self.objective.modules.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        tensors |= {f"opt.{k}": v for k, v in self.optimizer.to_state().items()}
        target = self.run_dir / "checkpoint.safetensors"
        part = target.with_suffix(".part")
        metadata = {"step": str(self.step), "config": json.dumps(asdict(self.config))}
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, part, metadata)
        part.replace(target)
        progress = {"step": self.step, "scenes_seen": self.scenes_seen, **asdict(self.config)}
        (self.run_dir / "progress.json").write_text(json.dumps(progress, indent=1))

    def resume(self) -> None:
        """Continue from the run folder's checkpoint.

        Raises: FileNotFoundError if there is none.
        """
        tensors = load_file(self.run_dir / "checkpoint.safetensors", device=self.config.device)
        groups: dict[str, dict[str, torch.Tensor]] = {"live": {}, "ema": {}, "opt": {}}
        for name, value in tensors.items():
            group, rest = name.split(".", 1)
            groups[group][rest] = value
        self.objective.modules.load_state_dict(groups["live"])
        self.ema = groups["ema"]
        self.optimizer.load_state(groups["opt"])
        progress = json.loads((self.run_dir / "progress.json").read_text())
        self.step, self.scenes_seen = int(progress["step"]), int(progress["scenes_seen"])


def load_averaged(run_dir: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the averaged weights and the progress record of a run.

    Raises: UserError if the run has no checkpoint.
    """
    path = run_dir / "checkpoint.safetensors"
    if not path.exists():
        raise UserError(f"{run_dir} has no checkpoint; run the recipe first.")
    weights = {key[4:]: value for key, value in load_file(path).items() if key.startswith("ema.")}
    return weights, json.loads((run_dir / "progress.json").read_text())


def make_parser(description: str | None, defaults: TrainerConfig) -> argparse.ArgumentParser:
    """Return a command line with one flag per field of the configuration, plus --minutes and --resume."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this time and save")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run folder, if any")
    for field in fields(defaults):
        value = getattr(defaults, field.name)
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(value), default=value)
    return parser


def read_config(arguments: argparse.Namespace) -> TrainerConfig:
    """Pick the trainer's fields out of parsed arguments."""
    return TrainerConfig(**{field.name: getattr(arguments, field.name) for field in fields(TrainerConfig)})


def start(objective: Objective, arguments: argparse.Namespace) -> Trainer:
    """Build the trainer, resume if asked and possible, run for the given minutes."""
    trainer = Trainer(objective, read_config(arguments))
    if arguments.resume and (trainer.run_dir / "checkpoint.safetensors").exists():
        trainer.resume()
    trainer.run(arguments.minutes)
    return trainer


def count_parameters(modules: Iterable[nn.Module]) -> int:
    """Return how many numbers the modules hold."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def write_manifest(folder: Path, made_by: str) -> None:
    """Write the size and the SHA-256 of every other file of a folder into its MANIFEST.json, with the recipe."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != "MANIFEST.json")
    rows = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in files
    }
    text = json.dumps({"made_by": made_by, "licence": "Apache-2.0", "files": rows}, indent=1)
    (folder / "MANIFEST.json").write_text(text + "\n", encoding="utf-8")
