"""Fitting a radiance field to views of an object, a step of gradient descent at a time.

The views may change between two steps: that is how a teacher's picture of an object is distilled into a field.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipelines.radiance_field import Field, make_rays, shoot
from pipelines.turntable_camera import Angle


@dataclass(frozen=True)
class FieldSettings:
    """Say how a field is fitted.

    Units:  num_voxels per edge; num_samples per ray; learning_rate falls to a tenth of itself; weights are those of
            the mask's error, of its entropy and of the total variation of density and colour.
    Source: Sun et al. 2022, arXiv 2111.11215 (DVGO): dense grids, activation after interpolation, entropy of the mask.
    Differs: one stage without network, started from the outlines' common inside; total variation as in TensoRF.
    """

    num_voxels: int = 64
    num_samples: int = 72
    num_rays: int = 2048
    num_steps: int = 200
    learning_rate: float = 0.2
    mask_weight: float = 0.3
    entropy_weight: float = 0.01
    density_variation: float = 2e-5
    colour_variation: float = 2e-4
    seed: int = 0


class FieldFit:
    """Fit the grids of a field; `field` is what has been reached.

    Shapes: pictures (v, 3, H, H) on white and masks (v, H, H), float32 in 0..1, one per angle; weights (v,), how
            often a view's rays are drawn.
    """

    def __init__(
        self, field: Field, angles: Sequence[Angle], settings: FieldSettings, *, weights: torch.Tensor | None = None
    ) -> None:
        self.field, self.settings = field.copy(), settings
        self._angles, self._weights = tuple(angles), weights
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._grids = [self.field.density, self.field.colour]
        self._optimizer = torch.optim.Adam(self._grids, lr=settings.learning_rate, betas=(0.9, 0.99))
        self._num_done = 0

    def aim(self, pictures: torch.Tensor, masks: torch.Tensor) -> None:
        """Say what the views are to look like from now on."""
        planes, ahead = make_rays(self._angles, pictures.shape[-1])
        self._middles, self._directions = planes.reshape(-1, 3), ahead.repeat_interleave(pictures.shape[-1] ** 2, 0)
        self._colours, self._covers = pictures.permute(0, 2, 3, 1).reshape(-1, 3), masks.reshape(-1)
        # Rays that meet the object or its surroundings are drawn ten times as often as others.
        near = F.max_pool2d(masks[:, None], 7, 1, 3)[:, 0] > 0.05
        chances = torch.where(near, 1.0, 0.1)
        if self._weights is not None:
            chances = chances * self._weights[:, None, None]
        self._chances = chances.reshape(-1)

    def step_(self, lr_scale: float) -> float:
        """Do one step towards the views; returns its loss."""
        settings = self.settings
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * lr_scale
        chosen = torch.multinomial(self._chances, settings.num_rays, replacement=True, generator=self._generator)
        offset = torch.rand((settings.num_rays, 1), generator=self._generator)
        with torch.enable_grad():
            for grid in self._grids:
                grid.requires_grad_(True)
            rays = self._middles[chosen], self._directions[chosen]
            rgb, opacity = shoot(self.field, *rays, num_samples=settings.num_samples, offset=offset)
            loss = F.mse_loss(rgb, self._colours[chosen])
            loss = loss + settings.mask_weight * F.mse_loss(opacity, self._covers[chosen])
            loss = loss + settings.entropy_weight * _entropy(opacity)
            if self._num_done % 2 == 0:
                loss = loss + measure_variation(self.field, settings)
            gradients = torch.autograd.grad(loss, self._grids)
        for grid, gradient in zip(self._grids, gradients):
            grid.requires_grad_(False)
            grid.grad = gradient
        self._optimizer.step()
        self._num_done += 1
        return float(loss.detach())


@torch.no_grad()
def fit_field(
    field: Field,
    pictures: torch.Tensor,
    masks: torch.Tensor,
    angles: Sequence[Angle],
    settings: FieldSettings = FieldSettings(),
) -> Generator[Field, None, Field]:
    """Fit a field to views; shapes as in `FieldFit`.

    Returns: a generator, one step between two items: the field as it is (its grids go on changing; `copy` keeps one),
             whose value is the fit.
    """
    fit = FieldFit(field, angles, settings)
    fit.aim(pictures, masks)
    for step in range(settings.num_steps):
        fit.step_(0.1 ** (step / settings.num_steps))
        yield fit.field
    return fit.field


def measure_variation(field: Field, settings: FieldSettings) -> torch.Tensor:
    """Return the weighted mean square of differences between neighbouring voxels, summed over directions."""
    total = torch.zeros(())
    for grid, weight in ((field.density, settings.density_variation), (field.colour, settings.colour_variation)):
        for axis in (2, 3, 4):
            total = total + weight * grid.diff(dim=axis).square().mean() * grid.shape[1]
    return total


def _entropy(opacity: torch.Tensor) -> torch.Tensor:
    """Return how undecided rays are between hit and miss."""
    share = opacity.clamp(1e-4, 1 - 1e-4)
    return -(share * share.log() + (1 - share) * (1 - share).log()).mean()
