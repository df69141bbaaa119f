"""Kernels against plain loops; the recorder changes nothing; patched() puts the very same objects back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipelines import attention
from pipelines.attention import AttentionLayer, AttentionRecorder, list_layers, patched, run_attention
from pipelines.model import ModelBundle, run_unet


def slow_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, head, row in np.ndindex(*q.shape[:3]):
        scores = [
            sum(q[b, head, row] * k[b, head, m]) / math.sqrt(q.shape[3]) + mask[row, m] for m in range(k.shape[2])
        ]
        weights = [math.exp(score - max(scores)) for score in scores]
        for m, weight in enumerate(weights):
            out[b, head, row] += weight / sum(weights) * v[b, head, m]
    return out


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_a_kernel_equals_plain_loops(kernel: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 2, 3, 4, generator=generator)
    k, v = torch.randn(2, 2, 2, 5, 4, generator=generator)
    mask = torch.randn(3, 5, generator=generator)
    expected = slow_attention(q.numpy(), k.numpy(), v.numpy(), mask.numpy())
    out = run_attention(q, k, v, mask=mask, kernel=kernel)
    assert np.allclose(out.numpy(), expected, atol=1e-5)


def test_an_unknown_kernel_is_refused(tiny_sd: ModelBundle) -> None:
    q = torch.zeros(1, 1, 1, 4)
    with pytest.raises(ValueError, match="'flash' is not one of"):
        run_attention(q, q, q, kernel="flash")
    with pytest.raises(ValueError, match="'flash' is not one of"):
        attention.set_kernel(tiny_sd.unet, "flash")


def test_layers_know_kind_place_and_grid(tiny_sd: ModelBundle) -> None:
    layers = [layer for layer, _ in list_layers(tiny_sd.unet)]
    assert {layer.kind for layer in layers} == {"self", "cross"}
    assert {layer.cells for layer in layers if layer.place == "mid"} == {4}
    assert {layer.cells for layer in layers if layer.name.startswith("down_blocks.0")} == {8}
    assert {layer.cells for layer in layers if layer.name.startswith("up_blocks.0")} == {4}
    assert {layer.cells for layer in layers if layer.name.startswith("up_blocks.1")} == {8}
    assert all(("attn2" in layer.name) == (layer.kind == "cross") for layer in layers)


def run_once(model: ModelBundle) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, model.spec.latent_channels, 8, 8, generator=generator)
    text = torch.randn(2, 16, model.unet.config.cross_attention_dim, generator=generator)
    added = {"text_embeds": torch.ones(2, 16), "time_ids": torch.ones(2, 6)} if model.spec.family == "sdxl" else {}
    with torch.no_grad():
        return run_unet(model, latents, 500, text, added)


def test_the_kernel_of_the_plan_is_installed(tiny_model: ModelBundle) -> None:
    processors = tiny_model.unet.attn_processors.values()
    assert {(type(processor), processor.kernel) for processor in processors} == {(attention.KernelProcessor, "sdpa")}


def test_recording_keeps_the_output_and_sees_rows_that_sum_to_one(tiny_model: ModelBundle) -> None:
    plain, recorder = run_once(tiny_model), AttentionRecorder()
    with patched(tiny_model.unet, lambda layer: True, recorder.make) as layers:
        recorded = run_once(tiny_model)
    assert torch.allclose(plain, recorded, atol=1e-5)
    assert set(recorder.maps) == {layer.name for layer in layers}
    for layer in layers:
        probs = recorder.maps[layer.name]
        columns = 16 if layer.kind == "cross" else layer.cells**2
        assert probs.shape[2:] == (layer.cells**2, columns)
        assert torch.allclose(probs.sum(-1), torch.ones_like(probs.sum(-1)), atol=1e-5)
    recorder.clear()
    assert not recorder.maps


def test_patching_selects_and_puts_the_same_objects_back(tiny_sd: ModelBundle) -> None:
    before = {layer.name: module.processor for layer, module in list_layers(tiny_sd.unet)}

    def is_wanted(layer: AttentionLayer) -> bool:
        return layer.kind == "cross" and layer.cells == 4

    with patched(tiny_sd.unet, is_wanted, AttentionRecorder().make) as layers:
        during = {layer.name: module.processor for layer, module in list_layers(tiny_sd.unet)}
        changed = {name for name in before if during[name] is not before[name]}
        assert changed == {layer.name for layer in layers} and changed
    with pytest.raises(RuntimeError, match="stop"), patched(tiny_sd.unet, is_wanted, AttentionRecorder().make):
        raise RuntimeError("stop")
    after = {layer.name: module.processor for layer, module in list_layers(tiny_sd.unet)}
    assert all(after[name] is before[name] for name in before)


def test_a_patch_over_a_patch_is_taken_off_first(tiny_sd: ModelBundle) -> None:
    outer, inner = AttentionRecorder(), AttentionRecorder()
    with patched(tiny_sd.unet, lambda layer: True, outer.make):
        with patched(tiny_sd.unet, lambda layer: True, inner.make):
            run_once(tiny_sd)
        assert inner.maps and not outer.maps
        run_once(tiny_sd)
    assert outer.maps


def test_a_layer_with_unknown_parts_is_refused(tiny_sd: ModelBundle) -> None:
    _, module = list_layers(tiny_sd.unet)[0]
    module.norm_cross = torch.nn.LayerNorm(8)
    try:
        with pytest.raises(ValueError, match="attention layer with norm_cross is not supported"):
            attention.set_kernel(tiny_sd.unet, "sdpa")
    finally:
        module.norm_cross = None


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_our_processors_compute_what_the_library_computes(tiny_model: ModelBundle, kernel: str) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    with patched(tiny_model.unet, lambda layer: True, lambda layer, previous: AttnProcessor2_0()):
        expected = run_once(tiny_model)
    with patched(tiny_model.unet, lambda layer: True, lambda layer, previous: attention.KernelProcessor(kernel)):
        assert torch.allclose(run_once(tiny_model), expected, atol=1e-5)
