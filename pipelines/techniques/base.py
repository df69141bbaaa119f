"""What a technique is: a frozen record of parameters that opens hooks for one run.

The loop calls the hooks at fixed points. A technique changes the UNet only inside `Hooks.patch`, which the loop enters
for one step at a time under the model's run lock: while a run is suspended, nothing is changed, so stopping it or
interleaving it with another one needs no repair.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Protocol

import torch

from pipelines.errors import CompositionError
from pipelines.model import ModelBundle, TextCond
from pipelines.types import Progress, RunInfo, StepContext

POINTS = ("init", "predict", "before_unet", "combine", "edit_x0", "after_step", "patch")
# One run may use each of these points once: two techniques would overwrite each other's work.
EXCLUSIVE_POINTS = ("predict", "combine")

Halves = tuple[torch.Tensor, torch.Tensor]
UNetCall = Callable[[torch.Tensor, TextCond], Halves]
# Holds the run lock and, meanwhile, keeps the UNet in its place and as the run's techniques change it.
Turn = Callable[[], AbstractContextManager[object]]


class Hooks:
    """Do nothing at every point; subclasses override the points that their technique lists.

    Shapes: latents, x0, pred_uncond, pred_cond: (b, c, h, w) float32; every tensor point returns the same shape, new.
    Units:  pred_* are the model's own predictions (spec.prediction): where training ended in pure noise, eps alone
            says nothing about the picture at the first step; `schedules` converts.
    """

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        """Change the initial noise, once, before the first step.

        Runs the model only inside `with turn():`, and yields outside of it, with step 0, wherever a stop is welcome.

        Returns: a generator whose return value are the new latents.
        """
        yield from ()
        return latents

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Change the latents before the prediction of a step; gradients only inside torch.enable_grad()."""
        return latents

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        """Replace the prediction of a step; `call(latents, text)` runs the UNet and returns (uncond, cond)."""
        return call(latents, ctx.text)

    def combine(
        self, pred_uncond: torch.Tensor, pred_cond: torch.Tensor, latents: torch.Tensor, ctx: StepContext
    ) -> torch.Tensor:
        """Replace plain guidance: make one prediction of two."""
        raise NotImplementedError("a technique that lists the point combine must override it")

    def edit_x0(self, x0: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Change the clean estimate of a step."""
        return x0

    def after_step(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        """Change the latents after the sampler's step."""
        return latents

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Change processors, modules or weights for one step; everything is put back on leaving."""
        return nullcontext()


class Technique(Protocol):
    """Describe a technique: name for code and errors, title for the page, source (paper), and how it composes.

    Units: points lists the Hooks methods it overrides; needs_first_order asks for the DDIM sampler;
           needs_whole_batch asks that all pictures of a run share each UNet call; needs_whole_picture asks that each
           call sees the picture whole, because the technique knows places in it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    points: ClassVar[tuple[str, ...]]
    needs_first_order: ClassVar[bool]
    needs_whole_batch: ClassVar[bool]
    needs_whole_picture: ClassVar[bool]

    @classmethod
    def neutral(cls) -> Technique:
        """Make the record whose run equals the run without the technique; the defaults are a working one."""
        ...

    def open(self, model: ModelBundle, run: RunInfo) -> AbstractContextManager[Hooks]:
        """Make the hooks of one run; must not change the model, which `Hooks.patch` does step by step."""
        ...


def check_compatible(techniques: Sequence[Technique], *, sampler: str, is_first_order: bool) -> None:
    """Refuse combinations that cannot work.

    Raises: CompositionError naming both techniques, or the technique and the sampler.
    """
    for point in EXCLUSIVE_POINTS:
        users = [technique.title for technique in techniques if point in technique.points]
        if len(users) > 1:
            raise CompositionError(f"{users[0]} and {users[1]} cannot run together; switch one of them off.")
    whole = [technique.title for technique in techniques if technique.needs_whole_picture]
    parts = [t.title for t in techniques if "predict" in t.points and not t.needs_whole_picture]
    if whole and parts:
        raise CompositionError(
            f"{whole[0]} needs to see the whole picture, which {parts[0]} cuts into parts; switch one of them off."
        )
    for technique in techniques:
        if technique.needs_first_order and not is_first_order:
            raise CompositionError(f"{technique.title} does not work with the sampler {sampler}; choose ddim.")
