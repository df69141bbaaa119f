"""Reward guidance and the plain adapter: the formula and its bound, the subject put in, no-ops where nothing is new."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipelines.attention import list_layers
from pipelines.cfg_batch import guide, run_cond, run_halves
from pipelines.lora import Lora, adapt
from pipelines.model import ModelBundle
from pipelines.style_reference import make_source
from pipelines.subject_source import SubjectSource, make_subject_source
from pipelines.techniques.cfg_rescale import CfgRescale
from pipelines.techniques.reward_guidance import OWN_GUIDANCE, RewardGuidance, widen
from pipelines.techniques.style_aligned import StyleAligned
from pipelines.techniques.subject_lora import SubjectLora
from pipelines.text_side import encode_prompt
from tests.loras import make_loud_lora
from tests.pictures import make_ramp
from tests.runs import describe_run, draw

REACHES = ("attention", "coarse", "all")


@pytest.mark.parametrize("reach", REACHES)
@torch.no_grad()
def test_the_prediction_is_the_formula(tiny_model: ModelBundle, reach: str) -> None:
    model, lora = tiny_model, make_loud_lora(tiny_model, reach)
    text = encode_prompt(model, "my red boat on the sea", size_px=(64, 64))
    run, ctx = describe_run(model, "a red boat on the sea", size_cells=(8, 8), num_images=3)
    latents = torch.randn(3, model.spec.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    technique = RewardGuidance(lora, text, likeness=0.6, from_frac=0.0)
    with technique.open(model, run) as hooks:
        halves = hooks.predict(latents, ctx, lambda noisy, words: run_halves(model, noisy, ctx.timestep, words))
    ours = guide(*halves, 4.0)
    uncond, base = run_halves(model, latents, ctx.timestep, ctx.text)
    subject = run_cond(adapt(model, lora), latents, ctx.timestep, text)
    w, w_rg = 4.0, 0.6 * 4.0
    plain = uncond + w * (base - uncond)
    room = uncond + OWN_GUIDANCE * (subject - uncond) - plain
    pull = w_rg * (subject - base)
    # What would lead away from the subject's own prediction is left out, what would lead beyond it ends there.
    slow = plain + torch.where(pull * room > 0, pull.sign() * torch.minimum(pull.abs(), room.abs()), 0.0)
    assert torch.allclose(ours, slow, atol=2e-4)
    assert not torch.allclose(ours, plain, atol=1e-2) and not torch.allclose(ours, plain + pull, atol=1e-2)


def test_one_picture_at_a_time_is_the_same(tiny_sd: ModelBundle) -> None:
    technique = RewardGuidance(make_loud_lora(tiny_sd), words=(3,))
    together = draw(tiny_sd, "a red boat", technique, num_images=3).latents
    plan = replace(tiny_sd.plan, images_per_call=1)
    alone = draw(replace(tiny_sd, plan=plan), "a red boat", technique, num_images=3).latents
    assert torch.allclose(together, alone, atol=1e-4)


def test_without_anything_new_any_likeness_changes_nothing(tiny_model: ModelBundle) -> None:
    loud = make_loud_lora(tiny_model)
    silent = Lora({name: (down, torch.zeros_like(up)) for name, (down, up) in loud.paths.items()})
    plain = draw(tiny_model, "a red boat").latents
    assert torch.allclose(
        draw(tiny_model, "a red boat", RewardGuidance(silent, likeness=2.0)).latents, plain, atol=1e-4
    )
    drawn = draw(tiny_model, "a red boat", RewardGuidance())
    assert torch.equal(drawn.latents, plain) and "no subject" in drawn.notes[0]


def test_the_subject_pulls_only_where_it_is_named(tiny_sd: ModelBundle) -> None:
    model, lora = tiny_sd, make_loud_lora(tiny_sd)
    run, ctx = describe_run(model, "a red boat on the sea", size_cells=(8, 8), num_images=2)
    latents = torch.randn(2, model.spec.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    place = torch.zeros(2, 1, 8, 8)
    place[0, :, :2], place[1, :, :, 6:] = 1.0, 1.0

    def predict(words: tuple[int, ...], seen: torch.Tensor | None) -> torch.Tensor:
        with RewardGuidance(lora, None, words, likeness=0.6, from_frac=0.0).open(model, run) as hooks:
            if seen is not None:
                hooks.places.take = lambda: seen  # type: ignore[attr-defined]
            with torch.no_grad():
                return hooks.predict(latents, ctx, lambda noisy, text: run_halves(model, noisy, ctx.timestep, text))[1]

    with torch.no_grad():
        cond = run_halves(model, latents, ctx.timestep, ctx.text)[1]
    everywhere, within = predict((), None) - cond, predict((3,), place) - cond
    assert torch.allclose(within, everywhere * widen(place), atol=1e-5)
    assert float(within[0, :, 2:].abs().max()) < 1e-5 < float(within[0, :, :2].abs().mean())


def make_cut_out(model: ModelBundle) -> SubjectSource:
    """A ramp whose upper left quarter is the subject."""
    mask, outline = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 64, 64)
    mask[..., :4, :4], outline[..., :32, :32] = 1, 1
    return make_subject_source(model, make_ramp(64), mask, outline)


@torch.no_grad()
def test_its_picture_is_put_in_for_the_longer_the_more_identity(tiny_sd: ModelBundle) -> None:
    model, own = tiny_sd, make_cut_out(tiny_sd)
    run, ctx = describe_run(model, "a red boat", size_cells=(8, 8))
    x0 = torch.zeros(1, model.spec.latent_channels, 8, 8)
    place = torch.zeros(1, 1, 8, 8)
    place[..., 4:6, 4:6] = 1.0

    def list_held(likeness: float, hold: float, where: torch.Tensor | None = place) -> list[float]:
        named = RewardGuidance(make_loud_lora(model), None, (3,), (), (own,), likeness=likeness, hold=hold)
        with named.open(model, run) as hooks:
            hooks.place = where  # type: ignore[attr-defined]
            shares = [tenth / 10 for tenth in range(10)]
            return [at for at in shares if not torch.equal(hooks.edit_x0(x0, replace(ctx, fraction=at)), x0)]

    assert list_held(1.0, 0.5) == [0.3, 0.4, 0.5, 0.6, 0.7] and list_held(0.5, 0.5) == [0.3, 0.4]
    assert list_held(1.0, 0.0) == [] and list_held(1.0, 0.5, None) == [], "nobody knows where an unnamed thing is"


@torch.no_grad()
def test_what_was_put_in_is_the_subjects_place(tiny_sd: ModelBundle) -> None:
    model, lora, own = tiny_sd, make_loud_lora(tiny_sd), make_cut_out(tiny_sd)
    run, ctx = describe_run(model, "a red boat", size_cells=(8, 8))
    latents = torch.randn(1, model.spec.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    place = torch.zeros(1, 1, 8, 8)
    place[..., 3:5, 3:5] = 1.0
    with RewardGuidance(lora, None, (3,), (), (own,), likeness=0.6, from_frac=0.0).open(model, run) as hooks:
        hooks.places.take = lambda: place  # type: ignore[attr-defined]

        def predict() -> torch.Tensor:
            return hooks.predict(latents, ctx, lambda noisy, text: run_halves(model, noisy, ctx.timestep, text))[1]

        before = predict()
        pasted = hooks.edit_x0(latents, replace(ctx, fraction=0.3))
        after = predict()
        inside = hooks.held[1].bool().expand_as(before)  # type: ignore[attr-defined]
    cond = run_halves(model, latents, ctx.timestep, ctx.text)[1]
    outside_place = (widen(place) == 0).expand_as(before)
    assert not torch.equal(pasted, latents) and bool((inside & outside_place).any())
    assert torch.allclose(before[outside_place], cond[outside_place], atol=1e-5)
    assert not torch.allclose(after[inside & outside_place], cond[inside & outside_place], atol=1e-3)
    assert torch.allclose(after[~inside], before[~inside], atol=1e-5)


def test_it_begins_later_than_the_picture(tiny_sd: ModelBundle) -> None:
    lora = make_loud_lora(tiny_sd)
    plain = draw(tiny_sd, "a red boat", num_images=2, num_steps=3).latents
    never, late, always = (
        draw(tiny_sd, "a red boat", RewardGuidance(lora, None, (3,), from_frac=at), num_images=2, num_steps=3).latents
        for at in (1.0, 0.5, 0.0)
    )
    assert torch.equal(never, plain)
    assert not torch.equal(late, plain) and not torch.equal(late, always)


def test_a_place_is_widened() -> None:
    place = torch.zeros(1, 1, 32, 32)
    place[..., 4, 4], place[..., 20, 20] = 1.0, 0.2
    wide = widen(place)
    assert wide[0, 0, 4].nonzero().flatten().tolist() == [3, 4, 5] and float(wide[0, 0, 20].max()) == 0
    assert float(widen(torch.full((1, 1, 1, 1), 0.375))) == pytest.approx(0.5)


def test_watching_is_left_as_it_was_found(tiny_sd: ModelBundle) -> None:
    lora, source = make_loud_lora(tiny_sd), make_source(tiny_sd, make_ramp(64))
    before = [type(module.processor) for _, module in list_layers(tiny_sd.unet)]
    named = RewardGuidance(lora, None, (3,))
    plain = RewardGuidance(lora)
    assert not torch.equal(draw(tiny_sd, "a red boat", named).latents, draw(tiny_sd, "a red boat", plain).latents)
    aligned = StyleAligned((source,))
    together = [draw(tiny_sd, "a red boat", first, aligned, num_images=2).latents for first in (named, plain)]
    assert together[0].isfinite().all() and not torch.equal(*together)
    assert [type(module.processor) for _, module in list_layers(tiny_sd.unet)] == before


def test_it_guides_beside_others(tiny_sd: ModelBundle) -> None:
    technique = RewardGuidance(make_loud_lora(tiny_sd))
    source = make_source(tiny_sd, make_ramp(64))
    alone = draw(tiny_sd, "a red boat", technique).latents
    for other in (CfgRescale(), StyleAligned((source,))):
        beside = draw(tiny_sd, "a red boat", technique, other).latents
        assert beside.isfinite().all() and not torch.equal(beside, alone)
        assert not torch.allclose(beside, draw(tiny_sd, "a red boat", other).latents, atol=1e-4)


def test_the_plain_adapter_is_an_adapted_model(tiny_model: ModelBundle) -> None:
    lora = make_loud_lora(tiny_model)
    drawn = draw(tiny_model, "a red boat", SubjectLora(lora, 0.5)).latents
    assert torch.allclose(drawn, draw(adapt(tiny_model, Lora(lora.paths, 0.5)), "a red boat").latents, atol=1e-5)


def test_the_subject_is_asked_ten_times_at_most(tiny_sd: ModelBundle) -> None:
    technique, rows = RewardGuidance(make_loud_lora(tiny_sd), words=(3,), from_frac=0.0), []
    handle = tiny_sd.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    try:
        fine = draw(tiny_sd, "a red boat", technique, num_steps=20).latents
        assert rows == [3, 2] * 10
        rows.clear()
        draw(tiny_sd, "a red boat", technique, num_steps=6)
        assert rows == [3] * 6
    finally:
        handle.remove()
    assert fine.isfinite().all()
