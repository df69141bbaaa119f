"""Low-rank side paths beside linear layers and convolutions of a UNet, which is itself never changed.

An adapted UNet adds the paths while it is called and only then, so that other runs of the same model never meet them.
Written here rather than taken from peft, whose adapters replace modules of the shared UNet as long as they exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.attention import list_layers
from pipelines.model import ModelBundle

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
# Where paths may be: beside attention alone; also beside every layer of the coarser grids; beside all layers.
REACHES = ("attention", "coarse", "all")
_BLOCKS = ("down_blocks", "mid_block", "up_blocks")


@dataclass(frozen=True, eq=False)
class Lora:
    """Hold the side paths of a UNet by the name of their layer, as (down, up) float32.

    Shapes: beside a linear layer down (r, inputs), up (outputs, r); beside a convolution down (r, inputs, k, k), as the
            layer's own kernel, up (outputs, r, 1, 1).
    Source: Hu et al. 2021, LoRA, arXiv 2106.09685: y = W x + scale up(down(x)), with up = 0 at the start.
    """

    paths: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float = 1.0

    def parameters(self) -> list[torch.Tensor]:
        """List what is fitted."""
        return [part for path in self.paths.values() for part in path]

    def detach(self) -> Lora:
        """Copy what was fitted so far."""
        paths = {name: (down.detach().clone(), up.detach().clone()) for name, (down, up) in self.paths.items()}
        return Lora(paths, self.scale)


def make_lora(model: ModelBundle, rank: int, generator: torch.Generator, reach: str = "attention") -> Lora:
    """Make side paths that do nothing yet, beside the layers that `reach` names.

    Raises: ValueError for an unknown reach.
    """
    if reach not in REACHES:
        raise ValueError(f"reach {reach!r} is not one of {REACHES}")
    paths, device = {}, model.plan.device
    for name in _list_layers(model.unet, reach):
        weight = model.unet.get_submodule(name).weight
        inputs = weight[0].numel()
        down = torch.randn(rank, *weight.shape[1:], generator=generator) / inputs**0.5
        up = torch.zeros(weight.shape[0], rank, *(1,) * (weight.ndim - 2), device=device)
        paths[name] = (down.to(device), up)
    return Lora(paths)


def _list_layers(unet: Any, reach: str) -> list[str]:
    """Name the layers that get side paths."""
    projections = [f"{layer.name}.{target}" for layer, _ in list_layers(unet) for target in TARGETS]
    if reach == "attention":
        return projections
    # On the finest grid, convolutions cost most and decide least about what a thing is.
    finest = ("down_blocks.0.", f"up_blocks.{len(unet.up_blocks) - 1}.")
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and name.startswith(_BLOCKS)
        and (reach == "all" or name in projections or not (name.startswith(finest) or "sampler" in name))
    ]


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
    if not isinstance(unet, AdaptedUNet):
        yield
        return
    with side_paths(unet, unet.lora):
        yield


@contextmanager
def side_paths(unet: Any, lora: Lora, rows: slice = slice(None)) -> Iterator[None]:
    """Give a UNet side paths inside a with-block, for all rows of a batch or for some; with scale 0 nothing is done."""
    with ExitStack() as stack:
        for name, (down, up) in lora.paths.items() if lora.scale else ():
            handle = unet.get_submodule(name).register_forward_hook(_SidePath(down, up, lora.scale, rows))
            stack.callback(handle.remove)
        yield


class _SidePath:
    """Add a low-rank path to what a linear layer puts out, in some rows of the batch."""

    def __init__(self, down: torch.Tensor, up: torch.Tensor, scale: float, rows: slice) -> None:
        self.down, self.up, self.scale, self.rows = down, up, scale, rows

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Return y + scale up(down(x)); shapes (b, ..., inputs) and (b, ..., outputs)."""
        hidden = inputs[0][self.rows]
        # The scale goes to the smallest of all factors.
        down, up = self.down.to(hidden), (self.scale * self.up).to(hidden)
        if isinstance(module, nn.Conv2d):
            side = F.conv2d(F.conv2d(hidden, down, None, module.stride, module.padding), up)
        else:
            side = hidden @ down.T @ up.T
        if self.rows == slice(None):
            return output + side
        # What a layer puts out is its own, and nobody else holds it yet.
        output[self.rows] += side
        return output
