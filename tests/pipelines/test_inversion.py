"""DDIM inversion: one level against the formula written out, there and back on the shipped model, and its error."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from pipelines.cfg_batch import run_cond
from pipelines.inversion import invert, measure_inversion, measure_psnr, resample
from pipelines.model import ModelBundle
from pipelines.schedules import list_timesteps, make_scheduler, pred_to_eps
from pipelines.style_reference import make_source
from tests.pictures import make_ramp
from tests.runs import finish


def test_a_level_is_the_formula_written_out(tiny_model: ModelBundle) -> None:
    source = make_source(tiny_model, make_ramp(64))
    timesteps = list_timesteps("ddim", tiny_model.scheduler_config, 10)[-2:]
    walk = finish(invert(tiny_model, source.latents, source.text, timesteps, num_refinements=0))  # type: ignore[arg-type]
    levels = make_scheduler("ddim", tiny_model.scheduler_config).alphas_cumprod
    here, below = source.latents.double(), 1.0
    for timestep in reversed(timesteps):
        level = float(levels[timestep])
        with torch.no_grad():
            pred = run_cond(tiny_model, here.float(), timestep, source.text)
        eps = pred_to_eps(pred, here.float(), level, tiny_model.spec.prediction).double()
        clean = (here - math.sqrt(1 - below) * eps) / math.sqrt(below)
        here, below = math.sqrt(level) * clean + math.sqrt(1 - level) * eps, level
        assert torch.allclose(walk[timestep], here.float(), atol=1e-4)  # type: ignore[index]


def test_there_and_back_gives_the_same_latents(storybook: ModelBundle) -> None:
    """Exact inversion once the fixed point settles: more rounds bring the way back nearer."""
    source = make_source(storybook, make_ramp(64))
    timesteps = list_timesteps("ddim", storybook.scheduler_config, 10)[4:]
    errors = []
    for rounds in (0, 1, 4):
        stream = invert(storybook, source.latents, source.text, timesteps, num_refinements=rounds)
        walk = finish(stream)  # type: ignore[arg-type]
        again = finish(resample(storybook, walk[timesteps[0]], source.text, timesteps))  # type: ignore[index]
        errors.append(float((again - source.latents).square().mean().sqrt()))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.1 * float(source.latents.std())


def test_the_error_is_shown_with_the_redrawn_picture(tiny_sd: ModelBundle) -> None:
    picture = make_ramp(64)
    source = make_source(tiny_sd, picture)
    stream = measure_inversion(tiny_sd, picture, source.latents, source.text)
    error, redrawn = finish(stream)  # type: ignore[arg-type, misc]
    assert redrawn.size == (64, 64) and error == pytest.approx(measure_psnr(picture, redrawn))
    assert not tiny_sd.lock.locked()


def test_psnr_is_that_of_the_formula() -> None:
    black, dark = (Image.new("RGB", (4, 4), (level,) * 3) for level in (0, 51))
    assert measure_psnr(black, dark) == pytest.approx(20 * math.log10(255 / 51))
    assert measure_psnr(black, black) == math.inf
