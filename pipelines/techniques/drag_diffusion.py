"""DragDiffusion: the latents of one noise level are optimised until the handles' features are at their targets."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.cfg_batch import run_cond
from pipelines.drag_latents import (
    ARRIVED_CELLS,
    place_points,
    point_loss,
    ramp,
    region_loss,
    to_latent_grid,
    to_picture,
    track_points,
    watched_features,
)
from pipelines.drag_task import DragTask
from pipelines.images import preview
from pipelines.model import ModelBundle
from pipelines.params import choice, ranged, validate
from pipelines.schedules import pred_to_x0
from pipelines.techniques.base import Hooks
from pipelines.techniques.drag_base import DragHooks
from pipelines.types import Progress, RunInfo, StepContext


@dataclass(frozen=True)
class DragDiffusion:
    """Pull the handles to their targets by motion supervision, a little at a time.

    Units:   num_rounds of Adam at learning_rate; strength 1 goes all the way, 0 changes nothing, bit for bit; control
             is the share of the decoder's attention that goes to the picture as it was; start_frac is the share of the
             steps that are left out.
    Points:  init (the optimisation), before_unet, predict, after_step, patch (from `DragHooks`).
    Source:  Shi et al. 2023, arXiv 2306.14435; released code, drag_utils.py.
    Differs: the mask is exact: only latents inside it are optimised, so that no mask term is needed. `regions` takes
             the latents of the whole thing along in four parts of the way, by FastDrag's warp, and optimises until its
             features are again what they were, since pulled by points alone a thing of flat colours tears; `points`
             is the paper's.
    """

    name: ClassVar[str] = "drag_diffusion"
    title: ClassVar[str] = "DragDiffusion"
    source: ClassVar[str] = "Shi et al. 2023, DragDiffusion: Harnessing Diffusion Models for Interactive Point-based"
    points: ClassVar[tuple[str, ...]] = ("init", "before_unet", "predict", "after_step", "patch")
    needs_first_order: ClassVar[bool] = True
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    task: DragTask | None = None
    supervision: str = choice("regions", ("regions", "points"), label="Supervision", help="What is asked to move.")
    num_rounds: int = ranged(16, 1, 160, 1, label="Rounds", help="More rounds pull farther and take longer.")
    learning_rate: float = ranged(0.02, 0.001, 0.5, 0.001, label="Learning rate", help="How far one round goes.")
    strength: float = ranged(1.0, 0.0, 1.0, 0.05, label="Strength", help="How far along the way the handles go.")
    start_frac: float = ranged(0.8, 0.0, 0.9, 0.05, label="Start", help="Later keeps more of the picture.")
    control: float = ranged(0.3, 0.0, 1.0, 0.05, label="Likeness", help="How much the picture looks at how it was.")

    @classmethod
    def neutral(cls) -> DragDiffusion:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Make the hooks of one run."""
        validate(self)
        yield _PullHooks(self, model, run)


class _PullHooks(DragHooks):
    """Optimise the latents that the run starts with."""

    def __init__(self, technique: DragDiffusion, model: ModelBundle, run: RunInfo) -> None:
        super().__init__(technique.task, model, run, strength=technique.strength, control=technique.control)
        self.technique = technique

    def drag(self, latents: torch.Tensor, ctx: StepContext) -> Generator[Progress, None, torch.Tensor]:
        """Pull, round by round; each report shows the picture that this noise level promises."""
        technique, task, size = self.technique, self.task, (latents.shape[2], latents.shape[3])
        by_region = technique.supervision == "regions"
        starts, targets = place_points(task, 0.0, size), place_points(task, self.strength, size)
        with ctx.model.lock:
            self.read_noise(latents, ctx)
            original, _ = self.look(latents[:1], torch.zeros_like(latents[:1]), ctx)
        handles, frac, base = starts, 0.0, latents
        change, optimizer = self.begin(latents)
        for done in range(technique.num_rounds):
            before, frac = frac, self.strength * ramp(done, technique.num_rounds)
            if by_region and frac != before:
                with ctx.model.lock:
                    base = self.take_along(frac, ctx.model).at(ctx.alpha_bar)
                change, optimizer = self.begin(latents)
            with ctx.model.lock:
                features, x0 = self.look(base[:1], change, ctx)
                expected = place_points(task, frac, size) if by_region else handles
                handles = track_points(features.detach(), original, expected, starts)
                with torch.enable_grad():
                    loss = (
                        region_loss(features, original, task.pulls, task.mask, frac)
                        if by_region
                        else point_loss(features, handles, targets)
                    )
                    self.step(optimizer, loss, change)
            places = to_picture(handles, size, task)
            note = f"pulling, {done + 1}/{technique.num_rounds}"
            yield task.report(ctx.num_steps, note, places, preview(ctx.model, x0))
            if not by_region and float((handles - targets).norm(dim=1).max()) < ARRIVED_CELLS:
                break
        return base + task.mask.to(latents) * change.detach()

    def begin(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.optim.Optimizer]:
        """Make a change of the first picture's latents that is nothing yet, and what improves it."""
        change = torch.zeros_like(latents[:1]).requires_grad_(True)
        return change, torch.optim.Adam([change], lr=self.technique.learning_rate)

    def look(self, latents: torch.Tensor, change: torch.Tensor, ctx: StepContext) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the UNet with gradients; returns decoder features on the latents' grid, and the clean estimate."""
        ctx.model.residence.place("unet")
        with torch.enable_grad(), watched_features(ctx.model.unet) as seen:
            # Without the mask inside of what is recorded, no gradient would reach the change.
            changed = latents + self.task.mask.to(latents) * change
            pred = run_cond(ctx.model, changed, ctx.timestep, self.task.source.text)
            features = to_latent_grid(seen[0], (latents.shape[2], latents.shape[3]))
        features = features if change.requires_grad else features.detach()
        return features, pred_to_x0(pred.detach(), changed.detach(), ctx.alpha_bar, ctx.model.spec.prediction)

    @staticmethod
    def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, change: torch.Tensor) -> None:
        """Take one step of Adam; handles that have all arrived ask for none."""
        if loss.requires_grad:
            (change.grad,) = torch.autograd.grad(loss, change)
            optimizer.step()
