"""InitNO: before the first step, the noise itself is moved until the prompt's things claim places of their own.

One look at the attention of the first step tells whether a noise will leave a thing out or melt two into one. Its mean
and variance are optimised, never far from normal; if that does not help, a fresh noise is tried.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from pipelines.attention_loss import (
    Sight,
    Verdict,
    Watch,
    differentiate,
    find_things,
    list_decoder_layers,
    make_watch,
    neglect,
    overlap,
    see,
    stray,
    walk_down,
)
from pipelines.model import ModelBundle
from pipelines.params import flag, ranged, validate
from pipelines.prompt_plan import PromptObject
from pipelines.seeding import draw_noise, fork_generator
from pipelines.techniques.base import Hooks, Turn
from pipelines.types import Progress, RunInfo, StepContext

# Losses below which a noise is good, and the neglect above which places do not count yet.
NEGLECT_GOAL, OVERLAP_GOAL, NEGLECT_FIRST = 0.2, 0.3, 0.5
# Places are compared on the decoder's coarsest grid with at least this side; on a coarser one, two small things share.
OWN_CELLS = 16
# Adam's memory of slopes and of their squares, and its floor, in units of the slope's own mean square root.
BETAS, FLOOR = (0.9, 0.999), 1.0
# Updates while sampling: until which share of the run, at which shares repeatedly, and the weights of their losses.
UPDATED_FRAC, REFINED_FRACS, RANGE = 0.5, (0.2, 0.4), (1.0, 0.5)
STRAY_WEIGHT, DRIFT_WEIGHT, MEMORY = 0.1, 0.1, 0.9


@dataclass(frozen=True)
class InitNo:
    """Optimise the start noise until every thing has attention, in a place of its own.

    Units:  iterations is the length of a round, each of which costs a UNet pass with gradients; rounds counts noises,
            the first being the seed's; rate is how far an iteration moves the noise, in its standard deviations;
            kl_limit bounds the mean divergence of a number's distribution from the normal one. With 0 iterations and
            without updates, it is plain sampling, bit for bit.
    Points: init, before_unet (updates).
    Source: Guo et al. 2024, arXiv 2404.04650, and its released code.
    Differs: far fewer iterations, for a CPU. Slopes are normalised before Adam, whose floor would else depend on the
             model. The noise is shrunk back to the limit instead of stepping on the divergence, and of all looks the
             best is kept. The last round goes on from the best noise instead of starting it again. Words are watched
             on the decoder's coarsest grid, not on all layers of 16 x 16 cells, where the shipped model's nouns show
             no place; self-attention on the decoder's first grid of 16 cells or more. Several places of a plural are
             no fault. Refinements stop at the goals of the noise; updates are normalised. The released demonstration
             always updates; here that is a switch.
    """

    name: ClassVar[str] = "initno"
    title: ClassVar[str] = "InitNO"
    source: ClassVar[str] = "Guo et al. 2024, InitNO: Boosting Text-to-Image Diffusion Models via Initial Noise"
    points: ClassVar[tuple[str, ...]] = ("before_unet", "init")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    iterations: int = ranged(5, 0, 20, 1, label="Iterations", help="How often one noise is moved; 0 leaves it alone.")
    rounds: int = ranged(2, 1, 5, 1, label="Noises", help="How many noises are tried, the seed's own first.")
    more_iterations: int = ranged(5, 0, 50, 1, label="More iterations", help="For the best noise, if none was good.")
    rate: float = ranged(0.05, 0.0, 0.2, 0.005, label="Rate", help="How far one iteration moves the noise.")
    kl_limit: float = ranged(0.001, 0.0001, 0.1, 0.0001, label="Divergence", help="How unlike noise it may become.")
    sharpness: float = ranged(20.0, 1.0, 100.0, 1.0, label="Sharpness", help="How strictly words compete for a cell.")
    updates: bool = flag(
        True, label="Updates", help="Also move the latents in the first half of the steps; off: noise alone."
    )
    step_frac: float = ranged(0.02, 0.0, 0.2, 0.005, label="Step", help="How far one update moves the latents.")
    max_refinements: int = ranged(5, 0, 20, 1, label="Refinements", help="Most updates in one step.")

    @classmethod
    def neutral(cls) -> InitNo:
        """Make the record that changes nothing."""
        return cls(iterations=0, updates=False)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Find the tokens of the prompt's things."""
        validate(self)
        found = find_things(model, run.text.prompt)
        if not found and (self.iterations or self.updates):
            run.note(f"{self.title} found no thing in the prompt to look for; name one, for example 'a boat'.")
        if not found or not (self.iterations or self.updates):
            yield Hooks()
            return
        words = [tokens for _, tokens in found]
        own = list_decoder_layers(model, "self", least_cells=OWN_CELLS)
        layers = [*list_decoder_layers(model, "cross"), *own]
        watch = make_watch(model, run.text.prompt, words, layers, sharpness=self.sharpness)
        yield _Choosing(self, tuple(thing for thing, _ in found), watch, run)


