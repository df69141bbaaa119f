"""What a restored picture should have in common with the true one beyond its pixels: texture, and what is seen in it.

Both are additions to the restorer's loss, measured apart in its recipe; neither needs a network trained on photographs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipelines.scene_parser import SIDE_UNIT_PX, ParserModel

NUM_BINS = 8
BIN_WIDTH = 0.5
WINDOWS_PX = (3, 5)


def texture_distance(pred: torch.Tensor, truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Compare how values and the means of their neighbours go together in two pictures.

    Shapes:  pred, truth (b, 3, h, w) in about -1..1; returns (b,), 0..1, 0 for equal statistics.
    Source:  Lian et al. 2024, arXiv 2404.09735 (differentiable spatial entropy, Hellinger distance).
    Differs: added to a pixel's loss instead of in its place; 8 bins instead of 32; the neighbours' random weights are
             positive, so that their sum cannot come near 0; the two-dimensional kernel is a product, hence a matrix
             product instead of a table of all pairs.
    """
    total = torch.zeros(len(pred))
    for side in WINDOWS_PX:
        weights = torch.rand((1, 1, side, side), generator=generator)
        weights[0, 0, side // 2, side // 2] = 0
        kernel = weights / weights.sum()
        one, other = (_count_pairs(picture, kernel) for picture in (pred, truth))
        total = total + (one.sqrt() - other.sqrt()).square().sum((1, 2, 3)) / (2 * pred.shape[1])
    # The distance's own root would have no slope at 0.
    return total / len(WINDOWS_PX)


def _count_pairs(picture: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Count softly how often a value and the mean beside it meet: (b, 3, NUM_BINS, NUM_BINS), sums of 1."""
    reach = kernel.shape[-1] // 2
    levels = (picture.float() * 0.5 + 0.5) * (NUM_BINS - 1)
    around = F.conv2d(levels.flatten(0, 1)[:, None], kernel)[:, 0].unflatten(0, levels.shape[:2])
    inside = levels[..., reach:-reach, reach:-reach]
    grid = torch.arange(NUM_BINS, dtype=torch.float32)
    rows, columns = (torch.sigmoid((grid - part.flatten(2)[..., None]) / BIN_WIDTH) for part in (inside, around))
    found = (rows * (1 - rows)).mT @ (columns * (1 - columns))
    return (found + 1e-6) / (found + 1e-6).sum((2, 3), keepdim=True)


@torch.no_grad()
def recognition(parser: ParserModel, pred: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Say how surely a parser sees in a picture what it sees in the true one.

    Shapes:  pred, truth (b, 3, h, w) in -1..1; returns (b,), 0..1.
    Returns: the mean probability of the kind and the colour that each cell of the true picture has.
    """
    side = min(pred.shape[-2:]) // SIDE_UNIT_PX * SIDE_UNIT_PX
    seen, right = (parser(picture[..., :side, :side].clamp(-1, 1).float()) for picture in (pred, truth))
    parts = []
    for logits, true_logits in ((seen.cell_kind, right.cell_kind), (seen.cell_colour, right.cell_colour)):
        answer = true_logits.argmax(1, keepdim=True)
        parts.append(logits.softmax(1).gather(1, answer).mean((1, 2, 3)))
    return torch.stack(parts).mean(0)
