"""Low-rank side paths beside the attention of a UNet, which is itself never changed.

An adapted UNet adds the paths while it is called and only then, so that other runs of the same model never meet them.
Written here rather than taken from peft, whose adapters replace modules of the shared UNet as long as they exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pipelines.attention import list_layers
from pipelines.model import ModelBundle

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, eq=False)
class Lora:
    """Hold the side paths of a UNet by the name of their linear layer: (down (r, inputs), up (outputs, r)) float32.

    Source: Hu et al. 2021, LoRA, arXiv 2106.09685: y = W x + scale up(down(x)), with up = 0 at the start.
    """

    paths: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float = 1.0

    def parameters(self) -> list[torch.Tensor]:
        """List what is fitted."""
        return [part for path in self.paths.values() for part in path]


def make_lora(model: ModelBundle, rank: int, generator: torch.Generator) -> Lora:
    """Make side paths that do nothing yet, beside the projections of every attention layer."""
    paths = {}
    for name, linear in _list_projections(model.unet):
        outputs, inputs = linear.weight.shape
        down = torch.randn(rank, inputs, generator=generator) / inputs**0.5
        paths[name] = (down.to(model.plan.device), torch.zeros(outputs, rank, device=model.plan.device))
    return Lora(paths)


class AdaptedUNet:
    """Stand for a UNet that has side paths while it is called; everything else of it is the UNet's own."""

    def __init__(self, unet: Any, lora: Lora) -> None:
        self._unet, self.lora = unet, lora

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the UNet with the side paths."""
        with attached(self):
            return self._unet(*args, **named)

    def __getattr__(self, name: str) -> Any:
        """Hand out what belongs to the UNet."""
        return getattr(self._unet, name)


def adapt(model: ModelBundle, lora: Lora) -> ModelBundle:
    """Make a bundle whose UNet has side paths; it shares everything with the model, the run lock included."""
    return replace(model, unet=AdaptedUNet(model.unet, lora))


@contextmanager
def attached(unet: Any) -> Iterator[None]:
    """Let the parts of an adapted UNet be called one by one inside a with-block; a plain one stays as it is."""
    with ExitStack() as stack:
        if isinstance(unet, AdaptedUNet) and unet.lora.scale:
            for name, linear in _list_projections(unet):
                down, up = unet.lora.paths[name]
                handle = linear.register_forward_hook(_SidePath(down, up, unet.lora.scale))
                stack.callback(handle.remove)
        yield


class _SidePath:
    """Add a low-rank path to what a linear layer puts out."""

    def __init__(self, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        self.down, self.up, self.scale = down, up, scale

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Return y + scale up(down(x)); shapes (..., inputs) and (..., outputs)."""
        hidden = inputs[0]
        side = hidden @ self.down.to(hidden).T @ self.up.to(hidden).T
        return output + self.scale * side


def _list_projections(unet: Any) -> list[tuple[str, nn.Linear]]:
    """List the projections of every attention layer by name."""
    return [
        (f"{layer.name}.{target}", module.get_submodule(target))
        for layer, module in list_layers(unet)
        for target in TARGETS
    ]
