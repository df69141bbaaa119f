"""What the drag techniques share: they start from the inverted picture and hold on the way back what must not change.

Outside the mask the picture's own latents are put back at every noise level, and its keys and values say what it was.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from pipelines.attention import AttentionLayer, Processor, patched, run_attention
from pipelines.cfg_batch import run_cond
from pipelines.drag_task import DragTask
from pipelines.drag_warp import warp
from pipelines.images import encode
from pipelines.model import ModelBundle
from pipelines.schedules import add_noise, list_timesteps, pred_to_eps
from pipelines.seeding import draw_noise, fork_generators
from pipelines.style_attention import StyledProcessor, join_keys
from pipelines.style_reference import Features, read_features
from pipelines.techniques.base import Halves, Hooks, Turn, UNetCall
from pipelines.types import Progress, RunInfo, StepContext

# A cell is drawn anew if more of it than this was left, and less of it is what arrived.
OPEN_FRAC = 0.1


@dataclass(frozen=True, eq=False)
class Taken:
    """Hold a picture whose things were taken along.

    Shapes: pixels (1, 3, H, W) in -1..1; clean latents and noise (b, c, h, w); is_open (1, 1, h, w), places left open.
    """

    pixels: torch.Tensor
    clean: torch.Tensor
    noise: torch.Tensor
    is_open: torch.Tensor

    def at(self, alpha_bar: float) -> torch.Tensor:
        """Return the noisy latents of a level."""
        return add_noise(self.clean, self.noise, alpha_bar)


class DragHooks(Hooks):
    """Start from the inverted picture, drag it, and hold on the way back what must not change.

    Units: strength is the share of the way that the handles go, control the share of the decoder's self-attention that
           looks at the picture as it was, each 0..1. Without a task, or with strength 0, every point does nothing.
    """

    def __init__(
        self, task: DragTask | None, model: ModelBundle, run: RunInfo, *, strength: float, control: float
    ) -> None:
        self.run, self.strength, self.control = run, strength, control
        self.given = task if strength else None
        self.timesteps = list_timesteps(run.sampler, model.scheduler_config, run.num_steps)
        self.read: dict[int, Features] = {}
        self.heard: Features | None = None
        self.noise = self.fresh = torch.empty(0)
        if strength and task is None:
            run.note("There is no picture to drag, so nothing changes; click a handle and a target.")

    @property
    def task(self) -> DragTask:
        """What is dragged; only asked for where something is."""
        assert self.given is not None
        return self.given

    @property
    def walk(self) -> dict[int, torch.Tensor]:
        """The inverted latents by timestep."""
        assert self.task.source.walk is not None
        return dict(self.task.source.walk)

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Drag the inverted latents; then read the picture at the steps to come."""
        if self.given is None:
            return latents
        start = self.walk[ctx.timestep].expand(len(latents), -1, -1, -1)
        dragged = yield from self.drag(start, ctx)
        if self.control:
            timesteps = self.timesteps[ctx.step :]
            self.read = yield from read_features(
                ctx.model, self.task.source, timesteps, sampler=self.run.sampler, num_steps=self.run.num_steps
            )
        return dragged

    def drag(self, latents: torch.Tensor, ctx: StepContext) -> Generator[Progress, None, torch.Tensor]:
        """Move what is to be moved at the first noise level; what a subclass is there for."""
        yield from ()
        return latents

    def read_noise(self, latents: torch.Tensor, ctx: StepContext) -> None:
        """Tell apart, with one pass at the first noise level, what is picture and what is noise; run under the lock."""
        ctx.model.residence.place("unet")
        pred = run_cond(ctx.model, latents, ctx.timestep, self.task.source.text)
        self.noise = pred_to_eps(pred, latents, ctx.alpha_bar, ctx.model.spec.prediction)
        shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        self.fresh = draw_noise(fork_generators(ctx.generators), shape, ctx.model.plan.device)

    def take_along(self, frac: float, model: ModelBundle) -> Taken:
        """Warp picture and noise a share of the way; run under the lock.

        Source:  the latent warp of FastDrag, arXiv 2405.15769.
        Differs: the picture is warped between its pixels and encoded again, on the way there only its latents are; the
                 noise moves in whole cells and is drawn freshly where nothing arrived, so that it keeps its variance.
        """
        pixels = warp(self.task.pixels, self.task.pulls, frac=frac).grid
        is_there = frac == self.strength
        clean = encode(model, pixels) if is_there else warp(self.task.source.latents, self.task.pulls, frac=frac).grid
        carried = warp(self.noise, self.task.pulls, frac=frac, mode="nearest")
        is_open = ((carried.left > OPEN_FRAC) & (carried.arrived < OPEN_FRAC)).to(self.noise.device)
        noise = torch.where(is_open, self.fresh, carried.grid)
        return Taken(pixels, clean.expand_as(noise), noise, is_open)

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Take out what was read at this step's noise level."""
        self.heard = self.read.get(ctx.timestep)
        return latents

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Predict with the picture's own words alone: a drag follows points and needs no guidance."""
        if self.given is None:
            return call(latents, ctx.text)
        pred = run_cond(ctx.model, latents, ctx.timestep, self.task.source.text)
        return pred, pred

    def after_step(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Put the inverted picture back outside the mask."""
        if self.given is None:
            return latents
        later = self.timesteps[ctx.step + 1 :]
        held = self.walk[later[0]] if later else self.task.source.latents
        mask = self.task.mask.to(latents)
        return mask * latents + (1 - mask) * held

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Let the decoder's self-attention look at the picture as it was."""
        if not self.read:
            return nullcontext()

        def make(layer: AttentionLayer, previous: Processor) -> Processor:
            attend = partial(self.attend, layer=layer.name, kernel=model.plan.kernel)
            return StyledProcessor(previous, model.plan.kernel, attend, lambda: self.heard is not None)

        return patched(model.unet, lambda layer: layer.kind == "self" and layer.place == "up", make)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, layer: str, kernel: str) -> torch.Tensor:
        """Mix the picture's own values in; shapes (b, heads, n, d)."""
        assert self.heard is not None
        shares = [torch.tensor(1 - self.control), torch.tensor(self.control)]
        keys, values, bias = join_keys((k, v), [self.heard[layer]], shares)
        return run_attention(q, keys, values, mask=bias, kernel=kernel)
