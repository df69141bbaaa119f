"""Darken a picture as if a camera had taken it in little light: sensor noise, white balance, curve and file included.

The training data of everything that lights pictures, the page's "darken this picture", and tests share it. The dark
picture is exposed as the bright one was: nothing here lifts it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.images import compress, round_levels

# XYZ to the colours of four sensors, and linear sRGB to XYZ.
_SENSORS = (
    ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
    ((0.4913, -0.0541, -0.0202), (-0.6130, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
    ((0.8380, -0.2630, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438)),
    ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.0970, 0.1581, 0.5181)),
)
_RGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
NUM_SENSORS = len(_SENSORS)
_LINEAR_BELOW = 0.04045  # displayed values below are a straight line
# Read noise that usually comes with shot noise: ln(read) = slope ln(shot) + offset, with this deviation.
READ_SLOPE, READ_OFFSET, READ_SPREAD = 2.18, 1.20, 0.26


@dataclass(frozen=True)
class Darkness:
    """Say how little light there was and what took the picture.

    Units: light_frac 0..1 of the light that the bright picture had; shot and read make the noise's variance
           shot * signal + read with the signal 0..1 of what the sensor holds, read None for what usually comes with
           this shot noise; gamma about 2..3.5; tone_frac 0..1 of the S-shaped curve; red_gain and blue_gain are the
           white balance, cast the light's colour, 1 for white; smooth_px the deviation of the camera's own smoothing;
           jpeg_quality 1..95, 0 for no file.
    """

    light_frac: float
    shot: float = 0.0005
    read: float | None = None
    gamma: float = 2.2
    tone_frac: float = 1.0
    red_gain: float = 2.1
    blue_gain: float = 1.7
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sensor: int = 0
    bits: int = 12
    smooth_px: float = 0.0
    jpeg_quality: int = 90


def darken(
    picture: torch.Tensor, darkness: Darkness, generator: torch.Generator, *, lamps: torch.Tensor | None = None
) -> torch.Tensor:
    """Take a picture again with less light.

    Shapes:  picture (3, H, W) in -1..1; lamps (1, H, W), how light falls, 1 as in the picture; returns (3, H, W).
    Returns: a new tensor, rounded to the levels of a file.
    Raises:  ValueError for light or noise outside their range.
    Source:  Cui et al. 2021, arXiv 2205.03346 (MAET), the order of the steps; Brooks et al. 2019, arXiv 1811.11127,
             the sensors' colours and the noise.
    Differs: the curve that was undone is applied again at the end; rows of a colour matrix sum to 1; quantised to
             2^bits levels. Light that falls unevenly and the camera's own file are ours.
    """
    if not 0 < darkness.light_frac <= 1 or darkness.shot < 0 or not 0 <= darkness.tone_frac <= 1:
        raise ValueError(f"{darkness} has light outside 0..1, noise below 0 or a curve outside 0..1")
    to_sensor = _make_matrix(darkness.sensor)
    gains = torch.tensor([darkness.red_gain, 1.0, darkness.blue_gain])[:, None, None]
    light = torch.tensor(darkness.cast)[:, None, None] * darkness.light_frac * (1.0 if lamps is None else lamps)
    linear = remove_tone((picture + 1) / 2, darkness.tone_frac) ** darkness.gamma
    signal = (_mix(to_sensor, linear).clamp(0, 1) / gains * light).clamp(0, 1)
    seen = (signal + draw_noise(signal, darkness, generator)).clamp(0, 1)
    top = 2**darkness.bits - 1
    balanced = (seen * top).round() / top * gains
    linear = _mix(torch.linalg.inv(to_sensor), balanced).clamp(0, 1)
    shown = add_tone(linear ** (1 / darkness.gamma), darkness.tone_frac) * 2 - 1
    shown = blur(shown, darkness.smooth_px, darkness.smooth_px)
    return compress(shown, darkness.jpeg_quality) if darkness.jpeg_quality else round_levels(shown)


def draw_noise(signal: torch.Tensor, darkness: Darkness, generator: torch.Generator) -> torch.Tensor:
    """Draw the sensor's noise for a signal 0..1; its variance is shot * signal + read."""
    read = make_read(darkness.shot) if darkness.read is None else darkness.read
    return torch.randn(signal.shape, generator=generator) * (darkness.shot * signal + read).sqrt()


