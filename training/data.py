"""Scenes as tensors: pictures, captions and truth maps, drawn when needed and never stored.

Which scenes a step sees is a function of the step alone. Only training seeds and allowed combinations are drawn
(`world.scene`, hold-out rule).
"""

from __future__ import annotations

import numpy as np
import torch

from training.world.render import render
from training.world.scene import CANVAS_PX, sample_scene


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """Convert pictures to network range.

    Shapes: (..., H, W, 3) uint8 -> (..., 3, H, W) float32 in -1..1.
    """
    return torch.from_numpy(rgb).movedim(-1, -3).float().div_(255 / 2).sub_(1)


def draw_pictures(first_seed: int, count: int, *, split: str = "train") -> np.ndarray:
    """Draw the scenes of consecutive seeds.

    Shapes: returns (count, H, W, 3) uint8.
    """
    pictures = np.empty((count, CANVAS_PX, CANVAS_PX, 3), np.uint8)
    for index in range(count):
        pictures[index] = render(sample_scene(first_seed + index, split=split)).rgb
    return pictures


class CropBank:
    """A bank of whole pictures in memory, renewed a little at every step, that hands out random crops."""

    def __init__(self, num_pictures: int, *, crop_px: int, renew: int, first_seed: int) -> None:
        self._pictures = draw_pictures(first_seed, num_pictures)
        self._first_seed, self._crop_px, self._renew = first_seed, crop_px, renew

    def draw(self, step: int, batch_size: int) -> torch.Tensor:
        """Return crops at random offsets that are multiples of 8 px.

        Shapes: (b, 3, crop, crop) float32 in -1..1.
        """
        count = len(self._pictures)
        for slot in range(self._renew):
            seed = self._first_seed + count + step * self._renew + slot
            self._pictures[(step * self._renew + slot) % count] = render(sample_scene(seed)).rgb
        rng = np.random.default_rng([step, self._first_seed])
        crops = []
        for _ in range(batch_size):
            top, left = rng.integers(0, (CANVAS_PX - self._crop_px) // 8 + 1, 2) * 8
            picture = self._pictures[rng.integers(count)]
            crops.append(picture[top : top + self._crop_px, left : left + self._crop_px])
        return to_tensor(np.stack(crops))
