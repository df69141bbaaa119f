"""Draft collage: every phrase of a layout is drafted alone and put into its box, and the whole is drawn from that.

A draft is a run that stops while it is still a blur with a place and a colour but no style. Their collage, noised
again, takes the place of the latents in the first steps of the run.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F

from pipelines.agreement import find_placed
from pipelines.attention import KernelProcessor, patched
from pipelines.attention_maps import pick_row, smooth
from pipelines.cfg_batch import guide, run_halves
from pipelines.images import decode, preview
from pipelines.layout import Box
from pipelines.model import ModelBundle, TextCond
from pipelines.params import ranged, validate
from pipelines.prompt_plan import plan_prompt
from pipelines.regions import Regions, read_regions
from pipelines.schedules import add_noise, make_scheduler, pred_to_x0
from pipelines.seeding import draw_noise, fork_generators
from pipelines.techniques.base import Hooks, Turn
from pipelines.text_side import encode_prompt
from pipelines.types import Progress, RunInfo, StepContext

# A cell belongs to a drafted thing if the words move it at least this share of what they move most.
EDGE_FRAC = 0.4
# A thing is stretched to its box at most so much more along one side than along the other.
MAX_STRETCH = 1.5
# Drafts draw from the run's seed plus multiples of this, so that they shift nobody else's draws.
DRAFT_OFFSET, RETRY_OFFSET = 0x44726166, 0x72657472
WHOLE = Box("", 0.0, 0.0, 1.0, 1.0)
Edges = tuple[float, float, float, float]


@dataclass(frozen=True)
class DraftCollage:
    """Draft each phrase alone, paste the drafts into their boxes, and draw the picture from the collage.

    Units:  held_frac is the share of the steps that drafts take, and in which the run is held to their collage; 0 is
            plain sampling, bit for bit.
    Points: init (the drafts), before_unet (holds the run).
    Source: Meng et al. 2022, SDEdit, arXiv 2108.01073 (a rough collage, noised and drawn again); Couairon et al. 2022,
            DiffEdit, arXiv 2210.11427, section 3.2 (a thing is where its words change the prediction).
    Differs: the collage is not the user's but pasted together from unfinished runs of the same model; a thing's cells
             are found in the clean estimates of those runs themselves, not in those of noised copies. Where there is a
            scene parser it looks at the drafts: it knows better where a thing ends, and a thing that it does not see
            is drafted again.
    """

    name: ClassVar[str] = "draft_collage"
    title: ClassVar[str] = "Draft collage"
    source: ClassVar[str] = "after Meng et al. 2022, SDEdit: Guided Image Synthesis and Editing"
    points: ClassVar[tuple[str, ...]] = ("init", "before_unet")
    # The collage replaces the latents of several steps: solvers with a memory read that as a trend of the picture.
    elsewhere: ClassVar[str] = "With SD 1.5 and SDXL there is no scene parser: its drafts are not looked at."
    needs_first_order: ClassVar[bool] = True
    page_sampler: ClassVar[str] = "ddim"
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = True

    boxes: tuple[Box, ...] = ()
    held_frac: float = ranged(0.5, 0.0, 0.8, 0.05, label="Held", help="Share of the steps that follow the collage.")
    max_retries: int = ranged(1, 0, 5, 1, label="Retries", help="How often a thing is drafted again if it is not seen.")

    @classmethod
    def neutral(cls) -> DraftCollage:
        """Make the record that changes nothing."""
        return cls(held_frac=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Read the phrases, and the setting that is left of the prompt without its things."""
        validate(self)
        if self.held_frac == 0.0:
            yield Hooks()
            return
        regions = read_regions(model, run, self.boxes)
        if not regions.boxes:
            run.note(f"{self.title} found nothing to place; draw boxes, or name things in the prompt.")
            yield Hooks()
            return
        run.sketch_boxes(regions.boxes)
        px = model.spec.px_per_cell
        with model.lock:
            size_px = (run.width_cells * px, run.height_cells * px)
            setting = encode_prompt(model, plan_prompt(run.text.prompt).setting, size_px=size_px)
        hidden, pooled = run.text.hidden_uncond, run.text.pooled_uncond
        told = (setting, *regions.texts)
        texts = [replace(text, hidden_uncond=hidden, pooled_uncond=pooled) for text in told]
        yield _Pasting(self, regions, texts, run)


