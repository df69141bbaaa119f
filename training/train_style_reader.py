"""Recipe: the style reader, the measuring instrument of style prompting.

    python -m training.train_style_reader --minutes 60 --resume --export assets/style_reader

It learns from drawn scenes and their exact truth alone, half of them after the shipped autoencoder's round trip, never
from what a model drew: run it again after every new export of `storybook`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from pipelines.errors import UserError
from training.drawn_ahead import DrawnAhead
from training.style_data import CodedBank, StyleBatch, draw_coded, draw_fresh, join
from training.style_reader import (
    PARAMETERS,
    ReaderConfig,
    StyleReader,
    StyleReaderModel,
    config_to_json,
    find_gaps,
)
from training.trainer import Trainer, TrainerConfig, count_parameters, make_parser, start, write_manifest
from training.world.scene import FIRST_HELD_OUT_SEED

DEFAULTS = TrainerConfig(
    run_dir="training_runs/style_reader",
    total_steps=9000,
    batch_size=32,
    muon_lr=4e-3,
    adamw_lr=2e-3,
    warmup_steps=20,
    decay_frac=0.6,
    ema_decay=0.998,
    grad_clip=1e6,
    num_threads=1,
)
SHIPPED = Path("assets/storybook")
FIRST_SEED = 1_000_000_000
CODED_SEED = 1_400_000_000
CHECK_SEED = 1_500_000_000  # training split, used only to look at progress
# Held-out seeds beyond all that benchmarks and other recipes draw from.
MEASURED_SEED = FIRST_HELD_OUT_SEED + 1_100_000_000
NUM_CHECKED = 160
MIN_STYLE_ACCURACY = 0.95


class Drawn(NamedTuple):
    """What is drawn for one step: its fresh scenes, and the coded ones that join the bank, if any."""

    fresh: StyleBatch
    coded: StyleBatch | None


class StyleFigures(NamedTuple):
    """How well the reader reads scenes. Shapes: trust, spread as in `StyleReader`; accuracy 0..1."""

    accuracy: float
    trust: np.ndarray
    spread: np.ndarray


class StyleReaderObjective:
    """Name the style, and tell the hidden parameters in the row of the true style.

    Shapes: batches are `StyleBatch`. With `is_ahead` a second process draws the next batches meanwhile.
    """

    adamw_names: tuple[str, ...] = ("layers.0", "head")

    def __init__(
        self,
        shipped: Path = SHIPPED,
        config: ReaderConfig | None = None,
        *,
        num_coded: int = 2048,
        num_renewed: int = 2,
        num_checked: int = NUM_CHECKED,
        is_ahead: bool = True,
    ) -> None:
        torch.manual_seed(0)
        self.config, self.shipped = config or ReaderConfig(), shipped
        self.model = StyleReaderModel(self.config)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = nn.ModuleDict({"reader": self.model})
        self._bank = CodedBank(CODED_SEED, size=num_coded, renewed=num_renewed, shipped=shipped)
        draw = partial(draw_step, num_coded=num_coded, num_renewed=num_renewed, shipped=shipped)
        self._batches: DrawnAhead[Drawn] = DrawnAhead(draw, is_ahead=is_ahead)
        self._num_checked = num_checked
        self._checked: StyleBatch | None = None

    def make_batch(self, step: int, batch_size: int) -> StyleBatch:
        """Return fresh scenes and as many from the bank."""
        drawn = self._batches.get(step, batch_size)
        return join(drawn.fresh, self._bank.pick(step, batch_size - len(drawn.fresh), drawn.coded))

    def close(self) -> None:
        """End the second process, if there is one."""
        self._batches.close()

    def compute_loss(self, batch: StyleBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return cross-entropy of the style plus the squared error of the true style's parameters.

        Differs: parameters that a style does not show cost 1 whatever is answered, their own variance.
        """
        device = next(self.model.parameters()).device
        style, hidden = batch.style.to(device), batch.hidden.to(device)
        pictures = batch.pictures.to(device).float() / (255 / 2) - 1
        logits, numbers = self.model(pictures.contiguous(memory_format=torch.channels_last))
        named = F.cross_entropy(logits, style)
        told = F.mse_loss(numbers[torch.arange(len(style), device=device), style], hidden)
        return named + told, {"loss": (named + told).item(), "style": named.item(), "hidden": told.item()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Measure on scenes kept for looking, after the autoencoder."""
        if self._checked is None:
            self._checked = draw_coded(range(CHECK_SEED, CHECK_SEED + self._num_checked), self.shipped, 0.0)
        figures = measure_reader(self.model, self._checked)
        return {"accuracy": figures.accuracy} | dict(zip(PARAMETERS, figures.trust.mean(0).tolist()))


def draw_step(step: int, batch_size: int, *, num_coded: int, num_renewed: int, shipped: Path) -> Drawn:
    """Draw what a step needs anew.

    Raises: ValueError if the step's seeds would reach others.
    """
    count = batch_size - batch_size // 2
    new = CodedBank(CODED_SEED, size=num_coded, renewed=num_renewed, shipped=shipped).list_new(step)
    if FIRST_SEED + (step + 1) * count > CODED_SEED or new.stop > CHECK_SEED:
        raise ValueError(f"step {step} with batch {batch_size} reaches seeds that are kept from training")
    coded = draw_coded(new, shipped) if len(new) else None
    return Drawn(draw_fresh(FIRST_SEED + step * count, count), coded)


@torch.no_grad()
def measure_reader(model: StyleReaderModel, batch: StyleBatch) -> StyleFigures:
    """Let a model read scenes and compare its answers with the truth."""
    device = next(model.parameters()).device
    answers = [model(part.to(device).float() / (255 / 2) - 1) for part in batch.pictures.split(32)]
    logits, numbers = (torch.cat(column).cpu() for column in zip(*answers))
    return compare(logits, numbers, batch)


def compare(logits: torch.Tensor, numbers: torch.Tensor, batch: StyleBatch) -> StyleFigures:
    """Compare a model's answers for some scenes with the truth.

    Returns: the share of styles named right; for every style and parameter the share of variance explained (0 where
             the scenes have none), and the mean gap between the answers for two of the scenes.
    """
    shape = (logits.shape[1], len(PARAMETERS))
    trust, spread = np.zeros(shape), np.zeros(shape)
    for index in range(shape[0]):
        rows = batch.style == index
        told, truth = numbers[rows, index].double().numpy(), batch.hidden[rows].double().numpy()
        if len(truth) < 2:
            continue
        missed, total = (find_gaps(one, truth) ** 2 for one in (told, truth.mean(0)))
        whole = total.sum(0)
        trust[index] = 1 - np.divide(missed.sum(0), whole, out=np.ones_like(whole), where=whole > 0)
        pairs = find_gaps(told[:, None], told[None]).sum((0, 1))
        spread[index] = pairs / (len(told) * (len(told) - 1))
    return StyleFigures(float((logits.argmax(1) == batch.style).float().mean()), trust, spread)


def export_reader(
    trainer: Trainer,
    objective: StyleReaderObjective,
    folder: Path,
    num_measured: int,
    min_accuracy: float = MIN_STYLE_ACCURACY,
) -> dict[str, Any]:
    """Write the averaged weights (float16), the configuration with trust and spread, and the manifest.

    Returns: the figures on held-out scenes after the autoencoder's round trip.
    Raises:  UserError if too few styles are named right; nothing is written then.
    """
    halves = {name.removeprefix("reader."): _halve(value) for name, value in trainer.ema.items()}
    model = StyleReaderModel(objective.config).eval()
    model.load_state_dict({name: value.float() for name, value in halves.items()})
    measured = draw_coded(range(MEASURED_SEED, MEASURED_SEED + num_measured), objective.shipped, 0.0)
    accuracy, trust, spread = measure_reader(model, measured)
    if accuracy < min_accuracy:
        raise UserError(f"Style accuracy is {accuracy:.3f}, below the gate {min_accuracy}; train on.")
    reader = StyleReader(model, trust, spread)
    figures: dict[str, Any] = {"first_seed": MEASURED_SEED, "num_scenes": num_measured}
    figures |= {"style_accuracy": round(accuracy, 4), "num_trusted": int(reader.is_trusted().sum())}
    recipe = {**asdict(trainer.config), "scenes_seen": trainer.scenes_seen, "parameters": count_parameters([model])}
    del recipe["run_dir"]
    gates = [{"name": "style_accuracy", "value": round(accuracy, 4), "minimum": min_accuracy}]
    about = {**config_to_json(reader), "recipe": recipe, "gates": gates, "held_out": figures}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halves, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_manifest(folder, "training/train_style_reader.py")
    return figures


def _halve(value: torch.Tensor) -> torch.Tensor:
    return (value.half() if value.is_floating_point() else value).cpu().contiguous()


def main() -> None:
    """Train from the command line; with --export write the weights into a folder afterwards."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument("--shipped", type=Path, default=SHIPPED, help="the model whose autoencoder pictures pass")
    parser.add_argument("--num-coded", type=int, default=2048, help="scenes in the bank, decoded at each start")
    parser.add_argument("--num-renewed", type=int, default=2, help="scenes of the bank that each step replaces")
    parser.add_argument("--num-measured", type=int, default=2000, help="held-out scenes to measure at export")
    parser.add_argument("--export", type=Path, default=None, help="write weights, configuration and manifest here")
    arguments = parser.parse_args()
    objective = StyleReaderObjective(
        arguments.shipped, num_coded=arguments.num_coded, num_renewed=arguments.num_renewed
    )
    trainer = start(objective, arguments)
    objective.close()
    if arguments.export is not None:
        print(json.dumps(export_reader(trainer, objective, arguments.export, arguments.num_measured), indent=1))


if __name__ == "__main__":
    main()
