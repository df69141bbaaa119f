"""The guided filter: what of one picture can be said in terms of another, place by place.

Near every pixel a picture is written as slope times guide plus offset. Low light uses it to bring a small illumination
map up to full size without halos, to smooth without crossing edges, and to tell explained from added detail.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def box_mean(picture: torch.Tensor, radius_px: int) -> torch.Tensor:
    """Return the mean over squares of 2 radius + 1 px; at the border over the part that is there.

    Shapes: (b, c, H, W); returns the same.
    """
    for size, pad in (((2 * radius_px + 1, 1), (radius_px, 0)), ((1, 2 * radius_px + 1), (0, radius_px))):
        picture = F.avg_pool2d(picture, size, 1, pad, count_include_pad=False)
    return picture


def fit_locally(
    guide: torch.Tensor, target: torch.Tensor, radius_px: int, eps: float, *, only_rising: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit target = slope guide + offset around every pixel, and average what overlapping squares found.

    Shapes:  guide (b, 1 or c, H, W), target (b, c, H, W); returns slope and offset, each (b, c, H, W).
    Units:   eps in squared units of the guide; only_rising forbids falling slopes.
    Source:  He, Sun and Tang 2013, "Guided Image Filtering", equations 5, 6 and 8.
    """
    mean_guide, mean_target = box_mean(guide, radius_px), box_mean(target, radius_px)
    variance = (box_mean(guide * guide, radius_px) - mean_guide**2).clamp_min(0)
    slope = (box_mean(guide * target, radius_px) - mean_guide * mean_target) / (variance + eps)
    if only_rising:
        slope = slope.clamp_min(0)
    offset = mean_target - slope * mean_guide
    return box_mean(slope, radius_px), box_mean(offset, radius_px)


def upsample_guided(
    small: torch.Tensor, small_guide: torch.Tensor, guide: torch.Tensor, radius_px: int, eps: float
) -> torch.Tensor:
    """Enlarge a small map so that its edges lie where those of the large guide lie.

    Shapes:  small and small_guide (b, 1, h, w); guide (b, 1, H, W); returns (b, 1, H, W).
    Source:  He and Sun 2015, arXiv 1505.00996 (Fast Guided Filter): the fit is done small, its result enlarged.
    """
    fits = fit_locally(small_guide, small, radius_px, eps)
    slope, offset = (F.interpolate(part, guide.shape[2:], mode="bilinear", align_corners=False) for part in fits)
    return slope * guide + offset


def smooth(picture: torch.Tensor, radius_px: int, eps: float) -> torch.Tensor:
    """Smooth (b, c, H, W) where it varies less than eps, and leave edges."""
    slope, offset = fit_locally(picture, picture, radius_px, eps)
    return slope * picture + offset
