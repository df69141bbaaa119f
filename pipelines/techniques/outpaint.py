"""Draw on beyond a picture's border: the known part is put back into every clean estimate, the rest grows around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.style_reference import StyleSource
from pipelines.techniques.base import Hooks
from pipelines.types import RunInfo, StepContext


@dataclass(frozen=True)
class Outpaint:
    """Keep a known picture inside a larger one.

    Units:   place_cells is where the picture's left edge stands, in latent cells; strength 1 keeps it as it is, 0
             changes nothing, bit for bit.
    Points:  edit_x0.
    Source:  Lugmayr et al. 2022, RePaint, arXiv 2201.09865, without resampling; Wang et al. 2022, DDNM,
             arXiv 2212.00490, section 3.2, which puts the known part into the clean estimate.
    Differs: the known part replaces the clean estimate instead of the noised latents, which suits every sampler here.
    """

    name: ClassVar[str] = "outpaint"
    title: ClassVar[str] = "Extension"
    source: ClassVar[str] = "Lugmayr et al. 2022, RePaint; Wang et al. 2022, DDNM"
    points: ClassVar[tuple[str, ...]] = ("edit_x0",)
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    references: tuple[StyleSource, ...] = ()
    place_cells: int = ranged(0, 0, 4096, 1, label="Place", help="Where the picture's left edge stands.")
    strength: float = ranged(1.0, 0.0, 1.0, 0.05, label="Hold", help="1 keeps the picture as it is.")

    @classmethod
    def neutral(cls) -> Outpaint:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Make the hooks of one run."""
        validate(self)
        yield _KeepingHooks(self)


class _KeepingHooks(Hooks):
    """Put the known latents back."""

    def __init__(self, technique: Outpaint) -> None:
        self.technique = technique

    def edit_x0(self, x0: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Replace the known part of the clean estimate; what does not fit into the canvas is cut off."""
        technique = self.technique
        if not technique.references or technique.strength == 0.0:
            return x0
        known = technique.references[0].latents.to(x0)
        height, width = x0.shape[2:]
        columns = slice(technique.place_cells, min(width, technique.place_cells + known.shape[3]))
        rows = slice(0, min(height, known.shape[2]))
        part = known[:, :, rows, : columns.stop - columns.start].expand(len(x0), -1, -1, -1)
        edited = x0.clone()
        edited[:, :, rows, columns] = torch.lerp(x0[:, :, rows, columns], part, technique.strength)
        return edited
