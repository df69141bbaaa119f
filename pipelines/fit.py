"""A short fit of low-rank side paths to a few pictures, as a stream of progress that can be stopped at every step.

Every step is one pass of several rows, each a picture at a noise level of its own. What was learned so far is in every
report, so that a stop keeps it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipelines.cfg_batch import run_cond
from pipelines.lora import Lora, adapt, make_lora
from pipelines.model import ModelBundle, TextCond
from pipelines.objectives import OBJECTIVES, dco, dreambooth, row_errors
from pipelines.schedules import add_noise, make_scheduler, to_v
from pipelines.types import FitProgress, Progress

FIT_SAMPLER = "ddim"


@dataclass(frozen=True)
class FitSettings:
    """Say how to fit.

    Units:  timesteps are drawn evenly from 1..max_timestep; each step takes batch_size rows of the pictures, of which
            `draws` in a row are the same picture; beta counts in units of the model's own mean error before the fit,
            so that it fits every model; prior_weight is DreamBooth's, prior_size how many rows of a step show the
            class, 0 as many as the pictures have; keep_weight weighs how much the rest of a
            picture, outside of the thing, must stay as the model would draw it.
    Source: the identity fit of DragDiffusion: rank 16, 80 steps of AdamW at 5e-4, batch 4, weight decay 1e-2.
    Differs: fewer steps at a higher rate, for a processor.
    """

    num_steps: int = 40
    rank: int = 8
    learning_rate: float = 2e-3
    batch_size: int = 2
    max_timestep: int = 700
    weight_decay: float = 1e-2
    seed: int = 0
    objective: str = "dreambooth"
    prior_weight: float = 1.0
    prior_size: int = 0
    beta: float = 10.0
    draws: int = 1
    keep_weight: float = 1.0
    final_rate_frac: float = 1.0
    reach: str = "attention"


@dataclass(frozen=True, eq=False)
class Lesson:
    """Hold what is to be learned: pictures with their words, and what they are compared with.

    Shapes: latents (n, c, h, w) float32; text and base with n rows or one: the words of each picture with the subject's
            own name, and with the name of its class; masks (n, 1, h, w) 0..1, where the thing is; prior (p, c, h, w)
            pictures of the class that the model drew itself, prior_text their words.
    """

    latents: torch.Tensor
    text: TextCond
    base: TextCond | None = None
    masks: torch.Tensor | None = None
    prior: torch.Tensor | None = None
    prior_text: TextCond | None = None


def fit_lora(
    model: ModelBundle, latents: torch.Tensor, text: TextCond, settings: FitSettings = FitSettings()
) -> Generator[Progress, None, Lora]:
    """Fit side paths, so that the model predicts one picture from its noisy versions; the model itself stays as it is.

    Shapes:  latents (1, c, h, w) float32; text with one row.
    Returns: a generator of Progress, step 0, whose return value are the side paths.
    """
    stream = fit(model, Lesson(latents, text), settings)
    while True:
        try:
            progress = next(stream)
        except StopIteration as end:
            return end.value
        yield Progress(0, settings.num_steps, f"learning the picture, {progress.step}/{settings.num_steps}")


def fit(model: ModelBundle, lesson: Lesson, settings: FitSettings) -> Generator[FitProgress, None, Lora]:
    """Fit side paths to a lesson; the model itself stays as it is.

    Returns: a generator of FitProgress, one per step, whose return value are the side paths.
    Raises:  ValueError for an unknown objective, or a batch that its draws do not divide.
    """
    if settings.objective not in OBJECTIVES or settings.batch_size % settings.draws:
        raise ValueError(f"objective {settings.objective!r}, batch {settings.batch_size}, draws {settings.draws}")
    fitting = _Fitting(model, lesson, settings)
    for step in range(settings.num_steps):
        loss, gain = fitting.run_step(step)
        note = f"learning, {step + 1}/{settings.num_steps}"
        yield FitProgress(step + 1, settings.num_steps, note, loss=loss, gain=gain, lora=fitting.lora)
    return fitting.lora.detach()


@dataclass(frozen=True, eq=False)
class _Rows:
    """Hold the rows of one step; shapes (b, c, h, w), timesteps (b,), text with b rows; masks (b, 1, h, w) or None."""

    noisy: torch.Tensor
    wanted: torch.Tensor
    timesteps: torch.Tensor
    text: TextCond
    base: TextCond | None
    masks: torch.Tensor | None


class _Fitting:
    """Hold what a fit changes from step to step."""

    def __init__(self, model: ModelBundle, lesson: Lesson, settings: FitSettings) -> None:
        self.model, self.lesson, self.settings = model, lesson, settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.lora = make_lora(model, settings.rank, self.generator, settings.reach)
        self.adapted = adapt(model, self.lora)
        self.parameters = [parameter.requires_grad_(True) for parameter in self.lora.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.levels = make_scheduler(FIT_SAMPLER, model.scheduler_config).alphas_cumprod
        self.order: list[int] = []
        self.base_error = 0.0

    def run_step(self, step: int) -> tuple[float, float]:
        """Do one step; returns the loss and by how much the fit beats the model, in units of the model's own error."""
        settings, lesson = self.settings, self.lesson
        rows = self._draw(lesson.latents, lesson.text, lesson.base, lesson.masks)
        prior = None
        if settings.objective == "dreambooth" and lesson.prior is not None and lesson.prior_text is not None:
            prior = self._draw_prior(lesson.prior, lesson.prior_text)
        share = step / settings.num_steps
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - (1 - settings.final_rate_frac) * share)
        with self.model.lock, torch.enable_grad():
            self.model.residence.place("unet")
            loss, gain = self._measure(rows, prior)
            # Only the side paths: the model's own weights must not gather gradients.
            gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = gradient
        self.optimizer.step()
        return float(loss.detach()), gain

    def _measure(self, rows: _Rows, prior: _Rows | None) -> tuple[torch.Tensor, float]:
        """Run the UNet for all rows and compute the loss."""
        settings, count = self.settings, len(rows.noisy)
        every = rows if prior is None else _join(rows, prior)
        pred = run_cond(self.adapted, every.noisy, every.timesteps, every.text)
        weights = None if rows.masks is None else rows.masks / rows.masks.mean((2, 3), keepdim=True).clamp_min(1e-3)
        errors = row_errors(pred[:count], rows.wanted, weights)
        if settings.objective == "dreambooth":
            prior_errors = pred.new_zeros(0) if prior is None else row_errors(pred[count:], prior.wanted)
            return dreambooth(errors, prior_errors, settings.prior_weight), 0.0
        with torch.no_grad():
            base_pred = run_cond(self.model, rows.noisy, rows.timesteps, rows.base or rows.text)
            base_errors = row_errors(base_pred, rows.wanted, weights)
        # A running mean, because a few rows say little about a model's error.
        mean = float(base_errors.mean())
        self.base_error = self.base_error * 0.9 + mean * 0.1 if self.base_error else mean
        loss = dco(errors, base_errors, settings.beta / self.base_error, settings.draws)
        if rows.masks is not None and settings.keep_weight:
            loss = loss + settings.keep_weight / self.base_error * row_errors(pred, base_pred, 1 - rows.masks).mean()
        return loss, float((base_errors - errors.detach()).mean()) / self.base_error

    def _draw(
        self,
        latents: torch.Tensor,
        text: TextCond,
        base: TextCond | None,
        masks: torch.Tensor | None,
    ) -> _Rows:
        """Choose pictures, noise levels and noises for one step."""
        settings = self.settings
        chosen = [self._next(len(latents)) for _ in range(settings.batch_size // settings.draws)]
        picks = torch.tensor([index for index in chosen for _ in range(settings.draws)])
        return self._noise(latents, picks, text, base, masks)

    def _draw_prior(self, latents: torch.Tensor, text: TextCond) -> _Rows:
        """Choose pictures of the class at random."""
        picks = torch.randint(
            len(latents), (self.settings.prior_size or self.settings.batch_size,), generator=self.generator
        )
        return self._noise(latents, picks, text, None, None)

    def _noise(
        self,
        latents: torch.Tensor,
        picks: torch.Tensor,
        text: TextCond,
        base: TextCond | None,
        masks: torch.Tensor | None,
    ) -> _Rows:
        """Noise some pictures, each to a level of its own."""
        settings, size = self.settings, len(picks)
        # One level from each part of the range, in any order: a step sees all of it.
        parts = (torch.randperm(size, generator=self.generator) + torch.rand(size, generator=self.generator)) / size
        timesteps = (1 + parts * (settings.max_timestep - 1)).long()
        noises = torch.randn((size, *latents.shape[1:]), generator=self.generator).to(latents)
        levels = self.levels[timesteps].double()
        clean = latents[picks]
        noisy = add_noise(clean, noises, levels)
        wanted = noises if self.model.spec.prediction == "eps" else to_v(clean, noises, levels)
        return _Rows(
            noisy,
            wanted,
            timesteps.to(latents.device),
            pick_rows(text, picks),
            None if base is None else pick_rows(base, picks),
            None if masks is None else masks[picks],
        )

    def _next(self, count: int) -> int:
        """Take the pictures in turn, each round in another order."""
        if not self.order:
            self.order = torch.randperm(count, generator=self.generator).tolist()
        return self.order.pop()


def pick_rows(text: TextCond, picks: torch.Tensor) -> TextCond:
    """Take the conditional half of some pictures out of a batch; what all pictures share is repeated."""
    names = ("hidden_cond", "pooled_cond")
    rows = {name: getattr(text, name) for name in names}
    chosen = {n: row[picks.to(row.device)] if len(row) > 1 else row.expand(len(picks), *row.shape[1:])
              for n, row in rows.items()}  # fmt: skip
    return replace(text, **chosen)


def _join(first: _Rows, second: _Rows) -> _Rows:
    """Put the rows of two lessons into one pass."""
    parts: dict[str, Any] = {
        name: torch.cat([getattr(first, name), getattr(second, name)]) for name in ("noisy", "wanted", "timesteps")
    }
    texts: dict[str, Any] = {
        name: torch.cat([getattr(first.text, name), getattr(second.text, name)])
        for name in ("hidden_cond", "pooled_cond")
    }
    return _Rows(**parts, text=replace(first.text, **texts), base=None, masks=None)
