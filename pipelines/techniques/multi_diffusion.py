"""MultiDiffusion: pictures larger than the model was trained for, seen through overlapping windows.

Every window is predicted as a picture of the trained size; where windows overlap, the predictions are averaged, so
that neighbours agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from pipelines.model import ModelBundle, TextCond
from pipelines.params import ranged, validate
from pipelines.techniques.base import Halves, Hooks, UNetCall
from pipelines.types import RunInfo, StepContext

Window = tuple[slice, slice]


@dataclass(frozen=True)
class MultiDiffusion:
    """Predict a large picture window by window.

    Units:  overlap is the least share of a window's side that it shares with the next one; 0 sets them side by side.
    Points: predict.
    Source: Bar-Tal et al. 2023, arXiv 2302.08113, and its released code for panoramas.
    Differs: predictions are averaged instead of finished steps. For a sampler that is linear in the prediction, as
             DDIM is, that is the same; samplers with a memory work too, because they see one whole prediction.
    """

    name: ClassVar[str] = "multi_diffusion"
    title: ClassVar[str] = "MultiDiffusion"
    source: ClassVar[str] = "Bar-Tal et al. 2023, MultiDiffusion: Fusing Diffusion Paths for Controlled Generation"
    points: ClassVar[tuple[str, ...]] = ("predict",)
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    overlap: float = ranged(0.5, 0.0, 0.9, 0.05, label="Overlap", help="How much neighbouring windows share.")
    is_windowed: bool = True

    @classmethod
    def neutral(cls) -> MultiDiffusion:
        """Make the record that changes nothing."""
        return cls(is_windowed=False)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Lay out the windows of one run."""
        validate(self)
        side = model.spec.image_px // model.spec.px_per_cell
        size = (run.height_cells, run.width_cells)
        windows = place_windows(size, side, self.overlap) if self.is_windowed else [(slice(None), slice(None))]
        if self.is_windowed and len(windows) == 1:
            run.note(f"{self.title} has one window here; ask for a picture larger than {model.spec.image_px} px.")
        yield _Windows(windows, to_window(run.text, model.spec.image_px))


class _Windows(Hooks):
    """Predict every window and average."""

    def __init__(self, windows: list[Window], text: TextCond) -> None:
        self.windows, self.text = windows, text

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Average the predictions of all windows, cell by cell."""
        if len(self.windows) == 1:
            return call(latents, ctx.text)
        totals = [torch.zeros_like(latents), torch.zeros_like(latents)]
        counts = torch.zeros_like(latents[:1, :1])
        for down, across in self.windows:
            for total, half in zip(totals, call(latents[:, :, down, across], self.text)):
                total[:, :, down, across] += half
            counts[:, :, down, across] += 1
        return totals[0] / counts, totals[1] / counts


def to_window(text: TextCond, image_px: int) -> TextCond:
    """Tell a model that is conditioned on sizes that it sees a picture of the trained size, uncropped."""
    if not text.time_ids.shape[-1]:
        return text
    sizes = [image_px, image_px, 0, 0, image_px, image_px]
    return replace(text, time_ids=text.time_ids.new_tensor([sizes]))


def place_windows(size_cells: tuple[int, int], side_cells: int, overlap: float) -> list[Window]:
    """Cover a picture with as few equally spaced windows as the overlap allows.

    Units:   size_cells (height, width), side_cells the edge of a window; overlap is a share 0..1 of the edge.
    Returns: (rows, columns) of each window, row by row; a side no longer than a window has one.
    """
    lines = []
    for length in size_cells:
        stride = max(1, int(side_cells * (1 - overlap)))
        count = 1 + max(0, -(-(length - side_cells) // stride))
        starts = [round(index * (length - side_cells) / (count - 1)) for index in range(count)] if count > 1 else [0]
        lines.append([slice(start, min(start + side_cells, length)) for start in starts])
    return [(down, across) for down in lines[0] for across in lines[1]]
