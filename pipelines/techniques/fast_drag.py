"""FastDrag: one warp of the inverted picture, then straight down again: a drag without any optimisation."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.drag_task import DragTask
from pipelines.images import to_images
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.schedules import make_scheduler
from pipelines.techniques.base import Hooks
from pipelines.techniques.drag_base import DragHooks, Taken
from pipelines.types import Progress, RunInfo, StepContext


@dataclass(frozen=True)
class FastDrag:
    """Drag in one go: what is under the handles is warped to the targets, and what it leaves is filled and redrawn.

    Units:   strength 1 moves a handle all the way, 0 changes nothing, bit for bit; control 0..1 is the share of the
             decoder's attention that goes to the picture as it was; start_frac is the share of the steps that are
             left out: the more, the more is kept of the first, rough fill.
    Points:  init (the warp), before_unet, predict, patch (from `DragHooks`), after_step (holds what was warped).
    Source:  Zhao et al. 2024, arXiv 2405.15769.
    Differs: whole things are taken along instead of a disc; the picture is warped between its pixels and encoded
             again, its noise in whole cells, with fresh noise where nothing arrived, so that it keeps its variance;
             only these places are drawn anew, the rest of the warped picture is put back at every noise level.
    """

    name: ClassVar[str] = "fast_drag"
    title: ClassVar[str] = "Instant (FastDrag)"
    source: ClassVar[str] = "Zhao et al. 2024, FastDrag: Manipulate Anything in One Step"
    points: ClassVar[tuple[str, ...]] = ("init", "before_unet", "predict", "after_step", "patch")
    needs_first_order: ClassVar[bool] = True
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    task: DragTask | None = None
    strength: float = ranged(1.0, 0.0, 1.0, 0.05, label="Strength", help="How far along the way the handles go.")
    start_frac: float = ranged(0.65, 0.0, 0.9, 0.05, label="Start", help="Earlier draws more anew where a thing left.")
    control: float = ranged(0.0, 0.0, 1.0, 0.05, label="Likeness", help="How much the picture looks at how it was.")

    @classmethod
    def neutral(cls) -> FastDrag:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Make the hooks of one run."""
        validate(self)
        yield _WarpHooks(self, model, run)


class _WarpHooks(DragHooks):
    """Warp the picture that the run starts with, and draw what it leaves open."""

    def __init__(self, technique: FastDrag, model: ModelBundle, run: RunInfo) -> None:
        super().__init__(technique.task, model, run, strength=technique.strength, control=technique.control)
        self.levels = make_scheduler(run.sampler, model.scheduler_config).alphas_cumprod.tolist()
        self.taken: Taken | None = None

    def drag(self, latents: torch.Tensor, ctx: StepContext) -> Generator[Progress, None, torch.Tensor]:
        """Warp what is under the handles, in the picture itself."""
        task = self.task
        with ctx.model.lock:
            self.read_noise(latents, ctx)
            self.taken = self.take_along(self.strength, ctx.model)
        places, picture = task.place_handles(self.strength), to_images(self.taken.pixels)[0]
        yield task.report(ctx.num_steps, "moved what the handles hold", places, picture)
        return self.taken.at(ctx.alpha_bar)

    def after_step(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Put the warped picture back at the next noise level, wherever nothing has to be filled."""
        if self.taken is None:
            return latents
        later = self.timesteps[ctx.step + 1 :]
        held = self.taken.at(self.levels[later[0]]) if later else self.taken.clean
        return torch.where(self.taken.is_open, latents, held)
