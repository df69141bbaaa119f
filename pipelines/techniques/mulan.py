"""MuLan: things are drawn one after another, each in its own part of the picture, and looked at before the next.

All but the last thing are drawn before the run begins, in runs of their own whose every step is kept. Each later run
pastes those steps outside its own part, so that what stands there stays, while attention pulls the new thing in.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch

from pipelines.agreement import Mention, find_placed
from pipelines.attention import list_layers
from pipelines.attention_loss import Verdict, walk_down
from pipelines.attention_maps import measure_inside, observe, pick_row
from pipelines.cfg_batch import guide, run_halves
from pipelines.errors import UserError
from pipelines.images import decode, preview
from pipelines.layout import Box, make_free_mask, propose_boxes, to_slabs
from pipelines.model import ModelBundle, TextCond
from pipelines.params import ranged, validate
from pipelines.prompt_plan import find_tokens, join_phrases, plan_prompt
from pipelines.schedules import make_scheduler, pred_to_x0
from pipelines.seeding import draw_noise, fork_generators
from pipelines.techniques.base import Hooks, Turn
from pipelines.text_side import encode_prompt
from pipelines.types import Progress, RunInfo, StepContext

MAX_THINGS = 4
MAX_UPDATES = 3
LOSS_REACHED = 0.2
# The last thing is looked at before its run, after this share of the steps: by then its place and colour are settled.
REHEARSED_FRAC = 0.5
RETRY_OFFSET = 1_000_003  # far from seed + k, which the other pictures of the run use
VERDICTS = {0.0: "not found", 0.5: "wrong colour or place", 1.0: "right"}


@dataclass(frozen=True)
class MuLan:
    """Draw the things of a prompt one after another, and draw again what is not there.

    Units:  pull_frac is the length of one update at full loss as a share of the latents' own; guided_frac and
            kept_frac are shares of the steps, from the first; is_progressive off is plain sampling, bit for bit.
    Points: init (all things but the last), before_unet (the pull), after_step (keeps what was drawn).
    Source: Li et al. 2024, arXiv 2402.12741, and its released code.
    Differs: grammar and a fixed layout instead of a language model, a scene parser instead of a vision-language
             model; parts never overlap, and what an earlier thing needs is kept by its parsed box, not its attention;
             attention is pulled into the middle of the part, or things grow too large; updates are fewer, and
             normalised, because a gradient's size depends on the model; a new try changes the noise, not the weight;
             the last thing's tries are looked at half-way. Other techniques change the UNet in all stages, but
             latents, guidance and clean estimates only in the run that draws the last thing.
    """

    name: ClassVar[str] = "mulan"
    title: ClassVar[str] = "MuLan"
    source: ClassVar[str] = "Li et al. 2024, MuLan: Multimodal-LLM Agent for Progressive Multi-Object Diffusion"
    points: ClassVar[tuple[str, ...]] = ("init", "before_unet", "after_step")
    # Pull and paste change the latents between steps; solvers with a memory take that for a trend, or drop it (UniPC).
    needs_first_order: ClassVar[bool] = True
    page_sampler: ClassVar[str] = "ddim"
    elsewhere: ClassVar[str] = "Without a scene parser, as with SD 1.5 and SDXL, nothing is checked or drawn again."
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = True

    pull_frac: float = ranged(0.1, 0.0, 0.3, 0.01, label="Pull", help="How hard a thing is pulled into its part.")
    guided_frac: float = ranged(0.2, 0.0, 1.0, 0.05, label="Guided", help="Share of the steps with a pull.")
    kept_frac: float = ranged(0.8, 0.0, 1.0, 0.05, label="Kept", help="Share of the steps that keep earlier things.")
    max_retries: int = ranged(1, 0, 5, 1, label="Retries", help="How often a wrong thing is drawn again.")
    is_progressive: bool = True

    @classmethod
    def neutral(cls) -> MuLan:
        """Make the record that changes nothing."""
        return cls(is_progressive=False)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Plan the stages of one run."""
        validate(self)
        stages = _plan_stages(model, run) if self.is_progressive else ()
        run.sketch_boxes([stage.box for stage in stages])
        yield _Painter(self, stages, model, run)


