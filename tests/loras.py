"""Side paths for tests: random ones that say something, not too loud."""

from __future__ import annotations

import torch

from pipelines.lora import Lora, make_lora
from pipelines.model import ModelBundle


def make_loud_lora(model: ModelBundle, reach: str = "attention", loudness: float = 0.1) -> Lora:
    """Make side paths whose second halves are random."""
    lora = make_lora(model, 2, torch.Generator().manual_seed(0), reach)
    generator = torch.Generator().manual_seed(2)
    ups = {name: torch.randn(up.shape, generator=generator) for name, (_, up) in lora.paths.items()}
    return Lora({name: (down, loudness * ups[name].to(down)) for name, (down, _) in lora.paths.items()})
