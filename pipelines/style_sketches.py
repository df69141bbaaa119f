"""Where each patch of a picture took its style from: the style pictures as a map of colours, and the picture in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image

from pipelines.images import to_images, to_tensor

TINT_FRAC = 0.55
PLACES_CAPTIONS = ("The style picture: each place has a colour", "The second style picture, in darker colours")
LOOKS_CAPTION = "Where each patch looked, in these colours"
COLLAGE_CAPTION = "Drawn with the patches it looked at most"


def draw_sources(
    picture: Image.Image, references: Sequence[Image.Image], sources: tuple[torch.Tensor, int] | None
) -> tuple[tuple[str, Image.Image], ...]:
    """Draw which regions of the style pictures the patches of a picture took their keys from.

    Shapes:  sources: (looks (n, patches of all style pictures), patches in a row of the picture), or None.
    Returns: captions with pictures: the places of each style picture in colours of their own, the picture tinted with
             the colours of where it looked, and a collage of the patches that each one looked at most; () for None.
    """
    if sources is None:
        return ()
    looks, width = sources
    rows, side = len(looks) // width, round((looks.shape[1] / len(references)) ** 0.5)
    patch_px = picture.size[1] // rows
    colours = [_colour_places(side, index) for index in range(len(references))]
    palette = torch.cat([places.flatten(1).T for places in colours])
    # Each patch in the colour of the one place it looked at most: the mean of all would be grey.
    most = looks.argmax(1)
    tint = palette[most]
    best = torch.cat([_cut(reference, side, patch_px) for reference in references])[most]
    collage = F.fold(best.T[None], (rows * patch_px, width * patch_px), patch_px, stride=patch_px)
    return (
        *((words, _tint(*pair)) for words, pair in zip(PLACES_CAPTIONS, zip(references, colours))),
        (LOOKS_CAPTION, _tint(picture, tint.T.unflatten(1, (rows, width)))),
        (COLLAGE_CAPTION, to_images(collage)[0].resize(picture.size)),
    )


def _cut(reference: Image.Image, side: int, patch_px: int) -> torch.Tensor:
    """Cut a style picture into its patches, each as large as one of the picture; (side * side, 3 * patch_px^2)."""
    pixels = to_tensor([reference.resize((side * patch_px, side * patch_px))])
    return F.unfold(pixels, patch_px, stride=patch_px)[0].T


def _colour_places(side: int, index: int) -> torch.Tensor:
    """Give each place of a style picture a colour; the second picture's are darker. Shapes: (3, side, side), -1..1."""
    line = torch.linspace(-1, 1, side)
    down, across = torch.meshgrid(line, line, indexing="ij")
    colours = torch.stack([across, down, -(across + down) / 2])
    return colours * 0.9 if index == 0 else colours * 0.45 - 0.45


def _tint(picture: Image.Image, colours: torch.Tensor) -> Image.Image:
    """Lay colours (3, h, w) in -1..1 over a grey picture."""
    grey = to_tensor([picture.convert("L").convert("RGB")])
    smooth = F.interpolate(colours[None].float(), size=picture.size[::-1], mode="nearest")
    return to_images(torch.lerp(grey, smooth, TINT_FRAC))[0]
