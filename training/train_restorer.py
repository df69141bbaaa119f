"""Recipe: the restorer shared by super-resolution and low light, and the denoiser that guidance uses.

    python -m training.train_restorer --minutes 60 --resume --export assets/restorer

It learns from drawn pictures alone. Run it after `train_sr_lite`, whose enlarged pictures it refines.
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
from pipelines.residual_shift import KAPPA
from pipelines.restorer import Restorer, RestorerConfig, config_to_json, make_level, make_task
from pipelines.sr_lite import SrLite, load_sr_lite
from training.objectives import charbonnier
from training.restoration_pictures import CHECK_SEED, FIRST_SEED, load_pictures
from training.restorer_data import RestorerBatch, damage, lose_detail, make_restorer_batch
from training.train_sr_lite import PICTURES, measure_psnr
from training.trainer import Trainer, TrainerConfig, count_parameters, make_parser, start, write_manifest

DEFAULTS = TrainerConfig(
    run_dir="training_runs/restorer",
    total_steps=4000,
    batch_size=8,
    muon_lr=3e-3,
    adamw_lr=1.5e-3,
    warmup_steps=100,
    decay_frac=0.6,
    weight_decay=0.0,
    sheet_every_s=1500.0,
    num_threads=1,
)
ENLARGER = Path("assets/sr_lite")
CHECK_SIGMA = 0.25
MIN_DENOISE_DB = 28.0


class RestorerObjective:
    """Tell what lies between the first guess and the clean picture. Shapes: batches are `RestorerBatch`."""

    adamw_names: tuple[str, ...] = ("head", "out", "embed", "steer")

    def __init__(
        self,
        enlarger: SrLite,
        config: RestorerConfig | None = None,
        *,
        pictures: np.ndarray,
        checked: np.ndarray,
    ) -> None:
        torch.manual_seed(0)
        self.config, self.enlarger = config or RestorerConfig(), enlarger
        self.model = Restorer(self.config)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = nn.ModuleDict({"model": self.model})
        self._pictures, self._checked = pictures, checked

    def make_batch(self, step: int, batch_size: int) -> RestorerBatch:
        """Return pictures of several tasks."""
        return make_restorer_batch(
            self._pictures, self.enlarger, batch_size, np.random.default_rng([step, FIRST_SEED, 2])
        )

    def compute_loss(self, batch: RestorerBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the distance of the guess, each noise level weighing the same."""
        level = make_level(batch.sigma, batch.share, batch.task)
        target = (batch.clean - level.first_guess(batch.noisy, batch.damaged)) / level.out_scale
        guess = self.model.guess(batch.noisy, batch.damaged, level, batch.task).float()
        loss = charbonnier(guess, target, width=0.1)
        return loss, {"loss": loss.item(), "start": charbonnier(torch.zeros_like(target), target, width=0.1).item()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Measure on held-out pictures: damaged against restored at once, per task."""
        figures, sheet = check(self.model, self.enlarger, self._checked)
        sheet.save(path)
        return figures


@torch.no_grad()
def check(model: Restorer, enlarger: SrLite, pictures: np.ndarray) -> tuple[dict[str, float], Image.Image]:
    """Restore held-out pictures (n, H, W, 3) uint8 in one step from the last level.

    Returns: mean PSNR in dB before and after by task, and a contact sheet: damaged, restored, truth.
    """
    side = 96
    clean = torch.from_numpy(pictures[:, :side, :side]).permute(0, 3, 1, 2).float() / (255 / 2) - 1
    rng = np.random.default_rng(47)
    rows, figures = [], {}
    for name in ("detail", "denoise", "deblur", "file", "prior"):
        sigma, share = torch.full((len(clean),), KAPPA), torch.ones(len(clean))
        noise = torch.from_numpy(rng.normal(size=clean.shape).astype(np.float32))
        if name == "detail":
            before, _ = lose_detail(clean, enlarger, rng)
        elif name == "prior":
            sigma, share = sigma * (CHECK_SIGMA / KAPPA), share * 0
            before = clean + CHECK_SIGMA * noise
        else:
            before = torch.stack([damage(picture, name, rng)[0] for picture in clean])
        noisy = before if name == "prior" else before + KAPPA * noise
        given = torch.zeros_like(before) if name == "prior" else before
        after = model(noisy, given, sigma, share, make_task(name, len(clean)))
        for label, picture in (("before", before), ("after", after)):
            figures[f"{name}_{label}"] = float(np.mean([measure_psnr(a, b, 4) for a, b in zip(picture, clean)]))
        rows.append(torch.cat([torch.cat(list(part[:3]), 2) for part in (before, after, clean)], 2))
    return {key: round(value, 3) for key, value in figures.items()}, to_images(torch.cat(rows, 1)[None])[0]


def export_restorer(
    trainer: Trainer, objective: RestorerObjective, folder: Path, checked: np.ndarray
) -> dict[str, Any]:
    """Write the averaged weights (float16), the configuration with held-out figures, and the manifest.

    Returns: the figures of `check`.
    Raises:  UserError if it denoises too badly; nothing is written then.
    """
    halves = {name.removeprefix("model."): value.half().cpu().contiguous() for name, value in trainer.ema.items()}
    model = Restorer(objective.config).eval()
    model.load_state_dict({name: value.float() for name, value in halves.items()})
    figures, _ = check(model, objective.enlarger, checked)
    if figures["prior_after"] < MIN_DENOISE_DB:
        raise UserError(f"It denoises to {figures['prior_after']:.1f} dB, below the gate {MIN_DENOISE_DB}; train on.")
    recipe = {**asdict(trainer.config), "pictures_seen": trainer.scenes_seen, "parameters": count_parameters([model])}
    del recipe["run_dir"]
    gates = [{"name": "denoised_db", "value": figures["prior_after"], "minimum": MIN_DENOISE_DB}]
    about = {**config_to_json(objective.config), "recipe": recipe, "gates": gates, "held_out_db": figures}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halves, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_manifest(folder, "training/train_restorer.py")
    return figures


def main() -> None:
    """Train from the command line; with --export write the weights into a folder afterwards."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument("--num-pictures", type=int, default=3200, help="how many pictures are drawn")
    parser.add_argument("--num-checked", type=int, default=24, help="held-out pictures to measure on")
    parser.add_argument("--enlarger", type=Path, default=ENLARGER, help="the enlarger whose pictures are refined")
    parser.add_argument("--export", type=Path, default=None, help="write weights, configuration and manifest here")
    arguments = parser.parse_args()
    checked = load_pictures(PICTURES, arguments.num_checked, CHECK_SEED)
    objective = RestorerObjective(
        load_sr_lite(arguments.enlarger),
        pictures=load_pictures(PICTURES, arguments.num_pictures),
        checked=checked,
    )
    trainer = start(objective, arguments)
    if arguments.export is not None:
        print(json.dumps(export_restorer(trainer, objective, arguments.export, checked), indent=1))


if __name__ == "__main__":
    main()
