"""AccDiffusion: pictures larger than the model was trained for, with each thing of the prompt drawn once.

First the same seed is drawn at about the trained size, noting where each thing's attention is. Then the large picture
is drawn, held to that one: windows refine it, each told only of the things that it shows, and thinned-out views of the
whole keep the parts in step.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F

from pipelines.attention import AttentionRecorder, list_layers, patched
from pipelines.attention_maps import average_layers, pick_row, to_grid, to_mask
from pipelines.cfg_batch import guide, run_halves
from pipelines.dilation import blur, draw_exchange, exchange, join_dilated, match_statistics, split_dilated
from pipelines.images import preview
from pipelines.model import ModelBundle, TextCond
from pipelines.params import ranged, validate
from pipelines.prompt_plan import find_tokens, plan_prompt
from pipelines.schedules import add_noise, make_scheduler, pred_to_x0, x0_to_pred
from pipelines.seeding import draw_noise, fork_generators
from pipelines.techniques.base import Halves, Hooks, Turn, UNetCall
from pipelines.text_side import encode_prompt
from pipelines.types import Progress, RunInfo, StepContext
from pipelines.windows import Window, average_windows, move_edges, pick_shift, place_windows, tell_size

OVERLAP = 0.5
# A window that holds this share of a thing's mask names it, however small the thing is.
HELD_FRAC = 0.75
# How far the windows' inner edges move from step to step, as a share of a window's side.
REACH_FRAC = 0.125
# The exchange between views draws from the run's seed plus this, so that it shifts nobody else's draws.
EXCHANGE_OFFSET = 0x41636344


@dataclass(frozen=True)
class AccDiffusion:
    """Draw a large picture from one of the trained size, without repeating things.

    Units:  coverage is the share 0..1 of a window that a thing's mask must fill to be named there; residual is the
            power of the cosine by which the run is held to the enlarged base picture, higher lets go earlier;
            blur_cells is the Gaussian's deviation before the large latents are thinned out.
    Points: init (draws the base picture), before_unet (residual), predict (windows and views), after_step (contrast).
    Source: Lin et al. 2024, arXiv 2407.10738, and its released code.
    Differs: One phase leads to the asked size. The base picture is the target shrunk by 1.5, 2, 2.5, ... to at most the
             trained area, in the target's own shape. Phrases, not words, are kept or dropped, by the attention of their
             nouns; a window that holds at least HELD_FRAC of a mask names the thing too, or small ones would be named
             nowhere. Window prompts are written after the base picture, for any number of steps. Windows fade towards
             their inner edges, which hides seams; these edges move together by a fixed sequence, so that picture k of
             a batch is the picture of its own seed. Predictions are mixed, not steps, which is the same for DDIM; the
             clean estimate, not the noise, is carried from the blurred views to the latents, because pure noise has no
             usable eps. The base picture is drawn with plain guidance, in the UNet as other techniques change it.
    """

    name: ClassVar[str] = "acc_diffusion"
    title: ClassVar[str] = "AccDiffusion"
    source: ClassVar[str] = "Lin et al. 2024, AccDiffusion: An Accurate Method for Higher-Resolution Image Generation"
    points: ClassVar[tuple[str, ...]] = ("init", "before_unet", "predict", "after_step")
    # The residual changes the latents between steps: solvers with a memory read that as a trend of the picture, and
    # UniPC restarts from its own copy of the latents and drops it.
    needs_first_order: ClassVar[bool] = True
    page_sampler: ClassVar[str] = "ddim"
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    coverage: float = ranged(0.3, 0.0, 1.0, 0.05, label="Coverage", help="How much of a window a thing must fill.")
    residual: float = ranged(3.0, 0.5, 10.0, 0.5, label="Release", help="Higher lets go of the base picture earlier.")
    blur_cells: float = ranged(0.8, 0.1, 2.0, 0.1, label="Blur", help="Smoothing before the whole is thinned out.")
    is_enlarging: bool = True

    @classmethod
    def neutral(cls) -> AccDiffusion:
        """Make the record that changes nothing."""
        return cls(is_enlarging=False)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Lay out the windows of one run."""
        validate(self)
        side = model.spec.image_px // model.spec.px_per_cell
        windows = place_windows((run.height_cells, run.width_cells), side, OVERLAP)
        if self.is_enlarging and len(windows) == 1:
            run.note(f"{self.title} has nothing to enlarge; ask for a picture larger than {model.spec.image_px} px.")
        is_active = self.is_enlarging and len(windows) > 1
        if is_active and not plan_prompt(run.text.prompt).objects:
            run.note(
                f"{self.title} found no thing in the prompt, so every window hears all of it; name one, as 'a boat'."
            )
        if is_active:
            run.watch_seams(windows)
        yield _Enlarging(self, model, run, windows if is_active else [])


