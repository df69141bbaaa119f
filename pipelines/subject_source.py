"""A picture of a subject as the model reads it: encoded, with the cells that show the subject."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image

from pipelines.drag_things import sharpen
from pipelines.images import to_tensor
from pipelines.model import ModelBundle
from pipelines.style_reference import StyleSource, make_source


@dataclass(frozen=True, eq=False)
class SubjectSource:
    """Hold a picture of a subject.

    Shapes: source as in `StyleSource`; mask (1, 1, h, w) in latent cells, 1 where the subject is; pixels (1, 3, H, W)
            in -1..1 and outline (1, 1, H, W) 0..1, what is cut out when it is put elsewhere; None where nobody knows.
    """

    source: StyleSource
    mask: torch.Tensor
    pixels: torch.Tensor | None = None
    outline: torch.Tensor | None = None


def make_subject_source(
    model: ModelBundle, picture: Image.Image, mask: torch.Tensor, outline: torch.Tensor | None = None
) -> SubjectSource:
    """Encode a picture whose sides the model can draw, with its mask (1, 1, h, w) in latent cells.

    Shapes: outline (1, 1, H, W) in pixels of the picture, roughly, if it is known.
    Raises: ValueError if the mask has other sides than the latents.
    """
    source = make_source(model, picture)
    if mask.shape[2:] != source.latents.shape[2:]:
        raise ValueError(f"mask of {tuple(mask.shape[2:])} cells for latents of {tuple(source.latents.shape[2:])}")
    pixels = None if outline is None else to_tensor([picture]).to(source.latents)
    outline = None if outline is None or pixels is None else sharpen(outline.to(pixels), pixels)
    return SubjectSource(source, mask.to(source.latents), pixels, outline)


def fit_mask(mask: torch.Tensor, num_patches: int) -> torch.Tensor:
    """Bring a mask to the grid of an attention layer.

    Shapes:  mask (1, 1, h, w), num_patches of a grid that halves it some times; returns (num_patches,) 0..1.
    Returns: 1 where any part of a patch shows the subject; at least one patch always does.
    """
    height, width = mask.shape[2:]
    while height * width > num_patches:
        height, width = -(-height // 2), -(-width // 2)
    fitted = F.adaptive_max_pool2d(mask.float(), (height, width)).flatten()
    return fitted if fitted.any() else torch.ones_like(fitted)