class _Pasting(Hooks):
    """Draft, paste, and hold the first steps of the run to the collage; texts are the setting's and each phrase's."""

    def __init__(self, technique: DraftCollage, regions: Regions, texts: list[TextCond], run: RunInfo) -> None:
        self.technique, self.regions, self.texts, self.run = technique, regions, texts, run
        # The first step may be pure noise, which holds nothing of a collage.
        self.num_held = min(run.num_steps, max(2, round(technique.held_frac * run.num_steps)))

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Make the collage of every picture; returns it at the first noise level."""
        collages = []
        for row in range(len(latents)):
            collages.append((yield from self._paste(latents[row : row + 1], row, ctx, turn)))
        self.collage, self.noise = torch.cat(collages), latents
        self.run.sketch_picture("The collage of drafts", preview(ctx.model, self.collage[:1]), self.regions.boxes)
        return add_noise(self.collage, self.noise, ctx.alpha_bar)

    def _paste(
        self, noise: torch.Tensor, row: int, ctx: StepContext, turn: Turn
    ) -> Generator[Progress, None, torch.Tensor]:
        """Draft the setting from the picture's own noise, each thing from other noise, and put them together."""
        collage, _ = yield from self._draft(noise, pick_row(self.texts[0], row), self._name(0, row), ctx, turn)
        for number, box in enumerate(self.regions.boxes, 1):
            draft, edges = yield from self._draft_thing(noise, number, row, ctx, turn)
            collage = put_into_box(collage, draft, edges, box)
        return collage

    def _draft_thing(
        self, noise: torch.Tensor, number: int, row: int, ctx: StepContext, turn: Turn
    ) -> Generator[Progress, None, tuple[torch.Tensor, Edges]]:
        """Draft one thing until the judge sees it, or as often as allowed; returns the draft and where it is."""
        shape, judge = (noise.shape[1], noise.shape[2], noise.shape[3]), ctx.model.judge
        wanted = judge.read(self.regions.boxes[number - 1].phrase) if judge else None
        for count in range(1 + (self.technique.max_retries if wanted else 0)):
            own = fork_generators((ctx.generators[row],), number * DRAFT_OFFSET + count * RETRY_OFFSET)
            fresh = draw_noise(own, shape, ctx.model.plan.device)
            text, name = pick_row(self.texts[number], row), self._name(number, row, count)
            draft, changed = yield from self._draft(fresh, text, name, ctx, turn)
            if judge and wanted:
                with ctx.model.lock:
                    picture = decode(ctx.model, draft)[0]
                grade, reach = find_placed(wanted, WHOLE, judge.parser.parse([picture])[0], picture.size)
                if grade == 1.0 and reach:
                    return draft, (reach.x0 * shape[2], reach.y0 * shape[1], reach.x1 * shape[2], reach.y1 * shape[1])
        return draft, find_edges(changed)

    def _draft(
        self, latents: torch.Tensor, text: TextCond, name: str, ctx: StepContext, turn: Turn
    ) -> Generator[Progress, None, tuple[torch.Tensor, torch.Tensor]]:
        """Walk the first steps of a run of its own.

        Returns: its clean estimate (1, c, h, w), and how much the words change that, (h, w), over its second half.
        """
        model = ctx.model
        # Attention that other techniques direct knows the places of the whole picture, not those of a draft.
        plain = KernelProcessor(model.plan.kernel)
        scheduler = make_scheduler(self.run.sampler, model.scheduler_config)
        scheduler.set_timesteps(ctx.num_steps)
        x0, changed = latents, latents.new_zeros(latents.shape[2:])
        for step, timestep in enumerate(scheduler.timesteps.tolist()[: self.num_held]):
            alpha_bar = float(scheduler.alphas_cumprod[timestep])
            with turn(), patched(model.unet, lambda layer: True, lambda layer, previous: plain):
                halves = run_halves(model, latents, timestep, text)
            without, told = (pred_to_x0(half, latents, alpha_bar, model.spec.prediction) for half in halves)
            pred = guide(*halves, ctx.guidance_scale)
            x0 = pred_to_x0(pred, latents, alpha_bar, model.spec.prediction)
            latents = scheduler.step(pred, timestep, latents, return_dict=False)[0]
            if 2 * step >= self.num_held - 1:
                changed = changed + (told - without)[0].abs().mean(0)
            yield Progress(0, ctx.num_steps, f"{name}: step {step + 1}", preview(model, x0))
        return x0, smooth(changed[None])[0]

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Put the collage, at the noise level of the step, in the place of the latents."""
        return add_noise(self.collage, self.noise, ctx.alpha_bar) if ctx.step < self.num_held else latents

    def _name(self, number: int, row: int, count: int = 0) -> str:
        """Say what is being drafted."""
        what = self.regions.boxes[number - 1].phrase if number else "the setting"
        picture = f"picture {row + 1} of {self.run.num_images}, " if self.run.num_images > 1 else ""
        again = f", try {count + 1}" if count else ""
        return f"{picture}draft of {what}{again}"


def find_edges(changed: torch.Tensor) -> Edges:
    """Return the edges (x0, y0, x1, y1), in cells, of what is at least EDGE_FRAC of the highest value of (h, w)."""
    cells = changed >= EDGE_FRAC * changed.max()
    rows, columns = cells.any(1).nonzero().flatten(), cells.any(0).nonzero().flatten()
    return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1


def put_into_box(canvas: torch.Tensor, draft: torch.Tensor, edges: Edges, box: Box) -> torch.Tensor:
    """Copy a rectangle of a draft into a box of the canvas, scaled to fit and fading out within a cell.

    Shapes:  canvas, draft (1, c, h, w); edges (x0, y0, x1, y1) in cells of the draft.
    Returns: (1, c, h, w); no argument is modified. Where the shapes differ by more than MAX_STRETCH, the rectangle does
             not fill the box along one side, and lies in its middle.
    """
    height, width = canvas.shape[2:]
    x0, y0, x1, y1 = edges
    scale_x, scale_y = (box.x1 - box.x0) * width / (x1 - x0), (box.y1 - box.y0) * height / (y1 - y0)
    scale_x, scale_y = min(scale_x, MAX_STRETCH * scale_y), min(scale_y, MAX_STRETCH * scale_x)
    from_x = torch.arange(width) + 0.5 - (box.x0 + box.x1) / 2 * width
    from_y = torch.arange(height) + 0.5 - (box.y0 + box.y1) / 2 * height
    source_x = (from_x / scale_x + (x0 + x1) / 2) / width * 2 - 1
    source_y = (from_y / scale_y + (y0 + y1) / 2) / height * 2 - 1
    grid = torch.stack(torch.meshgrid(source_x, source_y, indexing="xy"), dim=-1)[None].to(draft)
    copied = F.grid_sample(draft, grid, mode="bilinear", padding_mode="border", align_corners=False)
    across = ((x1 - x0) * scale_x / 2 + 0.5 - from_x.abs()).clamp(0, 1)
    down = ((y1 - y0) * scale_y / 2 + 0.5 - from_y.abs()).clamp(0, 1)
    mask = (down[:, None] * across[None, :]).to(canvas)
    return mask * copied + (1 - mask) * canvas
