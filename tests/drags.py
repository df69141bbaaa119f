"""Drags for tests: a task with a round thing in a ramp, inverted at the steps of a short run."""

from __future__ import annotations

from functools import cache

import torch

from pipelines.drag_points import DragPair
from pipelines.drag_task import DragTask
from pipelines.drag_things import find_region
from pipelines.drag_warp import list_places, make_pull
from pipelines.images import encode, to_tensor
from pipelines.inversion import invert
from pipelines.model import ModelBundle
from pipelines.schedules import list_timesteps
from pipelines.style_reference import StyleSource
from pipelines.text_side import encode_prompt
from tests.pictures import make_ramp
from tests.runs import finish


def make_disc(size_px: tuple[int, int], x: float, y: float, radius: float) -> torch.Tensor:
    """Mark a disc in a picture of (height, width); returns (1, 1, H, W)."""
    away = (list_places(size_px, size_px) - torch.tensor([x, y])).norm(dim=-1)
    return (away <= radius).float()[None, None]


@cache
@torch.no_grad()
def make_task(
    model: ModelBundle, width_px: int, height_px: int, *, num_steps: int = 2, way_px: float = 16.0
) -> DragTask:
    """Make a task that moves a disc in the middle of a ramp to the right; once, as nothing may change it."""
    picture = make_ramp(width_px, height_px)
    pixels = to_tensor([picture])
    latents = encode(model, pixels)
    text = encode_prompt(model, "", size_px=picture.size)
    # Whichever of the two first-order samplers walks back.
    lists = (list_timesteps(sampler, model.scheduler_config, num_steps) for sampler in ("ddim", "ddim_short"))
    timesteps = sorted({timestep for one in lists for timestep in one}, reverse=True)
    walk = finish(invert(model, latents, text, timesteps))  # type: ignore[arg-type]
    x, y = width_px / 2, height_px / 2
    pairs = (DragPair(x, y, x + way_px, y),)
    pulls = (make_pull(make_disc((height_px, width_px), x, y, height_px / 4), pairs, "move"),)
    mask = torch.nn.functional.max_pool2d(find_region(pulls, None), model.spec.px_per_cell)
    return DragTask(StyleSource(latents, text, f"drag test {width_px} {way_px}", walk), pixels, pairs, pulls, mask)  # type: ignore[arg-type]
