"""InitNO: its steps by slow formulas, and noise that is better by its own measure and still noise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipelines.attention_loss import neglect, see
from pipelines.model import ModelBundle
from pipelines.seeding import draw_noise
from pipelines.techniques.initno import FLOOR, InitNo, MovedNoise, limit_kl, measure_kl
from pipelines.types import Progress
from tests.runs import describe_run, finish

PROMPT = "a cat, a red boat"  # short, because the tiny tokenizer spells out letters


def make_run(model: ModelBundle, prompt: str, seed: int, num_images: int, notes: list[str]) -> tuple:
    """Describe the first of 20 steps of a run, with the noise that its loop would draw."""
    run, ctx = describe_run(model, prompt, seed=seed, num_images=num_images, num_steps=20, notes=notes)
    shape = (model.spec.latent_channels, run.height_cells, run.width_cells)
    return run, ctx, draw_noise(run.generators, shape, "cpu")


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Stand for the loop's turn: nobody else runs here."""
    yield


def prepare(
    technique: InitNo, model: ModelBundle, *, prompt: str = PROMPT, seed: int = 0, num_images: int = 1
) -> tuple:
    """Run the preparation alone; returns the noise before and after, what was reported, the notes, and a score."""
    notes: list[str] = []
    seen: list[Progress] = []
    run, ctx, noise = make_run(model, prompt, seed, num_images, notes)
    states = [generator.get_state() for generator in run.generators]
    with technique.open(model, run) as hooks, torch.no_grad():
        latents = finish(hooks.init(noise, ctx, turn), seen.append)
        scores = [hooks._judge_noise(x[:1], 0, ctx).score for x in (noise, latents)] if technique.iterations else []
    assert all(torch.equal(*pair) for pair in zip(states, (generator.get_state() for generator in run.generators)))
    return noise, latents, seen, notes, scores


def test_steps_are_those_of_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    seed = torch.randn(1, 2, 3, 3, generator=generator)
    gradients = [torch.randn(1, 2, 3, 3, generator=generator) for _ in range(4)]
    moved = MovedNoise(seed, "")
    mean, log_var = np.zeros(18), np.zeros(18)
    first, second = np.zeros(36), np.zeros(36)
    for count, gradient in enumerate(gradients, start=1):
        moved.step(gradient, 0.05, 10.0)
        g, z = gradient.flatten().double().numpy(), seed.flatten().double().numpy()
        slope = np.concatenate([g, g * np.exp(log_var / 2) * z / 2])
        slope /= np.sqrt((slope**2).mean())
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        change = 0.05 * (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + FLOOR)
        mean, log_var = mean - change[:18], log_var - change[18:]
    drawn = mean + np.exp(log_var / 2) * seed.flatten().double().numpy()
    assert np.allclose(moved.draw().flatten().numpy(), drawn, atol=1e-5)


