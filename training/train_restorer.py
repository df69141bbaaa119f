"""Recipe: the restorer shared by super-resolution and low light, and the denoiser that guidance uses.

    python -m training.train_restorer --minutes 60 --resume --export assets/restorer

It learns from drawn pictures alone. Run it after `train_sr_lite`, whose enlarged pictures it refines.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipelines.brightening import expose, find_gain, measure_brightness
from pipelines.darkening import Darkness, darken
from pipelines.errors import UserError
from pipelines.images import to_images
from pipelines.residual_shift import KAPPA
from pipelines.restorer import TASKS, Restorer, RestorerConfig, config_to_json, make_level, make_task
from pipelines.scene_parser import ParserModel, load_parser
from pipelines.sr_lite import SrLite, load_sr_lite
from training.objectives import charbonnier
from training.perception import recognition, texture_distance
from training.reliefs import load_reliefs
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
CHECK_PX = 96
# A tenth of the light with little and much noise; every second camera has an S-shaped curve.
DARK_SHOTS = {"dark_low": 0.0005, "dark_high": 0.003}
DARK_GAIN_TOLD = 0.4
LOSS_WIDTH = 0.1
# A dark picture weighs as the first number over its own distance plus the second: low noise counts as much in dB.
DARK_DISTANCE, LEAST_DISTANCE = 0.3, 0.05
PARSER = Path("assets/parser")
MIN_DENOISE_DB = 28.0
MIN_LIT_GAIN_DB = {"dark_low": 0.5, "dark_high": 4.0}


@dataclass(frozen=True, eq=False)
class Terms:
    """Say what the loss of dark pictures has beyond the distance.

    Units: texture is the weight of `texture_distance`; reward how much more a picture weighs in which the parser sees
           nothing right; `only` names the one task of all batches, "" for all tasks.
    """

    texture: float = 0.0
    reward: float = 0.0
    parser: ParserModel | None = None
    only: str = ""


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
        reliefs: np.ndarray | None = None,
        terms: Terms | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.config, self.enlarger, self.terms = config or RestorerConfig(), enlarger, terms or Terms()
        self.model = Restorer(self.config)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = nn.ModuleDict({"model": self.model})
        self._pictures, self._reliefs, self._checked = pictures, reliefs, checked

    def make_batch(self, step: int, batch_size: int) -> RestorerBatch:
        """Return pictures of several tasks."""
        rng = np.random.default_rng([step, FIRST_SEED, 2])
        return make_restorer_batch(
            self._pictures, self.enlarger, batch_size, rng, reliefs=self._reliefs, only=self.terms.only
        )

    def compute_loss(self, batch: RestorerBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the distance of the guess, with the terms for dark pictures.

        Units: each noise level of the chain weighs the same, and so does each noise of a dark picture, in dB.
        """
        level = make_level(batch.sigma, batch.share, batch.task)
        first = level.first_guess(batch.noisy, batch.damaged)
        target = (batch.clean - first) / level.out_scale
        guess = self.model.guess(batch.noisy, batch.damaged, level, batch.task).float()
        is_light = batch.task.index == TASKS.index("light")
        weights, texture = torch.ones(len(guess)), torch.zeros(())
        if is_light.any():
            weights[is_light], found = self._judge(
                (first + level.out_scale * guess)[is_light], batch.clean[is_light], step
            )
            texture = self.terms.texture * found.sum() / len(guess)
        parts = ((guess - target).square() + LOSS_WIDTH**2).sqrt().mean((1, 2, 3)) - LOSS_WIDTH
        start = charbonnier(torch.zeros_like(target), target, LOSS_WIDTH)
        weights[is_light] *= DARK_DISTANCE / (parts.detach()[is_light] + LEAST_DISTANCE)
        light = parts[is_light].mean().item() if is_light.any() else 0.0
        figures = {"loss": parts.mean().item(), "start": start.item(), "light": light, "texture": texture.item()}
        return (weights * parts).mean() + texture, figures

    def _judge(self, restored: torch.Tensor, clean: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how much each lit picture (b, 3, h, w) weighs, and how far its texture is off: (b,) each."""
        weights, texture = torch.ones(len(clean)), torch.zeros(len(clean))
        with torch.autocast(clean.device.type, enabled=False):
            if self.terms.parser is not None:
                weights += self.terms.reward * (1 - recognition(self.terms.parser, restored.detach(), clean))
            if self.terms.texture:
                texture = texture_distance(restored, clean, torch.Generator().manual_seed(step))
        return weights, texture

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
    clean = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / (255 / 2) - 1
    whole, clean = clean, clean[:, :, :CHECK_PX, :CHECK_PX]
    rng = np.random.default_rng(47)
    rows, figures = [], {}
    for name in ("detail", "denoise", "deblur", "file", "prior", *DARK_SHOTS):
        sigma, share = torch.full((len(clean),), KAPPA), torch.ones(len(clean))
        noise = torch.from_numpy(rng.normal(size=clean.shape).astype(np.float32))
        task = make_task(name, len(clean)) if name in TASKS else make_task("light", len(clean), light=DARK_GAIN_TOLD)
        if name == "detail":
            before, _ = lose_detail(clean, enlarger, rng)
        elif name == "prior":
            sigma, share = sigma * (CHECK_SIGMA / KAPPA), share * 0
            before = clean + CHECK_SIGMA * noise
        elif name in DARK_SHOTS:
            before = expose_dark(whole, DARK_SHOTS[name])[:, :, :CHECK_PX, :CHECK_PX]
            noise = torch.zeros_like(noise)  # as the page asks
        else:
            before = torch.stack([damage(picture, name, rng)[0] for picture in clean])
        noisy = before if name == "prior" else before + KAPPA * noise
        given = torch.zeros_like(before) if name == "prior" else before
        after = model(noisy, given, sigma, share, task)
        for label, picture in (("before", before), ("after", after)):
            figures[f"{name}_{label}"] = float(np.mean([measure_psnr(a, b, 4) for a, b in zip(picture, clean)]))
        rows.append(torch.cat([torch.cat(list(part[:3]), 2) for part in (before, after, clean)], 2))
    return {key: round(value, 3) for key, value in figures.items()}, to_images(torch.cat(rows, 1)[None])[0]


def expose_dark(clean: torch.Tensor, shot: float) -> torch.Tensor:
    """Darken pictures (n, 3, H, W) to a tenth of their light and expose them to their brightness again."""
    found = []
    for index, picture in enumerate(clean):
        generator = torch.Generator().manual_seed(index)
        dark = darken(picture, Darkness(0.1, shot, tone_frac=float(index % 2)), generator)
        found.append(expose(dark, find_gain(dark, measure_brightness(picture))))
    return torch.stack(found)


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
    values = {"denoised_db": (figures["prior_after"], MIN_DENOISE_DB)}
    for name, least in MIN_LIT_GAIN_DB.items():
        values[f"{name}_gain_db"] = (figures[f"{name}_after"] - figures[f"{name}_before"], least)
    for name, (value, least) in values.items():
        if value < least:
            raise UserError(f"Its {name} is {value:.2f}, below the gate {least}; train on.")
    recipe = {**asdict(trainer.config), "pictures_seen": trainer.scenes_seen, "parameters": count_parameters([model])}
    del recipe["run_dir"]
    gates = [{"name": name, "value": round(value, 3), "minimum": least} for name, (value, least) in values.items()]
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
    parser.add_argument("--num-reliefs", type=int, default=640, help="how many pictures of fine relief are drawn")
    parser.add_argument("--num-checked", type=int, default=24, help="held-out pictures to measure on")
    parser.add_argument("--enlarger", type=Path, default=ENLARGER, help="the enlarger whose pictures are refined")
    parser.add_argument("--texture", type=float, default=0.0, help="weight of the texture statistics of dark pictures")
    parser.add_argument("--reward", type=float, default=0.0, help="extra weight where the scene parser is wrong")
    parser.add_argument("--only", default="", help="train this task alone, to compare recipes")
    parser.add_argument("--export", type=Path, default=None, help="write weights, configuration and manifest here")
    arguments = parser.parse_args()
    checked = load_pictures(PICTURES, arguments.num_checked, CHECK_SEED)
    judge = load_parser(PARSER).model.requires_grad_(False) if arguments.reward else None
    objective = RestorerObjective(
        load_sr_lite(arguments.enlarger),
        pictures=load_pictures(PICTURES, arguments.num_pictures),
        checked=checked,
        reliefs=load_reliefs(PICTURES, arguments.num_reliefs),
        terms=Terms(arguments.texture, arguments.reward, judge, arguments.only),
    )
    trainer = start(objective, arguments)
    if arguments.export is not None:
        print(json.dumps(export_restorer(trainer, objective, arguments.export, checked), indent=1))


if __name__ == "__main__":
    main()
