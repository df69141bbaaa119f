"""Masked subject: what is outside of the mask is never heard, the place follows the words, strength grows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from pipelines.attention import run_attention
from pipelines.model import ModelBundle
from pipelines.style_reference import make_source
from pipelines.subject_source import SubjectSource, fit_mask, make_subject_source
from pipelines.techniques.masked_subject import MaskedSubject
from tests.pictures import make_ramp
from tests.runs import describe_run, draw


def make_subject(model: ModelBundle) -> SubjectSource:
    """A ramp whose upper left quarter is the subject."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :4] = 1
    return make_subject_source(model, make_ramp(64), mask)


def test_keys_outside_of_the_mask_get_no_attention(tiny_sd: ModelBundle) -> None:
    run, _ = describe_run(tiny_sd, "a red boat", size_cells=(8, 8))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 64, 4, generator=generator) for _ in range(3))
    heard = [torch.randn(1, 2, 64, 4, generator=generator) for _ in range(3)]
    with MaskedSubject((make_subject(tiny_sd),), strength=1.0).open(tiny_sd, run) as hooks:
        attend = partial(hooks.attend, q, k, v, layer="a", kernel="sdpa")  # type: ignore[attr-defined]
        outs = []
        for outside in (0.0, 100.0):
            changed = [part.clone() for part in heard]
            rows = fit_mask(make_subject(tiny_sd).mask, 64) == 0
            for part in changed[1:]:
                part[:, :, rows] += outside
            hooks.heard = [{"a": tuple(changed)}]  # type: ignore[attr-defined]
            outs.append(attend())
    assert torch.equal(*outs), "what stands around the subject is not heard"
    plain = run_attention(q, k, v)
    assert torch.equal(outs[0][:1], plain[:1]), "the empty prompt's half stays"
    inside = [part[:, :, fit_mask(make_subject(tiny_sd).mask, 64) > 0] for part in heard]
    assert torch.allclose(outs[0][1:], run_attention(q[1:], *inside[1:]), atol=1e-5), "all is heard at strength 1"


def test_masks_reach_every_grid() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 5, 2] = 1
    assert fit_mask(mask, 16).nonzero().flatten().tolist() == [9]
    assert fit_mask(torch.zeros(1, 1, 8, 8), 16).tolist() == [1.0] * 16


def test_a_mask_of_another_size_is_a_programming_error(tiny_sd: ModelBundle) -> None:
    with pytest.raises(ValueError, match="mask of"):
        make_subject_source(tiny_sd, make_ramp(64), torch.ones(1, 1, 4, 4))


def test_one_picture_at_a_time_is_the_same(tiny_sd: ModelBundle) -> None:
    technique = MaskedSubject((make_subject(tiny_sd),), words=(3,), from_frac=0.0)
    together = draw(tiny_sd, "a red boat", technique, num_images=3, num_steps=3).latents
    plan = replace(tiny_sd.plan, images_per_call=1)
    alone = draw(replace(tiny_sd, plan=plan), "a red boat", technique, num_images=3, num_steps=3).latents
    assert torch.allclose(together, alone, atol=1e-4)


def test_strength_goes_from_nothing_and_words_change_where(tiny_model: ModelBundle) -> None:
    subject = make_subject(tiny_model)
    plain = draw(tiny_model, "a red boat", num_steps=3).latents
    named = {"references": (subject,), "from_frac": 0.0}
    weak, strong, everywhere = (
        draw(tiny_model, "a red boat", MaskedSubject(**named, words=words, strength=strength), num_steps=3).latents
        for words, strength in (((3,), 0.1), ((3,), 0.9), ((), 0.9))
    )
    assert 0 < float((weak - plain).abs().mean()) < float((strong - plain).abs().mean())
    assert not torch.equal(strong, everywhere)
    assert "no picture of the thing" in draw(tiny_model, "a red boat", MaskedSubject()).notes[0]


def test_a_picture_is_read_once_for_all_seeds(tiny_sd: ModelBundle) -> None:
    source = make_source(tiny_sd, make_ramp(64))
    draw(tiny_sd, "a red boat", MaskedSubject((make_subject(tiny_sd),)))
    known = len(tiny_sd.style_memory)
    draw(tiny_sd, "a red boat", MaskedSubject((make_subject(tiny_sd),)), seed=9)
    assert len(tiny_sd.style_memory) == known and any(source.key in name for name in tiny_sd.style_memory)


def test_the_thing_is_put_in_where_it_is_cut_out_and_named(tiny_sd: ModelBundle) -> None:
    outline = torch.zeros(1, 1, 64, 64)
    outline[..., :32, :32] = 1.0
    bare = make_subject(tiny_sd)
    cut = make_subject_source(tiny_sd, make_ramp(64), bare.mask, outline)
    options = {"words": (3,), "from_frac": 0.0}

    def run(subject: SubjectSource, **changes: object) -> torch.Tensor:
        technique = MaskedSubject((subject,), **(options | changes))  # type: ignore[arg-type]
        return draw(tiny_sd, "a red boat", technique, num_images=2, num_steps=6).latents

    without = run(bare)
    assert torch.equal(run(cut, hold=0.0), without), "with hold 0 nothing is put in"
    assert torch.equal(run(cut, words=()), run(bare, words=())), "nobody knows where an unnamed thing is"
    weak, strong = ((run(cut, hold=hold) - without).abs().mean() for hold in (0.1, 1.0))
    assert float(weak) > 0 and float(strong) > 0 and not torch.equal(weak, strong)


def test_only_the_late_steps_may_redraw_the_thing(tiny_sd: ModelBundle) -> None:
    run, ctx = describe_run(tiny_sd, "a red boat", size_cells=(8, 8))
    subject = make_subject_source(tiny_sd, make_ramp(64), make_subject(tiny_sd).mask, torch.ones(1, 1, 64, 64))
    x0 = torch.zeros(1, tiny_sd.spec.latent_channels, 8, 8)
    inside, new = (torch.zeros(1, 1, 8, 8) for _ in range(2))
    inside[..., :2], new[..., :4] = 1, 1
    with MaskedSubject((subject,), words=(3,), hold=0.25).open(tiny_sd, run) as hooks:
        hooks.read, hooks.held = [{}], (x0 + 1, inside, new)  # type: ignore[attr-defined]
        early, middle, late = (hooks.edit_x0(x0, replace(ctx, fraction=at)) for at in (0.2, 0.5, 0.9))
    assert torch.equal(early, x0)
    assert torch.equal(middle, x0 + new) and torch.equal(late, x0 + 0.25 * inside)
