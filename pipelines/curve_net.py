"""The curve network: a curve for every pixel of a dark picture, seen small and applied at any size.

Curves are smooth over the picture, so that they are predicted on a thumbnail and stretched; noise stays what it was.
Trained by `training/train_curve_net.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from pipelines.brightening import find_gain, tell_gain
from pipelines.errors import BackendUnavailable

FORMAT = "limelight-curve-net-1"
SEEN_PX = 256  # the longer side of the thumbnail
DILATIONS = (1, 2, 4, 8, 4, 2, 1)
BAND_ROWS = 256  # how many rows are curved at once: they stay in the processor's cache


@dataclass(frozen=True)
class CurveNetConfig:
    """Say how wide the network is and how often a curve is applied."""

    width: int = 32
    num_rounds: int = 8


class CurveNet(nn.Module):
    """Seven convolutions with symmetric skips that end in the parameters of curves.

    Source:  Guo et al. 2020, arXiv 2001.06826 (Zero-DCE); compared with Li-Chongyi/Zero-DCE Zero-DCE_code/model.py.
    Differs: two more channels tell the wanted brightness and the gain that a single curve would need for it, instead of
             one brightness for all; the convolutions are dilated, because what is dark shows in what lies around.
    """

    def __init__(self, config: CurveNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        inputs = (5, width, width, width, 2 * width, 2 * width, 2 * width)
        outputs = (*(width for _ in range(6)), 3 * config.num_rounds)
        self.layers = nn.ModuleList(
            nn.Conv2d(few, many, 3, 1, step, step) for few, many, step in zip(inputs, outputs, DILATIONS)
        )

    def forward(self, small: torch.Tensor, target: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Predict curves.

        Shapes:  small (b, 3, h, w) in -1..1, target and told (b,); returns (b, 3 num_rounds, h, w) in -1..1.
        Units:   target 0..1 is a brightness as in `measure_brightness`, told a gain as `tell_gain` counts it.
        """
        facts = torch.stack([target, told], 1)[:, :, None, None].expand(-1, -1, *small.shape[2:])
        x = torch.cat([small, facts.to(small)], 1)
        kept: list[torch.Tensor] = []
        for index, layer in enumerate(self.layers):
            if index >= 4:
                x = torch.cat([x, kept[6 - index]], 1)
            x = layer(x)
            x = torch.tanh(x) if index == 6 else F.relu(x)
            kept.append(x)
        return x

    @torch.no_grad()
    def light(self, picture: torch.Tensor, target: float) -> torch.Tensor:
        """Light a picture.

        Shapes:  picture (3, H, W) in -1..1 of any sides; returns the same.
        Units:   target 0..1 is the wanted brightness as in `measure_brightness`; what is reached lies near it.
        """
        height, width = picture.shape[1:]
        share = min(1.0, SEEN_PX / max(height, width))
        size = max(1, round(height * share)), max(1, round(width * share))
        small = F.interpolate(picture[None], size=size, mode="area") if share < 1 else picture[None]
        told = tell_gain(find_gain(small[0], target))
        curves = self(small, torch.tensor([target]), torch.tensor([told]))
        if share == 1:
            return apply_curves(picture[None], curves)[0]
        bands = []
        for top in range(0, height, BAND_ROWS):
            bottom = min(top + BAND_ROWS, height)
            wide = _stretch_rows(curves, (top, bottom, height), width)
            bands.append(apply_curves(picture[None, :, top:bottom], wide)[0])
        return torch.cat(bands, 1)


def apply_curves(pictures: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """Bend values 0..1 by x + r (x - x^2), once for each three of the curves' channels.

    Shapes:  pictures (b, 3, H, W) in -1..1; curves (b, 3 n, H, W), r in -1..1; returns (b, 3, H, W).
    Differs: r above 0 brightens; the paper's code has the other sign.
    """
    x = pictures * 0.5 + 0.5
    for r in curves.split(3, 1):
        x = torch.addcmul(x, r, x - x.square())
    return x * 2 - 1


def _stretch_rows(curves: torch.Tensor, rows: tuple[int, int, int], width: int) -> torch.Tensor:
    """Stretch curves (1, c, h, w) bilinearly to `width` and to rows first..last of so many."""
    first, last, height = rows
    few = curves.shape[2]
    place = ((torch.arange(first, last) + 0.5) * few / height - 0.5).clamp(0, few - 1)
    low = place.floor().long().clamp(max=max(few - 2, 0))
    high = (low + 1).clamp(max=few - 1)
    share = (place - low)[:, None]
    between = curves[:, :, low] * (1 - share) + curves[:, :, high] * share
    return F.interpolate(between, size=(last - first, width), mode="bilinear", align_corners=False)


def config_to_json(config: CurveNetConfig) -> dict[str, object]:
    """Return the configuration as plain values, for `config.json`."""
    return {"format": FORMAT, **asdict(config)}


def load_curve_net(folder: Path) -> CurveNet:
    """Load the network from a folder with `model.safetensors` and `config.json`, in float32.

    Raises: BackendUnavailable if a file is missing or does not fit the other.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = CurveNetConfig(**{field.name: int(values[field.name]) for field in fields(CurveNetConfig)})
        # Without storage there is nothing to initialise, so that no global random number is drawn.
        with torch.device("meta"):
            model = CurveNet(config)
        model.to_empty(device="cpu")
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(
            f"The folder {folder.name} holds no curve network ({error}); run `make train-curve-net` or restore it."
        ) from error
    return model.eval().requires_grad_(False)
