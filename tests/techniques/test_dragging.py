"""The three ways of dragging: what they put back, what they start from, and that optimising does what it should."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from pipelines.cfg_batch import run_cond
from pipelines.denoise import DenoiseSettings, denoise
from pipelines.drag_latents import region_loss, to_latent_grid, watched_features
from pipelines.drag_task import DragTask
from pipelines.model import ModelBundle
from pipelines.schedules import list_timesteps, make_scheduler
from pipelines.techniques.drag_base import DragHooks
from pipelines.techniques.drag_diffusion import DragDiffusion
from pipelines.techniques.drag_noise import DragNoise
from pipelines.techniques.fast_drag import FastDrag
from pipelines.types import DragProgress, Progress
from tests.drags import make_task
from tests.runs import describe_run, finish

Drag = FastDrag | DragNoise | DragDiffusion


@pytest.fixture
def task(tiny_sd: ModelBundle) -> DragTask:
    """A disc that is to go two cells to the right."""
    return make_task(tiny_sd, 64, 64)


def draw(model: ModelBundle, technique: Drag) -> tuple[torch.Tensor, list[Progress]]:
    """Run a drag and return its latents and reports."""
    assert technique.task is not None
    settings = DenoiseSettings(1, 1, 2, 1.0, "ddim", 64, 64, preview_every=0)
    seen: list[Progress] = []
    return finish(denoise(model, technique.task.source.text, settings, [technique], []), seen.append), seen


@torch.no_grad()
def begin(model: ModelBundle, technique: Drag) -> tuple[DragHooks, torch.Tensor, Any]:
    """Let a drag do what it does before the first step; its hooks, the latents it starts from, and the step."""
    run, context = describe_run(model, "", size_cells=(8, 8))
    [timestep, *_] = list_timesteps("ddim", model.scheduler_config, 2)
    alpha_bar = float(make_scheduler("ddim", model.scheduler_config).alphas_cumprod[timestep])
    context = dataclasses.replace(context, timestep=timestep, alpha_bar=alpha_bar)
    with technique.open(model, run) as hooks:
        assert isinstance(hooks, DragHooks)
        latents = finish(hooks.init(torch.zeros(1, 4, 8, 8), context, nullcontext))  # type: ignore[arg-type]
    return hooks, latents, context


@torch.no_grad()
def read_loss(model: ModelBundle, task: DragTask, latents: torch.Tensor, context: Any) -> float:
    """Measure how far the features of latents are from those of the original, taken along."""
    read = []
    for here in (latents, dict(task.source.walk or {})[context.timestep]):
        with watched_features(model.unet) as seen:
            run_cond(model, here, context.timestep, task.source.text)
        read.append(to_latent_grid(seen[0], (8, 8)))
    return float(region_loss(read[0], read[1], task.pulls, task.mask, 1.0))


@pytest.mark.parametrize("drag", [DragNoise, DragDiffusion], ids=lambda drag: drag.name)
def test_outside_the_mask_the_picture_is_put_back_bit_for_bit(
    drag: type[DragNoise | DragDiffusion], tiny_sd: ModelBundle, task: DragTask
) -> None:
    latents, seen = draw(tiny_sd, drag(task=task, num_rounds=2))
    held = (task.mask == 0).expand_as(latents)
    assert held.any() and torch.equal(latents[held], task.source.latents[held])
    assert not torch.allclose(latents[~held], task.source.latents[~held], atol=0.05)
    told = [step for step in seen if isinstance(step, DragProgress)]
    assert told[-1].step == 0 and told[-1].left_px < 12 and len(told) == 2


def test_instant_holds_what_was_warped_and_draws_only_what_was_left(tiny_sd: ModelBundle, task: DragTask) -> None:
    hooks, latents, context = begin(tiny_sd, FastDrag(task=task))
    with torch.no_grad():
        taken = hooks.take_along(1.0, tiny_sd)
    assert torch.equal(latents, taken.at(context.alpha_bar)) and 0 < taken.is_open.sum() < taken.is_open.numel() / 2
    drawn, _ = draw(tiny_sd, FastDrag(task=task))
    held = ~taken.is_open.expand_as(drawn)
    assert torch.allclose(drawn[held], taken.clean[held], atol=1e-5)
    assert not torch.allclose(drawn[~held], taken.clean[~held], atol=0.05)


def test_half_the_strength_goes_half_the_way(tiny_sd: ModelBundle, task: DragTask) -> None:
    [report] = [step for step in draw(tiny_sd, FastDrag(task=task, strength=0.5))[1] if isinstance(step, DragProgress)]
    assert report.handles[0] == pytest.approx((40, 32)) and report.left_px == pytest.approx(8)


def test_drag_diffusion_brings_the_features_nearer_and_changes_nothing_outside(
    tiny_sd: ModelBundle, task: DragTask
) -> None:
    still = DragDiffusion(task=task, num_rounds=12, learning_rate=0.001)
    _, start, context = begin(tiny_sd, still)
    _, pulled, _ = begin(tiny_sd, dataclasses.replace(still, learning_rate=0.05))
    assert read_loss(tiny_sd, task, pulled, context) < 0.97 * read_loss(tiny_sd, task, start, context)
    held = (task.mask == 0).expand_as(start)
    assert torch.equal(pulled[held], start[held])
    # By points, latents stay where they are and are only optimised.
    _, by_points, _ = begin(tiny_sd, dataclasses.replace(still, supervision="points", learning_rate=0.05))
    walk = dict(task.source.walk or {})[context.timestep]
    assert torch.equal(by_points[held], walk[held]) and not torch.equal(by_points[~held], walk[~held])


def test_drag_noise_runs_the_encoder_once_a_part_and_holds_the_bottleneck_for_a_while(
    tiny_sd: ModelBundle, task: DragTask
) -> None:
    counts = []
    for num_rounds in (8, 12):
        calls: list[int] = []
        handle = tiny_sd.unet.down_blocks[0].register_forward_hook(lambda *parts, calls=calls: calls.append(1))
        hooks, latents, context = begin(tiny_sd, DragNoise(task=task, num_rounds=num_rounds, hold_frac=0.5))
        handle.remove()
        counts.append(len(calls))
    # Once to tell picture from noise, once as it was, once for each quarter of the way.
    assert counts == [6, 6]
    with torch.no_grad():
        plain, _ = hooks.predict(latents, context, lambda *asked: pytest.fail("no guidance is asked for"))
        hooks.before_unet(latents, context)
        held, _ = hooks.predict(latents, context, lambda *asked: pytest.fail("no guidance is asked for"))
        hooks.before_unet(latents, dataclasses.replace(context, step=2))
        after, _ = hooks.predict(latents, context, lambda *asked: pytest.fail("no guidance is asked for"))
    assert torch.equal(plain, after) and not torch.allclose(plain, held, atol=1e-4)