def make_read(shot: float) -> float:
    """Return the variance of read noise that usually comes with shot noise; 0 for 0."""
    return math.exp(READ_SLOPE * math.log(shot) + READ_OFFSET) if shot else 0.0


def draw_lamps(size: tuple[int, int], num_lamps: int, generator: torch.Generator) -> torch.Tensor:
    """Draw how light falls from soft lamps and fades towards the corners.

    Returns: (1, H, W), 1 where it is brightest, never 0.
    """
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    field = torch.full(size, 0.25)
    for _ in range(num_lamps):
        place_y, place_x, width, power = torch.rand(4, generator=generator).tolist()
        reach = 0.2 + 0.5 * width
        field += (0.4 + 0.6 * power) * torch.exp(-((y - place_y) ** 2 + (x - place_x) ** 2) / (2 * reach**2))
    fading = float(torch.rand((), generator=generator)) * 0.6
    field *= 1 - fading * ((y - 0.5) ** 2 + (x - 0.5) ** 2) * 2
    return (field / field.max())[None]


def add_tone(values: torch.Tensor, tone_frac: float) -> torch.Tensor:
    """Apply an S-shaped curve to values 0..1: (1 - t) x + t (3 x^2 - 2 x^3)."""
    return values + tone_frac * (3 * values.square() - 2 * values**3 - values) if tone_frac else values


def remove_tone(values: torch.Tensor, tone_frac: float) -> torch.Tensor:
    """Undo `add_tone` exactly.

    Symbols: with u = x - 1/2 the curve is (1 + t/2) u - 2 t u^3 = y - 1/2, and u = A sin(a) turns it into sin(3 a).
    """
    if not tone_frac:
        return values
    slope = 1 + tone_frac / 2
    reach = math.sqrt(2 * slope / (3 * tone_frac))
    whole = torch.asin(((values - 0.5) * 3 / (slope * reach)).clamp(-1, 1))
    return (0.5 + reach * torch.sin(whole / 3)).clamp(0, 1)  # a rounding error below 0 has no root


def to_linear(picture: torch.Tensor) -> torch.Tensor:
    """Turn displayed values -1..1 into light 0..1 (IEC 61966-2-1, sRGB)."""
    values = (picture.clamp(-1, 1) + 1) / 2
    return torch.where(values <= _LINEAR_BELOW, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_linear(light: torch.Tensor) -> torch.Tensor:
    """Turn light 0..1 into displayed values -1..1 (IEC 61966-2-1, sRGB)."""
    light = light.clamp(0, 1)
    values = torch.where(light <= _LINEAR_BELOW / 12.92, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return values * 2 - 1


def blur(picture: torch.Tensor, sigma_y_px: float, sigma_x_px: float) -> torch.Tensor:
    """Blur (c, H, W) with a Gaussian, edges repeated."""
    for axis, sigma in ((1, sigma_y_px), (2, sigma_x_px)):
        if sigma < 0.05:
            continue
        reach = max(1, int(np.ceil(3 * sigma)))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        taps = (taps / taps.sum()).reshape((1, 1, -1, 1) if axis == 1 else (1, 1, 1, -1))
        pad = (0, 0, reach, reach) if axis == 1 else (reach, reach, 0, 0)
        picture = F.conv2d(F.pad(picture[:, None], pad, mode="replicate"), taps)[:, 0]
    return picture


def _make_matrix(sensor: int) -> torch.Tensor:
    """Make the matrix from linear sRGB to a sensor's colours; grey stays grey, as rows sum to 1."""
    matrix = np.array(_SENSORS[sensor]) @ np.array(_RGB_TO_XYZ)
    return torch.from_numpy((matrix / matrix.sum(1, keepdims=True)).astype(np.float32))


def _mix(matrix: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij,jyx->iyx", matrix, picture)
