"""Recipe: the any-scale enlarger of the super-resolution tab.

    python -m training.train_sr_lite --minutes 120 --resume --export assets/sr_lite

It learns from drawn pictures alone, reduced cleanly or as a camera would; photographs are its test.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipelines.backprojection import project
from pipelines.errors import UserError
from pipelines.images import to_images
from pipelines.sr_lite import SrLite, SrLiteConfig, config_to_json, enlarge, make_places
from training.degradations import CameraDamage, photograph, reduce_cleanly
from training.objectives import charbonnier
from training.restoration_data import EnlargeBatch, make_enlarge_batch
from training.restoration_pictures import CHECK_SEED, FIRST_SEED, load_pictures
from training.trainer import Trainer, TrainerConfig, count_parameters, make_parser, start, write_manifest

DEFAULTS = TrainerConfig(
    run_dir="training_runs/sr_lite",
    total_steps=22_500,
    batch_size=16,
    muon_lr=3e-3,
    adamw_lr=1.5e-3,
    warmup_steps=100,
    decay_frac=0.6,
    weight_decay=0.0,
    sheet_every_s=1500.0,
    num_threads=1,
)
PICTURES = Path("training_runs/restoration")
# Of the training's end, when the loss becomes nearly quadratic: the mean of what is likely is nearer to the truth than
# the median where a camera leaves much open.
SQUARED_FRAC, SQUARED_WIDTH, ABSOLUTE_WIDTH = 0.2, 1.0, 0.01
WINDOW_PX = 72  # of a large crop, as much as is decoded and compared
CHECK_SCALES = (2.0, 3.3, 4.0, 8.0)
CHECK_PX = 240
CHECK_CAMERA = CameraDamage(blur_px=0.4, noise_levels=4.0, shot_frac=0.5, jpeg_quality=80)
MIN_GAIN_DB = 0.3


class SrLiteObjective:
    """Tell what bicubic interpolation misses. Shapes: batches are `EnlargeBatch`. Units: squared_from in steps."""

    adamw_names: tuple[str, ...] = ("head", "places", "colour")

    def __init__(
        self,
        config: SrLiteConfig | None = None,
        *,
        pictures: np.ndarray,
        checked: np.ndarray,
        squared_from: float = math.inf,
    ) -> None:
        torch.manual_seed(0)
        self.config, self._squared_from = config or SrLiteConfig(), squared_from
        self.model = SrLite(self.config)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = nn.ModuleDict({"model": self.model})
        self._pictures, self._checked = pictures, checked

    def make_batch(self, step: int, batch_size: int) -> EnlargeBatch:
        """Return pairs of one scale."""
        return make_enlarge_batch(self._pictures, batch_size, np.random.default_rng([step, FIRST_SEED]))

    def compute_loss(self, batch: EnlargeBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the distance in a window of the large crops."""
        device = next(self.model.parameters()).device
        small, large, damage = (part.to(device) for part in (batch.small, batch.large, batch.damage))
        few, many = small.shape[-1], large.shape[-1]
        window = min(WINDOW_PX, many)
        rng = np.random.default_rng([step, FIRST_SEED, 1])
        y, x = (int(v) for v in rng.integers(many - window + 1, size=2))
        features = self.model.encode(small.contiguous(memory_format=torch.channels_last), damage)
        change = self.model.decode(features, make_places(many, few, y, window), make_places(many, few, x, window))
        part = (..., slice(y, y + window), slice(x, x + window))
        missed = large[part] - enlarge(small, (many, many))[part]
        width = SQUARED_WIDTH if step >= self._squared_from else ABSOLUTE_WIDTH
        loss = charbonnier(change.float(), missed, width)
        return loss, {"loss": loss.item(), "bicubic": charbonnier(torch.zeros_like(missed), missed, width).item()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Measure on held-out pictures and write some at the scale of 4: bicubic, enlarged, truth."""
        figures, sheet = check(self.model, self._checked, sheet_rows=4)
        sheet.save(path)
        return figures


@torch.no_grad()
def check(model: SrLite, pictures: np.ndarray, sheet_rows: int = 0) -> tuple[dict[str, float], Image.Image]:
    """Measure how much better than bicubic a model enlarges.

    Shapes:  pictures (n, H, W, 3) uint8.
    Units:   figures are mean PSNR in dB: bicubic, back-projected bicubic, the network alone, back-projected too; for
             camera damage bicubic and the network alone.
    Returns: figures by name, and a contact sheet of the first rows.
    """
    large = torch.from_numpy(pictures[:, :CHECK_PX, :CHECK_PX]).permute(0, 3, 1, 2).float() / (255 / 2) - 1
    totals: dict[str, list[float]] = {}
    rows: list[torch.Tensor] = []
    for scale in CHECK_SCALES:
        size = (round(CHECK_PX / scale),) * 2
        for index, truth in enumerate(large):
            clean = reduce_cleanly(truth[None], size)
            taken = photograph(truth, size, CHECK_CAMERA, np.random.default_rng([index, 43]))[None]
            plain, net = enlarge(clean, CHECK_SIZE), model(clean, CHECK_SIZE, torch.zeros(1))
            found = {
                "bicubic": plain,
                "projected": project(plain[0].double(), clean[0].double())[None].float(),
                "net": net,
                "faithful": project(net[0].double(), clean[0].double())[None].float(),
                "camera_bicubic": enlarge(taken, CHECK_SIZE),
                "camera_net": model(taken, CHECK_SIZE, torch.ones(1)),
            }
            for name, picture in found.items():
                totals.setdefault(f"x{scale:g}_{name}", []).append(measure_psnr(picture, truth[None], round(scale)))
            if scale == 4.0 and index < sheet_rows:
                rows.append(torch.cat([found["bicubic"], found["faithful"], truth[None]], 3))
    sheet = to_images(torch.cat(rows, 2))[0] if rows else Image.new("RGB", (1, 1))
    return {name: round(float(np.mean(values)), 3) for name, values in totals.items()}, sheet


CHECK_SIZE = (CHECK_PX, CHECK_PX)


def measure_psnr(picture: torch.Tensor, truth: torch.Tensor, border_px: int) -> float:
    """Return the PSNR in dB of (b, 3, H, W) in -1..1 without a border; at most 60."""
    inside = (..., slice(border_px, -border_px or None), slice(border_px, -border_px or None))
    error = (picture.clamp(-1, 1)[inside] - truth[inside]).square().mean().item()
    return float(10 * np.log10(4 / max(error, 4e-6)))


def export_sr_lite(trainer: Trainer, objective: SrLiteObjective, folder: Path, checked: np.ndarray) -> dict[str, Any]:
    """Write the averaged weights (float16), the configuration with held-out figures, and the manifest.

    Returns: the figures of `check`.
    Raises:  UserError if back-projection alone is as good; nothing is written then.
    """
    halves = {name.removeprefix("model."): value.half().cpu().contiguous() for name, value in trainer.ema.items()}
    model = SrLite(objective.config).eval()
    model.load_state_dict({name: value.float() for name, value in halves.items()})
    figures, _ = check(model, checked)
    gain = figures["x4_faithful"] - figures["x4_projected"]
    if gain < MIN_GAIN_DB:
        raise UserError(f"The gain over back-projection is {gain:.2f} dB, below the gate {MIN_GAIN_DB}; train on.")
    recipe = {**asdict(trainer.config), "pictures_seen": trainer.scenes_seen, "parameters": count_parameters([model])}
    del recipe["run_dir"]
    gates = [{"name": "x4_gain_over_backprojection_db", "value": round(gain, 3), "minimum": MIN_GAIN_DB}]
    about = {**config_to_json(objective.config), "recipe": recipe, "gates": gates, "held_out_db": figures}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halves, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_manifest(folder, "training/train_sr_lite.py")
    return figures


def main() -> None:
    """Train from the command line; with --export write the weights into a folder afterwards."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument("--num-pictures", type=int, default=3200, help="how many pictures are drawn")
    parser.add_argument("--num-checked", type=int, default=24, help="held-out pictures to measure on")
    parser.add_argument("--export", type=Path, default=None, help="write weights, configuration and manifest here")
    arguments = parser.parse_args()
    checked = load_pictures(PICTURES, arguments.num_checked, CHECK_SEED)
    objective = SrLiteObjective(
        pictures=load_pictures(PICTURES, arguments.num_pictures),
        checked=checked,
        squared_from=(1 - SQUARED_FRAC) * arguments.total_steps,
    )
    trainer = start(objective, arguments)
    if arguments.export is not None:
        print(json.dumps(export_sr_lite(trainer, objective, arguments.export, checked), indent=1))


if __name__ == "__main__":
    main()
