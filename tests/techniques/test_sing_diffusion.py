"""SingDiffusion: the first latents by hand, which mean is used and said, and pictures that are as bright as asked."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pipelines.denoise import Sketches
from pipelines.images import decode, to_tensor
from pipelines.model import ModelBundle
from pipelines.schedules import SHORT_ALPHA_BAR, add_noise, make_scheduler, pred_to_x0, x0_to_eps
from pipelines.techniques.sing_diffusion import SingDiffusion, normalise
from tests.runs import describe_run, draw, finish


def begin(model: ModelBundle, prompt: str, *, alpha_bar: float, notes: list[str], amount: float = 1.0) -> tuple:
    """Run the preparation alone; returns the noise and the first latents of two pictures."""
    run, ctx = describe_run(model, prompt, size_cells=(8, 12), num_images=2, notes=notes)
    noise = torch.randn(2, model.spec.latent_channels, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), SingDiffusion(amount=amount).open(model, run) as hooks:
        return noise, finish(hooks.init(noise, replace(ctx, alpha_bar=alpha_bar), lambda: nullcontext()))


def test_guidance_does_not_make_the_mean_larger() -> None:
    uncond, cond = torch.randn(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(normalise(cond, cond, 4.0), cond / 4.0)
    assert torch.allclose(normalise(uncond, cond, 4.0), cond - 0.75 * uncond, atol=1e-6)
    assert torch.equal(normalise(uncond, cond, 1.0), uncond + (cond - uncond))
    assert torch.equal(normalise(uncond, cond, 0.0), normalise(uncond, cond, 1.0))


def test_first_latents_hold_the_mean_that_the_words_give(storybook: ModelBundle) -> None:
    notes: list[str] = []
    noise, latents = begin(storybook, "a red boat, night", alpha_bar=0.01, notes=notes)
    assert storybook.mean is not None and not notes
    run, _ = describe_run(storybook, "a red boat, night", size_cells=(8, 12))
    mean = storybook.mean.model
    with torch.no_grad():
        uncond, cond = mean(run.text.hidden_uncond), mean(run.text.hidden_cond)
    wide = F.interpolate(cond - 0.75 * uncond, size=(8, 12), mode="bicubic", align_corners=False)
    assert torch.allclose(latents, 0.1 * wide + 0.99**0.5 * noise, atol=1e-5)
    assert torch.allclose(latents[0] - latents[1], 0.99**0.5 * (noise[0] - noise[1]), atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sdxl"])
def test_models_without_a_trained_mean_use_their_own_guess_and_say_so(
    name: str, request: pytest.FixtureRequest
) -> None:
    model, notes = request.getfixturevalue(name), []
    noise, latents = begin(model, "a red boat", alpha_bar=0.01, notes=notes)
    assert not torch.equal(latents, noise) and latents.isfinite().all()
    assert len(notes) == 1 and f"no trained mean for these weights of {model.spec.name}" in notes[0]


def test_another_text_encoder_is_noticed(tiny_storybook: ModelBundle, storybook: ModelBundle) -> None:
    assert tiny_storybook.mean is not None and storybook.mean is not None
    run, _ = describe_run(tiny_storybook, "a red boat at sea, watercolor")
    assert not tiny_storybook.mean.model.knows(run.text.hidden_cond)
    run, _ = describe_run(storybook, "a red boat at sea, watercolor")
    assert storybook.mean.model.knows(run.text.hidden_cond)
    assert not storybook.mean.model.knows(run.text.hidden_cond.roll(1, -1))


@pytest.mark.parametrize("alpha_bar", [0.0, 2.0**-24])
def test_a_sampler_that_begins_in_pure_noise_lacks_nothing(storybook: ModelBundle, alpha_bar: float) -> None:
    notes: list[str] = []
    noise, latents = begin(storybook, "a red boat", alpha_bar=alpha_bar, notes=notes)
    assert latents is noise and len(notes) == 1 and "nothing to add" in notes[0]


@pytest.mark.parametrize("name", ["storybook", "tiny_sd", "tiny_sdxl"])
def test_the_short_sampler_is_ddim_from_where_stable_diffusion_begins(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    short, whole = (make_scheduler(sampler, model.scheduler_config) for sampler in ("ddim_short", "ddim"))
    short.set_timesteps(7)
    latents, pred = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = short.timesteps.tolist()
    levels = [float(whole.alphas_cumprod[timestep]) for timestep in timesteps]
    assert 0.006 > levels[0] >= SHORT_ALPHA_BAR > float(whole.alphas_cumprod[timesteps[0] + 1])
    for timestep, level, below in zip(timesteps, levels, [*levels[1:], 1.0]):
        x0 = pred_to_x0(pred, latents, level, model.spec.prediction)
        expected = add_noise(x0, x0_to_eps(x0, latents, level), below)
        latents = short.step(pred, timestep, latents, return_dict=False)[0]
        assert torch.allclose(latents, expected, atol=1e-3)


def test_the_words_alone_tell_dark_from_bright(storybook: ModelBundle) -> None:
    # That finished pictures get nearer to it is measured in benchmarks: on this model the words themselves do most.
    def say(prompt: str) -> float:
        run, _ = describe_run(storybook, prompt)
        assert storybook.mean is not None
        with torch.no_grad():
            said = F.interpolate(storybook.mean.model(run.text.hidden_cond), size=(32, 32), mode="bicubic")
            return float(to_tensor(decode(storybook, said)).mean())

    assert say("a white star in the snow, line art") > 0.5 > -0.3 > say("a blue car in the city at night, neon")


def test_what_the_words_say_is_shown(storybook: ModelBundle) -> None:
    sketches = Sketches()
    draw(storybook, "a red boat at sea", SingDiffusion(), sampler="ddim_short", sketches=sketches, size_cells=(32, 32))
    ((caption, (picture, boxes)),) = sketches.pictures.items()
    assert "words alone" in caption and not boxes
    water, ground = (picture.convert("RGB").resize((1, 2)).getpixel((0, row)) for row in (1, 0))
    assert water[2] > water[0] and ground != water
