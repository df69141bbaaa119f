"""Picture quality without a human: how far pictures are from drawn scenes, in what the scene parser sees of them.

A distance between two sets, so it says nothing about a single picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pipelines.scene_parser import SceneParser

NUM_COMPONENTS = 24
NUM_RESAMPLES = 500
PICTURES_PER_CALL = 16


@torch.no_grad()
def see(parser: SceneParser, images: Sequence[Image.Image]) -> np.ndarray:
    """Return the mean activation of every channel of the parser's grids. Shapes: returns (n, channels) float64."""
    rows: dict[int, np.ndarray] = {}
    for members, fitted in parser.fit(images, PICTURES_PER_CALL):
        grids = parser.model.encode(fitted)
        means = torch.cat([grid.mean((2, 3)) for grid in grids], 1).double().cpu().numpy()
        rows |= dict(zip(members, means))
    return np.stack([rows[index] for index in range(len(images))])


@dataclass(frozen=True)
class Reference:
    """Drawn scenes as the parser sees them, on their principal axes.

    Shapes: centre (channels,); axes (channels, k), scaled so that the scenes have variance 1 along each.
    """

    centre: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, seen: np.ndarray) -> Reference:
        """Find the axes of drawn scenes (n, channels)."""
        centre = seen.mean(0)
        _, spread, axes = np.linalg.svd(seen - centre, full_matrices=False)
        k = min(NUM_COMPONENTS, int((spread > 1e-9).sum()))
        return cls(centre, axes[:k].T / (spread[:k] / np.sqrt(len(seen))))

    def measure(self, seen: np.ndarray) -> float:
        """Return the Fréchet distance of pictures (n, channels) to the drawn scenes.

        Source:  Heusel et al. 2017, arXiv 1706.08500, equation 6.
        Differs: features of our scene parser, on NUM_COMPONENTS whitened axes, so that 200 pictures are enough.
        """
        places = (seen - self.centre) @ self.axes
        covariance = np.atleast_2d(np.cov(places, rowvar=False, bias=True))
        roots = np.sqrt(np.clip(np.linalg.eigvalsh(covariance), 0, None))
        mean = places.mean(0)
        return float(mean @ mean + np.trace(covariance) + len(covariance) - 2 * roots.sum())


def compare(reference: Reference, off: np.ndarray, on: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return how much farther from drawn scenes one arm is than the other, and its 95 % interval.

    Shapes:  off, on (n, channels): the same prompts and seeds, in the same order.
    Returns: distance of `on` minus distance of `off`, below 0 is better; pairs are resampled together.
    """
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(NUM_RESAMPLES):
        rows = rng.integers(len(off), size=len(off))
        draws.append(reference.measure(on[rows]) - reference.measure(off[rows]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return reference.measure(on) - reference.measure(off), (float(low), float(high))
