"""How near pictures are to a style picture, and how much of the prompt they show: the numbers of the style tab."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from pipelines.model import ModelBundle
from pipelines.scene_parser import SceneParser
from pipelines.types import Measure

# Colours are compared as distributions of this many pixels.
COLOUR_SIDE_PX = 64
# The parser's finest grids: what is there is texture, not yet things.
NUM_GRIDS = 2


def measure_style(
    model: ModelBundle, prompt: str, references: Sequence[Image.Image], images: Sequence[Image.Image]
) -> tuple[Measure, ...]:
    """Measure pictures against the nearest style picture and the prompt; a number's `off` is set by who compares.

    Returns: only what this model can measure: without a parser of its world, colours alone.
    """
    goal = "from the nearer style picture" if len(references) > 1 else "from the style picture"
    colours = [[compare_colours(reference, image) for image in images] for reference in references]
    colour = float(np.mean(np.min(colours, axis=0)))
    found = [("colour_distance", f"Colours away {goal}", colour)]
    if judge := model.judge:
        textures = [compare_textures(judge.parser, reference, images) for reference in references]
        texture = float(np.mean(np.min(textures, axis=0)))
        found.append(("texture_distance", f"Texture away {goal}", texture))
        agreement = judge.score(prompt, images)
        if agreement is not None:
            found.append(("prompt_agreement", "Named things found", agreement))
    return tuple(Measure(name, label, value, value, "share") for name, label, value in found)


def compare_colours(first: Image.Image, second: Image.Image) -> float:
    """Return how far the colours of two pictures are apart, wherever they stand, 0..1.

    Source:  the earth mover's distance of each channel's values (their sorted difference), mean over the channels.
    """
    size = (COLOUR_SIDE_PX, COLOUR_SIDE_PX)
    sorted_values = []
    for picture in (first, second):
        small = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float64)
        sorted_values.append(np.sort(small.reshape(-1, 3), axis=0))
    return float(np.abs(sorted_values[0] - sorted_values[1]).mean()) / np.iinfo(np.uint8).max


@torch.no_grad()
def compare_textures(parser: SceneParser, reference: Image.Image, images: Sequence[Image.Image]) -> list[float]:
    """Return the Gram distance of pictures to a style picture on the parser's finest grids, mean over the grids.

    Source: Gatys et al. 2016, Image Style Transfer Using CNNs, equation 4, each grid relative to the style picture's.
    """
    grams: dict[int, list[torch.Tensor]] = {}
    for members, fitted in parser.fit([reference, *images], 1 + len(images)):
        grids = sorted(parser.model.encode(fitted), key=lambda grid: -grid.shape[-1])[:NUM_GRIDS]
        for index, member in enumerate(members):
            grams[member] = [gram(grid[index]) for grid in grids]
    own = grams[0]
    distances = []
    for member in range(1, 1 + len(images)):
        parts = [float((a - b).square().sum() / b.square().sum()) for a, b in zip(grams[member], own)]
        distances.append(sum(parts) / len(parts))
    return distances


def gram(grid: torch.Tensor) -> torch.Tensor:
    """Return the products of a grid's channels, summed over places; shapes (c, h, w) -> (c, c)."""
    flat = grid.double().flatten(1)
    return flat @ flat.T / flat.numel()