class _Choosing(Hooks):
    """Optimise the noise of each picture on its own, then, where asked, its latents."""

    def __init__(self, technique: InitNo, things: tuple[PromptObject, ...], watch: Watch, run: RunInfo) -> None:
        self.technique, self.things, self.watch, self.run = technique, things, watch, run
        self.remembered: dict[int, torch.Tensor] = {}

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Look for a good noise, picture by picture."""
        if not self.technique.iterations:
            return latents
        rows = []
        for row in range(len(latents)):
            rows.append((yield from self._search(latents[row : row + 1], row, ctx, turn)))
        return torch.cat(rows)

    def _search(
        self, noise: torch.Tensor, row: int, ctx: StepContext, turn: Turn
    ) -> Generator[Progress, None, torch.Tensor]:
        """Try several noises for one picture and go on with the best."""
        technique, tried = self.technique, list[MovedNoise]()
        # The run's own generator stays where it is: what comes after must not depend on how many noises were tried.
        generators = (fork_generator(ctx.generators[row]),)
        shape = (noise.shape[1], noise.shape[2], noise.shape[3])
        for index in range(technique.rounds):
            drawn = draw_noise(generators, shape, ctx.model.plan.device) if index else noise
            tried.append(MovedNoise(drawn, f"{self._name(row)}noise {index + 1}/{technique.rounds}"))
            yield from self._improve(tried[-1], technique.iterations, row, ctx, turn)
            if tried[-1].is_good:
                break
        best = min(tried, key=lambda moved: (not moved.is_good, moved.score))
        if not best.is_good and technique.more_iterations:
            yield from self._improve(best, technique.more_iterations, row, ctx, turn)
        total = sum(moved.num_looks for moved in tried)
        verdict = "every thing has its place" if best.is_good else f"{best.finding}, which is the best it found"
        self.run.note(f"{technique.title} kept {best.name} after {total} iterations: {verdict}.")
        return best.latents

    def _improve(
        self, moved: MovedNoise, iterations: int, row: int, ctx: StepContext, turn: Turn
    ) -> Generator[Progress, None, None]:
        """Look and move, a few times or until the noise is good."""
        for _ in range(iterations):
            with turn():
                verdict, gradient = differentiate(moved.draw(), partial(self._judge_noise, row=row, ctx=ctx))
            moved.remember(verdict)
            note = f"{moved.name}, iteration {moved.num_looks}: {verdict.finding}"
            yield Progress(0, ctx.num_steps, note, None)
            if verdict.is_reached:
                return
            moved.step(gradient, self.technique.rate, self.technique.kl_limit)

    def _judge_noise(self, leaf: torch.Tensor, row: int, ctx: StepContext) -> Verdict:
        sight = see(self.watch, leaf, row, ctx)
        self._show(sight.maps.detach(), row)
        neglected, shared, strays = self._measure(sight)
        total = neglected + shared + strays
        loss = neglected + strays if float(neglected.detach()) > NEGLECT_FIRST else total
        finding = self._find(sight, float(neglected.detach()), float(shared.detach()))
        return Verdict(loss, not finding, float(total.detach()), finding or "every thing has its place")

    def _show(self, maps: torch.Tensor, row: int) -> None:
        """Show on the page where the things of the first picture have attention."""
        if row == 0:
            for thing, cells in zip(self.things, maps, strict=True):
                self.run.sketch(f"Where \u2018{thing.noun}\u2019 has attention", cells)

    def _measure(self, sight: Sight) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the three losses: neglect, overlap, stray (of things that are asked for once)."""
        single = [index for index, thing in enumerate(self.things) if thing.count == 1]
        return neglect(sight.maps), overlap(sight.spots), stray(sight.maps[single])

    def _find(self, sight: Sight, neglected: float, shared: float) -> str:
        """Say what is wrong; "" if both goals are reached."""
        if neglected >= NEGLECT_GOAL:
            return f"the {self.things[int(sight.maps.flatten(1).amax(1).argmin())].noun} is overlooked"
        return "two things compete for a place" if shared >= OVERLAP_GOAL else ""

    def _name(self, row: int) -> str:
        """Name a picture where there are several."""
        return f"picture {row + 1}/{self.run.num_images}, " if self.run.num_images > 1 else ""

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Update the latents in the first half of the run, if asked."""
        if not self.technique.updates or ctx.fraction >= UPDATED_FRAC:
            return latents
        return torch.cat([self._update(latents[row : row + 1], row, ctx) for row in range(len(latents))])

    def _update(self, latents: torch.Tensor, row: int, ctx: StepContext) -> torch.Tensor:
        begin, end = RANGE
        step_frac = self.technique.step_frac * (begin + (end - begin) * ctx.fraction) ** 0.5
        if any(round(share * ctx.num_steps) == ctx.step for share in REFINED_FRACS):
            judge = partial(self._judge_latents, row=row, ctx=ctx)
            latents = walk_down(latents, judge, step_frac, self.technique.max_refinements)
        return walk_down(latents, partial(self._judge_neglect, row=row, ctx=ctx), step_frac, 1)

    def _judge_latents(self, leaf: torch.Tensor, row: int, ctx: StepContext) -> Verdict:
        sight = see(self.watch, leaf, row, ctx)
        neglected, shared, strays = self._measure(sight)
        drift = (sight.maps - self.remembered[row]).abs().mean() if row in self.remembered else 0 * strays
        loss = neglected + shared + STRAY_WEIGHT * strays + DRIFT_WEIGHT * drift
        return Verdict(loss, not self._find(sight, float(neglected.detach()), float(shared.detach())))

    def _judge_neglect(self, leaf: torch.Tensor, row: int, ctx: StepContext) -> Verdict:
        maps = see(self.watch, leaf, row, ctx).maps
        now = maps.detach()
        self._show(now, row)
        self.remembered[row] = MEMORY * self.remembered.get(row, now) + (1 - MEMORY) * now
        return Verdict(neglect(maps), False)


class MovedNoise:
    """Hold one noise z and the distribution that it is moved to: mean + exp(log_var / 2) z, with Adam's memory.

    Shapes: seed (1, c, h, w); parts (2, 1, c, h, w) are mean and log_var; latents is the best that was looked at.
    Source: arXiv 2404.04650; Kingma and Ba 2015, arXiv 1412.6980, Algorithm 1.
    """

    def __init__(self, seed: torch.Tensor, name: str) -> None:
        self.seed, self.name, self.latents = seed, name, seed
        self.parts = torch.stack([torch.zeros_like(seed)] * 2)
        self.slope, self.square = torch.zeros_like(self.parts), torch.zeros_like(self.parts)
        self.is_good, self.score, self.finding = False, float("inf"), ""
        self.num_looks = self.num_moves = 0

    def draw(self) -> torch.Tensor:
        """Return the noise where it is now."""
        mean, log_var = self.parts
        return mean + (log_var / 2).exp() * self.seed

    def remember(self, verdict: Verdict) -> None:
        """Keep the noise as it is now if it is the best so far."""
        self.num_looks += 1
        if verdict.is_reached or verdict.score < self.score:
            self.latents, self.score = self.draw(), verdict.score
            self.is_good, self.finding = verdict.is_reached, verdict.finding

    def step(self, gradient: torch.Tensor, rate: float, kl_limit: float) -> None:
        """Move mean and variance against a gradient in the noise, and back to where it still is noise."""
        slope = torch.stack([gradient, gradient * (self.parts[1] / 2).exp() * self.seed / 2])
        slope = slope / slope.square().mean().sqrt().clamp_min(1e-12)
        self.num_moves += 1
        first, second = BETAS
        self.slope = first * self.slope + (1 - first) * slope
        self.square = second * self.square + (1 - second) * slope**2
        steady = self.slope / (1 - first**self.num_moves)
        spread = (self.square / (1 - second**self.num_moves)).sqrt()
        self.parts = limit_kl(self.parts - rate * steady / (spread + FLOOR), kl_limit)


def measure_kl(parts: torch.Tensor) -> float:
    """Return the mean divergence of normal distributions from the standard one.

    Shapes: parts (2, ...): mean and log_var; 0.5 (mean^2 + var - 1 - log_var), averaged over all numbers.
    """
    mean, log_var = parts.double()
    return float((mean**2 + torch.expm1(log_var) - log_var).mean() / 2)


def limit_kl(parts: torch.Tensor, kl_limit: float) -> torch.Tensor:
    """Shrink mean and log_var together until their divergence is within the limit; unchanged if it is."""
    if measure_kl(parts) <= kl_limit:
        return parts
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if measure_kl(parts * middle) <= kl_limit else (low, middle)
    return parts * low
