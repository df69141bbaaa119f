"""Fine relief all over a picture: rough ground, grains and cloth under light from one side.

What looks most like noise and is none: it fills the picture, has little contrast, and is light and shade of one colour.
Drawn for the training in little light, in which leaves and scenes are mostly plainer than the noise.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from training.leaves import PICTURE_PX, draw_palette, soften

FIRST_SEED = 760_000_000
FORMAT = 1  # part of the file's name: a change of the pictures must not meet an old file
GREY_FRAC = 0.35  # of the pictures have no colour at all
MAX_GRAINS = 2600


def draw_relief(seed: int) -> np.ndarray:
    """Draw the relief of a seed: (PICTURE_PX, PICTURE_PX, 3) uint8.

    Source: Lambert's law: a surface is as bright as the cosine between its normal and the light.
    """
    rng = np.random.default_rng([seed, 59])
    height = _draw_rough(rng)
    kind = rng.random()
    if kind < 0.4:
        height = height * rng.uniform(0, 0.6) + _draw_grains(rng)
    elif kind < 0.6:
        height = height * rng.uniform(0, 0.6) + _draw_cloth(rng)
    shade = shade_relief(height * np.exp(rng.uniform(np.log(0.15), np.log(2.0))), rng.uniform(0.3, 1.2), rng)
    base, other = draw_palette(rng)[:2]
    if rng.random() < GREY_FRAC:
        base, other = np.full(3, base.mean()), np.full(3, other.mean())
    patches = make_field(rng, rng.uniform(1.5, 3.0))[..., None]
    stain = make_field(rng, rng.uniform(0.2, 1.2))[..., None] * rng.uniform(0, 0.08)
    paint = base + np.clip(0.5 + 0.5 * patches, 0, 1) * (other - base) * rng.uniform(0, 1)
    picture = 255 * (paint / 255) * (shade[..., None] * (1 + stain))
    if rng.random() < 0.3:
        picture = soften(picture.astype(np.float32), float(rng.uniform(0.3, 0.9)))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def shade_relief(height: np.ndarray, ambient: float, rng: np.random.Generator) -> np.ndarray:
    """Light a field of heights in px from one side.

    Shapes:  height (h, w); returns the same, 1 for level ground.
    Units:   ambient is the light from everywhere, the lamp having 1.
    """
    slope_y, slope_x = np.gradient(height)
    angle, up = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.2)
    facing = (up - slope_x * np.cos(angle) - slope_y * np.sin(angle)) / np.sqrt(1 + slope_x**2 + slope_y**2)
    return (ambient + np.clip(facing, 0, None) / up) / (ambient + 1)


def make_field(rng: np.random.Generator, slope: float) -> np.ndarray:
    """Make a field of deviation 1 whose amplitudes fall as 1/f^slope."""
    fy, fx = np.meshgrid(np.fft.fftfreq(PICTURE_PX), np.fft.rfftfreq(PICTURE_PX), indexing="ij")
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(PICTURE_PX, PICTURE_PX))) / frequency**slope)
    return field / field.std()


def _draw_rough(rng: np.random.Generator) -> np.ndarray:
    """Draw broken ground, whose slopes and not whose heights are as strong at every scale."""
    slope = rng.uniform(1.0, 2.2)
    field = make_field(rng, slope)
    return field / np.hypot(*np.gradient(field)).mean() * 0.5


def _draw_grains(rng: np.random.Generator) -> np.ndarray:
    """Heap up grains that hide each other, each a flat dome of its own size."""
    height = np.zeros((PICTURE_PX, PICTURE_PX))
    largest = np.exp(rng.uniform(np.log(2.0), np.log(14.0)))
    radii = largest * rng.uniform(0.4, 1.0, int(min(MAX_GRAINS, 2.2 * (PICTURE_PX / largest) ** 2)))
    flat = rng.uniform(0.2, 0.8)
    for radius in radii:
        y, x = rng.uniform(0, PICTURE_PX, 2)
        rows, columns = (np.arange(max(0, int(v - radius)), min(PICTURE_PX, int(v + radius) + 2)) for v in (y, x))
        apart = ((rows[:, None] - y) ** 2 + (columns - x) ** 2) / radius**2
        dome = flat * radius * np.sqrt(np.clip(1 - apart, 0, None)) + rng.uniform(0, 0.5) * (apart < 1)
        part = height[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.maximum(part, dome, out=part)
    return height


def _draw_cloth(rng: np.random.Generator) -> np.ndarray:
    """Weave threads over and under each other, each row a little off."""
    y, x = np.mgrid[:PICTURE_PX, :PICTURE_PX].astype(float)
    turn, width = rng.uniform(0, np.pi), rng.uniform(1.5, 6.0)
    bend = make_field(rng, 2.0) * rng.uniform(0, 0.6)
    along = (np.cos(turn) * x + np.sin(turn) * y) / width + bend
    across = (np.cos(turn) * y - np.sin(turn) * x) / width + bend
    over = np.where((np.floor(along) + np.floor(across)) % 2 == 0, along, across)
    return np.abs(np.sin(np.pi * over)) * width * rng.uniform(0.1, 0.5)


def load_reliefs(folder: Path, count: int, first_seed: int = FIRST_SEED) -> np.ndarray:
    """Return the reliefs of `count` seeds: (count, PICTURE_PX, PICTURE_PX, 3) uint8, drawn where there is no file."""
    path = folder / f"reliefs_{FORMAT}_{first_seed}_{count}.npy"
    if not path.exists():
        start = time.monotonic()
        drawn = np.stack([draw_relief(first_seed + index) for index in range(count)])
        print(f"{count} reliefs, {time.monotonic() - start:.0f} s", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        np.save(part, drawn)
        part.replace(path)
    return np.load(path)
