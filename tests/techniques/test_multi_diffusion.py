"""MultiDiffusion: averages equal the slow formula, one window is the plain picture."""

from __future__ import annotations

import pytest
import torch

from pipelines.denoise import DenoiseSettings, denoise
from pipelines.model import ModelBundle
from pipelines.techniques.multi_diffusion import MultiDiffusion, _Windows
from pipelines.text_side import encode_prompt
from pipelines.types import RunInfo, StepContext


def finish(
    model: ModelBundle, size_cells: tuple[int, int], *techniques: MultiDiffusion
) -> tuple[torch.Tensor, list[str]]:
    height_px, width_px = (side * model.spec.px_per_cell for side in size_cells)
    notes: list[str] = []
    with torch.no_grad():
        text = encode_prompt(model, "a red boat", size_px=(width_px, height_px))
    settings = DenoiseSettings(1, 1, 2, 4.0, "dpmpp_2m", width_px, height_px, preview_every=0)
    stream = denoise(model, text, settings, techniques, notes)
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value, notes


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sdxl"])
def test_one_window_is_the_plain_picture_and_says_so(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    plain, _ = finish(model, (8, 8))
    windowed, notes = finish(model, (8, 8), MultiDiffusion())
    assert torch.equal(plain, windowed) and "one window" in notes[0]
    wide, notes = finish(model, (8, 20), MultiDiffusion())
    assert wide.shape[-2:] == (8, 20) and wide.isfinite().all() and not notes


def test_predictions_are_averaged_cell_by_cell(tiny_sd: ModelBundle) -> None:
    with torch.no_grad():
        text = encode_prompt(tiny_sd, "a red boat", size_px=(64, 64))
    run = RunInfo(2, 1, 8, 12, 4.0, "ddim", text, (torch.Generator(),), lambda sentence: None)
    ctx = StepContext(0, 2, 0.0, 999, 0.01, 0.99, 4.0, tiny_sd, text, run.generators)
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
