"""DragNoise: the bottleneck of the UNet is optimised instead of the latents, and carried on to the next steps."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipelines.drag_latents import place_points, ramp, region_loss, to_latent_grid, to_picture, track_points
from pipelines.drag_task import DragTask
from pipelines.images import preview
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.schedules import pred_to_x0
from pipelines.techniques.base import Halves, Hooks, UNetCall
from pipelines.techniques.drag_base import DragHooks
from pipelines.types import Progress, RunInfo, StepContext
from pipelines.unet_decoder import KeptEncoder, replaced_bottleneck


@dataclass(frozen=True)
class DragNoise:
    """Drag in the bottleneck, where a picture's things are few numbers, and let the decoder follow.

    Units:   num_rounds of Adam at learning_rate; hold_frac is the share of the steps, counted from the drag's own, that
             get the dragged bottleneck; strength, start_frac and control as in DragDiffusion.
    Points:  init (the optimisation), before_unet, predict (with the bottleneck), after_step, patch (from `DragHooks`).
    Source:  Liu et al. 2024, arXiv 2404.01050; released code, drag_utils.py.
    Differs: the encoder runs once for each of four parts of the way, and each round the decoder alone, up to the block
             whose features are compared. The latents, too, are taken along by FastDrag's warp: through a small UNet's
             skip connections, a thing stays where its latents are, whatever the bottleneck says.
    """

    name: ClassVar[str] = "drag_noise"
    title: ClassVar[str] = "DragNoise"
    source: ClassVar[str] = "Liu et al. 2024, Drag Your Noise: Interactive Point-based Editing via Semantic Propagation"
    points: ClassVar[tuple[str, ...]] = ("init", "before_unet", "predict", "after_step", "patch")
    needs_first_order: ClassVar[bool] = True
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    task: DragTask | None = None
    num_rounds: int = ranged(8, 1, 160, 1, label="Rounds", help="More rounds pull farther and take longer.")
    learning_rate: float = ranged(0.05, 0.001, 0.5, 0.001, label="Learning rate", help="How far one round goes.")
    hold_frac: float = ranged(0.2, 0.0, 1.0, 0.05, label="Hold", help="Share of the steps that get what was dragged.")
    strength: float = ranged(1.0, 0.0, 1.0, 0.05, label="Strength", help="How far along the way the handles go.")
    start_frac: float = ranged(0.8, 0.0, 0.9, 0.05, label="Start", help="Later keeps more of the picture.")
    control: float = ranged(0.0, 0.0, 1.0, 0.05, label="Likeness", help="How much the picture looks at how it was.")

    @classmethod
    def neutral(cls) -> DragNoise:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Make the hooks of one run."""
        validate(self)
        yield _BottleneckHooks(self, model, run)


class _BottleneckHooks(DragHooks):
    """Optimise the bottleneck at the first step of the run and hold it for a while."""

    def __init__(self, technique: DragNoise, model: ModelBundle, run: RunInfo) -> None:
        super().__init__(technique.task, model, run, strength=technique.strength, control=technique.control)
        self.technique = technique
        self.dragged: torch.Tensor | None = None
        self.is_held = False
        self.last_step = 0

    def drag(self, latents: torch.Tensor, ctx: StepContext) -> Generator[Progress, None, torch.Tensor]:
        """Pull the bottleneck, round by round; on each part of the way the encoder runs once."""
        technique, task, size = self.technique, self.task, (latents.shape[2], latents.shape[3])
        starts = place_points(task, 0.0, size)
        with ctx.model.lock:
            self.read_noise(latents, ctx)
            kept = KeptEncoder(ctx.model, latents[:1], ctx.timestep, task.source.text)
            original = to_latent_grid(kept.run_features(kept.bottleneck), size)
        frac, base, shown = 0.0, latents, None
        moved, optimizer = self.begin(kept)
        for done in range(technique.num_rounds):
            before, frac = frac, self.strength * ramp(done, technique.num_rounds)
            with ctx.model.lock:
                if frac != before:
                    base = self.take_along(frac, ctx.model).at(ctx.alpha_bar)
                    kept = KeptEncoder(ctx.model, base[:1], ctx.timestep, task.source.text)
                    moved, optimizer = self.begin(kept)
                    x0 = pred_to_x0(kept.pred, base[:1], ctx.alpha_bar, ctx.model.spec.prediction)
                    shown = preview(ctx.model, x0)
                with torch.enable_grad():
                    features = to_latent_grid(kept.run_features(moved), size)
                    loss = region_loss(features, original, task.pulls, task.mask, frac)
                    (moved.grad,) = torch.autograd.grad(loss, moved)
                optimizer.step()
            handles = track_points(features.detach(), original, place_points(task, frac, size), starts)
            note = f"pulling, {done + 1}/{technique.num_rounds}"
            yield task.report(ctx.num_steps, note, to_picture(handles, size, task), shown)
        self.dragged = moved.detach()
        self.last_step = ctx.step + round(technique.hold_frac * ctx.num_steps)
        return base

    def begin(self, kept: KeptEncoder) -> tuple[torch.Tensor, torch.optim.Optimizer]:
        """Make a bottleneck that is still what the encoder led to, and what improves it."""
        moved = kept.bottleneck.detach().float().clone().requires_grad_(True)
        return moved, torch.optim.Adam([moved], lr=self.technique.learning_rate)

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Note whether this step still gets the dragged bottleneck."""
        self.is_held = self.dragged is not None and ctx.step <= self.last_step
        return super().before_unet(latents, ctx)

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Predict with the dragged bottleneck while it is held."""
        if not self.is_held or self.dragged is None:
            return super().predict(latents, ctx, call)
        with replaced_bottleneck(ctx.model.unet, self.dragged):
            return super().predict(latents, ctx, call)
