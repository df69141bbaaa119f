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
             changes nothing, bit for bit; fade_cells of the picture pass over into new ground on each open side.
    Points:  edit_x0, after_step (the last one: some samplers end with a little noise).
    Source:  Lugmayr et al. 2022, RePaint, arXiv 2201.09865, without resampling; Wang et al. 2022, DDNM,
             arXiv 2212.00490, section 3.2, which puts the known part into the clean estimate.
    Differs: the known part replaces the clean estimate instead of the noised latents, which suits every sampler here.
    """

    name: ClassVar[str] = "outpaint"
    title: ClassVar[str] = "Extension"
    source: ClassVar[str] = "Lugmayr et al. 2022, RePaint; Wang et al. 2022, DDNM"
    points: ClassVar[tuple[str, ...]] = ("edit_x0", "after_step")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    references: tuple[StyleSource, ...] = ()
    place_cells: int = ranged(0, 0, 4096, 1, label="Place", help="Where the picture's left edge stands.")
    fade_cells: int = ranged(3, 0, 16, 1, label="Fade", help="Cells over which the picture passes into new ground.")
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
        """Replace the known part of the clean estimate."""
        return self._put_back(x0)

    def after_step(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Replace the known part of what the run ends with."""
        return self._put_back(latents) if ctx.step == ctx.num_steps - 1 else latents

    def _put_back(self, clean: torch.Tensor) -> torch.Tensor:
        """Put the picture into clean latents (b, c, h, w); what of it does not fit into the canvas is cut off."""
        technique = self.technique
        if not technique.references or technique.strength == 0.0:
            return clean
        known = technique.references[0].latents.to(clean)
        height, width = clean.shape[2:]
        columns = slice(technique.place_cells, min(width, technique.place_cells + known.shape[3]))
        rows = slice(0, min(height, known.shape[2]))
        part = known[:, :, rows, : columns.stop - columns.start].expand(len(clean), -1, -1, -1)
        weight = technique.strength * fade(part.shape[3], columns.start > 0, columns.stop < width, technique.fade_cells)
        edited = clean.clone()
        edited[:, :, rows, columns] = torch.lerp(clean[:, :, rows, columns], part, weight.to(clean))
        return edited


def fade(width_cells: int, is_open_left: bool, is_open_right: bool, fade_cells: int) -> torch.Tensor:
    """Weigh a picture's columns: 1 inside, falling evenly over fade_cells towards each open side; (width_cells,)."""
    columns = torch.arange(width_cells) + 0.5
    weight = torch.ones(width_cells)
    for is_open, distance in ((is_open_left, columns), (is_open_right, width_cells - columns)):
        if is_open and fade_cells:
            weight = torch.minimum(weight, distance / fade_cells)
    return weight
