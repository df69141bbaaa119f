"""Recipe: the turntable, which draws eight views of an object from one picture.

    python -m training.train_turntable --minutes 120 --resume --export assets/turntable

It learns from drawn solids alone. Examples are drawn first, about a third of a second each, and kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipelines.errors import UserError
from pipelines.images import to_images
from pipelines.turntable import Turntable, TurntableConfig, config_to_json, make_stage, turn_object
from training.trainer import Trainer, TrainerConfig, count_parameters, make_parser, start, write_manifest
from training.turntable_data import (
    CHECK_SEED,
    FIRST_SEED,
    TurntableBatch,
    load_examples,
    make_turntable_batch,
)

DEFAULTS = TrainerConfig(
    run_dir="training_runs/turntable",
    total_steps=9000,
    batch_size=12,
    muon_lr=2e-3,
    adamw_lr=1e-3,
    warmup_steps=100,
    decay_frac=0.6,
    sheet_every_s=1500.0,
    num_threads=1,
)
SOLIDS = Path("training_runs/solids")
MIN_GAIN_DB = 1.5
NUM_SHOWN = 6


class TurntableObjective:
    """Tell how an object looks from the sides that its picture does not show. Shapes: batches are `TurntableBatch`."""

    adamw_names: tuple[str, ...] = ("embed", "place", "view", "steer", "head", "fine")

    def __init__(self, config: TurntableConfig | None = None, *, examples: np.ndarray, checked: np.ndarray) -> None:
        torch.manual_seed(0)
        self.config = config or TurntableConfig()
        self.model = Turntable(self.config)
        self.modules = nn.ModuleDict({"model": self.model})
        self._examples, self._checked = examples, checked

    def make_batch(self, step: int, batch_size: int) -> TurntableBatch:
        """Return objects, each at its own place of the chain."""
        return make_turntable_batch(self._examples, batch_size, np.random.default_rng([step, FIRST_SEED, 5]))

    def compute_loss(self, batch: TurntableBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the squared error in units of what the linear estimate leaves at that place of the chain."""
        stage = make_stage(batch.eta)
        linear = batch.guess + stage.gain * (batch.noisy - batch.guess)
        target = (batch.clean - linear) / stage.out_scale
        out = self.model.guess(batch.noisy, batch.guess, batch.picture, stage).float()
        loss = (out - target).square().mean()
        return loss, {"loss": loss.item(), "start": target.square().mean().item()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Measure on held-out solids: the inflated body's views against the drawn ones."""
        figures, sheet = check(self.model, self._checked)
        sheet.save(path)
        return figures


@torch.no_grad()
def check(model: Turntable, examples: np.ndarray) -> tuple[dict[str, float], Image.Image]:
    """Draw the views of held-out examples (n, ...) uint8.

    Returns: mean PSNR of the views in dB, inflated, after the first step and drawn, IoU of their masks; and a contact
             sheet: picture and truth, inflated, drawn, three rows for each of the first solids.
    """
    values = torch.from_numpy(examples).permute(0, 1, 4, 2, 3).float() / (255 / 2) - 1
    count = (values.shape[1] - 1) // 2
    figures: dict[str, list[float]] = {}
    rows: list[torch.Tensor] = []
    for example in values:
        picture, truth, guess = example[0], example[1 : 1 + count], example[1 + count :]
        steps = list(turn_object(model, guess, picture))
        for name, views in (("inflated", guess), ("first", steps[0]), ("drawn", steps[-1])):
            figures.setdefault(f"{name}_db", []).append(measure_views(views, truth))
            figures.setdefault(f"{name}_iou", []).append(measure_overlap(views, truth))
        if len(rows) < NUM_SHOWN:
            strips = [torch.cat([head, *views[:, :3]], 2) for head, views in (
                (picture[:3], truth), (torch.ones_like(picture[:3]), guess), (torch.ones_like(picture[:3]), steps[-1])
            )]  # fmt: skip
            rows.append(torch.cat(strips, 1))
    return {key: round(float(np.mean(part)), 3) for key, part in figures.items()}, to_images(torch.cat(rows, 1)[None])[
        0
    ]


def measure_views(views: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the mean PSNR in dB of the colours of views (v, 4, H, H) in -1..1."""
    error = ((views[:, :3] - truth[:, :3]) / 2).square().mean((1, 2, 3)).clamp_min(1e-10)
    return float((-10 * error.log10()).mean())


def measure_overlap(views: torch.Tensor, truth: torch.Tensor) -> float:
    """Return intersection over union of the masks of views, 0..1, mean over them."""
    a, b = views[:, 3] > 0, truth[:, 3] > 0
    return float(((a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp_min(1)).mean())


def export_turntable(
    trainer: Trainer, objective: TurntableObjective, folder: Path, checked: np.ndarray
) -> dict[str, Any]:
    """Write the averaged weights (float16), the configuration with held-out figures, and the manifest.

    Returns: the figures of `check`.
    Raises:  UserError if its views are hardly better than the inflated body's; nothing is written then.
    """
    halves = {name.removeprefix("model."): value.half().cpu().contiguous() for name, value in trainer.ema.items()}
    model = Turntable(objective.config).eval()
    model.load_state_dict({name: value.float() for name, value in halves.items()})
    figures, _ = check(model, checked)
    gain = figures["drawn_db"] - figures["inflated_db"]
    if gain < MIN_GAIN_DB:
        raise UserError(f"Its views are {gain:.1f} dB better than inflating, below the gate {MIN_GAIN_DB}; train on.")
    recipe = {**asdict(trainer.config), "solids_seen": trainer.scenes_seen, "parameters": count_parameters([model])}
    del recipe["run_dir"]
    gates = [{"name": "gain_over_inflate_db", "value": round(gain, 3), "minimum": MIN_GAIN_DB}]
    about = {**config_to_json(objective.config), "recipe": recipe, "gates": gates, "held_out": figures}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halves, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_manifest(folder, "training/train_turntable.py")
    return figures


def main() -> None:
    """Train from the command line; with --export write the weights into a folder afterwards."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument("--num-solids", type=int, default=5000, help="how many solids are drawn")
    parser.add_argument("--num-checked", type=int, default=48, help="held-out solids to measure on")
    parser.add_argument("--export", type=Path, default=None, help="write weights, configuration and manifest here")
    arguments = parser.parse_args()
    checked = load_examples(SOLIDS, arguments.num_checked, CHECK_SEED)
    objective = TurntableObjective(examples=load_examples(SOLIDS, arguments.num_solids), checked=checked)
    trainer = start(objective, arguments)
    if arguments.export is not None:
        print(json.dumps(export_turntable(trainer, objective, arguments.export, checked), indent=1))


if __name__ == "__main__":
    main()
