"""Light a dark picture: more exposure by a typical camera's curve, then the restorer takes the noise away.

It goes on until the wanted brightness is measured, because what the network thinks of a picture shifts its brightness.
Whether a picture is dark, colours, and sentences for a visitor are `low_light.py`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipelines import lime
from pipelines.darkening import add_tone, blur, from_linear, remove_tone, to_linear
from pipelines.detailing import count_tiles, guess_clean
from pipelines.residual_shift import KAPPA, make_etas
from pipelines.restorer import Restorer, make_task
from pipelines.texture_return import return_texture

# Between cameras without and with an S-shaped curve. Any power law cancels out: light that is lost before it and given
# back behind it is one factor.
TONE_FRAC = 0.6
MAX_GAIN = 16.0
NUM_PASSES = 3
NEAR = 0.03  # how far from the target a brightness may be
GRAIN_PX = 2.5  # the deviation of the blur that tells noise from colour and light
POWER = 2.2  # of the power law
# The shares of two other guesses of the camera where no noise was removed: no S-shaped curve, and the standard's curve
# instead of a power law; and the removed noise, in levels of 255, from which on they have none.
LIME_SHARE, STANDARD_SHARE, RELIT_BELOW = 0.2, 0.5, 40.0
_MEASURED_PX = 256  # per side: brightness is measured on about as many pixels
# What guesses a brightness: the brightest hundredth of what is not itself a lamp is taken for nearly white, and the
# line makes it fit 2,500 drawn pictures in 0.02 to 0.5 of their light, whose mean it misses by 0.13 (0.42 by 0.21).
WHITE_SHARE, WHITE = 0.99, 0.95
LAMP = 0.8  # of white, in a picture that is dark all the same
GUESS_SLOPE, GUESS_OFFSET = 0.88, 0.02
GUESS_RANGE = (0.2, 0.75)
_GRAIN_STRIDE = 4  # pixels whose mean has little noise left


def measure_brightness(picture: torch.Tensor) -> float:
    """Return the mean of all channels of a picture in -1..1 as a fraction 0..1."""
    return float(picture.mean()) / 2 + 0.5


def measure_noise(picture: torch.Tensor) -> float:
    """Estimate the noise of (3, H, W) in -1..1 as a deviation in levels of 255; fine texture counts as well.

    Source:  Immerkaer 1996, CVIU 64(2): the mean size of a mask's answer, which straight edges do not excite.
    """
    if min(picture.shape[1:]) < 3:
        return 0.0  # too small for the mask, and for noise to be seen
    mask = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])[None, None]
    return float(F.conv2d(picture[:, None], mask).abs().mean()) * math.sqrt(math.pi / 2) / 6 * (255 / 2)


def expose(picture: torch.Tensor, gain: float, *, is_standard: bool = False) -> torch.Tensor:
    """Give a picture more light, as if a typical camera had been exposed for longer.

    Shapes:  picture (3, H, W) in -1..1; returned the same.
    Units:   gain is what the values below the camera's S-shaped curve are multiplied by; 1 changes nothing. Behind a
             power law of 2.2, a gain of 2 is 2^2.2 times the light; with is_standard that light is given behind the
             curve of sRGB, which is a straight line near black, so that dark places gain more.
    Differs: no lookup table: the curve is undone and applied in closed form.
    """
    if gain == 1:
        return picture
    values = remove_tone((picture + 1) / 2, TONE_FRAC)
    if is_standard:
        lit = (from_linear(to_linear(values * 2 - 1) * gain**POWER) + 1) / 2
    else:
        lit = (values * gain).clamp(max=1)
    return add_tone(lit, TONE_FRAC) * 2 - 1


def find_gain(picture: torch.Tensor, target: float, *, lowest: float = 1.0, is_standard: bool = False) -> float:
    """Find the gain with which `expose` brings a picture to a brightness.

    Units:   target 0..1 as in `measure_brightness`.
    Returns: `lowest` for a picture that is too bright already, MAX_GAIN at most.
    """
    stride = max(1, min(picture.shape[1:]) // _MEASURED_PX)
    few = picture[:, ::stride, ::stride]
    low, high = lowest, MAX_GAIN
    if measure_brightness(expose(few, low, is_standard=is_standard)) >= target:
        return low
    for _ in range(16):
        middle = math.sqrt(low * high)
        is_dark = measure_brightness(expose(few, middle, is_standard=is_standard)) < target
        low, high = (middle, high) if is_dark else (low, middle)
    return math.sqrt(low * high)


def guess_brightness(dark: torch.Tensor) -> float:
    """Guess how bright a dark picture's scene was in full light: a paper is white, a night sky is not.

    Shapes:  dark (3, H, W) in -1..1.
    Returns: 0..1 as in `measure_brightness`, within GUESS_RANGE.
    """
    stride = max(1, min(_GRAIN_STRIDE, min(dark.shape[1:]) // 8))
    few = F.avg_pool2d(dark[None], stride, ceil_mode=True)[0]
    is_lamp = F.max_pool2d(dark.amax(0)[None], stride, ceil_mode=True)[0] >= LAMP * 2 - 1
    lit = few.amax(0)[~is_lamp]
    if lit.numel() == 0:
        return GUESS_RANGE[1]
    white = lit.kthvalue(max(1, round(WHITE_SHARE * lit.numel()))).values.view(1, 1, 1)
    exposed = measure_brightness(expose(few, find_gain(white, WHITE)))
    low, high = GUESS_RANGE
    return min(high, max(low, GUESS_SLOPE * exposed + GUESS_OFFSET))


def tell_gain(gain: float) -> float:
    """Turn a gain into the strength "light" of the restorer's task: 1 for a gain of 16."""
    return math.log2(gain) / 4