@dataclass(frozen=True)
class _Stage:
    """Hold one thing to draw: its box and the slab around it, its prompt, its noun's tokens, what to look for."""

    box: Box
    slab: Box
    text: TextCond
    words: tuple[int, ...]
    mention: Mention | None


def _plan_stages(model: ModelBundle, run: RunInfo) -> tuple[_Stage, ...]:
    """Give each thing its part and its prompt; () if there is nothing to take turns; UserError for too many."""
    plan = plan_prompt(run.text.prompt)
    numbers = [number for number, thing in enumerate(plan.objects) for _ in range(thing.count)]
    if len(numbers) > MAX_THINGS:
        raise UserError(
            f"{MuLan.title} draws at most {MAX_THINGS} things, but the prompt names {len(numbers)}; name fewer."
        )
    if len(numbers) < 2:
        run.note(f"{MuLan.title} had nothing to do: it needs a prompt that names two to {MAX_THINGS} things.")
        return ()
    boxes = propose_boxes(plan)
    stages = []
    for index, (box, slab, number) in enumerate(zip(boxes, to_slabs(boxes), numbers, strict=True)):
        text, span = run.text, plan.objects[number].noun_span
        if index < len(boxes) - 1:
            named = plan.front + " and ".join(one.phrase for one in boxes[max(0, index - 1) : index + 1])
            span = (len(named) - len(box.phrase.split()[-1]), len(named))
            text = _encode(model, run, join_phrases(named, plan.setting))
        mention = model.judge.read(box.phrase) if model.judge else None
        stages.append(_Stage(box, slab, text, find_tokens(text.prompt, span, model.sides[0]), mention))
    unknown = dict.fromkeys(stage.box.phrase for stage in stages if not stage.mention)
    if model.judge is None:
        run.note(f"{MuLan.title} could not look at what it drew: there is no scene parser for {model.spec.name}.")
    elif unknown:
        run.note(f"{MuLan.title} could not look for {' and '.join(unknown)}: the scene parser does not know it.")
    return tuple(stages)


def _encode(model: ModelBundle, run: RunInfo, prompt: str) -> TextCond:
    """Encode a stage's prompt; every stage is guided away from what the run is guided away from."""
    px = model.spec.px_per_cell
    with model.lock:
        own = encode_prompt(model, prompt, size_px=(run.width_cells * px, run.height_cells * px))
    return replace(own, hidden_uncond=run.text.hidden_uncond, pooled_uncond=run.text.pooled_uncond)


@dataclass(frozen=True)
class _Try:
    """Hold a drawn stage: its latents from the noise on, the sum of the things' grades, and how far each reaches."""

    path: list[torch.Tensor] = field(default_factory=list)
    grade: float = 0.0
    taken: tuple[Box, ...] = ()


