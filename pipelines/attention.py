"""Attention kernels, the recorder of attention maps, and the one way to change a UNet's attention for a while.

run_attention() offers three kernels with one result; patched() puts back the very processor objects it found.
Only this file touches xformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

KERNELS = ("sdpa", "xformers", "explicit")


@dataclass(frozen=True)
class AttentionLayer:
    """Name one attention layer of a UNet: kind is self or cross, place is down, mid or up, cells its grid's side."""

    name: str
    kind: str
    place: str
    cells: int


Processor = Any
Select = Callable[[AttentionLayer], bool]
Make = Callable[[AttentionLayer, Processor], Processor]


def xformers_works(device: str, dtype: torch.dtype) -> bool:
    """Tell whether xformers is installed and really computes on this device."""
    try:
        from xformers.ops import memory_efficient_attention

        probe = torch.zeros(1, 8, 1, 16, device=device, dtype=dtype)
        memory_efficient_attention(probe, probe, probe)
    # Not installed, built for another torch, or no kernel for this device: all mean "choose another kernel".
    except (ImportError, OSError, RuntimeError, NotImplementedError, AttributeError):
        return False
    return True


def set_kernel(unet: Any, kernel: str) -> None:
    """Install the processors of a kernel in the whole UNet; techniques patch on top of it.

    Raises: ValueError for an unknown kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r} is not one of {KERNELS}")
    for _, module in list_layers(unet):
        _check_layer(module)
    unet.set_attn_processor(KernelProcessor(kernel))


def attention_probs(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Compute softmax(q k^T / sqrt(d) + mask).

    Shapes:  q (b, heads, n, d), k (b, heads, m, d), mask broadcastable to (b, heads, n, m) and added.
    Returns: (b, heads, n, m) in q's dtype; the softmax is taken in float32.
    """
    scores = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1).to(q.dtype)


def run_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, mask: torch.Tensor | None = None, kernel: str = "sdpa"
) -> torch.Tensor:
    """Compute attention with one of the kernels.

    Shapes:  q (b, heads, n, d), k and v (b, heads, m, d), mask broadcastable to (b, heads, n, m) and added.
    Returns: (b, heads, n, d).
    Raises:  ValueError for an unknown kernel.
    """
    if kernel == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if kernel == "explicit":
        return attention_probs(q, k, mask) @ v
    if kernel == "xformers":
        from xformers.ops import memory_efficient_attention

        bias = None if mask is None else mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        swapped = (tensor.transpose(1, 2).contiguous() for tensor in (q, k, v))
        return memory_efficient_attention(*swapped, attn_bias=bias).transpose(1, 2)
    raise ValueError(f"kernel {kernel!r} is not one of {KERNELS}")


