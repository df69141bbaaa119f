"""Runs as tests of techniques need them: a generator walked to its end, a few steps of the loop, one step described."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

import torch

from pipelines.denoise import DenoiseSettings, Sketches, denoise
from pipelines.model import ModelBundle
from pipelines.seeding import make_generators
from pipelines.techniques.base import Technique
from pipelines.text_side import encode_prompt
from pipelines.types import Progress, RunInfo, StepContext


class Drawn(NamedTuple):
    """Hold the latents of a run and what it said on the way."""

    latents: torch.Tensor
    notes: list[str]
    seen: list[Progress]


def finish(
    stream: Generator[Progress, None, torch.Tensor], look: Callable[[Progress], object] = lambda progress: None
) -> torch.Tensor:
    """Walk a generator to its end, showing each progress to `look`; returns its return value."""
    while True:
        try:
            look(next(stream))
        except StopIteration as end:
            return end.value


def draw(
    model: ModelBundle,
    prompt: str,
    *techniques: Technique,
    negative_prompt: str = "",
    seed: int = 3,
    num_images: int = 1,
    num_steps: int = 2,
    sampler: str = "ddim",
    size_cells: tuple[int, int] = (8, 8),
    sketches: Sketches | None = None,
) -> Drawn:
    """Run a few steps of the loop, which must leave the model free whenever it reports."""
    height_px, width_px = (side * model.spec.px_per_cell for side in size_cells)
    settings = DenoiseSettings(seed, num_images, num_steps, 4.0, sampler, width_px, height_px, preview_every=0)
    drawn = Drawn(torch.empty(0), [], [])
    with torch.no_grad():
        text = encode_prompt(model, prompt, negative_prompt, size_px=(width_px, height_px))

    def look(progress: Progress) -> None:
        assert not model.lock.locked()
        drawn.seen.append(progress)

    stream = denoise(model, text, settings, techniques, drawn.notes, sketches=sketches)
    return drawn._replace(latents=finish(stream, look))


def describe_run(
    model: ModelBundle,
    prompt: str,
    *,
    size_cells: tuple[int, int] | None = None,
    seed: int = 0,
    num_images: int = 1,
    num_steps: int = 2,
    notes: list[str] | None = None,
) -> tuple[RunInfo, StepContext]:
    """Describe a run that is only imagined, and its first step; without size_cells, of the model's own size."""
    side = model.spec.image_px // model.spec.px_per_cell
    height_cells, width_cells = size_cells or (side, side)
    with torch.no_grad():
        text = encode_prompt(
            model, prompt, size_px=(width_cells * model.spec.px_per_cell, height_cells * model.spec.px_per_cell)
        )
    generators = make_generators(seed, num_images)
    note = (notes if notes is not None else []).append
    run = RunInfo(num_steps, num_images, height_cells, width_cells, 4.0, "ddim", text, generators, note)
    return run, StepContext(0, num_steps, 0.0, 999, 0.01, 0.99, 4.0, model, text, generators)
