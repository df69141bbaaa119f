"""Two ways a camera loses a picture: too little light, and too few pixels.

Pure functions of the picture, the parameters and a seed; the scene record stays what it was, so a damaged picture
and its clean one form an exact pair for low-light enhancement and super-resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# sRGB transfer curve, IEC 61966-2-1.
_LINEAR_END = 0.04045
_LINEAR_SLOPE = 12.92
_OFFSET = 0.055
_EXPONENT = 2.4


@dataclass(frozen=True)
class Darkness:
    """How a picture was underexposed.

    Units: exposure 0..1, share of the light that arrives; full_well_electrons is what a white pixel of the clean
           picture would collect; read_noise_electrons is a standard deviation.
    """

    exposure: float
    full_well_electrons: float = 4000.0
    read_noise_electrons: float = 3.0


def sample_darkness(rng: np.random.Generator) -> Darkness:
    """Draw an underexposure: 2 to 25 % of the light, spread evenly over stops, on a small or a large sensor."""
    return Darkness(
        exposure=float(np.exp(rng.uniform(np.log(0.02), np.log(0.25)))),
        full_well_electrons=float(np.exp(rng.uniform(np.log(1000.0), np.log(8000.0)))),
        read_noise_electrons=float(rng.uniform(1.0, 5.0)),
    )


def darken(rgb: np.ndarray, darkness: Darkness, seed: int) -> np.ndarray:
    """Underexpose a picture: less light in linear values, shot and read noise, then 8 bits again.

    Shapes:  rgb (H, W, 3) uint8; returns the same.
    Raises:  ValueError if rgb is no 8-bit picture, or a parameter is out of range.
    Source:  Foi et al. 2008, Practical Poissonian-Gaussian noise modeling (shot noise plus read noise).
    """
    _check_picture(rgb)
    if not 0 < darkness.exposure <= 1 or darkness.full_well_electrons <= 0 or darkness.read_noise_electrons < 0:
        raise ValueError(f"exposure must be in (0, 1], electrons positive; got {darkness}")
    rng = np.random.default_rng([seed, 11])
    electrons = to_linear(rgb) * (darkness.exposure * darkness.full_well_electrons)
    counted = rng.poisson(electrons) + rng.normal(0, darkness.read_noise_electrons, rgb.shape)
    return _to_bytes(from_linear(np.clip(counted / darkness.full_well_electrons, 0, 1)))


def reduce(rgb: np.ndarray, factor: int, seed: int, *, noise: float = 0.0) -> np.ndarray:
    """Make a picture `factor` times smaller: mean light of each block, sensor noise, 8 bits.

    Shapes:  rgb (H, W, 3) uint8; returns (H / factor, W / factor, 3) uint8.
    Units:   noise is the standard deviation added to encoded values, as a fraction of white (0 to 0.1).
    Raises:  ValueError if the factor does not divide both edges, or noise is out of range.
    """
    _check_picture(rgb)
    height, width = rgb.shape[:2]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"factor {factor} must be 1 or more and divide {width} x {height}")
    if not 0 <= noise <= 0.1:
        raise ValueError(f"noise must be 0 to 0.1, got {noise}")
    blocks = to_linear(rgb).reshape(height // factor, factor, width // factor, factor, 3)
    encoded = from_linear(blocks.mean((1, 3)))
    rng = np.random.default_rng([seed, 13])
    return _to_bytes(encoded + rng.normal(0, 1, encoded.shape) * noise)


def to_linear(rgb: np.ndarray) -> np.ndarray:
    """Turn encoded bytes into amounts of light.

    Units: 0..255 sRGB in, 0..1 linear float64 out.
    """
    value = rgb.astype(np.float64) / 255
    return np.where(value <= _LINEAR_END, value / _LINEAR_SLOPE, ((value + _OFFSET) / (1 + _OFFSET)) ** _EXPONENT)


def from_linear(light: np.ndarray) -> np.ndarray:
    """Turn amounts of light (0..1) into sRGB values (0..1), not yet rounded to bytes."""
    low = light * _LINEAR_SLOPE
    high = (1 + _OFFSET) * np.maximum(light, 1e-9) ** (1 / _EXPONENT) - _OFFSET
    return np.where(low <= _LINEAR_END, low, high)


def _to_bytes(value: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(value, 0, 1) * 255).astype(np.uint8)


def _check_picture(rgb: np.ndarray) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected an (H, W, 3) uint8 picture, got {rgb.shape} {rgb.dtype}")