class _Painter(Hooks):
    """Draw picture after picture, thing after thing; the run itself draws the last thing of all pictures."""

    def __init__(self, technique: MuLan, stages: tuple[_Stage, ...], model: ModelBundle, run: RunInfo) -> None:
        self.technique, self.stages, self.run = technique, stages, run
        grids = (model.spec.coarse_cells, model.spec.coarsest_cells)
        self.layers = [layer for layer, _ in list_layers(model.unet) if layer.kind == "cross" and layer.cells in grids]
        # Of each picture, the stage before the last.
        self.drawn: list[_Try] = []

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Draw everything but the last thing; returns the noise from which the run draws that one."""
        starts = []
        for row in range(len(latents) if self.stages else 0):
            picture = _Picture(self, row, ctx, turn)
            starts.append((yield from picture.paint(latents[row : row + 1])))
            self.drawn.append(picture.drawn)
        return torch.cat(starts) if starts else latents

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Pull the last thing into its part."""
        own = [replace(ctx, text=pick_row(ctx.text, row)) for row in range(len(self.drawn))]
        parts = zip(latents.split(1), self.drawn, own)
        rows = [self.pull(part, self.stages[-1], drawn, one) for part, drawn, one in parts]
        return torch.cat(rows) if rows else latents

    def after_step(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Keep the other things."""
        rows = [self.keep(part, self.stages[-1], drawn, ctx) for part, drawn in zip(latents.split(1), self.drawn)]
        return torch.cat(rows) if rows else latents

    def pull(self, latents: torch.Tensor, stage: _Stage, before: _Try, ctx: StepContext) -> torch.Tensor:
        """Move one picture's latents until the thing's attention lies in its box, at most MAX_UPDATES times."""
        if ctx.fraction >= self.technique.guided_frac or self.technique.pull_frac == 0.0 or not stage.words:
            return latents
        fit_mask, size = partial(make_free_mask, stage.box, before.taken), (latents.shape[2], latents.shape[3])

        def judge(leaf: torch.Tensor) -> Verdict:
            maps = observe(ctx.model, leaf, ctx.timestep, ctx.text, self.layers)
            inside = measure_inside(maps.values(), stage.words, fit_mask, size)
            loss = ((1 - inside) ** 2).mean()  # arXiv 2402.12741, the loss E
            return Verdict(loss, float(loss.detach()) < LOSS_REACHED)

        return walk_down(latents, judge, self.technique.pull_frac, MAX_UPDATES)

    def keep(self, latents: torch.Tensor, stage: _Stage, before: _Try, ctx: StepContext) -> torch.Tensor:
        """Paste what was drawn before, as it was after this step, outside the stage's part."""
        done = ctx.step + 1
        if not before.path or done > self.technique.kept_frac * ctx.num_steps:
            return latents
        return paste(latents, before.path[done], stage.slab, before.taken)


class _Picture:
    """Draw the stages of one picture; `drawn` is the last finished one."""

    def __init__(self, painter: _Painter, row: int, ctx: StepContext, turn: Turn) -> None:
        self.painter, self.row, self.ctx, self.turn, self.stages = painter, row, ctx, turn, painter.stages
        self.max_retries = painter.technique.max_retries if any(stage.mention for stage in self.stages) else 0
        self.drawn = _Try()
        self.redraws: list[str] = []

    def paint(self, noise: torch.Tensor) -> Generator[Progress, None, torch.Tensor]:
        """Draw all things but the last, and find a noise for the last; returns that noise."""
        *earlier, last = range(len(self.stages))
        for index in earlier:
            self.drawn = yield from self._draw_best(noise, index, self.ctx.num_steps)
        if self.max_retries:
            begun = yield from self._draw_best(noise, last, max(1, round(REHEARSED_FRAC * self.ctx.num_steps)))
        else:
            begun = _Try([self._begin(noise, last, 0)])
        if self.redraws:
            which = f" of picture {self.row + 1}" if self.painter.run.num_images > 1 else ""
            self.painter.run.note(f"{MuLan.title}, things drawn again{which}: {'; '.join(self.redraws)}.")
        return begun.path[0]

    def _draw_best(self, noise: torch.Tensor, index: int, num_steps: int) -> Generator[Progress, None, _Try]:
        """Draw one thing until it is right and nothing else got worse, or as often as allowed; keeps the best try."""
        stage, best, count = self.stages[index], None, 0
        goal = self.drawn.grade + (stage.mention is not None)
        while best is None or (best.grade < goal and count <= self.max_retries):
            path, x0 = yield from self._draw(self._begin(noise, index, count), index, num_steps, count)
            grade, taken = self._look(x0, index, count)
            best = _Try(path, grade, taken) if best is None or grade > best.grade else best
            count += 1
        if stage.mention:
            times = {1: "not once", 2: "once"}.get(count, f"{count - 1} times")
            self.redraws.append(f"{stage.box.phrase} {times}{'' if best.grade >= goal else ', still not right'}")
        return best

    def _draw(
        self, latents: torch.Tensor, index: int, num_steps: int, count: int
    ) -> Generator[Progress, None, tuple[list[torch.Tensor], torch.Tensor]]:
        """Walk the first steps of a run that draws one thing; returns the latents at every step, and the last x0."""
        stage, model, painter = self.stages[index], self.ctx.model, self.painter
        text = pick_row(stage.text, self.row)
        scheduler = make_scheduler(painter.run.sampler, model.scheduler_config)
        scheduler.set_timesteps(self.ctx.num_steps)
        path, x0 = [latents], latents
        for step, timestep in enumerate(scheduler.timesteps.tolist()[:num_steps]):
            alpha_bar = float(scheduler.alphas_cumprod[timestep])
            place = {"step": step, "fraction": step / self.ctx.num_steps, "timestep": timestep, "alpha_bar": alpha_bar}
            ctx = replace(self.ctx, text=text, sigma=math.sqrt(1 - alpha_bar), **place)
            with self.turn():
                latents = painter.pull(latents, stage, self.drawn, ctx)
                pred = guide(*run_halves(model, latents, timestep, text), ctx.guidance_scale)
                x0 = pred_to_x0(pred, latents, alpha_bar, model.spec.prediction)
                latents = scheduler.step(pred, timestep, latents, return_dict=False)[0]
                latents = painter.keep(latents, stage, self.drawn, ctx)
            path.append(latents)
            note = f"{self._name(index, count)}: step {step + 1}/{num_steps}"
            yield Progress(0, ctx.num_steps, note, preview(model, x0))
        return path, x0

    def _begin(self, noise: torch.Tensor, index: int, count: int) -> torch.Tensor:
        """Make the noise of a try: the picture's own at first, then other noise; outside its part, what was drawn."""
        if count:
            # A seed of its own for each try leaves the run's generators untouched.
            own = fork_generators((self.ctx.generators[self.row],), RETRY_OFFSET * (MAX_THINGS * count + index))
            noise = draw_noise(own, (noise.shape[1], noise.shape[2], noise.shape[3]), self.ctx.model.plan.device)
        if not self.drawn.path:
            return noise
        return paste(noise, self.drawn.path[0], self.stages[index].slab, self.drawn.taken)

    def _look(self, x0: torch.Tensor, index: int, count: int) -> tuple[float, tuple[Box, ...]]:
        """Show a try, grade the things drawn so far and measure them; 0 where there is nobody who could look."""
        model, stage, found, picture = self.ctx.model, self.stages[index], [], preview(self.ctx.model, x0)
        wanted = [(one.mention, one.slab) for one in self.stages[: index + 1] if one.mention]
        if model.judge and wanted:
            with model.lock:
                picture = decode(model, x0)[0]
            scene = model.judge.parser.parse([picture])[0]
            found = [find_placed(mention, slab, scene, picture.size) for mention, slab in wanted]
        if self.row == 0:
            verdict = f": {VERDICTS[found[-1][0]]}" if stage.mention else ""
            if sum(grade for grade, _ in found) < self.drawn.grade + 1 and verdict == ": right":
                verdict = ": right, but an earlier thing suffered"
            caption = f"Thing {index + 1}, {stage.box.phrase}, try {count + 1}{verdict}"
            self.painter.run.sketch_picture(caption, picture, [stage.box])
        return sum(grade for grade, _ in found), tuple(reach for _, reach in found if reach)

    def _name(self, index: int, count: int) -> str:
        """Say what is being drawn."""
        total = self.painter.run.num_images
        picture = f"picture {self.row + 1} of {total}, " if total > 1 else ""
        again = f", try {count + 1}" if count else ""
        return f"{picture}thing {index + 1} of {len(self.stages)}, {self.stages[index].box.phrase}{again}"


def paste(latents: torch.Tensor, under: torch.Tensor, slab: Box, taken: Sequence[Box]) -> torch.Tensor:
    """Return the latents where a new thing may be, and `under` elsewhere; shapes (b, c, h, w)."""
    mask = make_free_mask(slab, taken, latents.shape[2], latents.shape[3]).to(latents.device)
    return mask * latents + (1 - mask) * under
