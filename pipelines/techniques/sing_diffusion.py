"""SingDiffusion: really dark and really bright pictures, by beginning with noise that already holds a trace of them.

Stable Diffusion begins at a noise level that still expects a trace of the picture, but is given pure noise: the missing
brightness pulls every picture towards the middle. A small network says what the words alone tell of the picture.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from pipelines.attention_maps import pick_row
from pipelines.cfg_batch import run_halves
from pipelines.images import preview
from pipelines.initial_mean import PROBE_PROMPT
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.schedules import add_noise, make_scheduler, pred_to_x0
from pipelines.techniques.base import Hooks, Turn
from pipelines.text_side import encode_prompt
from pipelines.types import Progress, RunInfo, StepContext

# Side of the grid on which a model's own guess is averaged: only brightness and broad colours are worth keeping.
OWN_CELLS = 4
# Samplers round a share of signal of 0 up to what float16 can hold.
NO_SIGNAL = 1e-6


@dataclass(frozen=True)
class SingDiffusion:
    """Begin with the trace of the picture that the first noise level asks for.

    Units:  amount scales the trace; 0 is plain sampling, bit for bit, 1 what the noise level asks for.
    Points: init.
    Source: Zhang et al. 2024, arXiv 2403.08381, and its released code.
    Differs: The network is a small perceptron on the text, because the mean at pure noise depends on nothing else.
             Models without one use their own estimate at their noisiest step, averaged to OWN_CELLS cells a side. A
             sampler that begins where no signal is left, as the shipped model's usual one does, lacks nothing.
    """

    name: ClassVar[str] = "sing_diffusion"
    title: ClassVar[str] = "SingDiffusion"
    source: ClassVar[str] = "Zhang et al. 2024, Tackling the Singularities at the Endpoints of Time Intervals"
    points: ClassVar[tuple[str, ...]] = ("init",)
    needs_first_order: ClassVar[bool] = False
    page_sampler: ClassVar[str] = "ddim_short"
    elsewhere: ClassVar[str] = "SD 1.5 and SDXL have no trained mean: their own guess is used, which is rougher."
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    amount: float = ranged(1.0, 0.0, 2.0, 0.05, label="Amount", help="How much of the missing trace is added.")

    @classmethod
    def neutral(cls) -> SingDiffusion:
        """Make the record that changes nothing."""
        return cls(amount=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Make the hooks of one run; nothing is changed in the model."""
        validate(self)
        yield _Beginning(self, run) if self.amount else Hooks()


class _Beginning(Hooks):
    """Add the mean of the clean latents to the noise."""

    def __init__(self, technique: SingDiffusion, run: RunInfo) -> None:
        self.technique, self.run = technique, run

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Mix the noise with what the words say, as the first noise level wants it."""
        yield from ()
        if ctx.alpha_bar < NO_SIGNAL:
            self.run.note(
                f"{self.technique.title} has nothing to add: this sampler begins where no trace of a picture is left. "
                f"Choose the sampler ddim_short to see what it is for."
            )
            return latents
        with turn():
            halves = self._read_words(ctx)
        if halves is None:
            with turn():
                halves = self._guess(latents, ctx)
        uncond, cond = halves
        mean = normalise(uncond, cond, ctx.guidance_scale)
        size = (latents.shape[2], latents.shape[3])
        mean, said = (
            F.interpolate(x, size=size, mode="bicubic", align_corners=False).expand_as(latents) for x in (mean, cond)
        )
        self.run.sketch_picture("What the words alone say of the picture", preview(ctx.model, said[:1]), ())
        return add_noise(self.technique.amount * mean, latents, ctx.alpha_bar)

    def _read_words(self, ctx: StepContext) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Ask the trained network for the mean latents without and with the prompt; None if there is none."""
        model = ctx.model
        if model.mean is not None:
            side_px = (model.spec.image_px, model.spec.image_px)
            mean = model.mean.model
            if mean.knows(encode_prompt(model, PROBE_PROMPT, size_px=side_px).hidden_cond):
                device = model.plan.device
                return mean(ctx.text.hidden_uncond.cpu()).to(device), mean(ctx.text.hidden_cond.cpu()).to(device)
        self.run.note(
            f"{self.technique.title} has no trained mean for these weights of {model.spec.name}; it uses the model's "
            f"own guess from pure noise, which is rougher."
        )
        return None

    def _guess(self, latents: torch.Tensor, ctx: StepContext) -> tuple[torch.Tensor, torch.Tensor]:
        """Ask the model what it sees in pure noise at its noisiest step."""
        scheduler = make_scheduler("ddim", ctx.model.scheduler_config)
        last = scheduler.config.num_train_timesteps - 1
        alpha_bar, kind = float(scheduler.alphas_cumprod[last]), ctx.model.spec.prediction
        rows = []
        for row in range(len(latents)):
            noise = latents[row : row + 1]
            preds = run_halves(ctx.model, noise, last, pick_row(ctx.text, row))
            rows.append([F.adaptive_avg_pool2d(pred_to_x0(p, noise, alpha_bar, kind), OWN_CELLS) for p in preds])
        uncond, cond = (torch.cat(halves) for halves in zip(*rows))
        return uncond, cond


def normalise(uncond: torch.Tensor, cond: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Guide the mean without making it as many times larger: (uncond + w (cond - uncond)) / w.

    Shapes:  uncond, cond (b, c, h, w), equal.
    Source:  Zhang et al. 2024, arXiv 2403.08381, its normalised guidance.
    Differs: below 1 the guidance counts as 1.
    """
    weight = max(1.0, guidance_scale)
    return (uncond + weight * (cond - uncond)) / weight
