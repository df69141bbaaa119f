"""Recipe: the curve network of the low-light tab.

    python -m training.train_curve_net --minutes 20 --resume --export assets/curve_net

It learns from drawn pictures that were darkened physically, also unevenly. Some targets are the true brightness, and
then the picture itself is compared; for the others only what a well lit picture looks like is known.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipelines.brightening import expose, find_gain, measure_brightness, tell_gain
from pipelines.curve_net import CurveNet, CurveNetConfig, apply_curves, config_to_json
from pipelines.darkening import Darkness, darken, draw_lamps
from pipelines.errors import UserError
from pipelines.images import to_images
from training.light_data import CONTEXT_PX, sample_darkness
from training.restoration_data import cut
from training.restoration_pictures import CHECK_SEED, FIRST_SEED, load_pictures
from training.train_sr_lite import PICTURES, measure_psnr
from training.trainer import Trainer, TrainerConfig, count_parameters, make_parser, start, write_manifest

DEFAULTS = TrainerConfig(
    run_dir="training_runs/curve_net",
    total_steps=1500,
    batch_size=8,
    muon_lr=2e-3,
    adamw_lr=1e-3,
    warmup_steps=50,
    decay_frac=0.5,
    weight_decay=0.0,
    ema_decay=0.995,
    sheet_every_s=600.0,
    num_threads=1,
)
CROP_PX = 96
TRUE_FRAC = 0.7  # of the targets are the brightness that the picture had
LAMPS_FRAC = 0.5
LOWEST_TARGET, HIGHEST_TARGET = 0.2, 0.65
CHECK_TARGETS = (0.3, 0.45, 0.6)
MAX_EXPOSURE_ERROR, MIN_GAIN_DB = 0.05, 0.5
PATCH_PX = 16
# Weights of the losses: the true picture, brightness as a whole and of patches, neighbours' differences, colour,
# smoothness. The last is that of the released script; the others follow from comparing with a true picture.
PAIRED, WHOLE, PATCHES, NEIGHBOURS, COLOUR, SMOOTH = 5.0, 5.0, 0.5, 1.0, 0.25, 20.0


@dataclass(frozen=True)
class CurveBatch:
    """Dark pictures with what they should become.

    Shapes: dark, clean (b, 3, CROP_PX, CROP_PX) in -1..1; target, told (b,) as in `CurveNet`; is_true (b,), 1 where
            the target is the clean picture's brightness.
    """

    dark: torch.Tensor
    clean: torch.Tensor
    target: torch.Tensor
    told: torch.Tensor
    is_true: torch.Tensor


class CurveNetObjective:
    """Light dark pictures by curves. Shapes: batches are `CurveBatch`."""

    adamw_names: tuple[str, ...] = ("layers.0.", "layers.6.")

    def __init__(self, config: CurveNetConfig | None = None, *, pictures: np.ndarray, checked: np.ndarray) -> None:
        torch.manual_seed(0)
        self.config = config or CurveNetConfig()
        self.model = CurveNet(self.config)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        last = self.model.layers[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.modules = nn.ModuleDict({"model": self.model})
        self._pictures, self._checked = pictures, checked

    def make_batch(self, step: int, batch_size: int) -> CurveBatch:
        """Return pictures of different darkness."""
        rng = np.random.default_rng([step, FIRST_SEED, 3])
        rows = [self._make_pair(rng) for _ in range(batch_size)]
        return CurveBatch(*(torch.stack(column) for column in zip(*rows)))

    def _make_pair(self, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        wide = cut(self._pictures[rng.integers(len(self._pictures))], CONTEXT_PX, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        has_lamps = rng.random() < LAMPS_FRAC
        lamps = draw_lamps((CONTEXT_PX, CONTEXT_PX), int(rng.integers(2, 5)), generator) if has_lamps else None
        dark = darken(wide, sample_darkness(rng), generator, lamps=lamps)
        true = measure_brightness(wide)
        is_true = rng.random() < TRUE_FRAC
        target = true if is_true else float(rng.uniform(LOWEST_TARGET, HIGHEST_TARGET))
        told = tell_gain(find_gain(dark[:, ::3, ::3], target))
        y, x = (int(v) for v in rng.integers(CONTEXT_PX - CROP_PX + 1, size=2))
        part = (slice(None), slice(y, y + CROP_PX), slice(x, x + CROP_PX))
        facts = (torch.tensor(float(value)) for value in (target, told, is_true))
        return (dark[part], wide[part], *facts)

    def compute_loss(self, batch: CurveBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the distance to the true pictures and what is known of well lit ones."""
        curves = self.model(batch.dark, batch.target, batch.told).float()
        lit = apply_curves(batch.dark, curves)
        losses = measure_losses(lit, curves, batch)
        total = sum(losses.values(), torch.zeros(()))
        return total, {"loss": total.item()} | {name: value.item() for name, value in losses.items()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Measure on held-out pictures: evenly and unevenly lit, and how near the brightness comes."""
        figures, sheet = check(self.model, self._checked)
        sheet.save(path)
        return figures


def measure_losses(lit: torch.Tensor, curves: torch.Tensor, batch: CurveBatch) -> dict[str, torch.Tensor]:
    """Return the weighted losses by name.

    Source:  Guo et al. 2020, arXiv 2001.06826 (exposure of patches, differences of neighbours, colour, smoothness).
    Differs: with a true picture, its distance; patches weigh little, because a picture has dark things too, and what is
             meant by a brightness is that of the whole; neighbours' differences grow with the gain, as contrast does;
             the colour's term is left out for pictures that are colourful.
    """
    grey, dark_grey = lit.mean(1, keepdim=True) / 2 + 0.5, batch.dark.mean(1, keepdim=True) / 2 + 0.5
    wanted = batch.target[:, None, None, None]
    is_free = 1 - batch.is_true
    distance = (lit - batch.clean).abs().mean((1, 2, 3))
    # On a crop, brightness as a whole is that of a single curve with the gain that was told.
    patches = (F.avg_pool2d(grey, PATCH_PX) - wanted).square().mean((1, 2, 3))
    exposed = torch.stack([expose(dark, 2 ** (4 * float(told))).mean() for dark, told in zip(batch.dark, batch.told)])
    whole = (lit.mean((1, 2, 3)) - exposed).abs() / 2
    steps = []
    for axis in (2, 3):
        one, other = (F.avg_pool2d(part, 4).diff(dim=axis) for part in (grey, dark_grey))
        steps.append((one - other * 2 ** (4 * batch.told[:, None, None, None])).square().mean((1, 2, 3)))
    means = lit.mean((2, 3)) / 2 + 0.5
    saturation = (batch.dark.amax(1) - batch.dark.amin(1)).mean((1, 2)) / (batch.dark.amax(1) + 1.02).mean((1, 2))
    colour = (means - means.roll(1, 1)).square().sum(1) * (saturation < 0.3)
    smooth = torch.stack([curves.diff(dim=axis).square().mean() for axis in (2, 3)]).sum()
    return {
        "paired": PAIRED * (batch.is_true * distance).mean(),
        "whole": WHOLE * (is_free * whole).mean(),
        "patches": PATCHES * (is_free * patches).mean(),
        "neighbours": NEIGHBOURS * (is_free * torch.stack(steps).sum(0)).mean(),
        "colour": COLOUR * (is_free * colour).mean(),
        "smooth": SMOOTH * smooth,
    }


@torch.no_grad()
def check(model: CurveNet, pictures: np.ndarray) -> tuple[dict[str, float], Image.Image]:
    """Light held-out pictures (n, H, W, 3) uint8.

    Returns: mean PSNR in dB of a single curve and of the network, in even and in uneven light; the mean distance to the
             wanted brightness; and a contact sheet: dark, single curve, network, truth.
    """
    found: dict[str, list[float]] = {}
    rows = []
    for index, array in enumerate(pictures):
        clean = torch.from_numpy(array).permute(2, 0, 1).float() / (255 / 2) - 1
        for name in ("even", "uneven"):
            generator = torch.Generator().manual_seed(index)
            lamps = draw_lamps((clean.shape[1], clean.shape[2]), 3, generator) if name == "uneven" else None
            dark = darken(clean, Darkness(0.1, tone_frac=float(index % 2)), generator, lamps=lamps)
            true = measure_brightness(clean)
            single, lit = expose(dark, find_gain(dark, true)), model.light(dark, true)
            found.setdefault(f"{name}_single_db", []).append(measure_psnr(single, clean, 4))
            found.setdefault(f"{name}_curves_db", []).append(measure_psnr(lit, clean, 4))
            for target in CHECK_TARGETS:
                error = abs(measure_brightness(model.light(dark, target)) - target)
                found.setdefault("exposure_error", []).append(error)
            if index < 4:
                rows.append(torch.cat([dark, single, lit, clean], 2))
    figures = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
    return figures, to_images(torch.cat(rows, 1)[None])[0]


def export_curve_net(
    trainer: Trainer, objective: CurveNetObjective, folder: Path, checked: np.ndarray
) -> dict[str, Any]:
    """Write the averaged weights (float16), the configuration with held-out figures, and the manifest.

    Returns: the figures of `check`.
    Raises:  UserError if a gate is missed; nothing is written then.
    """
    halves = {name.removeprefix("model."): value.half().cpu().contiguous() for name, value in trainer.ema.items()}
    model = CurveNet(objective.config).eval()
    model.load_state_dict({name: value.float() for name, value in halves.items()})
    figures, _ = check(model, checked)
    gain = figures["uneven_curves_db"] - figures["uneven_single_db"]
    if figures["exposure_error"] > MAX_EXPOSURE_ERROR or gain < MIN_GAIN_DB:
        raise UserError(
            f"Brightness is off by {figures['exposure_error']:.3f} (at most {MAX_EXPOSURE_ERROR}), the gain in uneven "
            f"light is {gain:.2f} dB (at least {MIN_GAIN_DB}); train on."
        )
    recipe = {**asdict(trainer.config), "pictures_seen": trainer.scenes_seen, "parameters": count_parameters([model])}
    del recipe["run_dir"]
    gates = [
        {"name": "exposure_error", "value": figures["exposure_error"], "maximum": MAX_EXPOSURE_ERROR},
        {"name": "uneven_gain_db", "value": round(gain, 3), "minimum": MIN_GAIN_DB},
    ]
    about = {**config_to_json(objective.config), "recipe": recipe, "gates": gates, "held_out": figures}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halves, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_manifest(folder, "training/train_curve_net.py")
    return figures


def main() -> None:
    """Train from the command line; with --export write the weights into a folder afterwards."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument("--num-pictures", type=int, default=3200, help="how many pictures are drawn")
    parser.add_argument("--num-checked", type=int, default=24, help="held-out pictures to measure on")
    parser.add_argument("--export", type=Path, default=None, help="write weights, configuration and manifest here")
    arguments = parser.parse_args()
    checked = load_pictures(PICTURES, arguments.num_checked, CHECK_SEED)
    objective = CurveNetObjective(pictures=load_pictures(PICTURES, arguments.num_pictures), checked=checked)
    trainer = start(objective, arguments)
    if arguments.export is not None:
        print(json.dumps(export_curve_net(trainer, objective, arguments.export, checked), indent=1))


if __name__ == "__main__":
    main()