class _Enlarging(Hooks):
    """Draw the base picture, then hold the large run to it; without windows, do nothing."""

    def __init__(self, technique: AccDiffusion, model: ModelBundle, run: RunInfo, windows: list[Window]) -> None:
        self.technique, self.run, self.windows = technique, run, windows
        self.size_cells = (run.height_cells, run.width_cells)
        px, side = model.spec.px_per_cell, model.spec.image_px // model.spec.px_per_cell
        self.unit_cells = 2 ** (len(model.unet.config.block_out_channels) - 1)
        self.base_cells, self.factor = shrink(self.size_cells, side, self.unit_cells)
        self.reach_cells = int(side * REACH_FRAC)
        self.base_text = tell_size(run.text, (self.base_cells[1] * px, self.base_cells[0] * px))
        self.window_text = tell_size(run.text, (model.spec.image_px, model.spec.image_px))
        self.generators = fork_generators(run.generators, EXCHANGE_OFFSET)
        self.texts: list[TextCond] = []

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Draw the base picture and write the windows' prompts; returns it, enlarged, at the first noise level."""
        if not self.windows:
            return latents
        self.base, attention = yield from self._draw_base(ctx, turn)
        self.texts = self._write_prompts(attention, ctx.model)
        self.clean = F.interpolate(self.base, size=self.size_cells, mode="bicubic", align_corners=False)
        self.noise = latents
        return add_noise(self.clean, self.noise, ctx.alpha_bar)

    def _draw_base(self, ctx: StepContext, turn: Turn) -> Generator[Progress, None, tuple[torch.Tensor, torch.Tensor]]:
        """Draw the seed's picture at the base size; returns its latents and the attention (b, cells, tokens)."""
        model = ctx.model
        scheduler = make_scheduler(self.run.sampler, model.scheduler_config)
        scheduler.set_timesteps(ctx.num_steps)
        shape = (model.spec.latent_channels, *self.base_cells)
        latents = draw_noise(fork_generators(ctx.generators), shape, model.plan.device) * scheduler.init_noise_sigma
        totals: list[torch.Tensor | float] = [0.0] * len(latents)
        for step, timestep in enumerate(scheduler.timesteps.tolist()):
            preds = []
            with turn():
                for row in range(len(latents)):
                    pred, average = self._look(latents[row : row + 1], timestep, pick_row(self.base_text, row), ctx)
                    totals[row] = totals[row] + average / ctx.num_steps
                    preds.append(pred)
            pred = torch.cat(preds)
            x0 = pred_to_x0(pred, latents, float(scheduler.alphas_cumprod[timestep]), model.spec.prediction)
            latents = scheduler.step(pred, timestep, latents, return_dict=False)[0]
            yield Progress(0, ctx.num_steps, f"base picture, step {step + 1}/{ctx.num_steps}", preview(model, x0))
        return latents, torch.stack([total for total in totals if isinstance(total, torch.Tensor)])

    def _look(
        self, latents: torch.Tensor, timestep: int, text: TextCond, ctx: StepContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict one picture with guidance; also returns the attention (cells, tokens) of the conditional half."""
        model, recorder = ctx.model, AttentionRecorder()
        layers = [layer for layer, _ in list_layers(model.unet) if layer.kind == "cross"]
        layers = [layer for layer in layers if layer.cells == model.spec.coarse_cells]
        names = {layer.name for layer in layers}
        with patched(model.unet, lambda layer: layer.name in names, recorder.make):
            halves = run_halves(model, latents, timestep, text)
        return guide(*halves, ctx.guidance_scale), average_layers(recorder.maps, layers)[1]

    def _write_prompts(self, attention: torch.Tensor, model: ModelBundle) -> list[TextCond]:
        """Write, for every window and picture, the prompt with the things that are there."""
        prompt = self.run.text.prompt
        plan = plan_prompt(prompt)
        tokens = {
            index: find_tokens(prompt, thing.noun_span, model.sides[0]) for index, thing in enumerate(plan.objects)
        }
        seen = [index for index in tokens if tokens[index]]
        if not seen:
            return [self.window_text] * len(self.windows)
        grid = to_grid(attention.shape[1], self.base_cells)
        kept = []
        for maps in attention:
            average = torch.stack([maps[:, list(tokens[index])].mean(1) for index in seen]).unflatten(1, grid)
            masks = torch.stack([to_mask(one) for one in average])
            kept.append(assign_things(masks, self.size_cells, self.windows, self.technique.coverage))
        texts = []
        for number in range(len(self.windows)):
            found = [[seen[place] for place in picture[number]] for picture in kept]
            prompts = [prompt if len(one) == len(plan.objects) else plan.describe_some(one) for one in found]
            with model.lock:
                size_px = (model.spec.image_px, model.spec.image_px)
                conds = [encode_prompt(model, words, size_px=size_px) for words in prompts]
            texts.append(
                replace(
                    self.window_text,
                    hidden_cond=torch.cat([cond.hidden_cond for cond in conds]),
                    pooled_cond=torch.cat([cond.pooled_cond for cond in conds]),
                    prompt=prompts[0] if len(set(prompts)) == 1 else "",
                )
            )
        return texts

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Pull the latents to the noised base picture, fully at first, not at all in the end."""
        if not self.windows:
            return latents
        weight = cosine(ctx) ** self.technique.residual
        return (1 - weight) * latents + weight * add_noise(self.clean, self.noise, ctx.alpha_bar)

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Mix what the windows see with what the thinned-out whole shows, the whole first."""
        if not self.windows:
            return call(latents, ctx.text)
        shift = pick_shift(ctx.step, self.reach_cells, self.unit_cells)
        windows = move_edges(self.windows, self.size_cells, shift)
        local = average_windows(latents, windows, lambda part, index: call(part, self.texts[index]), is_faded=True)
        whole = self._predict_whole(latents, ctx, call)
        weight = cosine(ctx)
        uncond, cond = ((1 - weight) * one + weight * other for one, other in zip(local, whole))
        return uncond, cond

    def _predict_whole(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Predict the whole through thinned-out views that exchange their cells."""
        kind = ctx.model.spec.prediction
        sigma = self.technique.blur_cells * (0.99 * cosine(ctx) + 0.01)
        views = split_dilated(blur(latents, self.factor - 1, sigma), self.factor)
        order = draw_exchange(self.generators, (len(views), *views.shape[-2:]), ctx.model.plan.device)
        views = exchange(views, order)
        preds = [call(view, self.base_text) for view in views]
        halves = []
        for half in zip(*preds):
            x0 = exchange(pred_to_x0(torch.stack(half), views, ctx.alpha_bar, kind), order.argsort(0))
            halves.append(x0_to_pred(join_dilated(x0, self.size_cells), latents, ctx.alpha_bar, kind))
        return halves[0], halves[1]

    def after_step(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Give the finished latents the contrast of the base picture."""
        if not self.windows or ctx.step < ctx.num_steps - 1:
            return latents
        return match_statistics(latents, self.base)


def shrink(size_cells: tuple[int, int], side_cells: int, unit_cells: int) -> tuple[tuple[int, int], int]:
    """Choose the size of the base picture, and how far the whole is thinned out.

    Units:   size_cells (height, width) of the target; side_cells is the trained side; unit_cells is what the UNet
             halves without remainder.
    Returns: (height, width) in multiples of unit_cells, of at most about the trained area, and a whole factor.
    """
    scale = 1.5
    while math.prod(size_cells) > (scale * side_cells) ** 2:
        scale += 0.5
    height, width = (max(1, round(length / scale / unit_cells)) * unit_cells for length in size_cells)
    return (height, width), math.ceil(scale)


def cosine(ctx: StepContext) -> float:
    """Say how early it is: 1 in pure noise, falling to 0 at the end; their c_t."""
    num_timesteps = ctx.model.scheduler_config.get("num_train_timesteps", 1000)
    return 0.5 * (1 + math.cos(math.pi * (num_timesteps - ctx.timestep) / num_timesteps))


def assign_things(
    masks: torch.Tensor, size_cells: tuple[int, int], windows: Sequence[Window], coverage: float
) -> list[list[int]]:
    """Say which things each window shows.

    Shapes:  masks (k, h, w) bool, over the whole picture on a coarser grid.
    Units:   size_cells (height, width) of the picture that the windows cover; coverage is a share of a window.
    Returns: for each window the things whose mask fills at least that share of it, or that it holds for the most part.
    Source:  arXiv 2407.10738; the second rule is ours.
    """
    large = F.interpolate(masks.float()[None], size=size_cells, mode="nearest")[0]
    parts = [large[:, down, across] for down, across in windows]
    return [
        [
            index
            for index, (filled, held) in enumerate(zip(part.mean((1, 2)), part.sum((1, 2)) / large.sum((1, 2))))
            if filled >= coverage or held >= HELD_FRAC
        ]
        for part in parts
    ]
