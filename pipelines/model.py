"""A loaded model: its parts, its facts, its lock, and the one place where the UNet is called.

A ModelBundle is frozen and shared by all runs; whoever changes the UNet, even for a moment, holds `lock`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.agreement import Judge
from pipelines.backends import BackendSpec
from pipelines.initial_mean import InitialMean
from pipelines.runtime import DTYPES, RunPlan
from pipelines.text_side import PromptEncoding, TextSide
from pipelines.text_side import unknown_words as find_unknown_words


@dataclass(frozen=True)
class TextCond:
    """Hold both halves of the text condition, and the prompt in words ("" if the rows have different ones).

    Shapes: hidden_*: (1, m, e), or (b, m, e) with one row per picture; pooled_*: (1 or b, p), p = 0 if the family has
            none; time_ids: (1, 6) picture sizes, or (1, 0).
    """

    hidden_uncond: torch.Tensor
    hidden_cond: torch.Tensor
    pooled_uncond: torch.Tensor
    pooled_cond: torch.Tensor
    time_ids: torch.Tensor
    prompt: str = ""


class StepTimer:
    """Remember how long one step took last; the badge shows it."""

    def __init__(self, seconds_per_step: float = 0.0) -> None:
        self.seconds_per_step = seconds_per_step


class Residence:
    """Keep only the part that works on the device and the others in main memory (offloading).

    Units: parts maps text, unet and vae to their modules; without offloading every call does nothing.
    """

    def __init__(self, parts: dict[str, list[Any]], device: str, offload: bool) -> None:
        self.parts = parts
        self.device = device
        self.offload = offload
        self.resident = ""

    def place(self, name: str) -> None:
        """Bring one part to the device after sending the others home; a part that is already there stays."""
        if not self.offload or self.resident == name:
            return
        for other, modules in self.parts.items():
            if other != name:
                for module in modules:
                    module.to("cpu")
        for module in self.parts[name]:
            module.to(self.device)
        self.resident = name


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """Hold a loaded model; frozen and shared, changed only inside `lock` and only for a moment.

    Shapes: preview_weight (3 * 4 * 4, latent_channels, 3, 3) and preview_bias (48,): the linear latent-to-RGB map.
    """

    spec: BackendSpec
    plan: RunPlan
    unet: Any
    vae: Any
    sides: tuple[TextSide, ...]
    scheduler_config: dict[str, Any]
    residence: Residence
    preview_weight: torch.Tensor
    preview_bias: torch.Tensor
    timer: StepTimer
    judge: Judge | None = None
    mean: InitialMean | None = None
    lock: Any = field(default_factory=threading.Lock)
    prompt_cache: OrderedDict[str, PromptEncoding] = field(default_factory=OrderedDict)
    style_memory: OrderedDict[str, Any] = field(default_factory=OrderedDict)
    inversion_memory: OrderedDict[str, float] = field(default_factory=OrderedDict)
    subject_memory: OrderedDict[str, Any] = field(default_factory=OrderedDict)

    @property
    def size_mb(self) -> float:
        """Sum up the memory of all weights."""
        modules = [self.unet, self.vae, *(side.encoder for side in self.sides)]
        return sum(p.numel() * p.element_size() for module in modules for p in module.parameters()) / 2**20


def run_unet(
    model: ModelBundle,
    latents: torch.Tensor,
    timestep: int | torch.Tensor,
    hidden: torch.Tensor,
    added: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Call the UNet once: the only place where latents are cast to its number format.

    Shapes:  latents (n, c, h, w) float32; hidden (n, m, e); added empty, or text_embeds (n, p) and time_ids (n, 6).
    Units:   timestep 0..999, one for all rows or (n,) one each.
    Returns: (n, c, h, w) float32, the model's own prediction (spec.prediction).
    Raises:  ValueError if the output has another shape or format than asked.
    """
    dtype = model.plan.dtype
    layout = torch.channels_last if model.plan.channels_last else torch.contiguous_format
    sample = latents.to(dtype=dtype, memory_format=layout)
    conditions = {key: value.to(dtype) for key, value in added.items()}
    out = model.unet(
        sample, timestep, encoder_hidden_states=hidden.to(dtype), added_cond_kwargs=conditions, return_dict=False
    )[0]
    if out.dtype != dtype or out.shape != latents.shape:
        raise ValueError(f"UNet returned {tuple(out.shape)} {out.dtype}, expected {tuple(latents.shape)} {dtype}")
    return out.float()


def badge(model: ModelBundle) -> str:
    """State the facts of a running model in one line: name, device, number format, kernel, seconds per step."""
    dtype = next(name for name, value in DTYPES.items() if value is model.plan.dtype)
    seconds = model.timer.seconds_per_step
    speed = f"{seconds:.3f} s/step" if seconds else "speed not measured yet"
    facts = [model.spec.name, model.plan.device, dtype, model.plan.kernel, speed]
    return " · ".join(facts + (["offload"] if model.plan.offload else []))


def unknown_words(prompt: str, model: ModelBundle) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """List the words that the model has never seen, each with the nearest words that it knows.

    Returns: () for models whose text side splits unknown words into letters.
    """
    return find_unknown_words(prompt, model.sides[0])
