"""The identity reader: is this the same thing, in another scene and another style?

A small convolutional network of our own that knows only the drawn world; the measuring instrument of personalization,
never part of making a picture. It sees a thing cut out by its box. Trained by `train_identity_reader.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from pipelines.errors import BackendUnavailable
from pipelines.images import to_tensor
from training.world.scene import COLOURS, KINDS, MARKINGS

FORMAT = "limelight-identity-reader-1"
CROP_PX = 80
# How much larger than its box the square is that is cut out around a thing.
CROP_FACTOR = 1.15
# A marking has no second colour of its own, or one of these.
SECOND_COLOURS = ("", *COLOURS)
PICTURES_PER_CALL = 64
Edges = Sequence[float]


@dataclass(frozen=True)
class IdentityConfig:
    """Say how wide the network is; widths are channels on the grids of 2, 4, 8 and 16 px."""

    widths: tuple[int, int, int, int] = (24, 48, 96, 128)
    embedding_width: int = 64


class IdentityModel(nn.Module):
    """Seven convolutions, one linear layer, and heads that name what is seen.

    Shapes: pictures (b, 3, CROP_PX, CROP_PX) in -1..1, to an embedding (b, e) of length 1 and the logits (b, n) of
            kind, colour, marking and second colour, which only training needs.
    """

    def __init__(self, config: IdentityConfig) -> None:
        super().__init__()
        self.config = config
        finest, fine, middle, coarse = config.widths
        rows = ((3, finest, 2), (finest, fine, 2), (fine, fine, 1), (fine, middle, 2), (middle, middle, 1),
                (middle, coarse, 2), (coarse, coarse, 1))  # fmt: skip
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)) for a, b, stride in rows
        )
        self.embed = nn.Linear(coarse * (CROP_PX // 16) ** 2, config.embedding_width)
        self.sizes = (len(KINDS), len(COLOURS), len(MARKINGS), len(SECOND_COLOURS))
        self.head = nn.Linear(config.embedding_width, sum(self.sizes))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Read a batch of cut-out things."""
        grid = pictures
        for layer in self.layers:
            grid = F.silu(layer(grid))
        hidden = self.embed(grid.flatten(1)).float()
        return F.normalize(hidden, dim=1), self.head(hidden).float().split(self.sizes, 1)


def cut_out(picture: Image.Image, box_px: Edges, factor: float = CROP_FACTOR) -> Image.Image:
    """Cut the square around a thing out of a picture, the picture's border repeated where it reaches beyond.

    Units: box_px (x0, y0, x1, y1) in px; factor is the square's side as a multiple of the box's longer one.
    """
    x0, y0, x1, y1 = box_px
    half = max(4.0, max(x1 - x0, y1 - y0) * factor / 2)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    margin = int(2 * half) + 1
    array = np.pad(np.asarray(picture.convert("RGB")), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    square = (x - half + margin, y - half + margin, x + half + margin, y + half + margin)
    return Image.fromarray(array).resize((CROP_PX, CROP_PX), Image.Resampling.BILINEAR, box=square)


class IdentityReader:
    """A network that turns cut-out things into embeddings; how alike two things are is their scalar product."""

    def __init__(self, model: IdentityModel) -> None:
        self.model = model.eval()

    @torch.no_grad()
    def embed(self, crops: Sequence[Image.Image]) -> np.ndarray:
        """Read cut-out things. Shapes: returns (n, e), rows of length 1."""
        parts = [
            self.model(to_tensor(crops[start : start + PICTURES_PER_CALL]))[0].numpy()
            for start in range(0, len(crops), PICTURES_PER_CALL)
        ]
        return np.concatenate(parts).astype(float)

    def compare(self, crops: Sequence[Image.Image], references: Sequence[Image.Image]) -> np.ndarray:
        """Return how alike things are to a subject: mean cosine over its references. Shapes: returns (n,)."""
        return self.embed(crops) @ self.embed(references).mean(0)


def config_to_json(config: IdentityConfig) -> dict[str, object]:
    """Return the configuration as plain values, for `config.json`."""
    return {"format": FORMAT, **asdict(config)}


def load_identity_reader(folder: Path) -> IdentityReader:
    """Load the identity reader from a folder with `model.safetensors` and `config.json`, in float32.

    Raises: BackendUnavailable if a file is missing or does not fit the other.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        plain = {field.name: values[field.name] for field in fields(IdentityConfig)}
        config = IdentityConfig(tuple(plain["widths"]), int(plain["embedding_width"]))
        model = IdentityModel(config)
        model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(
            f"The folder {folder.name} holds no identity reader ({error}); run `make train-identity-reader` or restore "
            "its files."
        ) from error
    return IdentityReader(model.requires_grad_(False))
