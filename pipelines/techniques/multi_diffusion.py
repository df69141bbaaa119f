"""MultiDiffusion: pictures larger than the model was trained for, seen through overlapping windows.

Every window is predicted as a picture of the trained size; where windows overlap, the predictions are averaged, so
that neighbours agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.model import ModelBundle, TextCond
from pipelines.params import ranged, validate
from pipelines.techniques.base import Halves, Hooks, UNetCall
from pipelines.types import RunInfo, StepContext
from pipelines.windows import Window, average_windows, place_windows, tell_size


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
        if len(windows) > 1:
            run.watch_seams(windows)
        yield _Windows(windows, tell_size(run.text, (model.spec.image_px, model.spec.image_px)))


class _Windows(Hooks):
    """Predict every window and average."""

    def __init__(self, windows: list[Window], text: TextCond) -> None:
        self.windows, self.text = windows, text

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Average the predictions of all windows, cell by cell."""
        if len(self.windows) == 1:
            return call(latents, ctx.text)
        return average_windows(latents, self.windows, lambda part, _: call(part, self.text))
