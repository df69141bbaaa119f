"""Low-rank side paths: neutral at zero, the formula, gone after each call, fitted to one picture, stoppable."""

from __future__ import annotations

import pytest
import torch

from pipelines.cfg_batch import run_cond
from pipelines.fit import FitSettings, fit_lora
from pipelines.images import encode, to_tensor
from pipelines.lora import TARGETS, Lora, adapt, attached, make_lora
from pipelines.model import ModelBundle
from pipelines.text_side import encode_prompt
from tests.pictures import make_ramp
from tests.runs import finish


@torch.no_grad()
def predict(model: ModelBundle) -> torch.Tensor:
    """Run the UNet once on a fixed input."""
    latents = torch.randn(1, model.spec.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    return run_cond(model, latents, 300, encode_prompt(model, "a red boat", size_px=(64, 64)))


def fill(lora: Lora) -> Lora:
    """Give the second halves of the paths something to say."""
    generator = torch.Generator().manual_seed(2)
    return Lora({name: (down, torch.randn(up.shape, generator=generator)) for name, (down, up) in lora.paths.items()})


def test_neutral_at_zero_and_effective_otherwise(tiny_model: ModelBundle) -> None:
    plain, lora = predict(tiny_model), make_lora(tiny_model, 2, torch.Generator().manual_seed(0))
    assert torch.equal(predict(adapt(tiny_model, lora)), plain), "up is zero at the start"
    full = fill(lora)
    assert not torch.allclose(predict(adapt(tiny_model, full)), plain)
    assert torch.equal(predict(adapt(tiny_model, Lora(full.paths, scale=0.0))), plain)
    assert torch.equal(predict(tiny_model), plain), "the model itself never changed"


def test_every_projection_has_a_path_by_the_formula(tiny_sd: ModelBundle) -> None:
    lora = fill(make_lora(tiny_sd, 2, torch.Generator().manual_seed(0)))
    assert {name.split(".attn")[1][2:] for name in lora.paths} == set(TARGETS)
    name, (down, up) = next(iter(lora.paths.items()))
    linear = tiny_sd.unet.get_submodule(name)
    hidden = torch.randn(3, linear.in_features, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), attached(adapt(tiny_sd, lora).unet):
        inside = linear(hidden)
    with torch.no_grad():
        plain = linear(hidden)
    expected = plain + torch.stack([up @ (down @ row) for row in hidden])
    assert torch.allclose(inside, expected, atol=1e-5)


def test_an_error_inside_a_call_leaves_no_path(tiny_sd: ModelBundle) -> None:
    adapted = adapt(tiny_sd, fill(make_lora(tiny_sd, 2, torch.Generator())))
    with pytest.raises(RuntimeError, match="on purpose"), attached(adapted.unet):
        raise RuntimeError("on purpose")
    assert not any(module._forward_hooks for module in tiny_sd.unet.modules())


def test_the_fit_learns_one_picture_and_can_be_stopped(tiny_model: ModelBundle) -> None:
    with torch.no_grad():
        latents = encode(tiny_model, to_tensor([make_ramp(64)]))
        text = encode_prompt(tiny_model, "", size_px=(64, 64))
    weights = [parameter.clone() for parameter in tiny_model.unet.parameters()]
    settings = FitSettings(num_steps=3, rank=2)
    seen = []
    lora = finish(fit_lora(tiny_model, latents, text, settings), seen.append)
    assert [progress.note for progress in seen][-1] == "learning the picture, 3/3"
    assert all(bool((up != 0).any()) for _, up in lora.paths.values()), "every path was fitted"
    again = finish(fit_lora(tiny_model, latents, text, settings))
    assert all(torch.equal(lora.paths[name][1], again.paths[name][1]) for name in lora.paths), "the same every time"
    stream = fit_lora(tiny_model, latents, text, settings)
    next(stream)
    stream.close()
    assert not tiny_model.lock.locked() and not any(module._forward_hooks for module in tiny_model.unet.modules())
    assert all(torch.equal(old, new) for old, new in zip(weights, tiny_model.unet.parameters()))
    assert all(parameter.grad is None for parameter in tiny_model.unet.parameters())
