"""The decoder half of a UNet on its own: what the encoder computed is kept, so that only the decoder runs again.

For optimising the bottleneck: latents and encoder stay the same, and half of each pass is saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipelines.cfg_batch import run_cond
from pipelines.lora import attached
from pipelines.model import ModelBundle, TextCond


class KeptEncoder:
    """Hold what one pass of the UNet handed to its decoder.

    Shapes: bottleneck (b, c, h, w), what the middle block put out; pred (b, c, h, w) float32, what the pass predicted.
    """

    def __init__(self, model: ModelBundle, latents: torch.Tensor, timestep: int, text: TextCond) -> None:
        self._unet = model.unet
        self._blocks = list(model.unet.up_blocks)
        self._inputs: list[dict[str, Any]] = []
        model.residence.place("unet")
        # diffusers hands every input of a decoder block over by name.
        hooks = [
            block.register_forward_pre_hook(lambda _, args, named: self._inputs.append(dict(named)), with_kwargs=True)
            for block in self._blocks
        ]
        try:
            self.pred = run_cond(model, latents, timestep, text)
        finally:
            for hook in hooks:
                hook.remove()
        self.bottleneck: torch.Tensor = self._inputs[0]["hidden_states"]

    def run_features(self, bottleneck: torch.Tensor) -> torch.Tensor:
        """Run the decoder on another bottleneck, up to its last but one block; returns (b, c, h, w)."""
        hidden = bottleneck.to(self.bottleneck)
        with attached(self._unet):
            for block, inputs in zip(self._blocks[:-1], self._inputs):
                hidden = block(**(inputs | {"hidden_states": hidden}))
        return hidden


@contextmanager
def replaced_bottleneck(unet: Any, bottleneck: torch.Tensor) -> Iterator[None]:
    """Put (1, c, h, w) in the place of what the middle block computes, for all rows of the passes in a with-block."""

    def replace(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return bottleneck.to(output).expand_as(output)

    handle = unet.mid_block.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
