"""Attend-and-Excite: how words compete, by hand, and updates that really lift the most neglected word."""

from __future__ import annotations

import pytest
import torch

from pipelines.attention_loss import neglect, see
from pipelines.attention_maps import word_maps
from pipelines.model import ModelBundle
from pipelines.techniques.attend_and_excite import AttendAndExcite
from tests.runs import describe_run


def test_words_compete_for_cells_without_start_end_and_padding() -> None:
    average = torch.zeros(1, 4, 6)
    average[0, :, 0], average[0, :, 5] = 10.0, 10.0  # start and padding: must not matter
    average[0, 0, 1], average[0, 3, 2] = 1.0, 1.0
    boat, moon = word_maps(average, [(1,), (2,)], 4, (2, 2), 50.0)
    assert boat.argmax() == 0 and moon.argmax() == 3
    assert torch.allclose(boat + moon, torch.ones(2, 2))


@pytest.mark.parametrize("name", ["storybook", "tiny_sd", "tiny_sdxl"])
def test_updates_lift_the_most_neglected_word(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    run, ctx = describe_run(model, "a cat, a red boat", num_steps=20)
    with AttendAndExcite(step_frac=0.02, sharpness=20.0, max_refinements=0).open(model, run) as hooks, torch.no_grad():
        lifted = 0
        for seed in range(4):
            latents = torch.randn(1, model.spec.latent_channels, run.height_cells, run.width_cells)
            latents.normal_(generator=torch.Generator().manual_seed(seed))
            moved = hooks.before_unet(latents, ctx)
            before, after = (float(neglect(see(hooks.watch, x, 0, ctx).maps)) for x in (latents, moved))
            lifted += after < before
    assert lifted >= 3


def test_a_prompt_without_things_is_said(tiny_sd: ModelBundle) -> None:
    notes: list[str] = []
    run, ctx = describe_run(tiny_sd, ", ,", num_steps=20, notes=notes)
    latents = torch.randn(1, 4, 8, 8)
    with AttendAndExcite().open(tiny_sd, run) as hooks:
        assert torch.equal(hooks.before_unet(latents, ctx), latents)
    assert len(notes) == 1 and "found no thing" in notes[0]
