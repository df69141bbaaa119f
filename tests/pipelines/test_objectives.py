"""Objectives of a fit: the formulas of DreamBooth and DCO, and what a DCO fit must not touch."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.fit import FitSettings, Lesson, fit
from pipelines.images import encode, to_tensor
from pipelines.model import ModelBundle
from pipelines.objectives import dco, dreambooth, row_errors
from pipelines.text_side import encode_prompt
from tests.pictures import make_ramp
from tests.runs import finish


def test_dco_is_the_formula_and_ln_2_at_the_start() -> None:
    errors, base = torch.tensor([0.5, 0.3, 0.2, 0.4]), torch.tensor([0.4, 0.5, 0.2, 0.2])
    assert float(dco(base, base, 1000.0)) == pytest.approx(math.log(2))
    slow = 0.0
    for first in (0, 2):
        gap = sum(float(errors[row] - base[row]) for row in (first, first + 1)) / 2
        slow += -math.log(1 / (1 + math.exp(7 * gap))) / 2
    assert float(dco(errors, base, 7.0, draws=2)) == pytest.approx(slow, rel=1e-5)


def test_dco_stops_pulling_once_the_model_is_clearly_better() -> None:
    pulls = []
    for gain in (0.0, 0.1, 1.0):
        error = torch.tensor([1.0 - gain], requires_grad=True)
        dco(error, torch.tensor([1.0]), 10.0).backward()
        pulls.append(float(error.grad))  # type: ignore[arg-type]
    assert pulls[0] == pytest.approx(5.0) and pulls[0] > pulls[1] > pulls[2] and pulls[2] < 0.01


def test_dreambooth_adds_the_prior() -> None:
    errors, prior = torch.tensor([0.2, 0.4]), torch.tensor([0.6])
    assert float(dreambooth(errors, prior, 0.5)) == pytest.approx(0.6)
    assert float(dreambooth(errors, prior[:0], 0.5)) == pytest.approx(0.3)


def test_rows_are_weighed_by_their_own_mask() -> None:
    pred, wanted = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    pred[1, :, 0] = 1.0
    weights = torch.zeros(2, 1, 2, 2)
    weights[:, :, 0] = 2.0
    assert row_errors(pred, wanted).tolist() == [1.0, 0.5]
    assert row_errors(pred, wanted, weights).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("reach", ["attention", "coarse", "all"])
def test_a_dco_fit_gains_on_its_pictures(tiny_model: ModelBundle, reach: str) -> None:
    with torch.no_grad():
        latents = encode(tiny_model, to_tensor([make_ramp(64), make_ramp(64).rotate(90)]))
        text = encode_prompt(tiny_model, "my boat", size_px=(64, 64))
        base = encode_prompt(tiny_model, "a boat", size_px=(64, 64))
    settings = FitSettings(num_steps=6, rank=2, batch_size=4, draws=2, objective="dco", reach=reach, beta=1.0)
    gains: list[float] = []
    finish(fit(tiny_model, Lesson(latents, text, base), settings), lambda progress: gains.append(progress.gain))  # type: ignore[arg-type]
    assert abs(gains[0]) < 0.1 and gains[-1] > gains[0]
    mask = torch.zeros(2, 1, *latents.shape[2:])
    mask[..., :4, :4] = 1
    lora = finish(fit(tiny_model, Lesson(latents, text, base, mask), settings))  # type: ignore[arg-type]
    assert all(part.isfinite().all() for part in lora.parameters())  # type: ignore[attr-defined]
    assert all(parameter.grad is None for parameter in tiny_model.unet.parameters())


def test_a_wrong_setting_is_a_programming_error(tiny_sd: ModelBundle) -> None:
    with torch.no_grad():
        latents = encode(tiny_sd, to_tensor([make_ramp(64)]))
        text = encode_prompt(tiny_sd, "", size_px=(64, 64))
    for settings in (FitSettings(objective="luck"), FitSettings(batch_size=3, draws=2)):
        with pytest.raises(ValueError, match="objective"):
            next(fit(tiny_sd, Lesson(latents, text), settings))


def test_class_pictures_take_rows_of_their_own(tiny_sd: ModelBundle) -> None:
    with torch.no_grad():
        latents = encode(tiny_sd, to_tensor([make_ramp(64)]))
        text = encode_prompt(tiny_sd, "my boat", size_px=(64, 64))
        base = encode_prompt(tiny_sd, "a boat", size_px=(64, 64))
    lesson = Lesson(latents, text, base, prior=latents.flip(3).repeat(3, 1, 1, 1), prior_text=base)
    rows: list[int] = []
    handle = tiny_sd.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    try:
        for size in (0, 1):
            settings = FitSettings(num_steps=1, rank=2, batch_size=4, prior_size=size, max_timestep=900)
            finish(fit(tiny_sd, lesson, settings))  # type: ignore[arg-type]
    finally:
        handle.remove()
    assert rows == [8, 5]
