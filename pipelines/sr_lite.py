"""The small any-scale enlarger: a picture to features, features to any finer grid of pixels.

Adds what bicubic interpolation misses and nothing else: a network that has learned nothing is bicubic. Convolutions
only, no normalisation, so that a tile with REACH_PX pixels around it is computed exactly as in the whole picture.
Trained by `training/train_sr_lite.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from pipelines.errors import BackendUnavailable

FORMAT = "limelight-sr-lite-1"
NUM_PHASES = 6  # where a pixel lies in its cell, and how large it is


@dataclass(frozen=True)
class SrLiteConfig:
    """Say how large the network is: channels, pairs of convolutions, channels of the decoder."""

    width: int = 64
    num_pairs: int = 6
    decoder_width: int = 48

    @property
    def reach_px(self) -> int:
        """Return how many pixels of the small picture around a place count for it."""
        return 2 * self.num_pairs + 4  # head, pairs, tail, and the neighbours that interpolation needs


class _Pair(nn.Module):
    """Two convolutions beside an identity path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, 1, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.relu(self.first(x)))


class SrLite(nn.Module):
    """Enlarge pictures to any size.

    Shapes:  forward: small (b, 3, h, w) in -1..1 and (H, W) to (b, 3, H, W).
    Units:   damage 0..1 per picture, (b,): 0 for a picture that was reduced cleanly, 1 for what a camera did to it.
    Source:  Chen, Liu and Wang 2021, arXiv 2012.09161 (LIIF): a decoder from interpolated features and the place in
             the cell to colour.
    Differs: one interpolation instead of an ensemble of four, and the place scales and shifts features per row and
             per column instead of being concatenated: a sixtieth of the arithmetic per pixel.
    """

    def __init__(self, config: SrLiteConfig) -> None:
        super().__init__()
        self.config = config
        width, out = config.width, config.decoder_width
        self.head = nn.Conv2d(4, width, 3, 1, 1)
        self.pairs = nn.ModuleList(_Pair(width) for _ in range(config.num_pairs))
        self.tail = nn.Conv2d(width, width, 3, 1, 1)
        self.lift = nn.Conv2d(width, out, 1)
        self.places = nn.ModuleList(nn.Linear(NUM_PHASES, 2 * out) for _ in range(2))  # of a row, of a column
        self.mix = nn.Conv2d(out, out, 1)
        self.colour = nn.Conv2d(out, 3, 1)
        nn.init.zeros_(self.colour.weight)
        assert self.colour.bias is not None
        nn.init.zeros_(self.colour.bias)

    def encode(self, small: torch.Tensor, damage: torch.Tensor) -> torch.Tensor:
        """Return the features of a picture: (b, decoder_width, h, w)."""
        plane = damage.to(small)[:, None, None, None].expand(-1, 1, *small.shape[2:])
        first = self.head(torch.cat([small, plane], 1))
        x = first
        for pair in self.pairs:
            x = pair(x)
        return self.lift(self.tail(x) + first)

    def decode(self, features: torch.Tensor, rows: Places, columns: Places) -> torch.Tensor:
        """Return what is to be added to the bicubic picture at rows x columns of the large one.

        Shapes: features (b, c, h, w); returns (b, 3, len(rows), len(columns)).
        """
        x = rows.matrix.to(features) @ features @ columns.matrix.to(features).T
        tall = self.places[0](rows.phases.to(features)).T.reshape(2, -1, len(rows.phases), 1)
        wide = self.places[1](columns.phases.to(features)).T.reshape(2, -1, 1, len(columns.phases))
        x = F.relu(torch.addcmul(tall[1] + wide[1], x, 1 + tall[0] + wide[0]))
        x = F.relu(self.mix(x))
        return self.colour(x)

    def forward(self, small: torch.Tensor, size: tuple[int, int], damage: torch.Tensor) -> torch.Tensor:
        """Enlarge a batch to (H, W)."""
        features = self.encode(small, damage)
        rows, columns = (make_places(many, few) for many, few in zip(size, small.shape[2:]))
        return enlarge(small, size) + self.decode(features, rows, columns).float()


@dataclass(frozen=True, eq=False)
class Places:
    """Say where pixels of the large picture lie along one axis of the small one.

    Shapes: matrix (n, few) float32 interpolates linearly; phases (n, NUM_PHASES): sine and cosine of the place in the
            cell, once and twice around, the size of a pixel in cells, and its logarithm.
    """

    matrix: torch.Tensor
    phases: torch.Tensor


def make_places(many: int, few: int, first: int = 0, count: int | None = None) -> Places:
    """Describe `count` pixels, from `first` on, of an axis of `many` pixels that covers `few` pixels."""
    index = torch.arange(first, first + (many - first if count is None else count), dtype=torch.float64)
    at = (index + 0.5) * (few / many) - 0.5
    inside = at.clamp(0, few - 1)
    low = inside.floor().clamp(max=max(few - 2, 0)).long()
    share = inside - low
    matrix = torch.zeros(len(index), few, dtype=torch.float64)
    matrix.scatter_add_(1, low[:, None], (1 - share)[:, None])
    matrix.scatter_add_(1, (low + 1).clamp(max=few - 1)[:, None], share[:, None])
    turn = 2 * math.pi * at
    cell = torch.full_like(at, few / many)
    phases = torch.stack([turn.sin(), turn.cos(), (2 * turn).sin(), (2 * turn).cos(), cell, cell.log()], 1)
    return Places(matrix.float(), phases.float())


def enlarge(small: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolate with the cubic kernel of Pillow (a = -0.5)."""
    return F.interpolate(small, size=size, mode="bicubic", antialias=True)


def config_to_json(config: SrLiteConfig) -> dict[str, object]:
    """Return the configuration as plain values, for `config.json`."""
    return {"format": FORMAT, **asdict(config)}


def load_sr_lite(folder: Path) -> SrLite:
    """Load the network from a folder with `model.safetensors` and `config.json`, in float32.

    Raises: BackendUnavailable if a file is missing or does not fit the other.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = SrLiteConfig(**{field.name: int(values[field.name]) for field in fields(SrLiteConfig)})
        # Without storage there is nothing to initialise, so that no global random number is drawn.
        with torch.device("meta"):
            model = SrLite(config)
        model.to_empty(device="cpu")
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(
            f"The folder {folder.name} holds no enlarger ({error}); run `make train-sr-lite` or restore its files."
        ) from error
    return model.eval().requires_grad_(False)
