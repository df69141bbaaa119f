"""Batches for the networks that restore photographs: crops of the drawn pictures and what became of them.

A batch is a function of its step, so that a resumed run goes on exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.darkening import blur
from pipelines.images import round_levels
from training.degradations import photograph, reduce_cleanly, sample_camera
from training.leaves import NUM_TEXTURES, PICTURE_PX, TEXTURE_PX, list_textures, make_noise

SMALL_PX = 40  # side of a small crop, less where the scale would make the large one larger than a picture
MAX_SCALE = 8.0
CAMERA_FRAC = 0.5
ZOOMED_FRAC = 0.3
TEXTURED_FRAC = 0.6
# Of the pictures to be found, as many went through a lens that is softer than their pixels, and through a sensor.
LENS_FRAC, SENSOR_FRAC = 0.5, 0.5
LENS_PX, SENSOR_LEVELS = (0.3, 1.2), (0.3, 3.0)
NUM_FINE_TEXTURES = 32


@dataclass(frozen=True)
class EnlargeBatch:
    """Pairs of one scale.

    Shapes: small (b, 3, h, h), large (b, 3, H, H), both in -1..1; damage (b,), 1 where a camera reduced.
    """

    small: torch.Tensor
    large: torch.Tensor
    damage: torch.Tensor


def sample_scale(rng: np.random.Generator) -> float:
    """Draw a scale: three of four are 1 to 4, the rest 4 to 8."""
    return float(rng.uniform(1.0, 4.0) if rng.random() < 0.75 else rng.uniform(4.0, MAX_SCALE))


def make_enlarge_batch(pictures: np.ndarray, batch_size: int, rng: np.random.Generator) -> EnlargeBatch:
    """Cut, turn and reduce pictures (n, PICTURE_PX, PICTURE_PX, 3) uint8."""
    scale = sample_scale(rng)
    small_px = min(SMALL_PX, int(PICTURE_PX / scale))
    large_px = round(small_px * scale)
    crops = (cut(pictures[rng.integers(len(pictures))], large_px, rng) for _ in range(batch_size))
    large = torch.stack([soften(crop, rng) for crop in crops])
    num_camera = int(rng.binomial(batch_size, CAMERA_FRAC))
    size = (small_px, small_px)
    parts = [photograph(picture, size, sample_camera(rng), rng) for picture in large[:num_camera]]
    small = torch.cat([*(part[None] for part in parts), reduce_cleanly(large[num_camera:], size)])
    return EnlargeBatch(small, large, (torch.arange(batch_size) < num_camera).float())


def cut(picture: np.ndarray, side_px: int, rng: np.random.Generator) -> torch.Tensor:
    """Cut a square out of a picture, mirrored, turned and recoloured at random.

    Shapes: picture (H, W, 3) uint8; returns (3, side_px, side_px) float32 in -1..1.
    Units:  three of ten are cut larger and reduced, so that small things become fine detail.
    """
    zoom = rng.uniform(1.0, 2.0) if rng.random() < ZOOMED_FRAC else 1.0
    wide_px = min(round(side_px * zoom), min(picture.shape[:2]))
    y, x = (int(rng.integers(side - wide_px + 1)) for side in picture.shape[:2])
    part = picture[y : y + wide_px, x : x + wide_px][:, :, rng.permutation(3)]
    part = np.rot90(part, int(rng.integers(4)))
    part = part[:, ::-1] if rng.random() < 0.5 else part
    crop = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1).float() / (255 / 2) - 1
    if wide_px != side_px:
        crop = F.interpolate(crop[None], size=(side_px, side_px), mode="bicubic", antialias=True)[0].clamp(-1, 1)
    if rng.random() < TEXTURED_FRAC:
        crop = (crop + draw_texture(side_px, rng)).clamp(-1, 1)
    if rng.random() < 0.3:  # as in mist: less contrast, another brightness
        gain = rng.uniform(0.3, 1.0)
        crop = crop * gain + rng.uniform(-1, 1) * (1 - gain)
    return crop


def soften(crop: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Make a drawn crop (3, H, W) what a file of a photograph holds: not sharp to the pixel, noisy, in whole levels.

    Differs: drawn edges alone are as sharp as pixels allow, and a network that saw no others sharpens soft ones.
    """
    if rng.random() < LENS_FRAC:
        sigma = rng.uniform(*LENS_PX)
        crop = blur(crop, sigma, sigma)
    if rng.random() < SENSOR_FRAC:
        deviation = np.exp(rng.uniform(*np.log(SENSOR_LEVELS))) / (255 / 2)
        crop = crop + torch.from_numpy(rng.normal(0, deviation, crop.shape).astype(np.float32))
    return round_levels(crop)


def draw_texture(side_px: int, rng: np.random.Generator) -> torch.Tensor:
    """Draw fine texture in patches: (1, side_px, side_px), its deviation 0.02 to 0.2.

    Drawn things are plainer than photographed ones: alone, the power of their spectrum falls as 1/f^3 instead of 1/f^2.
    """
    fine = _take(_list_fine_textures()[rng.integers(NUM_FINE_TEXTURES)], side_px, rng)
    patches = _take(list_textures()[rng.integers(NUM_TEXTURES)], side_px, rng)
    strength = np.exp(rng.uniform(np.log(0.02), np.log(0.2)))
    cover = np.clip(0.5 + patches, 0, 1) if rng.random() < 0.7 else 1.0
    return torch.from_numpy((strength * fine * cover).astype(np.float32))[None]


@lru_cache(maxsize=1)
def _list_fine_textures() -> np.ndarray:
    rng = np.random.default_rng(53)
    rows = [make_noise(rng, (0.0, 1.2)) for _ in range(NUM_FINE_TEXTURES)]
    return np.stack([(row - row.mean()) / row.std() for row in rows])


def _take(texture: np.ndarray, side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a square out of a texture, which repeats."""
    y, x = (int(v) for v in rng.integers(TEXTURE_PX, size=2))
    rows, columns = (np.arange(start, start + side_px) % TEXTURE_PX for start in (y, x))
    return texture[np.ix_(rows, columns)]
