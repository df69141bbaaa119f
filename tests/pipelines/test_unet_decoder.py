"""The decoder on its own: the same as in a whole pass, another bottleneck is heard, nothing stays behind."""

from __future__ import annotations

import pytest
import torch

from pipelines.cfg_batch import run_cond
from pipelines.drag_latents import watched_features
from pipelines.lora import Lora, adapt, make_lora
from pipelines.model import ModelBundle, TextCond
from pipelines.text_side import encode_prompt
from pipelines.unet_decoder import KeptEncoder, replaced_bottleneck

TIMESTEP = 300


@pytest.fixture
def asked(tiny_model: ModelBundle) -> tuple[torch.Tensor, TextCond]:
    """What the UNet is asked for."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, tiny_model.spec.latent_channels, 8, 8, generator=generator)
    with torch.no_grad():
        return latents, encode_prompt(tiny_model, "a red boat", size_px=(64, 64))


@torch.no_grad()
def test_the_decoder_alone_computes_what_a_whole_pass_does(
    tiny_model: ModelBundle, asked: tuple[torch.Tensor, TextCond]
) -> None:
    latents, text = asked
    lora = make_lora(tiny_model, 2, torch.Generator().manual_seed(0))
    full = Lora({name: (down, torch.ones_like(up)) for name, (down, up) in lora.paths.items()})
    for model in (tiny_model, adapt(tiny_model, full)):
        with watched_features(model.unet) as seen:
            pred = run_cond(model, latents, TIMESTEP, text)
        kept = KeptEncoder(model, latents, TIMESTEP, text)
        assert torch.equal(kept.pred, pred)
        assert torch.allclose(kept.run_features(kept.bottleneck), seen[0], atol=1e-5)
        assert not torch.allclose(kept.run_features(kept.bottleneck + 1), seen[0], atol=1e-3)


def test_only_the_decoder_runs_and_its_gradients_reach_the_bottleneck(
    tiny_model: ModelBundle, asked: tuple[torch.Tensor, TextCond]
) -> None:
    latents, text = asked
    with torch.no_grad():
        kept = KeptEncoder(tiny_model, latents, TIMESTEP, text)
    calls = []
    handle = tiny_model.unet.mid_block.register_forward_hook(lambda *parts: calls.append(1))
    moved = kept.bottleneck.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(kept.run_features(moved).square().mean(), moved)
    handle.remove()
    assert not calls and bool(gradient.any())


@torch.no_grad()
def test_a_replaced_bottleneck_is_heard_by_every_row_and_gone_after_an_error(
    tiny_model: ModelBundle, asked: tuple[torch.Tensor, TextCond]
) -> None:
    latents, text = asked
    kept = KeptEncoder(tiny_model, latents, TIMESTEP, text)
    with replaced_bottleneck(tiny_model.unet, kept.bottleneck):
        assert torch.allclose(run_cond(tiny_model, latents, TIMESTEP, text), kept.pred, atol=1e-6)
    with replaced_bottleneck(tiny_model.unet, kept.bottleneck + 1):
        both = run_cond(tiny_model, latents.expand(2, -1, -1, -1), TIMESTEP, text)
    assert not torch.allclose(both[:1], kept.pred, atol=1e-3) and torch.allclose(both[0], both[1], atol=1e-5)
    with pytest.raises(RuntimeError, match="on purpose"), replaced_bottleneck(tiny_model.unet, kept.bottleneck):
        raise RuntimeError("on purpose")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_model.unet.modules())
