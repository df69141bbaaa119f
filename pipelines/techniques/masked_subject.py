"""Masked subject: one picture of a thing is enough to draw it elsewhere, without learning.

Once the model has settled where the thing will be, the given one is cut out and put there, into the clean estimate; the
steps that remain redraw it in the prompt's manner, as far as `hold` lets them. In self-attention each patch of the new
picture also looks at the patches of the given one that show the thing, and at no other: what stands around it is not
carried along. Where the thing is being drawn says the word's cross-attention of the step before.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F

from pipelines.attention import AttentionLayer, Processor, patched, run_attention
from pipelines.attention_maps import to_grid
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.schedules import list_timesteps
from pipelines.style_attention import StyledProcessor, join_keys
from pipelines.style_reference import Features, choose_layers, read_features
from pipelines.subject_paste import paste
from pipelines.subject_source import SubjectSource, fit_mask
from pipelines.techniques.base import Hooks, Turn
from pipelines.types import Progress, RunInfo, StepContext
from pipelines.word_places import WordPlaces

# Earlier than at this share of the steps nobody knows where the thing will be; from the second on the model redraws it.
HOLD_FROM, SOFT_FROM = 0.25, 0.7


@dataclass(frozen=True)
class MaskedSubject:
    """Draw the thing of one picture in a new one, at once.

    Units:   strength is the share of attention that goes to the given thing where it is being drawn; 0 is plain
             attention, bit for bit. hold is the share of the given thing in the clean estimate of the late steps; 0
             leaves it to attention alone. depth as in Visual Style Prompting. words are the positions of the thing's
             name in the prompt; without any, every patch may look at the thing, and it is not put in; rivals those of
             other things, once or for each picture.
    Points:  init (reads the picture), before_unet (knows the step), edit_x0 (puts the thing in), patch (self-attention;
             watches cross-attention).
    Source:  Song et al. 2024, MoMA, arXiv 2404.05674: masked keys and values of one picture, an attention shortcut, the
             word's map of the step before, thresholded at 0.2.
    Differs: no trained adapter and no language model: one softmax over own and given patches instead of a second
             attention that is added; the picture is noised to the level of each step instead of read at level 0. The
             thing is put into the picture at a middle noise level besides, because patches of attention are too coarse
             for marks that nobody learned.
    """

    name: ClassVar[str] = "masked_subject"
    title: ClassVar[str] = "Instant"
    source: ClassVar[str] = "Song et al. 2024, MoMA: Multimodal LLM Adapter for Fast Personalized Image Generation"
    points: ClassVar[tuple[str, ...]] = ("init", "before_unet", "edit_x0", "patch")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = True

    references: tuple[SubjectSource, ...] = ()
    words: tuple[int, ...] = ()
    rivals: tuple[tuple[int, ...], ...] = ()
    strength: float = ranged(0.7, 0.0, 1.0, 0.05, label="Strength", help="How much is taken from the thing given.")
    hold: float = ranged(
        0.6, 0.0, 1.0, 0.05, label="Hold", help="How much the thing stays as given; 0 never puts it in."
    )
    depth: int = ranged(4, 1, 4, 1, label="Depth", help="1 changes the finest decoder layers, 4 all layers.")
    from_frac: float = ranged(0.05, 0.0, 1.0, 0.05, label="From", help="Share of the steps before the thing is heard.")
    until_frac: float = ranged(0.9, 0.0, 1.0, 0.05, label="Until", help="Share of the steps until which it is heard.")

    @classmethod
    def neutral(cls) -> MaskedSubject:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Say what cannot be heard; the attention is changed step by step."""
        validate(self)
        if self.strength and not self.references:
            run.note(f"{self.title} has no picture of the thing, so nothing changes; give one.")
        yield _SubjectHooks(self, model, run)


