"""The style reader: in which style a picture is drawn, and with which hidden style parameters.

A small convolutional network of our own that knows only the drawn world; the measuring instrument of style prompting,
never part of making a picture. It pools over the picture, so that it reads how things are painted and not where they
stand. Trained by `train_style_reader.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from pipelines.errors import BackendUnavailable
from pipelines.images import to_tensor
from training.world.scene import CANVAS_PX, STYLES, Look

FORMAT = "limelight-style-reader-1"
PARAMETERS = ("stroke", "palette_shift", "grain", "rounding", "angle")
NUM_OUTPUTS = len(PARAMETERS) + 1  # the angle takes two
# A parameter counts where the reader explains at least this share of its variance.
MIN_TRUST = 0.5
NUM_GRAM_LAYERS = 3
PICTURES_PER_CALL = 32
_UNIFORM_REACH, _CIRCLE_REACH = math.sqrt(3), math.sqrt(2)
# (low, high) in `Look`; a uniform number has variance 1 once its range is -sqrt(3) .. sqrt(3), a cosine -sqrt(2) ..
_RANGES = {"stroke": (0.0, 1.0), "palette_shift": (-1.0, 1.0), "grain": (0.0, 1.0), "rounding": (0.0, 1.0)}
_REACH = np.array([_UNIFORM_REACH] * len(_RANGES) + [_CIRCLE_REACH] * 2)


@dataclass(frozen=True)
class ReaderConfig:
    """Name the styles and say how wide the network is; widths are channels on the grids of 2, 4, 8 and 16 px."""

    styles: tuple[str, ...] = STYLES
    widths: tuple[int, int, int, int] = (16, 32, 64, 96)
    hidden_width: int = 128


@dataclass(frozen=True)
class StyleReading:
    """What is read in some pictures, or known of them.

    Shapes: probs (n, styles), sums to 1; hidden (n, styles, NUM_OUTPUTS): for every style the parameters that the
            picture has if it is of that style, as `encode_look` scales them.
    """

    probs: np.ndarray
    hidden: np.ndarray


class StyleReaderModel(nn.Module):
    """Six convolutions; mean and deviation of all but the first over the picture; two layers.

    Shapes: pictures (b, 3, H, W) in -1..1, to logits (b, styles) and parameters (b, styles, NUM_OUTPUTS).
    Differs: the finest grid is not pooled itself: that would cost as much as all convolutions together.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        finest, fine, middle, coarse = config.widths
        rows = ((3, finest, 2), (finest, fine, 2), (fine, middle, 2), (middle, middle, 1), (middle, coarse, 2),
                (coarse, coarse, 1))  # fmt: skip
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)) for a, b, stride in rows
        )
        num_pooled = 2 * sum(width for _, width, _ in rows[1:])
        self.norm = nn.LayerNorm(num_pooled)
        self.hidden = nn.Linear(num_pooled, config.hidden_width)
        self.head = nn.Linear(config.hidden_width, len(config.styles) * (1 + NUM_OUTPUTS))

    def encode(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Return the grids of all convolutions, finest first."""
        grids, grid = [], pictures
        for layer in self.layers:
            grid = F.silu(layer(grid))
            grids.append(grid)
        return grids

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a batch of pictures."""
        grids = self.encode(pictures)[1:]
        pooled = torch.cat([part.float() for grid in grids for part in (grid.mean((2, 3)), grid.std((2, 3)))], 1)
        out = self.head(F.silu(self.hidden(self.norm(pooled)))).float()
        num_styles = len(self.config.styles)
        return out[:, :num_styles], out[:, num_styles:].unflatten(1, (num_styles, NUM_OUTPUTS))


def encode_look(look: Look) -> np.ndarray:
    """Turn hidden parameters into numbers of mean 0 and variance 1 over the world's scenes.

    Shapes:  returns (NUM_OUTPUTS,): stroke, palette_shift, grain, rounding, then cosine and sine of twice the angle.
    Differs: hatching looks the same after half a turn, so angles 180 degrees apart are equal; the light of clay is
             not, and its two lowest positions, from the left and from the right, count as one.
    """
    numbers = [_UNIFORM_REACH * (2 * (getattr(look, name) - low) / (high - low) - 1)
               for name, (low, high) in _RANGES.items()]  # fmt: skip
    twice = 2 * math.radians(look.angle_deg)
    return np.array([*numbers, _CIRCLE_REACH * math.cos(twice), _CIRCLE_REACH * math.sin(twice)])


def make_true_reading(styles: Sequence[str], looks: Sequence[Look]) -> StyleReading:
    """Say of drawn scenes what a perfect reader would, for comparisons with the truth instead of a reading."""
    probs = np.array([[float(style == name) for name in STYLES] for style in styles])
    hidden = np.stack([np.tile(encode_look(look), (len(STYLES), 1)) for look in looks])
    return StyleReading(probs, hidden)


def find_gaps(hidden: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how far apart parameters are. Shapes: (..., NUM_OUTPUTS) twice, returns (..., len(PARAMETERS))."""
    gaps = np.abs(hidden - other)
    return np.concatenate([gaps[..., :-2], np.hypot(gaps[..., -2:-1], gaps[..., -1:])], -1)


def measure_gram_distance(grids: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> np.ndarray:
    """Compare which features occur together, wherever in the picture.

    Shapes:  two lists of grids (n, c, h, w), the pictures' and the references'; returns (n,), 0 for the same.
    Source:  Gatys et al. 2015, arXiv 1508.06576, equations 3 and 4.
    Differs: a layer counts as a share of the reference's own square, so that no layer outweighs the others.
    """
    total = torch.zeros(len(grids[0]), dtype=torch.float64)
    for grid, other in zip(grids, others, strict=True):
        own, wanted = (_make_gram(layer) for layer in (grid, other))
        total += (own - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2))
    return total.numpy()


def _make_gram(grid: torch.Tensor) -> torch.Tensor:
    flat = grid.flatten(2).double().cpu()
    # Equation 3, divided by all numbers of the grid.
    return flat @ flat.transpose(1, 2) / flat[0].numel()


class StyleReader:
    """A network with its names, and how far each of its answers can be trusted.

    Shapes: trust, spread (styles, len(PARAMETERS)): the share of a parameter's variance that is explained in held-out
            scenes of a style, and how far apart the readings of two such scenes are on average.
    """

    def __init__(self, model: StyleReaderModel, trust: np.ndarray, spread: np.ndarray) -> None:
        self.model, self.config = model.eval(), model.config
        self.trust, self.spread = trust, spread

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image]) -> StyleReading:
        """Read pictures, scaled to the size of drawn scenes.

        Differs: a parameter outside the world's range is set to its end, because in a picture of another style the
                 row of the reference's style answers a question that was never asked in training.
        """
        probs, hidden = [], []
        for start in range(0, len(images), PICTURES_PER_CALL):
            logits, numbers = self.model(_fit(images[start : start + PICTURES_PER_CALL]))
            probs.append(logits.softmax(1).numpy())
            hidden.append(numbers.numpy())
        return StyleReading(
            np.concatenate(probs).astype(float), np.concatenate(hidden).astype(float).clip(-_REACH, _REACH)
        )

    def distance(self, reading: StyleReading, reference: StyleReading, styles: Sequence[str]) -> np.ndarray:
        """Return how far pictures are from the style of their references; 0 is the same, two random looks are at 0.5.

        Shapes:  both readings of n pictures, styles the references' true ones; returns (n,).
        Units:   mean of two halves: by how much the style is less certain than in the reference (0..1), and the mean
                 gap of the trusted parameters, 1 for two random scenes of the style. Without a trusted parameter the
                 first half is all.
        Source:  style error, |prediction(picture) - parameter(reference)| per hidden parameter.
        Differs: one number of all parameters, each in units of its own spread; the style's name counts too; the
                 reference is read like the picture, so that what the reader always gets wrong cancels. Give
                 `make_true_reading` as the reference to compare with the truth instead.
        """
        rows, index = np.arange(len(styles)), np.array([self.config.styles.index(style) for style in styles])
        lost = (reference.probs[rows, index] - reading.probs[rows, index]).clip(min=0)
        gaps = find_gaps(reading.hidden[rows, index], reference.hidden[rows, index])
        trusted = self.is_trusted()[index]
        shares = np.divide(gaps, self.spread[index], out=np.zeros_like(gaps), where=trusted)
        mean_gap = shares.sum(1) / trusted.sum(1).clip(min=1)
        return np.where(trusted.any(1), (lost + mean_gap) / 2, lost)

    def is_trusted(self) -> np.ndarray:
        """Say which parameters count in distances. Shapes: returns (styles, len(PARAMETERS)) bool."""
        return (self.trust >= MIN_TRUST) & (self.spread > 0)

    @torch.no_grad()
    def gram_distance(self, images: Sequence[Image.Image], references: Sequence[Image.Image]) -> np.ndarray:
        """Return the Gram distance of pictures to their references in the first convolutions. Shapes: returns (n,)."""
        found = []
        for start in range(0, len(images), PICTURES_PER_CALL):
            part = slice(start, start + PICTURES_PER_CALL)
            grids, others = (self.model.encode(_fit(side[part]))[:NUM_GRAM_LAYERS] for side in (images, references))
            found.append(measure_gram_distance(grids, others))
        return np.concatenate(found)


def _fit(images: Sequence[Image.Image]) -> torch.Tensor:
    size = (CANVAS_PX, CANVAS_PX)
    return to_tensor([image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
                      for image in (one.convert("RGB") for one in images)])  # fmt: skip


def config_to_json(reader: StyleReader) -> dict[str, object]:
    """Return names, widths, trust and spread as plain values, for `config.json`."""
    tables = {"trust": reader.trust, "spread": reader.spread}
    named = {
        name: {style: dict(zip(PARAMETERS, row)) for style, row in zip(reader.config.styles, table.round(4).tolist())}
        for name, table in tables.items()
    }
    return {"format": FORMAT, **asdict(reader.config), **named}


def load_reader(folder: Path) -> StyleReader:
    """Load the style reader from a folder with `model.safetensors` and `config.json`, in float32.

    Raises: BackendUnavailable if a file is missing or does not fit the other.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        finest, fine, middle, coarse = values["widths"]
        config = ReaderConfig(tuple(values["styles"]), (finest, fine, middle, coarse), int(values["hidden_width"]))
        trust, spread = (
            np.array([[float(values[table][style][name]) for name in PARAMETERS] for style in config.styles])
            for table in ("trust", "spread")
        )
        model = StyleReaderModel(config)
        model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(
            f"The folder {folder.name} holds no style reader ({error}); run `make train-style-reader` or restore its "
            "files."
        ) from error
    return StyleReader(model.requires_grad_(False), trust, spread)
