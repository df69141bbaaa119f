"""What is measured of a lit photograph: whether it was dark, what was added to it, its histogram, and the truth.

Pure brightening is a curve that never falls and changes slowly over the picture. What such a curve cannot make out of
the dark picture was added by somebody who had seen other pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image

from pipelines.brightening import expose, find_gain, measure_brightness, measure_noise
from pipelines.guided_filter import box_mean, fit_locally
from pipelines.images import to_images
from pipelines.photo_measures import BAND_ROWS, measure_psnr
from pipelines.tiling import split_axis
from pipelines.types import Measure

# A picture is dark if its mean is below the first, or if nineteen of twenty pixels have no channel above the second.
# Of 80 drawn pictures 5 % were called dark in full light, 76 % with 0.3 of the light and all with 0.1.
DARK_MEAN, DARK_PEAK = 0.2, 0.6
# As bright as this on average, a picture without highlights lacks contrast, not light. Of 72 drawn pictures in mist a
# third was called dark without this and a quarter is with it; with 0.3 of the light 92 and 89 %.
BRIGHT_MEAN = 0.45
NUM_BINS = 64
SAMPLE_PX = 512
CURVE_RADIUS_PX = 5
EPS = (0.5 / 255) ** 2
# The map is at full colour where this many levels of 255 were added.
FULL_LEVELS = 16.0
_LIME = (213, 240, 106)
_DIM = 0.3


@dataclass(frozen=True)
class Explanation:
    """Hold what brightening explains of a lit picture.

    Shapes: added (1, H, W), in levels of 255, 0 or more.
    Units:  share 0..1 of the fine detail that a curve over the dark picture explains.
    """

    added: torch.Tensor
    share: float


def is_dark(picture: torch.Tensor) -> bool:
    """Tell whether (3, H, W) in -1..1 is a dark picture, which there is something to do about."""
    few = _thin_out(picture)
    brightest = (few.amax(0).flatten() + 1) / 2
    peak = float(brightest.kthvalue(max(1, round(0.95 * brightest.numel()))).values)
    brightness = measure_brightness(few)
    return brightness < DARK_MEAN or (peak < DARK_PEAK and brightness < BRIGHT_MEAN)


def make_baseline(dark: torch.Tensor, brightness: float) -> torch.Tensor:
    """Brighten a picture and do nothing else: more exposure, noise and all.

    Shapes: dark (3, H, W) in -1..1; returns the same.
    """
    return expose(dark, find_gain(dark, brightness))


def explain(lit: torch.Tensor, baseline: torch.Tensor) -> Explanation:
    """Split a lit picture into what brightening explains and what was added.

    Shapes:  lit, baseline (3, H, W) in -1..1, baseline the dark picture under any brightening.
    Differs: the curve is a rising line in every small square, so that noise that was taken away does not count as
             added: a flat result is a line of slope 0.
    """
    added = torch.empty_like(lit[:1])
    rest_sum = detail_sum = 0.0
    # In bands of rows, because a large picture in numbers is 200 MB, and a fit takes eight times as much.
    for band in split_axis(lit.shape[1], BAND_ROWS, 2 * CURVE_RADIUS_PX):
        rows = slice(band.outer_first, band.outer_last)
        kept = slice(band.first - band.outer_first, band.last - band.outer_first)
        rest, detail = _explain_band(lit[None, :, rows], baseline[None, :, rows])
        rest_sum += float(rest[..., kept, :].sum())
        detail_sum += float(detail[..., kept, :].sum())
        added[:, band.first : band.last] = box_mean(rest / 3, 1)[0, :, kept].clamp_min(0).sqrt() * (255 / 2)
    share = 1 - rest_sum / detail_sum if detail_sum > EPS * lit.numel() else 1.0
    return Explanation(added, max(0.0, share))


def _explain_band(lit: torch.Tensor, baseline: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the squares of what is not explained and of all fine detail, summed over colours: (1, 1, h, W) each."""
    slope, offset = fit_locally(baseline, lit, CURVE_RADIUS_PX, EPS, only_rising=True)
    rest = (lit - slope * baseline - offset).square().sum(1, keepdim=True)
    return rest, (lit - box_mean(lit, CURVE_RADIUS_PX)).square().sum(1, keepdim=True)


def draw_added(lit: torch.Tensor, added: torch.Tensor) -> Image.Image:
    """Draw where detail was added, in lime light over the dimmed picture.

    Shapes: lit (3, H, W) in -1..1, added (1, H, W) in levels of 255.
    """
    weight = (added / FULL_LEVELS).clamp(0, 1)
    dim = (lit.mean(0, keepdim=True) + 1) * _DIM - 1
    light = torch.tensor(_LIME)[:, None, None] / (255 / 2) - 1
    return to_images((dim + weight * (light - dim))[None])[0]


def make_histogram(picture: torch.Tensor) -> tuple[float, ...]:
    """Count how bright the pixels of (3, H, W) in -1..1 are: shares of NUM_BINS bins from black to white."""
    levels = (_thin_out(picture).mean(0).clamp(-1, 1) + 1) / 2
    counts = torch.histc(levels, NUM_BINS, 0, 1)
    return tuple((counts / counts.sum()).tolist())


def measure_lit(
    lit: torch.Tensor,
    dark: torch.Tensor,
    baseline: torch.Tensor,
    explanation: Explanation,
    *,
    truth: torch.Tensor | None = None,
) -> tuple[Measure, ...]:
    """Compare a lit picture with the dark one only brightened to the same mean.

    Shapes: lit, dark, baseline, truth (3, H, W) in -1..1.
    Units:  `off` of the brightness is that of the dark picture, of everything else that of the baseline; nearness to
            the truth is measured at the truth's brightness.
    """
    measures = [
        Measure("noise_levels", "noise", measure_noise(baseline), measure_noise(lit), "of 255"),
        Measure("brightness", "brightness", measure_brightness(dark), measure_brightness(lit)),
        Measure("explained_share", "detail explained by brightening", 1.0, explanation.share, "share"),
    ]
    if truth is not None:
        off, on = (measure_psnr(match_brightness(picture, truth), truth) for picture in (baseline, lit))
        measures.insert(0, Measure("truth_db", "nearness to the bright original", off, on, "dB"))
    return tuple(measures)


def match_brightness(picture: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Scale displayed values so that the mean is that of the truth: what is asked for is a look, not an error.

    Shapes: (3, H, W) in -1..1 each; returns the same.
    """
    factor = measure_brightness(truth) / max(measure_brightness(picture), 1e-3)
    return ((picture + 1) * factor - 1).clamp(-1, 1)


def _thin_out(picture: torch.Tensor) -> torch.Tensor:
    """Leave about SAMPLE_PX rows and columns."""
    stride = max(1, max(picture.shape[1:]) // SAMPLE_PX)
    return picture[:, ::stride, ::stride]
