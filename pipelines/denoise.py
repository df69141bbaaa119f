"""The one loop: noise -> latents, with the points at which techniques act.

A stream of Progress that returns the latents. The run lock is held during a step and never across a yield; what a
technique changes in the model is put back before each yield. Latents are float32 throughout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image

from pipelines.cfg_batch import guide, join_halves, split_halves
from pipelines.images import decode, preview
from pipelines.layout import Box
from pipelines.model import ModelBundle, TextCond, run_unet
from pipelines.schedules import make_scheduler, pred_to_x0, x0_to_pred
from pipelines.seeding import draw_noise, make_generators
from pipelines.techniques.base import Halves, Hooks, Technique, check_compatible
from pipelines.types import Progress, RunInfo, StepContext
from pipelines.windows import Window


@dataclass(frozen=True)
class DenoiseSettings:
    """Say how to run the loop.

    Units: sizes in px; preview_every 0 draws no previews; decode_every above 0 decodes each such preview in full; steps
           before start_step are left out, which suits techniques whose `init` knows the latents there.
    """

    seed: int
    num_images: int
    num_steps: int
    guidance_scale: float
    sampler: str
    width_px: int
    height_px: int
    preview_every: int = 1
    start_step: int = 0
    decode_every: int = 0


@dataclass
class Sketches:
    """Collect what the techniques of a run have to show.

    Shapes: maps[caption] (h, w) over the first picture; pictures[caption] stages of it, each with boxes to outline;
            boxes of the layout that was used; watched things, as nouns, whose presence is to be measured; windows, in
            cells, across whose borders a seam might show; sources: (looks, width) as in `RunInfo.sketch_sources`.
    """

    maps: dict[str, torch.Tensor] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    pictures: dict[str, tuple[Image.Image, tuple[Box, ...]]] = field(default_factory=dict)
    sources: tuple[torch.Tensor, int] | None = None

    def set_sources(self, looks: torch.Tensor, width: int) -> None:
        """Remember where the patches of the first picture look in the style pictures."""
        # Pictures are drawn one after the other on a CPU: the first one reports first.
        self.sources = self.sources or (looks.cpu(), width)

    def add_picture(self, caption: str, picture: Image.Image, boxes: Sequence[Box]) -> None:
        """Show a stage of the first picture, instead of an earlier one of that caption."""
        self.pictures[caption] = (picture, tuple(boxes))


@torch.no_grad()
def denoise(
    model: ModelBundle,
    text: TextCond,
    settings: DenoiseSettings,
    techniques: Sequence[Technique],
    notes: list[str],
    *,
    sketches: Sketches | None = None,
) -> Generator[Progress, None, torch.Tensor]:
    """Walk from noise to clean latents.

    Shapes:  returned latents (num_images, spec.latent_channels, height_cells, width_cells) float32.
    Returns: a generator of one Progress per step, and of step 0 for what techniques do before the first; its return
             value are the latents; notes gains sentences, sketches what there is to show.
    Raises:  CompositionError before the first step if the techniques cannot run together or with this sampler.
    """
    scheduler = make_scheduler(settings.sampler, model.scheduler_config)
    refuse_misfits(model, settings.sampler, techniques)
    scheduler.set_timesteps(settings.num_steps)
    run = _describe_run(model, text, settings, notes, sketches or Sketches())
    loop = _Loop(model, scheduler, run, any(technique.needs_whole_batch for technique in techniques))
    shape = (model.spec.latent_channels, run.height_cells, run.width_cells)
    latents = draw_noise(run.generators, shape, model.plan.device) * float(scheduler.init_noise_sigma)
    start = time.perf_counter()
    with ExitStack() as stack:
        hooks = [(technique, stack.enter_context(technique.open(model, run))) for technique in techniques]
        turn = partial(_take_turn, model, [hook for _, hook in hooks])
        timesteps, first = scheduler.timesteps.tolist(), settings.start_step
        for _, hook in hooks:
            latents = yield from hook.init(latents, loop.make_context(first, timesteps[first]), turn)
        for step, timestep in enumerate(timesteps[first:], first):
            step_start = time.perf_counter()
            ctx = loop.make_context(step, timestep)
            with turn():
                latents, x0 = loop.run_step(latents, ctx, hooks)
            done = step + 1
            wants_preview = settings.preview_every and (done % settings.preview_every == 0 or done == run.num_steps)
            picture = preview(model, x0) if wants_preview else None
            if picture and settings.decode_every and done % settings.decode_every == 0:
                with model.lock:
                    picture = decode(model, x0[:1])[0]
            model.timer.seconds_per_step = time.perf_counter() - step_start
            left_s = (time.perf_counter() - start) / (done - first) * (run.num_steps - done)
            yield Progress(done, run.num_steps, f"step {done}/{run.num_steps}", picture, left_s)
    return latents


@contextmanager
def _take_turn(model: ModelBundle, hooks: Sequence[Hooks]) -> Iterator[None]:
    """Hold the run lock, with the UNet in its place and changed as the techniques ask."""
    with model.lock, ExitStack() as patches:
        model.residence.place("unet")
        for hook in hooks:
            patches.enter_context(hook.patch(model))
        yield


def refuse_misfits(model: ModelBundle, sampler: str, techniques: Sequence[Technique]) -> None:
    """Refuse techniques that cannot run together or with this sampler.

    Raises: CompositionError naming both techniques, or the technique and the sampler.
    """
    scheduler = make_scheduler(sampler, model.scheduler_config)
    is_first_order = getattr(scheduler.config, "solver_order", 1) == 1
    check_compatible(techniques, sampler=sampler, is_first_order=is_first_order)


def _describe_run(
    model: ModelBundle, text: TextCond, settings: DenoiseSettings, notes: list[str], sketches: Sketches
) -> RunInfo:
    """Collect what stays the same during the run."""
    return RunInfo(
        num_steps=settings.num_steps,
        num_images=settings.num_images,
        height_cells=settings.height_px // model.spec.px_per_cell,
        width_cells=settings.width_px // model.spec.px_per_cell,
        guidance_scale=settings.guidance_scale,
        sampler=settings.sampler,
        text=text,
        generators=make_generators(settings.seed, settings.num_images),
        note=notes.append,
        sketch=sketches.maps.__setitem__,
        sketch_boxes=sketches.boxes.extend,
        sketch_picture=sketches.add_picture,
        watch=sketches.watched.append,
        watch_seams=sketches.windows.extend,
        sketch_sources=sketches.set_sources,
    )


class _Loop:
    """Hold what one run needs at every step: its own scheduler and the facts of the run."""

    def __init__(self, model: ModelBundle, scheduler: Any, run: RunInfo, is_whole: bool) -> None:
        self.model = model
        self.scheduler = scheduler
        self.run = run
        self.images_per_call = run.num_images if is_whole else model.plan.images_per_call or run.num_images

    def make_context(self, step: int, timestep: int) -> StepContext:
        """Tell the hooks where the run stands."""
        alpha_bar = float(self.scheduler.alphas_cumprod[timestep])
        return StepContext(
            step=step,
            num_steps=self.run.num_steps,
            fraction=step / self.run.num_steps,
            timestep=timestep,
            alpha_bar=alpha_bar,
            sigma=math.sqrt(1.0 - alpha_bar),
            guidance_scale=self.run.guidance_scale,
            model=self.model,
            text=self.run.text,
            generators=self.run.generators,
        )

    def run_step(
        self, latents: torch.Tensor, ctx: StepContext, hooks: Sequence[tuple[Technique, Hooks]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do one step; returns the next latents and the clean estimate, both (b, c, h, w)."""
        at = {point: [hook for t, hook in hooks if point in t.points] for point in ("predict", "combine", "edit_x0")}
        for _, hook in hooks:
            latents = hook.before_unet(latents, ctx)
        # A technique that patches the model may tell the halves apart, so it always finds both.
        has_plain_guidance = not any(point in t.points for t, _ in hooks for point in ("combine", "predict", "patch"))

        def call(latents: torch.Tensor, text: TextCond) -> Halves:
            return self._predict(latents, ctx.timestep, text, is_single=has_plain_guidance and ctx.guidance_scale == 1)

        halves = at["predict"][0].predict(latents, ctx, call) if at["predict"] else call(latents, ctx.text)
        pred = at["combine"][0].combine(*halves, latents, ctx) if at["combine"] else guide(*halves, ctx.guidance_scale)
        x0 = pred_to_x0(pred, latents, ctx.alpha_bar, self.model.spec.prediction)
        edited = x0
        for hook in at["edit_x0"]:
            edited = hook.edit_x0(edited, ctx)
        # An estimate that was left alone keeps its prediction: the way there and back would round.
        if edited is not x0:
            x0, pred = edited, x0_to_pred(edited, latents, ctx.alpha_bar, self.model.spec.prediction)
        latents = self.scheduler.step(pred, ctx.timestep, latents, return_dict=False)[0]
        for _, hook in hooks:
            latents = hook.after_step(latents, ctx)
        return latents, x0

    def _predict(self, latents: torch.Tensor, timestep: int, text: TextCond, *, is_single: bool) -> Halves:
        """Run the UNet for all pictures, a few per call; with is_single only the conditional half, used twice."""
        pairs = []
        for first in range(0, len(latents), self.images_per_call):
            rows = slice(first, first + self.images_per_call)
            part = latents[rows]
            hidden = _join(text.hidden_uncond, text.hidden_cond, rows, len(part))
            pooled = _join(text.pooled_uncond, text.pooled_cond, rows, len(part))
            keep = slice(len(part), None) if is_single else slice(None)
            batch = part if is_single else torch.cat([part, part])
            added = {"text_embeds": pooled[keep], "time_ids": text.time_ids.expand(len(batch), -1)}
            out = run_unet(self.model, batch, timestep, hidden[keep], added if pooled.shape[-1] else {})
            pairs.append((out, out) if is_single else split_halves(out))
        if len(pairs) == 1:
            return pairs[0]
        uncond, cond = zip(*pairs)
        return torch.cat(uncond), torch.cat(cond)


def _join(uncond: torch.Tensor, cond: torch.Tensor, rows: slice, num_images: int) -> torch.Tensor:
    """Stack both halves of a condition for some of the pictures of a run."""
    first, second = (half if half.shape[0] == 1 else half[rows] for half in (uncond, cond))
    return join_halves(first, second, num_images)
