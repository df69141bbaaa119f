"""MultiDiffusion: averages equal the slow formula, one window is the plain picture."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pipelines.model import ModelBundle
from pipelines.techniques.multi_diffusion import MultiDiffusion, _Windows
from tests import runs
from tests.runs import describe_run

draw = partial(runs.draw, sampler="dpmpp_2m")  # which remembers the step before


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sdxl"])
def test_one_window_is_the_plain_picture_and_says_so(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    plain = draw(model, "a red boat").latents
    windowed, notes, _ = draw(model, "a red boat", MultiDiffusion())
    assert torch.equal(plain, windowed) and "one window" in notes[0]
    wide, notes, _ = draw(model, "a red boat", MultiDiffusion(), size_cells=(8, 20))
    assert wide.shape[-2:] == (8, 20) and wide.isfinite().all() and not notes


def test_predictions_are_averaged_cell_by_cell(tiny_sd: ModelBundle) -> None:
    run, ctx = describe_run(tiny_sd, "a red boat", size_cells=(8, 12))
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    with MultiDiffusion(overlap=0.5).open(tiny_sd, run) as hooks:
        assert isinstance(hooks, _Windows) and len(hooks.windows) == 2
        uncond, cond = hooks.predict(latents, ctx, lambda part, text: (part * part.mean(), part + part.mean()))
    left, right = latents[..., :8], latents[..., 4:]
    expected = torch.cat([left, torch.zeros(1, 4, 8, 4)], -1) * left.mean()
    expected += torch.cat([torch.zeros(1, 4, 8, 4), right], -1) * right.mean()
    expected[..., 4:8] /= 2
    assert torch.allclose(uncond, expected, atol=1e-6)
    assert torch.allclose(cond[..., :4], left[..., :4] + left.mean(), atol=1e-6)
