"""Where a run that agrees with a small picture starts from; that neutral is nothing is tested with all techniques."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch

from pipelines.images import encode, to_tensor
from pipelines.model import ModelBundle
from pipelines.schedules import add_noise
from pipelines.techniques.picture_agreement import PictureAgreement
from pipelines.types import Progress
from tests.pictures import make_ramp
from tests.runs import describe_run, finish


@torch.no_grad()
def test_a_run_without_its_first_steps_starts_from_the_noised_guess(tiny_sd: ModelBundle) -> None:
    run, ctx = describe_run(tiny_sd, "a boat", num_steps=4)
    ctx = replace(ctx, step=2, alpha_bar=0.4)
    side_px, cells = run.width_cells * tiny_sd.spec.px_per_cell, (2, 4, run.height_cells, run.width_cells)
    guess = to_tensor([make_ramp(side_px)])[0]
    noise = torch.randn(cells, generator=torch.Generator().manual_seed(1))
    seen: list[Progress] = []
    with PictureAgreement(guess=guess).open(tiny_sd, run) as hooks:
        begun = finish(hooks.init(noise, ctx, nullcontext), seen.append)  # type: ignore[arg-type]
        whole = finish(hooks.init(noise, replace(ctx, step=0), nullcontext), seen.append)  # type: ignore[arg-type]
    assert torch.equal(begun, add_noise(encode(tiny_sd, guess[None]).expand(cells), noise, 0.4))
    assert whole is noise and [item.preview is not None for item in seen] == [True]
    with PictureAgreement().open(tiny_sd, run) as hooks:
        assert finish(hooks.init(noise, ctx, nullcontext)) is noise  # type: ignore[arg-type]