@dataclass(frozen=True, eq=False)
class BrightenProgress:
    """Say how far it is: finished tiles of num_tiles in pass num_pass (from 1); picture (3, H, W) is the last guess."""

    finished_tiles: int
    num_tiles: int
    num_pass: int
    picture: torch.Tensor


@dataclass(frozen=True, eq=False)
class Brightened:
    """Hold a lit picture and what it was made of.

    Shapes: picture and lit, which is as much brightened without the network, (3, H, W) in -1..1.
    Units:  gain as in `expose`; noise_levels, of `lit`, in levels of 255; brightness 0..1 after each pass.
    """

    picture: torch.Tensor
    lit: torch.Tensor
    gain: float
    noise_levels: float
    brightness: tuple[float, ...]


@torch.no_grad()
def brighten_stream(
    model: Restorer,
    dark: torch.Tensor,
    target: float,
    *,
    generator: torch.Generator,
    num_passes: int = NUM_PASSES,
    noise_frac: float = 1.0,
    detail_frac: float = 0.0,
) -> Generator[BrightenProgress, None, Brightened]:
    """Light a picture until it is as bright as wanted.

    Shapes:  dark (3, H, W) in -1..1 of any sides.
    Units:   target 0..1 as in `measure_brightness`; noise_frac 0..1 is how much of the noise is taken away; detail_frac
             0..1 is how much of the chain's noise is drawn: 0 gives the mean of what is likely, 1 one likely picture.
    Returns: a generator that yields after every tile; its return value holds the picture. It ends after the first pass
             whose result is NEAR the target, at the latest after num_passes.
    Source:  Li et al. 2024, arXiv 2404.04804 (LightDiff: light, look again, light again); Yue, Wang and Loy 2023, arXiv
             2307.12348 (the noise of each pass).
    Differs: brightness is what is looked at, instead of words and depth; a pass is one step of the chain, and without
             its noise a result comes 0.3 to 0.6 dB nearer to drawn pictures; texture is given back at the end;
             and as the camera's curve is not known, three guesses of it are averaged where the noise allows it.
    """
    etas = make_etas(num_passes)
    gain = find_gain(dark, target)
    lit = guess = expose(dark, gain)
    found: list[float] = []
    while True:
        eta = etas[-1 - len(found)]
        noisy = (1 - eta) * guess + eta * lit
        if detail_frac:
            noisy += detail_frac * KAPPA * eta**0.5 * torch.randn(dark.shape, generator=generator)
        task = make_task("light", 1, light=tell_gain(max(gain, 1.0)))
        tiles = guess_clean(model, noisy, lit, (KAPPA * eta**0.5, eta), task)
        guess = yield from _count(tiles, len(found) + 1, guess)
        found.append(measure_brightness(guess.clamp(-1, 1)))
        if len(found) == num_passes or abs(found[-1] - target) <= NEAR:
            break
        change = find_gain(guess, target, lowest=1 / MAX_GAIN)
        gain = min(gain * change, MAX_GAIN)
        guess, lit = expose(guess, change), expose(dark, gain)
    # Where detail was invented, what was removed is not noise and texture alone.
    picture = guess if detail_frac else return_texture(lit, guess)
    removed = measure_noise(lit - picture)  # unlike the noise of `lit`, it holds no texture
    if removed < RELIT_BELOW:
        picture = picture + (1 - removed / RELIT_BELOW) * (relight(guess, gain, target) - guess)
    picture = picture if noise_frac == 1 else picture + (1 - noise_frac) * find_grain(lit - picture)
    return Brightened(picture.clamp(-1, 1), lit, gain, measure_noise(lit), tuple(found))


def relight(picture: torch.Tensor, gain: float, target: float) -> torch.Tensor:
    """Darken a clean picture as `expose` lit it, and average what three guesses of the camera make of it.

    Shapes:  picture (3, H, W) in -1..1; returns the same.
    Returns: the picture itself, that of a camera whose curve is the standard's, and that of one without an S-shaped
             curve, which LIME takes for granted, by their shares.
    """
    less = expose(picture.clamp(-1, 1), 1 / gain)
    standard = expose(less, find_gain(less, target, is_standard=True), is_standard=True)
    dark = (less + 1) / 2
    light = lime.estimate_light(dark)
    by_lime = lime.brighten(dark, light, lime.find_gamma(dark, light, target)) * 2 - 1
    return picture + STANDARD_SHARE * (standard - picture) + LIME_SHARE * (by_lime - picture)


def find_grain(difference: torch.Tensor) -> torch.Tensor:
    """Return what of a difference (3, H, W) is fine: colours and light are left out."""
    return difference - blur(difference, GRAIN_PX, GRAIN_PX)


def _count(
    tiles: Generator[None, None, torch.Tensor], num_pass: int, before: torch.Tensor
) -> Generator[BrightenProgress, None, torch.Tensor]:
    """Report each tile of a pass."""
    num_tiles, finished = count_tiles((int(before.shape[1]), int(before.shape[2]))), 0
    while True:
        try:
            next(tiles)
        except StopIteration as end:
            return end.value
        finished += 1
        yield BrightenProgress(finished, num_tiles, num_pass, before)
