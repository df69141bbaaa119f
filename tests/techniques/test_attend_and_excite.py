"""Attend-and-Excite: the loss by hand, and updates that really lift the attention of the most neglected word."""

from __future__ import annotations

import pytest
import torch

from pipelines.attention_maps import word_maps
from pipelines.model import ModelBundle
from pipelines.techniques.attend_and_excite import AttendAndExcite, move, neglect
from pipelines.text_side import encode_prompt
from pipelines.types import RunInfo, StepContext


def make_context(model: ModelBundle, prompt: str, notes: list[str]) -> tuple[RunInfo, StepContext]:
    """Describe the first of 20 steps of a run."""
    with torch.no_grad():
        text = encode_prompt(model, prompt, size_px=(model.spec.image_px, model.spec.image_px))
    cells = model.spec.image_px // model.spec.px_per_cell
    run = RunInfo(20, 1, cells, cells, 4.0, "ddim", text, (torch.Generator(),), notes.append)
    return run, StepContext(0, 20, 0.0, 999, 0.01, 0.99, 4.0, model, text, run.generators)


def test_the_loss_is_that_of_the_most_neglected_word() -> None:
    maps = torch.zeros(3, 4, 4)
    maps[0, 1, 1], maps[1, 2, 2], maps[2, 3, 3] = 0.9, 0.4, 0.7
    assert neglect(maps) == pytest.approx(0.6)


def test_words_compete_for_cells_without_start_end_and_padding() -> None:
    average = torch.zeros(1, 4, 6)
    average[0, :, 0], average[0, :, 5] = 10.0, 10.0  # start and padding: must not matter
    average[0, 0, 1], average[0, 3, 2] = 1.0, 1.0
    boat, moon = word_maps(average, [(1,), (2,)], 4, (2, 2), 50.0)
    assert boat.argmax() == 0 and moon.argmax() == 3
    assert torch.allclose(boat + moon, torch.ones(2, 2))


def test_a_move_has_the_asked_length() -> None:
    latents, gradient = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    assert move(latents, gradient, 0.05).norm() == pytest.approx(0.05 * float(latents.norm()), rel=1e-5)
    assert move(latents, torch.zeros_like(gradient), 0.05).abs().max() == 0


@pytest.mark.parametrize("name", ["storybook", "tiny_sd", "tiny_sdxl"])
def test_updates_lift_the_most_neglected_word(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    run, ctx = make_context(model, "a cat, a red boat", [])
    with AttendAndExcite(step_frac=0.02, sharpness=20.0, max_refinements=0).open(model, run) as hooks, torch.no_grad():
        lifted = 0
        for seed in range(4):
            latents = torch.randn(1, model.spec.latent_channels, run.height_cells, run.width_cells)
            latents.normal_(generator=torch.Generator().manual_seed(seed))
            before, _ = hooks._look(latents, 0, ctx)  # type: ignore[attr-defined]
            after, _ = hooks._look(hooks.before_unet(latents, ctx), 0, ctx)  # type: ignore[attr-defined]
            lifted += after < before
    assert lifted >= 3


def test_a_prompt_without_things_is_said(tiny_sd: ModelBundle) -> None:
    notes: list[str] = []
    run, ctx = make_context(tiny_sd, ", ,", notes)
    latents = torch.randn(1, 4, 8, 8)
    with AttendAndExcite().open(tiny_sd, run) as hooks:
        assert torch.equal(hooks.before_unet(latents, ctx), latents)
    assert len(notes) == 1 and "found no thing" in notes[0]
