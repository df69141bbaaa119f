"""Draft collage: cutting and pasting by slow formulas, steps that follow the collage, and things in their boxes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from pipelines.denoise import Sketches
from pipelines.errors import CompositionError, UserError
from pipelines.images import decode
from pipelines.layout import Box
from pipelines.model import ModelBundle
from pipelines.schedules import add_noise
from pipelines.techniques.base import check_compatible
from pipelines.techniques.draft_collage import DraftCollage, _Pasting, find_edges, put_into_box
from pipelines.techniques.multi_diffusion import MultiDiffusion
from tests.runs import describe_run, draw, finish

BOXES = (Box("a red boat", 0.0, 0.0, 0.5, 0.5), Box("a blue star", 0.5, 0.5, 1.0, 1.0))


def test_edges_are_those_of_what_changed_most() -> None:
    changed = torch.zeros(6, 8)
    changed[2:4, 3:7] = 1.0
    changed[0, 0] = 0.3
    assert find_edges(changed) == (3, 2, 7, 4)
    assert find_edges(torch.zeros(6, 8)) == (0, 0, 8, 6)


def test_a_rectangle_lands_in_its_box_and_nothing_else_changes() -> None:
    draft = torch.randn(1, 2, 8, 16, generator=torch.Generator().manual_seed(0))
    canvas = torch.full((1, 2, 8, 16), 9.0)
    # The same size: cells 2..6 by 1..5 go, unscaled, to cells 8..12 by 4..8, with an edge of half a cell.
    pasted = put_into_box(canvas, draft, (2, 1, 6, 5), Box("", 8 / 16, 4 / 8, 12 / 16, 8 / 8))
    assert torch.allclose(pasted[..., 4:8, 8:12], draft[..., 1:5, 2:6], atol=1e-5)
    untouched = torch.ones(8, 16, dtype=torch.bool)
    untouched[4:8, 8:12] = False
    assert (pasted[:, :, untouched] == 9.0).all()


def test_a_rectangle_is_scaled_but_not_beyond_the_limit() -> None:
    draft = torch.arange(16.0).expand(1, 1, 16, 16)  # rises by one a cell, to the right
    canvas = torch.full((1, 1, 16, 16), -9.0)
    pasted = put_into_box(canvas, draft, (4, 4, 8, 8), Box("", 0.0, 0.0, 1.0, 1.0))[0, 0]
    for column in range(16):
        expected = (column + 0.5 - 8) / 4 + 6 - 0.5  # four times as large, in the middle of the draft's rectangle
        assert pasted[8, column] == pytest.approx(expected, abs=1e-5)
    wide = put_into_box(canvas, draft, (4, 4, 8, 8), Box("", 0.0, 0.375, 1.0, 0.625))[0, 0]
    filled = (wide[8] != -9.0).nonzero().flatten().tolist()
    assert filled == list(range(5, 11))  # four cells high, so at most six wide


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sd_v", "tiny_sdxl"])
def test_the_first_steps_follow_the_collage_and_the_others_do_not(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    run, ctx = describe_run(model, "a red boat, a blue star, sea", size_cells=(8, 12), num_steps=4)
    latents, noise = torch.randn(2, 1, model.spec.latent_channels, 8, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), DraftCollage(BOXES, held_frac=0.5).open(model, run) as hooks:
        assert isinstance(hooks, _Pasting) and hooks.num_held == 2
        begun = finish(hooks.init(noise, ctx, lambda: nullcontext()))
        assert torch.equal(begun, add_noise(hooks.collage, noise, ctx.alpha_bar))
        for step, alpha_bar in enumerate((0.1, 0.3, 0.5, 0.9)):
            held = hooks.before_unet(latents, replace(ctx, step=step, alpha_bar=alpha_bar))
            expected = add_noise(hooks.collage, noise, alpha_bar) if step < 2 else latents
            assert torch.equal(held, expected)


def test_pictures_of_a_batch_equal_those_drawn_alone(tiny_sd: ModelBundle) -> None:
    technique = DraftCollage(BOXES)
    batch = draw(tiny_sd, "a red boat", technique, num_images=2, num_steps=4).latents
    alone = draw(tiny_sd, "a red boat", technique, seed=4, num_steps=4).latents
    assert torch.allclose(batch[1:], alone, atol=1e-4)


def test_nothing_to_place_is_said_and_bad_boxes_and_windows_are_refused(tiny_sd: ModelBundle) -> None:
    latents, notes, _ = draw(tiny_sd, ", ,", DraftCollage())
    assert torch.equal(latents, draw(tiny_sd, ", ,").latents)
    assert any("found nothing to place" in note for note in notes)
    with pytest.raises(UserError, match="outside the picture"):
        draw(tiny_sd, "a boat", DraftCollage((Box("a boat", -1, 0, 1, 1),)))
    with pytest.raises(CompositionError, match="Draft collage"):
        check_compatible([DraftCollage(), MultiDiffusion()], sampler="ddim", is_first_order=True)


def test_drafts_are_reported_and_the_collage_is_shown(tiny_sd: ModelBundle) -> None:
    sketches = Sketches()
    drawn = draw(tiny_sd, "a red boat", DraftCollage(BOXES, held_frac=0.5), num_steps=4, sketches=sketches)
    notes = [progress.note for progress in drawn.seen if progress.step == 0]
    drafts = ("the setting", "a red boat", "a blue star")
    assert notes == [f"draft of {what}: step {step}" for what in drafts for step in (1, 2)]
    assert sketches.pictures["The collage of drafts"][1] == BOXES and sketches.boxes == list(BOXES)


def test_a_thing_that_is_not_seen_is_drafted_again_as_often_as_allowed(storybook: ModelBundle) -> None:
    # After two steps of four on 64 px there is nothing yet that the scene parser could see.
    drawn = draw(storybook, "a red boat", DraftCollage(BOXES[:1], max_retries=2), num_steps=4)
    notes = [progress.note for progress in drawn.seen if progress.step == 0 and progress.note.endswith("step 1")]
    tries = ("the setting", "a red boat", "a red boat, try 2", "a red boat, try 3")
    assert notes == [f"draft of {what}: step 1" for what in tries]


def test_exchanged_boxes_exchange_the_things(storybook: ModelBundle) -> None:
    left, right = (0.08, 0.3, 0.46, 0.7), (0.54, 0.3, 0.92, 0.7)
    assert storybook.judge is not None
    filled = []
    for first, second in ((left, right), (right, left)):
        boxes = (Box("a red balloon", *first), Box("a blue cat", *second))
        asked = {"seed": 5_300_000, "num_images": 2, "num_steps": 8, "size_cells": (32, 32)}
        prompt = "a red balloon and a blue cat on a plain background"
        latents = draw(storybook, prompt, DraftCollage(boxes), **asked).latents
        with torch.no_grad():
            filled.append(storybook.judge.place(boxes, decode(storybook, latents))[0])
    assert min(filled) >= 0.5