def list_layers(unet: Any) -> list[tuple[AttentionLayer, Any]]:
    """List the attention layers of a UNet with their modules, in the order of its named modules.

    Units: cells is the side of the layer's grid for the UNet's own sample size.
    """
    from diffusers.models.attention_processor import Attention

    sample = unet.config.sample_size
    side = sample if isinstance(sample, int) else sample[0]
    num_levels = len(unet.config.block_out_channels)
    found = []
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            block, _, rest = name.partition(".")
            index = int(rest.partition(".")[0]) if block != "mid_block" else num_levels - 1
            level = index if block != "up_blocks" else num_levels - 1 - index
            place = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}[block]
            kind = "cross" if module.is_cross_attention else "self"
            found.append((AttentionLayer(name, kind, place, side // 2**level), module))
    return found


@contextmanager
def patched(unet: Any, select: Select, make: Make) -> Iterator[list[AttentionLayer]]:
    """Replace the processors of the selected layers for the length of a with-block.

    Units:   make(layer, previous) returns the new processor and may wrap the previous one.
    Returns: the patched layers; on leaving, also by an error, every layer holds its previous object again.
    """
    layers = [(layer, module) for layer, module in list_layers(unet) if select(layer)]
    previous = [module.processor for _, module in layers]
    try:
        for (layer, module), before in zip(layers, previous):
            module.set_processor(make(layer, before))
        yield [layer for layer, _ in layers]
    finally:
        for (_, module), before in zip(layers, previous):
            module.set_processor(before)


@dataclass
class AttentionRecorder:
    """Collect the attention maps of one pass: layer name -> (b2, heads, n, m); clear() before the next pass."""

    maps: dict[str, torch.Tensor] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget the maps of the pass before."""
        self.maps.clear()

    def make(self, layer: AttentionLayer, previous: Processor) -> Processor:
        """Make the recording processor of one layer; fits `patched`."""
        return RecordingProcessor(layer, self)


class KernelProcessor:
    """Compute a UNet's attention layers with one of the kernels; the processor that every technique finds.

    Source: the contract of diffusers.models.attention_processor; the library's own processors look the same outside.
    """

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Return the layer's output; shapes (b2, n, c), and (b2, m, e) for the text."""
        q, k, v = project_qkv(attn, hidden_states, encoder_hidden_states)
        return project_out(attn, self.attend(q, k, v, attention_mask), hidden_states)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Compute the attention itself; what a subclass replaces or watches."""
        return run_attention(q, k, v, mask=mask, kernel=self.kernel)


# diffusers inspects a processor's signature at every call; a ready one saves a few per cent of a small UNet's step.
KernelProcessor.__call__.__signature__ = inspect.signature(KernelProcessor.__call__)  # type: ignore[attr-defined]


class RecordingProcessor(KernelProcessor):
    """Compute a layer with the explicit kernel and keep its probabilities."""

    def __init__(self, layer: AttentionLayer, recorder: AttentionRecorder) -> None:
        super().__init__("explicit")
        self.layer, self.recorder = layer, recorder

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Compute the probabilities, keep them, and mix the values."""
        probs = attention_probs(q, k, mask)
        self.recorder.maps[self.layer.name] = probs
        return probs @ v


@dataclass
class PairRecorder(AttentionRecorder):
    """Record the maps of cross-attention; of self-attention only (query, key), because its whole maps are large."""

    kernel: str = "sdpa"
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget what was recorded in the pass before."""
        super().clear()
        self.pairs.clear()

    def make(self, layer: AttentionLayer, previous: Processor) -> Processor:
        """Make the recording processor of one layer; fits `patched`."""
        return super().make(layer, previous) if layer.kind == "cross" else _PairProcessor(layer, self)

    def count_cells(self, layer: AttentionLayer) -> int:
        """Return how many cells the grid of a recorded self-attention layer has."""
        return self.pairs[layer.name][0].shape[2]

    def rows(self, layer: AttentionLayer, cells: torch.Tensor) -> torch.Tensor:
        """Compute some rows of a recorded self-attention map.

        Shapes: cells (k,) int64; returns (b2, heads, k, n).
        """
        q, k = self.pairs[layer.name]
        return attention_probs(q[:, :, cells], k)


class _PairProcessor(KernelProcessor):
    """Compute a self-attention layer with one of the kernels and keep its queries and keys."""

    def __init__(self, layer: AttentionLayer, recorder: PairRecorder) -> None:
        super().__init__(recorder.kernel)
        self.layer, self.recorder = layer, recorder

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Keep queries and keys, and compute as ever."""
        self.recorder.pairs[self.layer.name] = (q, k)
        return super().attend(q, k, v, mask)


def _check_layer(attn: Any) -> None:
    """Refuse an attention layer with parts that our processors do not compute.

    Raises: ValueError naming the part.
    """
    for part in ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k"):
        if getattr(attn, part, None) is not None:
            raise ValueError(f"attention layer with {part} is not supported; the UNets of SD and SDXL have none")


def project_qkv(
    attn: Any, hidden: torch.Tensor, text: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Project a layer's inputs to query, key and value.

    Shapes:  hidden (b2, n, c); text (b2, m, e) or None for self-attention.
    Returns: q (b2, heads, n, d), k and v (b2, heads, m, d).
    """
    source = hidden if text is None else text

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    return heads(attn.to_q(hidden)), heads(attn.to_k(source)), heads(attn.to_v(source))


def project_out(attn: Any, mixed: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Join the heads (b2, heads, n, d) and project back to (b2, n, c), with the layer's own residual rule."""
    out = attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))
    if attn.residual_connection:
        out = out + hidden
    return out / attn.rescale_output_factor
