"""Dark crops for the restorer's light task: what a camera would have made of a picture in little light, exposed again.

The restorer starts where the page starts: brightness is set first, on more of the picture than the network sees, and
what it learns is what brightening cannot give back: noise, colours, and how the camera's curve differed.
"""

from __future__ import annotations

import numpy as np
import torch

from pipelines.brightening import expose, find_gain, measure_brightness, tell_gain
from pipelines.darkening import NUM_SENSORS, READ_SPREAD, Darkness, darken, make_read
from pipelines.restorer import NUM_STRENGTHS

CONTEXT_PX = 128  # what brightness is measured on
_STRIDE = 3  # of the pixels that it is measured on
BRIGHT_FRAC = 0.05  # of the pictures are not dark: they should come back unchanged
# How far what is told of the noise may be from the truth, in natural logarithms.
TOLD_SPREAD = 0.25
MAX_TOLD = 1.5


def sample_darkness(rng: np.random.Generator) -> Darkness:
    """Draw how dark it was and what camera took the picture.

    Source:  Cui et al. 2021, arXiv 2205.03346 (MAET), the ranges of noise, curve and white balance.
    Differs: light is drawn evenly in its logarithm; the S-shaped curve is sometimes missing or weak; files are JPEG.
    """
    shot = float(np.exp(rng.uniform(np.log(1e-4), np.log(6e-3))))
    is_bright = rng.random() < BRIGHT_FRAC
    return Darkness(
        light_frac=1.0 if is_bright else float(np.exp(rng.uniform(np.log(0.02), np.log(0.5)))),
        shot=1e-5 if is_bright else shot,
        read=None if is_bright else make_read(shot) * float(np.exp(READ_SPREAD * rng.normal())),
        gamma=float(rng.uniform(2.0, 3.0)),
        tone_frac=float(rng.choice([0.0, 1.0, rng.random()], p=(0.25, 0.35, 0.4))),
        red_gain=float(rng.uniform(1.9, 2.4)),
        blue_gain=float(rng.uniform(1.5, 1.9)),
        cast=tuple(float(v) for v in np.exp(rng.normal(0, 0.03, 3))),  # type: ignore[arg-type]
        sensor=int(rng.integers(NUM_SENSORS)),
        bits=int(rng.choice([10, 12, 14], p=(0.15, 0.7, 0.15))),
        smooth_px=float(rng.uniform(0.0, 0.6)) if rng.random() < 0.5 else 0.0,
        jpeg_quality=int(rng.integers(70, 96)) if rng.random() < 0.85 else 0,
    )


def lose_light(
    clean: torch.Tensor, side_px: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Darken a picture and expose it again to its brightness.

    Shapes:  clean (3, H, W) in -1..1, H and W at least side_px.
    Returns: a square of the clean picture, the same of the exposed one, (3, side_px, side_px) each, and the strengths
             (NUM_STRENGTHS,): how noisy it is about, and the logarithm of the gain.
    """
    darkness = sample_darkness(rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    dark = darken(clean, darkness, generator)
    few = (slice(None), slice(None, None, _STRIDE), slice(None, None, _STRIDE))
    gain = find_gain(dark[few], measure_brightness(clean[few]))
    y, x = (int(rng.integers(side - side_px + 1)) for side in clean.shape[1:])
    part = (slice(None), slice(y, y + side_px), slice(x, x + side_px))
    lit = expose(dark[part], gain)
    silent = Darkness(**{**vars(darkness), "shot": 0.0, "read": 0.0, "jpeg_quality": 0})
    noise_levels = float((lit - expose(darken(clean[part], silent, generator), gain)).std()) * (255 / 2)
    noise = min(MAX_TOLD, noise_levels / 50 * float(np.exp(TOLD_SPREAD * rng.normal())))
    strengths = torch.zeros(NUM_STRENGTHS)
    strengths[0], strengths[3] = noise, tell_gain(gain)
    return clean[part], lit, strengths
