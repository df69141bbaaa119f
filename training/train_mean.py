"""Recipe: what the words alone say of a picture, the small extra of SingDiffusion.

    python -m training.train_mean --export assets/initial_mean

Regresses the mean of the clean latents on the text encoder that ships with `storybook`: run it again after every new
export of that. A quarter of an hour on a CPU; the scenes are drawn once and kept as coarse latents.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.initial_mean import PROBE_PROMPT, MeanConfig, MeanModel, config_to_json
from training.autoencoder import LappedEncoder
from training.data import to_tensor
from training.train_autoencoder import LAPPED_FILE
from training.trainer import Trainer, TrainerConfig, count_parameters, make_parser, start, write_manifest
from training.world.caption import make_caption
from training.world.render import render
from training.world.scene import FIRST_HELD_OUT_SEED, Scene, sample_scene

DEFAULTS = TrainerConfig(
    run_dir="training_runs/mean",
    total_steps=3000,
    batch_size=256,
    muon_lr=1e-3,
    adamw_lr=1e-3,
    warmup_steps=50,
    decay_frac=0.8,
    ema_decay=0.99,
)
FIRST_SEED = 600_000_000
# Held-out seeds that no benchmark and no gate uses; the hold-out rule for combinations does not apply to a mean.
CHECK_SEED = FIRST_HELD_OUT_SEED + 950_000_000
EMPTY_CAPTION_FRAC = 0.1
SCENES_PER_PASS = 64


class CoarseScenes:
    """Scenes with their latents on a coarse grid.

    Shapes: latents (count, c, grid, grid) float32; scenes in the same order.
    """

    def __init__(self, first_seed: int, count: int, encoder: LappedEncoder, grid_cells: int, split: str) -> None:
        self.scenes: list[Scene] = [sample_scene(first_seed + index, split=split) for index in range(count)]
        parts = []
        for first in range(0, count, SCENES_PER_PASS):
            pictures = np.stack([render(scene).rgb for scene in self.scenes[first : first + SCENES_PER_PASS]])
            with torch.no_grad():
                parts.append(F.adaptive_avg_pool2d(encoder(to_tensor(pictures)).float(), grid_cells))
        self.latents = torch.cat(parts)


class MeanObjective:
    """Predict the coarse latents of a scene from one of its captions, so that the mean is all that can be learned.

    Shapes: batch is (captions, latents (b, c, grid, grid)).
    """

    adamw_names: tuple[str, ...] = ("mean",)  # every matrix: orthogonal steps are for deep networks

    def __init__(self, shipped: Path, *, num_scenes: int, num_checked: int = 512) -> None:
        torch.manual_seed(0)
        pipe = StableDiffusionPipeline.from_pretrained(shipped, torch_dtype=torch.float32, local_files_only=True)
        self._tokenizer, self._text_encoder = pipe.tokenizer, pipe.text_encoder.eval().requires_grad_(False)
        encoder = LappedEncoder()
        encoder.load_state_dict(load_file(shipped / LAPPED_FILE))
        text = self._text_encoder.config
        self.config = MeanConfig(text.hidden_size, text.max_position_embeddings, pipe.unet.config.in_channels)
        self.model = MeanModel(self.config)
        self.model.probe.copy_(self.encode([PROBE_PROMPT])[0])
        self.modules = nn.ModuleDict({"mean": self.model})
        self._drawn = CoarseScenes(FIRST_SEED, num_scenes, encoder, self.config.grid_cells, "train")
        self._checked = CoarseScenes(CHECK_SEED, num_checked, encoder, self.config.grid_cells, "all")

    @torch.no_grad()
    def encode(self, captions: list[str]) -> torch.Tensor:
        """Encode captions to hidden states (b, m, e)."""
        tokens = self._tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=self._text_encoder.config.max_position_embeddings,
            return_tensors="pt",
        )
        return self._text_encoder(tokens.input_ids)[0].float()

    def make_batch(self, step: int, batch_size: int) -> tuple[list[str], torch.Tensor]:
        """Pick scenes and word each of them anew."""
        rng = np.random.default_rng([step, FIRST_SEED])
        rows = rng.integers(len(self._drawn.scenes), size=batch_size)
        captions = [
            "" if rng.random() < EMPTY_CAPTION_FRAC else make_caption(self._drawn.scenes[row], rng) for row in rows
        ]
        return captions, self._drawn.latents[torch.from_numpy(rows)]

    def compute_loss(self, batch: tuple[list[str], torch.Tensor], step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the squared error."""
        captions, latents = batch
        loss = F.mse_loss(self.model(self.encode(captions)).float(), latents)
        return loss, {"loss": loss.item()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Measure on scenes that were never trained on."""
        return self.check()

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Return the shares 0..1 of the latents' variance, and of that of their means, that captions explain."""
        rng = np.random.default_rng(CHECK_SEED)
        captions = [make_caption(scene, rng) for scene in self._checked.scenes]
        pred, truth = self.model(self.encode(captions)).float(), self._checked.latents
        shares = {}
        for name, one, other in (
            ("explained", pred, truth),
            ("explained_mean", pred.mean((2, 3)), truth.mean((2, 3))),
        ):
            shares[name] = float(1 - (one - other).square().mean() / (other - other.mean(0)).square().mean())
        return shares


def export_mean(trainer: Trainer, objective: MeanObjective, folder: Path) -> dict[str, float]:
    """Write the averaged weights (float16), the configuration with its figures, and the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name.removeprefix("mean."): value.half().contiguous() for name, value in trainer.ema.items()}
    save_file(halves, folder / "model.safetensors")
    objective.model.load_state_dict({name: value.float() for name, value in halves.items()})
    figures = objective.check()
    recipe: dict[str, Any] = {**asdict(trainer.config), "parameters": count_parameters([objective.model])}
    del recipe["run_dir"]
    about = {**config_to_json(objective.config), "recipe": recipe, "held_out": figures}
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_manifest(folder, "training/train_mean.py")
    return figures


def main() -> None:
    """Train from the command line; with --export write the weights into a folder afterwards."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument(
        "--shipped", type=Path, default=Path("assets/storybook"), help="the model whose text side counts"
    )
    parser.add_argument("--num-scenes", type=int, default=48_000, help="how many scenes are drawn")
    parser.add_argument("--export", type=Path, default=None, help="write weights, configuration and manifest here")
    arguments = parser.parse_args()
    objective = MeanObjective(arguments.shipped, num_scenes=arguments.num_scenes)
    trainer = start(objective, arguments)
    if arguments.export is not None:
        print(json.dumps(export_mean(trainer, objective, arguments.export), indent=1))


if __name__ == "__main__":
    main()
