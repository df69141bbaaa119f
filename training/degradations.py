"""How a large picture becomes the small one that somebody uploads: reduced cleanly, or as a camera would.

A camera's lens blurs, its sensor adds noise and its software writes a JPEG file; the record says how strongly, so that
benchmarks can name the damage they measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.darkening import blur
from pipelines.images import compress, round_levels

KERNELS = ("bicubic", "bilinear", "area")


@dataclass(frozen=True)
class CameraDamage:
    """Say what a camera did.

    Units: blur_px is the deviation of a Gaussian in pixels of the small picture; noise_levels a deviation in levels of
           255, shot_frac 0..1 the part of its variance that grows with brightness; jpeg_quality 1..95, 0 for no file.
    """

    blur_px: float
    noise_levels: float
    shot_frac: float
    jpeg_quality: int
    kernel: str = "bicubic"


def sample_camera(rng: np.random.Generator) -> CameraDamage:
    """Draw what a camera does.

    Source:  Wang et al. 2021, arXiv 2107.10833 (Real-ESRGAN): blur, resizing, noise and JPEG, in this order.
    Differs: once instead of twice, and milder: at full strength a small network learns to paint.
    """
    return CameraDamage(
        blur_px=float(rng.uniform(0.0, 0.7)),
        noise_levels=float(10 * rng.beta(1.0, 1.6)),
        shot_frac=float(rng.random() if rng.random() < 0.5 else 0.0),
        jpeg_quality=int(rng.integers(60, 96)) if rng.random() < 0.75 else 0,
        kernel=str(rng.choice(KERNELS, p=(0.6, 0.2, 0.2))),
    )


def reduce_cleanly(large: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Reduce (b, 3, H, W) in -1..1 to (h, w) with Pillow's bicubic kernel, rounded to the levels of a file."""
    return round_levels(F.interpolate(large, size=size, mode="bicubic", antialias=True))


def photograph(
    large: torch.Tensor, size: tuple[int, int], camera: CameraDamage, rng: np.random.Generator
) -> torch.Tensor:
    """Reduce one picture as a camera would.

    Shapes: large (3, H, W) in -1..1; returns (3, h, w), rounded to the levels of a file.
    """
    scale = large.shape[1] / size[0], large.shape[2] / size[1]
    picture = blur(large, camera.blur_px * scale[0], camera.blur_px * scale[1])[None]
    if camera.kernel == "area":
        small = F.interpolate(picture, size=size, mode="area")
    else:
        small = F.interpolate(picture, size=size, mode=camera.kernel, antialias=True)
    small = add_noise(small[0], camera, rng)
    return compress(small, camera.jpeg_quality) if camera.jpeg_quality else small


def add_noise(picture: torch.Tensor, camera: CameraDamage, rng: np.random.Generator) -> torch.Tensor:
    """Add sensor noise to (c, h, w) in -1..1 and round to levels; its variance is noise_levels^2 at middle grey."""
    noise = torch.from_numpy(rng.normal(size=picture.shape).astype(np.float32))
    variance = 1 - camera.shot_frac + camera.shot_frac * (picture.clamp(-1, 1) + 1)
    return round_levels(picture + noise * variance.sqrt() * (camera.noise_levels / (255 / 2)))
