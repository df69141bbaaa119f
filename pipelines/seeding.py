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


def fork_generators(generators: tuple[torch.Generator, ...], offset: int = 0) -> tuple[torch.Generator, ...]:
    """Make generators of a technique's own, so that its draws do not shift those of the run.

    Returns: one per picture, seeded `offset` above the run's; offset 0 repeats the run's draws from the start.
    """
    # Seeds have 64 bits; a sum beyond them starts again at 0.
    return tuple(torch.Generator("cpu").manual_seed((one.initial_seed() + offset) % 2**64) for one in generators)


def fork_generator(generator: torch.Generator) -> torch.Generator:
    """Make a second generator that goes on like the first; drawing from it leaves the first where it is."""
    fork = torch.Generator(generator.device)
    fork.set_state(generator.get_state())
    return fork
