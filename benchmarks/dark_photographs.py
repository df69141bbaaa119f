"""Photographs in little light, taken by a camera that no training here knows.

Curve, colours, noise and file all differ from `pipelines/darkening.py`: the curve of television with a logistic one for
contrast, electrons that are counted, read noise with heavy tails and stripes, and the tables of another JPEG writer.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

LIGHTS = {"dark03": 0.3, "dark01": 0.1, "dark003": 0.03}
SHOTS = {"low_noise": 0.0005, "high_noise": 0.003}
# How hard it is was set by oracle brightening alone, not by what any method reaches: a tenth of the light
# then comes to 22 dB with little and 14 dB with much noise, as with the training's camera and its full curve.
# Colour filters let some of the other colours through; rows sum to 1.
_FILTERS = np.array([[0.72, 0.23, 0.05], [0.13, 0.74, 0.13], [0.04, 0.22, 0.74]])
_GAINS = np.array([1.8, 1.0, 1.6])
_CONTRAST = 4.0
_BITS = 14
# Deviations of read noise and of its stripes, in what the sensor holds.
_READ, _STRIPE = 0.0008, 0.0003
_TAIL_FREEDOM = 5


@dataclass(frozen=True)
class DarkPair:
    """Hold a photograph, what a camera saw of it in little light, and that picture with the lost light given back.

    Units: oracle knows the camera's curve and how much light was missing, but nothing of the noise.
    """

    name: str
    light: str
    noise: str
    truth: Image.Image
    dark: Image.Image
    oracle: Image.Image


def make_dark_pair(name: str, truth: Image.Image, light: str, noise: str) -> DarkPair:
    """Take a photograph again with less light."""
    rng = np.random.default_rng([len(name), *name.encode(), list(LIGHTS).index(light), list(SHOTS).index(noise), 67])
    linear = to_linear(np.asarray(truth.convert("RGB"), dtype=np.float64) / 255)
    signal = np.clip(linear @ _FILTERS.T / _GAINS, 0, 1) * LIGHTS[light]
    seen = np.clip(add_electrons(signal, SHOTS[noise], rng), 0, 1)
    top = 2**_BITS - 1
    balanced = np.rint(seen * top) / top * _GAINS
    shown = to_shown(np.clip(balanced @ np.linalg.inv(_FILTERS).T, 0, 1))
    dark = write_file(shown)
    again = to_linear(np.asarray(dark, dtype=np.float64) / 255) / LIGHTS[light]
    return DarkPair(name, light, noise, truth, dark, to_picture(to_shown(np.clip(again, 0, 1))))


def add_electrons(signal: np.ndarray, shot: float, rng: np.random.Generator) -> np.ndarray:
    """Count electrons and read them.

    Units: signal 0..1 of what the sensor holds; one electron is `shot`, so that the variance of counting is
           shot * signal, as for the training's noise.
    Source: Wei et al. 2020, arXiv 2003.12751 (ELD: counting, heavy-tailed read noise, stripes).
    """
    counted = rng.poisson(signal / shot) * shot
    tails = rng.standard_t(_TAIL_FREEDOM, signal.shape) * math.sqrt((_TAIL_FREEDOM - 2) / _TAIL_FREEDOM)
    stripes = rng.normal(size=(signal.shape[0], 1, 1))
    return counted + _READ * tails + _STRIPE * stripes


def to_shown(linear: np.ndarray) -> np.ndarray:
    """Turn light 0..1 into values of a screen: ITU-R BT.709, then a logistic curve for contrast."""
    values = np.where(linear < 0.018, 4.5 * linear, 1.099 * np.maximum(linear, 1e-9) ** 0.45 - 0.099)
    low, high = _logistic(np.array([0.0, 1.0]))
    return (_logistic(values) - low) / (high - low)


def to_linear(shown: np.ndarray) -> np.ndarray:
    """Undo `to_shown`."""
    low, high = _logistic(np.array([0.0, 1.0]))
    part = np.clip(low + shown * (high - low), low, high)
    values = np.clip(0.5 + np.log(part / (1 - part)) / _CONTRAST, 0, 1)
    return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))


def _logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-_CONTRAST * (values - 0.5)))


def write_file(shown: np.ndarray) -> Image.Image:
    """Write values 0..1 as a JPEG file with other tables than the training's, at full colour resolution."""
    file = io.BytesIO()
    to_picture(shown).save(file, "JPEG", quality="web_very_high", subsampling=0)
    with Image.open(file) as read:
        return read.convert("RGB")


def to_picture(shown: np.ndarray) -> Image.Image:
    """Round values 0..1 to a picture."""
    return Image.fromarray(np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8))
