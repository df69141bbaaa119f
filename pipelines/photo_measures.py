"""What is measured of an enlarged photograph, and which of its pixels were lost."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipelines.backprojection import Reduction
from pipelines.errors import UserError
from pipelines.images import to_tensor
from pipelines.types import Measure

# A picture that is the same number by number has no finite PSNR.
SAME_DB = 99.0
BAND_ROWS = 512
_MARKS = {"black": 0, "white": 255}


def measure_enlarged(
    small: torch.Tensor,
    reduction: Reduction,
    baseline: Image.Image,
    image: Image.Image,
    *,
    lost: torch.Tensor | None = None,
) -> tuple[Measure, ...]:
    """Compare a result with the bicubic baseline: agreement with the upload, and how sharp it is.

    Shapes: lost (h, w) bool are pixels of the upload that say nothing, with which nothing can agree.
    """
    seen = ... if lost is None else (slice(None), ~lost)
    agreed_off, agreed_on = (
        measure_psnr(shrink(picture, reduction)[seen], small[seen]) for picture in (baseline, image)
    )
    sharp_off, sharp_on = (measure_bands(picture) for picture in (baseline, image))
    return (
        Measure("consistency_db", "agreement with the upload", agreed_off, agreed_on, "dB"),
        Measure("sharpness_levels", "sharpness: difference to the neighbours", sharp_off, sharp_on, "of 255"),
    )


def shrink(picture: Image.Image, reduction: Reduction) -> torch.Tensor:
    """Reduce a picture to (3, h, w), in bands of rows, because numbers take four times the bytes."""
    narrow = torch.cat([reduction.columns.reduce(band) for band in list_bands(picture)], 1)
    return reduction.rows.reduce(narrow.mT).mT


def measure_bands(picture: Image.Image) -> float:
    """Return the sharpness of a picture, the mean over bands of rows."""
    bands = [(measure_sharpness(band), band.shape[1]) for band in list_bands(picture)]
    return sum(value * rows for value, rows in bands) / picture.height


def list_bands(picture: Image.Image) -> Iterator[torch.Tensor]:
    """Yield a picture as numbers in -1..1, (3, BAND_ROWS or what is left, W) at a time."""
    for top in range(0, picture.height, BAND_ROWS):
        yield to_tensor([picture.crop((0, top, picture.width, min(top + BAND_ROWS, picture.height)))])[0]


def measure_psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the PSNR of two equal shapes in -1..1 in dB; SAME_DB at most."""
    error = float((one - other).square().mean())
    return min(SAME_DB, 10 * math.log10(4 / error)) if error else SAME_DB


def measure_sharpness(picture: torch.Tensor) -> float:
    """Return how far pixels of (3, H, W) in -1..1 lie from the mean of their four neighbours, in levels of 255."""
    grey = picture.mean(0, keepdim=True)[None]
    kernel = torch.tensor([[0.0, 0.25, 0.0], [0.25, -1.0, 0.25], [0.0, 0.25, 0.0]])[None, None]
    return float(F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernel).abs().mean()) * 255 / 2


def find_lost(picture: Image.Image, mark: str) -> torch.Tensor | None:
    """Find the pixels of a picture that were lost.

    Units:   mark is "none", or what lost pixels are: "transparent", "black" or "white".
    Returns: (h, w) bool, None for "none".
    Raises:  UserError if they should be transparent and the picture cannot be.
    """
    if mark == "none":
        return None
    if mark == "transparent":
        if "A" not in picture.getbands():
            raise UserError("This picture is not transparent anywhere; choose how lost pixels are marked, or none.")
        return torch.from_numpy(np.asarray(picture.getchannel("A")) == 0)
    return torch.from_numpy((np.asarray(picture.convert("RGB")) == _MARKS[mark]).all(-1))
