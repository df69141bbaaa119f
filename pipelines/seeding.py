"""Random numbers: one CPU generator per picture, never the global state.

The same seed gives the same noise on every device and in every batch size.
"""

from __future__ import annotations

import torch


def make_generators(seed: int, num_images: int) -> tuple[torch.Generator, ...]:
    """Make one CPU generator per picture; picture k is seeded with seed + k."""
    return tuple(torch.Generator("cpu").manual_seed(seed + index) for index in range(num_images))


def draw_noise(generators: tuple[torch.Generator, ...], shape: tuple[int, int, int], device: str) -> torch.Tensor:
    """Draw standard normal noise, each picture from its own generator.

    Shapes:  shape is (c, h, w); the result (b, c, h, w) with b = len(generators).
    Returns: float32, drawn on the CPU and then moved.
    """
    drawn = [torch.randn((1, *shape), generator=generator, dtype=torch.float32) for generator in generators]
    return torch.cat(drawn).to(device)
