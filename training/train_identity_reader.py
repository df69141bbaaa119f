"""Recipe: the identity reader, the measuring instrument of personalization.

    python -m training.train_identity_reader --minutes 10 --resume --export assets/identity_reader

It learns from drawn things and their exact truth alone, never from what a model drew.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from pipelines.errors import UserError
from training.identity_data import NUM_SIBLINGS, FamilyBank
from training.identity_reader import IdentityConfig, IdentityModel, config_to_json
from training.trainer import Trainer, TrainerConfig, count_parameters, make_parser, start, write_manifest
from training.world.scene import FIRST_HELD_OUT_SEED

DEFAULTS = TrainerConfig(
    run_dir="training_runs/identity_reader",
    total_steps=900,
    batch_size=96,
    muon_lr=4e-3,
    adamw_lr=2e-3,
    warmup_steps=20,
    decay_frac=0.6,
    ema_decay=0.99,
    grad_clip=1e6,
    num_threads=1,
    log_every=20,
)
TEMPERATURE = 0.1
NAMING_WEIGHT = 0.25
NUM_FAMILIES = 1400
FIRST_SEED = 1_600_000_000
CHECK_SEED = 1_700_000_000  # training split, used only to look at progress
MEASURED_SEED = FIRST_HELD_OUT_SEED + 1_200_000_000
MIN_ACCURACY = 0.9


class IdentityObjective:
    """Find the other view of each thing among all others, siblings included, and name what is seen."""

    adamw_names: tuple[str, ...] = ("layers.0", "head")

    def __init__(
        self, config: IdentityConfig | None = None, *, num_families: int = NUM_FAMILIES, num_checked: int = 24
    ) -> None:
        torch.manual_seed(0)
        self.config = config or IdentityConfig()
        self.model = IdentityModel(self.config)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = nn.ModuleDict({"reader": self.model})
        self._bank = FamilyBank(FIRST_SEED, num_families)
        self._checked = FamilyBank(CHECK_SEED, num_checked)
        self._num_checked = num_checked

    def make_batch(self, step: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two views of `batch_size` / 2 things."""
        return self._bank.pick(step, max(1, batch_size // (2 * NUM_SIBLINGS)))

    def compute_loss(
        self, batch: tuple[torch.Tensor, torch.Tensor], step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the contrast of both directions plus the cross-entropies of the names."""
        crops, names = batch
        device = next(self.model.parameters()).device
        pictures = crops.flatten(0, 1).to(device).float() / (255 / 2) - 1
        embedded, logits = self.model(pictures.contiguous(memory_format=torch.channels_last))
        told = contrast(*embedded.chunk(2))
        rows = names.to(device).repeat(2, 1)
        named = torch.stack([F.cross_entropy(part, rows[:, index]) for index, part in enumerate(logits)]).sum()
        loss = told + NAMING_WEIGHT * named
        return loss, {"loss": loss.item(), "contrast": told.item(), "named": named.item()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Measure on families kept for looking."""
        return measure_identity(self.model, self._checked, self._num_checked)


def contrast(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compute how badly each row of one view finds itself among all rows of both.

    Shapes: (n, e) twice, rows of length 1.
    Source: Chen et al. 2020, SimCLR, arXiv 2002.05709, equation 1.
    """
    both = torch.cat([first, second])
    likeness = both @ both.T / TEMPERATURE
    likeness.fill_diagonal_(float("-inf"))
    count = len(first)
    partner = torch.arange(2 * count, device=both.device).roll(count)
    return F.cross_entropy(likeness, partner)


@torch.no_grad()
def measure_identity(model: IdentityModel, bank: FamilyBank, count: int) -> dict[str, float]:
    """Let a model tell siblings apart.

    Returns: accuracy: how often a thing is more like its own other view than like each view of its siblings; own, the
             mean cosine of two views of one thing, sibling of a thing and its most alike sibling; other of strangers.
    """
    crops, _ = bank.pick(0, count)
    device = next(model.parameters()).device
    flat = [model(part.to(device).float() / (255 / 2) - 1)[0].cpu() for part in crops.flatten(0, 1).split(64)]
    first, second = torch.cat(flat).chunk(2)
    likeness = (first @ second.T).numpy()
    family = np.arange(len(likeness)) // NUM_SIBLINGS
    same = family[:, None] == family[None]
    own = likeness.diagonal()
    siblings = np.where(same & ~np.eye(len(own), dtype=bool), likeness, -1).max(1)
    strangers = likeness[~same].mean() if (~same).any() else 0.0
    return {
        "accuracy": float((own > siblings).mean()),
        "own": float(own.mean()),
        "sibling": float(siblings.mean()),
        "other": float(strangers),
    }


def export_identity(
    trainer: Trainer,
    objective: IdentityObjective,
    folder: Path,
    num_measured: int,
    min_accuracy: float = MIN_ACCURACY,
) -> dict[str, Any]:
    """Write the averaged weights (float16), the configuration and the manifest.

    Returns: the figures on held-out families.
    Raises:  UserError if siblings are mistaken for each other too often; nothing is written then.
    """
    halves = {
        name.removeprefix("reader."): (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in trainer.ema.items()
    }
    model = IdentityModel(objective.config).eval()
    model.load_state_dict({name: value.float() for name, value in halves.items()})
    measured = measure_identity(model, FamilyBank(MEASURED_SEED, num_measured), num_measured)
    figures: dict[str, Any] = {"first_seed": MEASURED_SEED, "num_families": num_measured}
    figures |= {name: round(value, 4) for name, value in measured.items()}
    if figures["accuracy"] < min_accuracy:
        raise UserError(f"Siblings are told apart in {figures['accuracy']:.3f}, below {min_accuracy}; train on.")
    recipe = {**asdict(trainer.config), "scenes_seen": trainer.scenes_seen, "parameters": count_parameters([model])}
    del recipe["run_dir"]
    gates = [{"name": "sibling_accuracy", "value": figures["accuracy"], "minimum": min_accuracy}]
    about = {**config_to_json(objective.config), "recipe": recipe, "gates": gates, "held_out": figures}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halves, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_manifest(folder, "training/train_identity_reader.py")
    return figures


def main() -> None:
    """Train from the command line; with --export write the weights into a folder afterwards."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument("--num-families", type=int, default=NUM_FAMILIES, help="families drawn at each start")
    parser.add_argument("--num-measured", type=int, default=200, help="held-out families to measure at export")
    parser.add_argument("--export", type=Path, default=None, help="write weights, configuration and manifest here")
    arguments = parser.parse_args()
    objective = IdentityObjective(num_families=arguments.num_families)
    trainer = start(objective, arguments)
    if arguments.export is not None:
        print(json.dumps(export_identity(trainer, objective, arguments.export, arguments.num_measured), indent=1))


if __name__ == "__main__":
    main()
