"""Polishing a fitted field with the turntable as its teacher: what the teacher makes of the field's own views.

The views are noised to a place of the teacher's chain, cleaned in one pass, and the field moves towards the outcome.
In which order, is the curriculum: from far to near, so that the shape is settled before the details, or any. How often
each place is taken does not depend on it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import torch

from pipelines.errors import UserError
from pipelines.field_fit import FieldFit, FieldSettings
from pipelines.preview_records import CURRICULA
from pipelines.radiance_field import Field, draw_field
from pipelines.turntable_camera import FRONT, ZIGZAG


class Teacher(Protocol):
    """Say what clean views of an object look like: our own turntable, or a larger network in its place."""

    def turn(
        self, guess: torch.Tensor, picture: torch.Tensor, *, seed: int, num_steps: int
    ) -> Generator[torch.Tensor, None, torch.Tensor]:
        """Draw eight views; yields them after every step."""

    def correct(
        self, views: torch.Tensor, guess: torch.Tensor, picture: torch.Tensor, *, root: float, seed: int
    ) -> torch.Tensor:
        """Noise views and clean them in one pass; root 0..1 says how much noise."""


@dataclass(frozen=True)
class PolishSettings:
    """Say how a field is polished.

    Units:  num_rounds looks at the teacher, each followed by steps_per_round steps of the fit; places of the chain are
            roots of eta between lowest and highest, 0..1; learning_rate as in `FieldSettings`; front_weight is how
            many times as often the given picture is looked at as one of the views.
    Differs: not below 0.8: with less noise the teacher trusts the noisy views, and hands back their faults with grain
             of its own.
    Source: DreamFusion (Poole et al. 2022, arXiv 2209.14988) for the distillation.
    """

    num_rounds: int = 10
    steps_per_round: int = 8
    curriculum: str = "falling"
    highest: float = 0.97
    lowest: float = 0.8
    learning_rate: float = 0.03
    front_weight: float = 3.0
    seed: int = 0


def choose_root(settings: PolishSettings, round_index: int, generator: torch.Generator) -> float:
    """Return the place of the chain of one round, as a root of eta.

    Raises:  UserError for an unknown curriculum.
    Symbols: with N rounds between lowest and highest, "falling" draws round r anywhere in the r-th of N equal parts,
             counted from the highest; "uniform" draws each round anywhere in the whole.
    Source:  DTC123 (Yi et al. 2024) lets the interval of timesteps fall, so that learning goes from coarse to fine;
             its constants are not published in code.
    Differs: the rule is ours. Both orders take all places equally often, so that what is compared is the order alone;
             with the root rule that DreamGaussian's guidance carries as an alternative, falling saw less noise besides.
    """
    share = float(torch.rand(1, generator=generator))
    span = settings.highest - settings.lowest
    if settings.curriculum == "uniform":
        return settings.lowest + span * share
    if settings.curriculum != "falling":
        raise UserError(f"Curriculum {settings.curriculum!r} is not known; choose one of {', '.join(CURRICULA)}.")
    return settings.highest - span * (round_index + share) / settings.num_rounds


@torch.no_grad()
def polish_field(
    field: Field,
    teacher: Teacher,
    guess: torch.Tensor,
    picture: torch.Tensor,
    settings: PolishSettings = PolishSettings(),
) -> Generator[Field, None, Field]:
    """Let the teacher improve a field.

    Shapes:  guess (NUM_VIEWS, CHANNELS, H, H) and picture (CHANNELS, H, H) as in `turntable.py`, -1..1.
    Returns: a generator of the field after every round, whose value is the last.
    Symbols: the step is x - x0(x_t), the score distillation gradient with the weight that makes it a clean estimate's.
    Differs: all views at once, so that the teacher judges whether they agree; several steps of the fit per look.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    steps = settings.num_rounds * settings.steps_per_round
    weights = torch.ones(len(ZIGZAG) + 1)
    weights[-1] = settings.front_weight
    fit_settings = FieldSettings(num_steps=steps, learning_rate=settings.learning_rate, seed=settings.seed)
    fit = FieldFit(field, (*ZIGZAG, FRONT), fit_settings, weights=weights)
    for round_index in range(settings.num_rounds):
        rgb, opacity = draw_field(fit.field, ZIGZAG, guess.shape[-1], num_samples=fit_settings.num_samples)
        views = torch.cat([rgb, opacity[:, None]], 1) * 2 - 1
        root = choose_root(settings, round_index, generator)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        clean = teacher.correct(views, guess, picture, root=root, seed=seed)
        wanted = (torch.cat([clean, picture[None]]) + 1) / 2
        fit.aim(wanted[:, :3], wanted[:, 3])
        for _ in range(settings.steps_per_round):
            fit.step_(1 - 0.7 * round_index / settings.num_rounds)
        yield fit.field
    return fit.field
