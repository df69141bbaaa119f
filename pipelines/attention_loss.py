"""What attention says against a picture in the making, as losses on word maps, and steps that lower them.

Every thing of a prompt should have a place (neglect), a place of its own (overlap), and one place only (stray). When
to look, and what is moved, is the technique's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch

from pipelines.attention import AttentionLayer, PairRecorder, list_layers
from pipelines.attention_maps import (
    average_layers,
    count_prompt_tokens,
    observe,
    pick_row,
    smooth,
    to_grid,
    word_maps,
)
from pipelines.model import ModelBundle
from pipelines.prompt_plan import PromptObject, find_tokens, plan_prompt
from pipelines.types import StepContext

# Grey levels of the histogram that a threshold is chosen from.
_LEVELS = 256


@dataclass(frozen=True)
class Watch:
    """Say what to look at: the tokens of each word, and the layers; those of one kind share a grid.

    Units: layers are cross-attention; own_layers are self-attention, () if it is not asked for; num_tokens counts
           start and end; sharpness as in `word_maps`.
    """

    words: tuple[tuple[int, ...], ...]
    num_tokens: int
    sharpness: float
    layers: tuple[AttentionLayer, ...]
    own_layers: tuple[AttentionLayer, ...] = ()


class Sight(NamedTuple):
    """Hold what was seen: maps (k, h, w) of the words, and what the cell of each word's peak itself attends to.

    Shapes: spots (k, H, W) on the grid of the self-attention; (0, 1, 1) if that was not asked for.
    """

    maps: torch.Tensor
    spots: torch.Tensor


class Verdict(NamedTuple):
    """Hold a loss (scalar), whether it is low enough, a score for comparing noises, and a finding in words."""

    loss: torch.Tensor
    is_reached: bool
    score: float = 0.0
    finding: str = ""


def find_things(model: ModelBundle, prompt: str) -> tuple[tuple[PromptObject, tuple[int, ...]], ...]:
    """List the things of a prompt with the tokens of their nouns, as far as the encoder reads it."""
    found = ((thing, find_tokens(prompt, thing.noun_span, model.sides[0])) for thing in plan_prompt(prompt).objects)
    return tuple((thing, tokens) for thing, tokens in found if tokens)


def make_watch(
    model: ModelBundle,
    prompt: str,
    words: Sequence[tuple[int, ...]],
    layers: Sequence[AttentionLayer],
    *,
    sharpness: float,
) -> Watch:
    """Watch some words of a prompt on some layers; those of one kind share a grid."""
    cross, own = (tuple(layer for layer in layers if layer.kind == kind) for kind in ("cross", "self"))
    return Watch(tuple(words), count_prompt_tokens(model, prompt), sharpness, cross, own)


def list_decoder_layers(model: ModelBundle, kind: str, *, least_cells: int = 0) -> list[AttentionLayer]:
    """List the attention layers of one kind on the decoder's coarsest grid, where a UNet decides what stands where.

    Units: least_cells asks for the coarsest grid with at least that many cells on a side; if there is none, the finest.
    """
    layers = [layer for layer, _ in list_layers(model.unet) if layer.place == "up" and layer.kind == kind]
    grids = sorted({layer.cells for layer in layers})
    chosen = next((cells for cells in grids if cells >= least_cells), grids[-1])
    return [layer for layer in layers if layer.cells == chosen]


def see(watch: Watch, latents: torch.Tensor, row: int, ctx: StepContext) -> Sight:
    """Look once at the attention of one picture, with gradients if they are on; latents (1, c, h, w)."""
    recorder = PairRecorder(kernel=ctx.model.plan.kernel)
    layers = (*watch.layers, *watch.own_layers)
    observe(ctx.model, latents, ctx.timestep, pick_row(ctx.text, row), layers, recorder=recorder)
    average = average_layers(recorder.maps, watch.layers)
    size = to_grid(average.shape[1], (latents.shape[2], latents.shape[3]))
    maps = word_maps(average, watch.words, watch.num_tokens, size, watch.sharpness)
    return Sight(maps, _look_back(watch, recorder, maps, (latents.shape[2], latents.shape[3])))


def _look_back(watch: Watch, recorder: PairRecorder, maps: torch.Tensor, size_cells: tuple[int, int]) -> torch.Tensor:
    """Average the rows of self-attention at each word's peak; the two kinds of layers may have different grids."""
    height, width = maps.shape[-2:]
    peaks = maps.detach().flatten(1).argmax(1)
    found = []
    for layer in watch.own_layers:
        rows, columns = to_grid(recorder.count_cells(layer), size_cells)
        down = ((peaks // width + 0.5) * rows / height).long()
        across = ((peaks % width + 0.5) * columns / width).long()
        spots = recorder.rows(layer, down * columns + across).float().mean(1)[0]
        found.append(spots.unflatten(1, (rows, columns)))
    return smooth(torch.stack(found).mean(0)) if found else maps.new_zeros(0, 1, 1)


def neglect(maps: torch.Tensor) -> torch.Tensor:
    """Return the loss of the most neglected word.

    Shapes: maps (k, h, w) in 0..1; returns a scalar in 0..1.
    Source: arXiv 2301.13826.
    """
    return (1 - maps.flatten(1).amax(1)).clamp_min(0).amax()


def overlap(spots: torch.Tensor) -> torch.Tensor:
    """Return how much the words' places are the same: the mean over pairs of sum min(B, C) / sum (B + C).

    Shapes: spots (k, h, w), not negative; returns a scalar in 0..0.5, 0 for a single word.
    Source: arXiv 2404.04650.
    """
    shares = [torch.minimum(b, c).sum() / (b + c).sum().clamp_min(1e-12) for b, c in combinations(spots, 2)]
    return torch.stack(shares).mean() if shares else spots.new_zeros(())


def stray(maps: torch.Tensor) -> torch.Tensor:
    """Return the strongest attention outside of each word's own place, where it exceeds the weakest one inside.

    Shapes: maps (k, h, w) in 0..1, one place wanted of each; returns a scalar in 0..1, the mean over words.
    Units:  a place is the connected cells (4 neighbours) around the peak, above a threshold after Otsu.
    Source: arXiv 2404.04650 and its released code.
    """
    losses = []
    for word in maps:
        place = find_place(word.detach())
        outside = word.masked_fill(place, 0).amax()
        losses.append(torch.where(outside.detach() > word.detach()[place].amin(), outside, 0 * outside))
    return torch.stack(losses).mean() if losses else maps.new_zeros(())


def find_place(word: torch.Tensor) -> torch.Tensor:
    """Mark the connected cells around the peak of a map (h, w) that lie above the threshold; returns bool."""
    peak = word == word.amax()
    is_high = (word > find_threshold(word)) | peak
    place = torch.zeros_like(is_high)
    place.view(-1)[int(peak.flatten().int().argmax())] = True
    while True:
        grown = place.clone()
        grown[1:] |= place[:-1]
        grown[:-1] |= place[1:]
        grown[:, 1:] |= place[:, :-1]
        grown[:, :-1] |= place[:, 1:]
        grown &= is_high
        if torch.equal(grown, place):
            return place
        place = grown


def find_threshold(word: torch.Tensor) -> float:
    """Return the value that parts a map into two classes of the largest variance between them; 0 for a flat map.

    Source:  Otsu 1979, A Threshold Selection Method from Gray-Level Histograms.
    Differs: the grey levels span 0..1, of which a map without contrast fills one only.
    """
    counts = torch.histc(word.float().cpu(), bins=_LEVELS, min=0.0, max=1.0).double()
    levels = (torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS
    below, total = counts.cumsum(0), counts.sum()
    weighted = (counts * levels).cumsum(0)
    # Equation of the variance between classes: (mean w_0 - m_0)^2 / (w_0 (1 - w_0)), with shares w and first moments m.
    share, moment = below / total, weighted / total
    between = (moment[-1] * share - moment) ** 2 / (share * (1 - share)).clamp_min(1e-12)
    return (int(between.argmax()) + 1) / _LEVELS if float(between.max()) > 1e-9 else 0.0


def differentiate(latents: torch.Tensor, judge: Callable[[torch.Tensor], Verdict]) -> tuple[Verdict, torch.Tensor]:
    """Judge latents and return the verdict, its loss detached, with the loss's gradient in the latents' shape."""
    with torch.enable_grad():
        leaf = latents.detach().requires_grad_()
        verdict = judge(leaf)
        (gradient,) = torch.autograd.grad(verdict.loss, leaf)
    return verdict._replace(loss=verdict.loss.detach()), gradient


def move(latents: torch.Tensor, gradient: torch.Tensor, length_frac: float) -> torch.Tensor:
    """Return the step along a gradient, of the given length as a share of the latents' own; 0 for no gradient."""
    return gradient * (length_frac * latents.norm() / gradient.norm().clamp_min(1e-12))


def walk_down(
    latents: torch.Tensor, judge: Callable[[torch.Tensor], Verdict], step_frac: float, num_updates: int
) -> torch.Tensor:
    """Update latents up to num_updates times, each by step_frac times the loss, until the verdict is good.

    Differs: a gradient's size depends on the model, so its length is normalised; the papers step by the gradient.
    """
    for _ in range(num_updates):
        verdict, gradient = differentiate(latents, judge)
        latents = latents - move(latents, gradient, step_frac * float(verdict.loss))
        if verdict.is_reached:
            break
    return latents
