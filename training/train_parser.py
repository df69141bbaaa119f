"""Recipe: the scene parser, the measuring instrument of all figures.

    python -m training.train_parser --minutes 25 --resume
    python -m training.train_parser --minutes 15 --scene-only --start-from training_runs/parser --export assets/parser

It learns from drawn scenes and their exact truth alone, worn by `wear.py`, never from a model's pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.scene_parser import ParserConfig, ParserModel, ParserOutput, SceneParser, config_to_json
from training.drawn_ahead import DrawnAhead
from training.parser_data import ParserBatch, draw_batch
from training.parser_figures import measure_parser
from training.trainer import (
    Trainer,
    TrainerConfig,
    count_parameters,
    load_averaged,
    make_parser,
    start,
    write_manifest,
)
from training.world.scene import BACKGROUNDS, COLOURS, FIRST_HELD_OUT_SEED, KINDS, LIGHTS, STYLES

DEFAULTS = TrainerConfig(
    run_dir="training_runs/parser",
    total_steps=1800,
    batch_size=16,
    muon_lr=4e-3,
    adamw_lr=2e-3,
    warmup_steps=20,
    decay_frac=0.6,
    ema_decay=0.995,
    grad_clip=1e6,
    num_threads=1,
)
FIRST_SEED = 700_000_000
CHECK_SEED = 900_000_000  # training split, used only to look at progress
SCENE_SEED = 800_000_000  # of the second stage
CLEAN_STEPS = 250  # the first steps see no wear and mostly crowds: shapes come first
NUM_CHECKED = 96


def make_config() -> ParserConfig:
    """Return the names and widths of the parser that this recipe trains."""
    return ParserConfig(KINDS, COLOURS, STYLES, BACKGROUNDS, LIGHTS)


class ParserObjective:
    """Find centres, and say at each one what it is; say for every cell what it shows; say what the scene is.

    Shapes: batches are `ParserBatch`. With `is_ahead` a second process draws the next batches meanwhile.
    """

    adamw_names: tuple[str, ...] = ("stem.0", "texture.0", "head")

    def __init__(
        self,
        config: ParserConfig | None = None,
        *,
        is_ahead: bool = True,
        draw: Callable[[int, int], ParserBatch] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.config = config or make_config()
        self.model = ParserModel(self.config)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = nn.ModuleDict({"parser": self.model})
        self._batches = DrawnAhead(draw or draw_step, is_ahead=is_ahead)

    def make_batch(self, step: int, batch_size: int) -> ParserBatch:
        """Return the batch of this step, and have the next ones drawn meanwhile."""
        return self._batches.get(step, batch_size)

    def close(self) -> None:
        """End the second process, if there is one."""
        self._batches.close()

    def compute_loss(self, batch: ParserBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the sum of all parts and each part for the log."""
        device = next(self.model.parameters()).device
        batch = ParserBatch(**{name: value.to(device) for name, value in vars(batch).items()})
        pictures = (batch.pictures.float() / (255 / 2) - 1).contiguous(memory_format=torch.channels_last)
        output = ParserOutput(*(values.float() for values in self.model(pictures)))
        parts = object_losses(output, batch) | cell_losses(output, batch) | scene_losses(output, batch)
        loss = torch.stack(list(parts.values())).sum()
        return loss, {"loss": loss.item()} | {name: part.item() for name, part in parts.items()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Measure on scenes kept for looking; write the pictures that were read wrongly."""
        parser = SceneParser(self.model)
        figures, wrong = measure_parser(parser, CHECK_SEED, NUM_CHECKED)
        worn, _ = measure_parser(parser, CHECK_SEED, NUM_CHECKED, is_worn=True)
        if wrong:
            sheet = Image.new("RGB", (256 * min(6, len(wrong)), 256))
            for column, mistake in enumerate(wrong[:6]):
                sheet.paste(mistake.image, (256 * column, 0))
            sheet.save(path)
        return figures | {f"worn_{name}": value for name, value in worn.items()}


class SceneObjective(ParserObjective):
    """Second stage: only what reads style, background and light learns, everything else stays fixed.

    It costs a fraction of the first stage, and objects are read exactly as before.
    """

    def __init__(self, config: ParserConfig | None = None, *, is_ahead: bool = True) -> None:
        super().__init__(config, is_ahead=is_ahead, draw=draw_scene_step)
        self.model.requires_grad_(False)
        for part in (self.model.texture, self.model.scene_head):
            part.requires_grad_(True)

    def load(self, folder: Path) -> dict[str, Any]:
        """Take everything that fits from a run folder or from a shipped parser; returns how that was trained."""
        if (folder / "checkpoint.safetensors").exists():
            weights, recipe = load_averaged(folder)
            weights = {name.removeprefix("parser."): value for name, value in weights.items()}
        else:
            weights = load_file(folder / "model.safetensors")
            recipe = json.loads((folder / "config.json").read_text(encoding="utf-8"))["recipe"]
        own = self.model.state_dict()
        fitting = {
            name: value.float() for name, value in weights.items() if name in own and value.shape == own[name].shape
        }
        self.model.load_state_dict({**own, **fitting})
        return recipe

    def compute_loss(self, batch: ParserBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of texture and scene head on features of the fixed trunk."""
        self.model.eval()  # the trunk's batch statistics are part of what stays fixed
        self.model.texture.train()
        device = next(self.model.parameters()).device
        pictures = batch.pictures.to(device).float() / (255 / 2) - 1
        with torch.no_grad():
            pictures = pictures.contiguous(memory_format=torch.channels_last)
            grids = self.model.encode(pictures)
        names = self.model.read_scene(pictures, tuple(grid.float() for grid in grids))
        truth = batch.scene.to(device)
        parts = [F.cross_entropy(logits.float(), truth[:, index]) for index, logits in enumerate(names)]
        named = dict(zip(("style", "background", "light"), (part.item() for part in parts)))
        return torch.stack(parts).sum(), named


def draw_scene_step(step: int, batch_size: int) -> ParserBatch:
    """Draw a batch of the second stage: mostly scenes of the world, most of them worn."""
    return draw_batch(SCENE_SEED + step * batch_size, batch_size, crowd_frac=0.15, worn_frac=0.7)


def draw_step(step: int, batch_size: int) -> ParserBatch:
    """Draw the batch of a step: shapes first, then worn pictures, and more of the world's own scenes in the end.

    Raises: ValueError if the step's seeds would reach the held-out ones.
    """
    first_seed = FIRST_SEED + step * batch_size
    if first_seed + batch_size > CHECK_SEED or first_seed >= FIRST_HELD_OUT_SEED:
        raise ValueError(f"step {step} with batch {batch_size} reaches seeds that are kept from training")
    is_early = step < CLEAN_STEPS
    return draw_batch(first_seed, batch_size, crowd_frac=0.8 if is_early else 0.5, worn_frac=0.0 if is_early else 0.7)


def object_losses(output: ParserOutput, batch: ParserBatch) -> dict[str, torch.Tensor]:
    """Return the losses of centres, kinds, colours and boxes.

    Source:  Zhou et al. 2019, arXiv 1904.07850, eq. 1 (focal loss with lowered penalty near centres, alpha 2, beta 4).
    """
    chance = output.score.sigmoid()
    is_centre = batch.hill >= 1
    at_centre = (1 - chance) ** 2 * F.logsigmoid(output.score)
    elsewhere = (1 - batch.hill) ** 4 * chance**2 * F.logsigmoid(-output.score)
    weight = batch.weight / batch.weight.sum().clamp_min(1e-6)
    kind = F.cross_entropy(output.kind, batch.kind, reduction="none")
    colour = F.cross_entropy(output.colour, batch.colour, reduction="none")
    return {
        "centre": -torch.where(is_centre, at_centre, elsewhere).sum() / is_centre.sum().clamp_min(1),
        "kind": (kind * weight).sum(),
        "colour": (colour * weight).sum(),
        "box": ((output.box - batch.box).abs().mean(1) * weight).sum(),
    }


def cell_losses(output: ParserOutput, batch: ParserBatch) -> dict[str, torch.Tensor]:
    """Return the losses of the class map and the colour map; objects and backdrop count half each."""
    shown = (batch.cells[:, 0] > 0).float()
    weight = shown / shown.sum().clamp_min(1) + (1 - shown) / (1 - shown).sum().clamp_min(1)
    kind = F.cross_entropy(output.cell_kind, batch.cells[:, 0], reduction="none")
    colour = F.cross_entropy(output.cell_colour, batch.cells[:, 1], reduction="none")
    return {"cell_kind": 0.25 * (kind * weight).sum(), "cell_colour": 0.25 * (colour * weight).sum()}


def scene_losses(output: ParserOutput, batch: ParserBatch) -> dict[str, torch.Tensor]:
    """Return the losses of style, background and light."""
    heads = {"style": output.style, "background": output.background, "light": output.light}
    return {
        name: 0.3 * F.cross_entropy(logits, batch.scene[:, index]) for index, (name, logits) in enumerate(heads.items())
    }


def export_parser(
    trainer: Trainer,
    objective: ParserObjective,
    folder: Path,
    num_measured: int,
    first_stage: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the averaged weights (float16), the configuration with its measured figures, and the manifest.

    Returns: the figures on held-out scenes, clean and worn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name.removeprefix("parser."): value for name, value in trainer.ema.items()}
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file({name: value.contiguous() for name, value in halves.items()}, folder / "model.safetensors")
    model = ParserModel(objective.config)
    model.load_state_dict({name: value.float() for name, value in halves.items()})
    parser = SceneParser(model)
    figures: dict[str, Any] = {"first_seed": FIRST_HELD_OUT_SEED, "num_scenes": num_measured}
    figures["score_threshold"] = objective.config.score_threshold
    figures["clean"], _ = measure_parser(parser, FIRST_HELD_OUT_SEED, num_measured)
    figures["worn"], _ = measure_parser(parser, FIRST_HELD_OUT_SEED, num_measured, is_worn=True)
    recipe = {**asdict(trainer.config), "scenes_seen": trainer.scenes_seen, "parameters": count_parameters([model])}
    if first_stage is not None:
        recipe["first_stage"] = {name: value for name, value in first_stage.items() if name != "run_dir"}
    del recipe["run_dir"]
    about = {**config_to_json(objective.config), "recipe": recipe, "held_out_accuracy": figures}
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_manifest(folder, "training/train_parser.py")
    return figures


def main() -> None:
    """Train from the command line; with --export write the weights into a folder afterwards."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument("--export", type=Path, default=None, help="write weights, configuration and manifest here")
    parser.add_argument("--num-measured", type=int, default=2000, help="held-out scenes to measure at export")
    parser.add_argument("--scene-only", action="store_true", help="second stage: style, background and light alone")
    parser.add_argument("--start-from", type=Path, help="run folder or shipped parser that --scene-only begins with")
    arguments = parser.parse_args()
    first_stage = None
    objective: ParserObjective
    if arguments.scene_only:
        objective = scene = SceneObjective()
        if arguments.start_from is not None:
            first_stage = scene.load(arguments.start_from)
        arguments.run_dir = f"{arguments.run_dir}_scene"
    else:
        objective = ParserObjective()
    trainer = start(objective, arguments)
    objective.close()
    if arguments.export is not None:
        figures = export_parser(trainer, objective, arguments.export, arguments.num_measured, first_stage)
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