def test_divergence_is_that_of_normal_distributions_and_is_limited() -> None:
    parts = 0.3 * torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    normal = torch.distributions.Normal(parts[0], (parts[1] / 2).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    assert measure_kl(parts) == pytest.approx(float(expected), rel=1e-4)
    limited = limit_kl(parts, 0.001)
    assert 0.00099 < measure_kl(limited) <= 0.001
    assert torch.allclose(limited / parts, (limited / parts).mean(), rtol=1e-4)
    assert limit_kl(limited, 0.002) is limited


def test_moved_noise_is_better_and_still_noise(storybook: ModelBundle) -> None:
    technique = InitNo(iterations=4, rounds=1, more_iterations=0)
    for seed in range(4):
        # Three things: with two, the first look finds nothing to better.
        noise, latents, _, _, (before, after) = prepare(
            technique, storybook, prompt="a fish, a whale, a duck", seed=seed
        )
        assert after < before - 0.1
        assert 0 < (latents - noise).square().mean().sqrt() < 0.1
        assert abs(latents.mean() - noise.mean()) < 0.05 and abs(latents.std() - noise.std()) < 0.05


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sd_v", "tiny_sdxl"])
def test_noise_is_moved_in_every_layout(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    technique = InitNo(iterations=3, rounds=1, more_iterations=0)
    results = [prepare(technique, model, seed=seed) for seed in range(3)]
    # Random weights promise no descent; what is kept is never worse than the noise it began with.
    assert all(after <= before for *_, (before, after) in results)
    assert any(not torch.equal(noise, latents) and latents.isfinite().all() for noise, latents, *_ in results)


def test_every_step_stays_within_the_limit() -> None:
    generator = torch.Generator().manual_seed(2)
    seed, gradient = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    moved = MovedNoise(seed, "")
    for _ in range(10):
        moved.step(gradient, 0.2, 0.001)
        assert measure_kl(moved.parts) <= 0.001


def test_what_is_tried_is_reported_and_the_best_is_kept(tiny_sd: ModelBundle) -> None:
    technique = InitNo(iterations=2, rounds=2, more_iterations=3)
    _, latents, seen, notes, (_, after) = prepare(technique, tiny_sd, num_images=2)
    assert latents.shape[0] == 2 and all((item.step, item.num_steps) == (0, 20) for item in seen)
    assert [item.note.split(":")[0] for item in seen[:4]] == [
        f"picture 1/2, noise {noise}/2, iteration {iteration}" for noise in (1, 2) for iteration in (1, 2)
    ]
    assert len(seen) == 14 and any("is overlooked" in item.note for item in seen)
    assert len(notes) == 2 and "InitNO kept picture 1/2, noise" in notes[0] and "after 7 iterations" in notes[0]


def test_a_good_noise_ends_the_search(storybook: ModelBundle) -> None:
    technique = InitNo(iterations=20, rounds=3, kl_limit=0.05, rate=0.1)
    _, _, seen, notes, _ = prepare(technique, storybook, prompt="a red boat")
    assert len(seen) < 20 and seen[-1].note.endswith("every thing has its place")
    assert "every thing has its place" in notes[0]


def test_a_picture_of_a_batch_is_the_picture_alone(tiny_sd: ModelBundle) -> None:
    technique = InitNo(iterations=2, rounds=2, more_iterations=0)
    both = prepare(technique, tiny_sd, seed=3, num_images=2)[1]
    assert torch.equal(both[1:], prepare(technique, tiny_sd, seed=4)[1])


@pytest.mark.parametrize("name", ["storybook", "tiny_sd"])
def test_updates_lift_the_most_neglected_word_unless_only_the_noise_is_asked(
    name: str, request: pytest.FixtureRequest
) -> None:
    model, lifted = request.getfixturevalue(name), 0
    for seed in range(3):
        run, ctx, noise = make_run(model, PROMPT, seed, 1, [])
        with InitNo(updates=False).open(model, run) as hooks, torch.no_grad():
            assert hooks.before_unet(noise, ctx) is noise
        with InitNo(iterations=0).open(model, run) as hooks, torch.no_grad():
            moved = hooks.before_unet(noise, ctx)
            before, after = (float(neglect(see(hooks.watch, x, 0, ctx).maps)) for x in (noise, moved))
        lifted += after < before
    assert lifted == 3


def test_refinements_look_at_all_losses_and_at_where_things_were(tiny_sd: ModelBundle) -> None:
    run, ctx, noise = make_run(tiny_sd, PROMPT, 0, 1, [])
    with InitNo(iterations=0).open(tiny_sd, run) as hooks, torch.no_grad():
        hooks.before_unet(noise, ctx)
        here = hooks.remembered[0].clone()
        sight = see(hooks.watch, -noise, 0, ctx)
        neglected, shared, strays = hooks._measure(sight)
        drift = (sight.maps - here).abs().mean()
        assert torch.allclose(here, see(hooks.watch, noise, 0, ctx).maps) and drift > 1e-3
        loss = hooks._judge_latents(-noise, 0, ctx).loss
        assert float(loss) == pytest.approx(float(neglected + shared + 0.1 * strays + 0.1 * drift), abs=1e-6)
        hooks._judge_neglect(-noise, 0, ctx)
        assert torch.allclose(hooks.remembered[0], 0.9 * here + 0.1 * sight.maps)


def test_a_prompt_without_things_is_said(tiny_sd: ModelBundle) -> None:
    notes: list[str] = []
    seen: list[Progress] = []
    run, ctx, noise = make_run(tiny_sd, ", ,", 0, 1, notes)
    with InitNo().open(tiny_sd, run) as hooks:
        assert finish(hooks.init(noise, ctx, turn), seen.append) is noise and not seen
        assert hooks.before_unet(noise, ctx) is noise
    assert len(notes) == 1 and "found no thing" in notes[0]
