"""The four ways of lighting a dark picture, each a stream of pictures on their way.

Each takes a picture (3, H, W) in -1..1 and the request, yields what is finished, and returns the lit picture. What they
have in common - uploads, bursts, colours, measures, sentences - is `low_light.py`'s business.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import torch
import torch.nn.functional as F

from pipelines import lime
from pipelines.brightening import TONE_FRAC, brighten_stream, measure_brightness, measure_noise
from pipelines.darkening import add_tone, remove_tone
from pipelines.latent_retinex import decode_lit, decompose, find_power, light_pixels
from pipelines.low_light_types import LowLightRequest
from pipelines.networks import NetworkProvider
from pipelines.seeding import make_generators
from pipelines.streams import follow
from pipelines.text_to_image import ModelProvider

# Finished pieces of work, of how many, words about them, and the picture so far.
Step = tuple[int, int, str, torch.Tensor]
Lighting = Generator[Step, None, torch.Tensor]
BISECTIONS = 12
FIND_PX = 256


class Provider(ModelProvider, NetworkProvider, Protocol):
    """Hand out both kinds: the networks for photographs, and models whose latents are taken apart."""


def light_by_lime(dark: torch.Tensor, request: LowLightRequest, notes: list[str]) -> Lighting:
    """Divide by the estimated light, raised to the power that gives the wanted brightness, and smooth the noise."""
    values = (dark + 1) / 2
    light = lime.estimate_light(values)
    lit = lime.brighten(values, light, find_gamma(values, light, request.brightness))
    yield 1, 2, "light divided out", lit * 2 - 1
    sigma = measure_noise(lit * 2 - 1) / 255
    return lime.remove_noise(lit, light, request.noise_frac, sigma) * 2 - 1


def find_gamma(values: torch.Tensor, light: torch.Tensor, brightness: float) -> float:
    """Find the power of the light that LIME must divide by; 0..1, where 1 is all that it can."""
    stride = max(1, min(values.shape[1:]) // FIND_PX)
    few, few_light = values[:, ::stride, ::stride], light[:, ::stride, ::stride]
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_dark = float(lime.brighten(few, few_light, middle).mean()) < brightness
        low, high = (middle, high) if is_dark else (low, middle)
    return (low + high) / 2


def light_by_curve(dark: torch.Tensor, request: LowLightRequest, models: Provider) -> Lighting:
    """Apply the curves that the small network asks for."""
    lit = models.networks().curve_net.light(dark, request.brightness)
    yield 1, 1, "curve", lit
    return lit


def light_by_diffusion(dark: torch.Tensor, request: LowLightRequest, models: Provider, notes: list[str]) -> Lighting:
    """Light by a curve at once, then by the restorer, pass by pass until the brightness is reached."""
    networks = models.networks()
    shown = networks.curve_net.light(dark, request.brightness)
    yield 0, 1, "first view, by the curve", shown
    stream = brighten_stream(
        networks.restorer,
        dark,
        request.brightness,
        generator=make_generators(request.seed, 1)[0],
        num_passes=request.num_passes,
        noise_frac=request.noise_frac,
        detail_frac=request.detail_frac,
    )
    while True:
        try:
            step = next(stream)
        except StopIteration as end:
            reached = ", ".join(f"{value:.2f}" for value in end.value.brightness)
            notes.append(f"Brightness after each pass: {reached}.")
            return end.value.picture
        # The first pass starts from bare exposure, with all its noise; the curve is nearer to what comes.
        shown = step.picture if step.num_pass > 1 else shown
        words = f"pass {step.num_pass}, tile {step.finished_tiles} of {step.num_tiles}"
        yield (
            (step.num_pass - 1) * step.num_tiles + step.finished_tiles,
            request.num_passes * step.num_tiles,
            words,
            shown,
        )


def light_by_retinex(dark: torch.Tensor, request: LowLightRequest, models: Provider, notes: list[str]) -> Lighting:
    """Take storybook's latents of the picture apart, and put light back in.

    Differs: the camera's S-shaped curve is undone before and done after, because only below it does twice the light
             double the values.
    """
    shown = models.networks().curve_net.light(dark, request.brightness)
    yield 0, 1, "first view, by the curve", shown
    model = models.get(request.backend)
    unit, (height, width) = model.spec.px_per_cell, dark.shape[1:]
    below = remove_tone((dark + 1) / 2, TONE_FRAC) * 2 - 1
    below = F.pad(below[None], (0, -width % unit, 0, -height % unit), mode="replicate")[0]
    parts = yield from follow(decompose(model, below), (0, 1, "taking the latents apart", shown))
    power = find_power(below, parts.light, request.brightness)
    lit = light_pixels(below, parts.light, power)
    stream = decode_lit(model, parts, lit, power, request.noise_frac)
    while True:
        try:
            done, total, picture = next(stream)
        except StopIteration as end:
            picture, before, after = end.value
            levels = (f"{error * 255 / 2:.1f}" for error in (before, after))
            notes.append(f"Light to the power of {power:.2f}; {' -> '.join(levels)} levels of error after adapting.")
            return _raise_tone(picture, height, width)
        words = f"tile {done} of {total}" if done else "adapting the decoder to this picture"
        yield done, total, words, _raise_tone(picture, height, width) if done else shown


def say_reached(lit: torch.Tensor, request: LowLightRequest) -> str:
    """Say in a sentence that the wanted brightness was not reached; empty if it was."""
    found = measure_brightness(lit)
    if abs(found - request.brightness) <= 0.05:
        return ""
    return f"The brightness asked for is {request.brightness:.2f}; this method reaches {found:.2f} with this picture."


def _raise_tone(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Apply the camera's curve again and cut off what was added to fill the last cells."""
    return add_tone((picture[:, :height, :width] + 1) / 2, TONE_FRAC) * 2 - 1