class _SubjectHooks(Hooks):
    """Hold what was read in the picture, and where the thing is being drawn."""

    def __init__(self, technique: MaskedSubject, model: ModelBundle, run: RunInfo) -> None:
        self.technique, self.run = technique, run
        self.layers = choose_layers(model, technique.depth)
        self.size_cells = (run.height_cells, run.width_cells)
        self.timesteps: list[int] = []
        self.read: list[dict[int, Features]] = []
        # None outside the technique's share of the steps, and while other techniques draft before the first.
        self.heard: list[Features] | None = None
        # Where the thing's name drew attention in the step before.
        self.places = WordPlaces(technique.words, self.size_cells, technique.rivals)
        self.place: torch.Tensor | None = None
        # The estimate that the thing was put into, and where; found once.
        self.held: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        # Pictures of a run may come in several calls: how many each layer has already met in this step.
        self.met: dict[str, int] = {}

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Read the picture at the steps that will hear it."""
        technique, run = self.technique, self.run
        if technique.strength and technique.references:
            steps = list_timesteps(run.sampler, ctx.model.scheduler_config, run.num_steps)
            low, high = technique.from_frac, technique.until_frac
            self.timesteps = [at for step, at in enumerate(steps) if low <= step / run.num_steps < high]
            for given in technique.references:
                read = read_features(
                    ctx.model, given.source, self.timesteps, sampler=run.sampler, num_steps=run.num_steps
                )
                self.read.append((yield from read))
        return latents

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Take out what was read at this step's noise level, and where the thing was in the step before."""
        is_heard = self.read and ctx.timestep in self.timesteps
        self.heard = [features[ctx.timestep] for features in self.read] if is_heard else None
        self.place, self.met = self.places.take(), {}
        return latents

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Let self-attention look at the thing, and watch where cross-attention sees its name."""
        if not self.read or not self.technique.strength:
            return nullcontext()

        def make(layer: AttentionLayer, previous: Processor) -> Processor:
            attend = partial(self.attend, layer=layer.name, kernel=model.plan.kernel)
            return StyledProcessor(previous, model.plan.kernel, attend, lambda: self.heard is not None)

        stack = ExitStack()
        stack.enter_context(patched(model.unet, lambda layer: layer.name in self.layers, make))
        if self.technique.words:
            stack.enter_context(self.places.watch(model))
        return stack

    def edit_x0(self, x0: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Put the thing into the clean estimate, at the steps that hold it there."""
        technique = self.technique
        first = technique.references[0] if self.read and technique.strength else None
        if first is None or first.outline is None or not technique.hold or ctx.fraction < HOLD_FROM:
            return x0
        if self.held is None:
            place = self.places.average()
            if place is None:
                return x0
            self.held = paste(ctx.model, x0, first, place)
        pasted, inside, new = self.held
        # First all that changed, so that nothing is left of the thing that the model had begun; then the thing alone.
        return torch.lerp(x0, pasted, new if ctx.fraction < SOFT_FROM else inside * technique.hold)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, layer: str, kernel: str) -> torch.Tensor:
        """Mix the values of the prompt's half with the thing's; shapes (b2, heads, n, d)."""
        assert self.heard is not None
        (q_uncond, q_cond), (k_uncond, k_cond), (v_uncond, v_cond) = (part.chunk(2) for part in (q, k, v))
        others = [features[layer] for features in self.heard]
        masks = [fit_mask(given.mask, heard[1].shape[2]) for given, heard in zip(self.technique.references, others)]
        shown = [tuple(part[:, :, mask > 0] for part in heard) for mask, heard in zip(masks, others)]
        share = torch.tensor(self.technique.strength / len(shown))
        keys, values, bias = join_keys(
            (k_cond, v_cond),
            shown,  # type: ignore[arg-type]
            [torch.tensor(1.0 - self.technique.strength), *[share] * len(shown)],
        )
        mixed = run_attention(q_cond, keys, values, mask=bias, kernel=kernel)
        plain = run_attention(q, k, v, kernel=kernel)
        where = self._fit_place(layer, q.shape[2], len(q_cond)).to(mixed)
        plain_uncond, plain_cond = plain.chunk(2)
        return torch.cat([plain_uncond, torch.lerp(plain_cond, mixed, where)])

    def _fit_place(self, layer: str, num_patches: int, num_images: int) -> torch.Tensor:
        """Bring the thing's place in the pictures of this call to a layer's grid. Shapes: returns (b or 1, 1, n, 1)."""
        first = self.met.get(layer, 0)
        self.met[layer] = first + num_images
        if self.place is None:
            return torch.ones(1, 1, 1, 1)
        size = to_grid(num_patches, self.size_cells)
        place = self.place[first : first + num_images]
        return F.adaptive_avg_pool2d(place, size).flatten(1)[:, None, :, None]
