"""Explore: several different pictures, drawn after words, that all shrink to the same small one."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from itertools import combinations
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from pipelines.backprojection import make_reduction
from pipelines.denoise import DenoiseSettings, denoise
from pipelines.enlarging import make_exact
from pipelines.errors import UserError
from pipelines.images import decode_pixels, fit_square, to_images, to_tensor
from pipelines.networks import NetworkProvider
from pipelines.photo_measures import measure_enlarged
from pipelines.sr_lite import enlarge
from pipelines.streams import follow
from pipelines.techniques.picture_agreement import PictureAgreement
from pipelines.text_side import encode_prompt, read_prompts
from pipelines.text_to_image import ModelProvider
from pipelines.types import Measure, Progress, SuperResolutionRequest, SuperResolutionResult

SAMPLER = "ddim"


class Provider(ModelProvider, NetworkProvider, Protocol):
    """Hand out both kinds: the networks for photographs, and models that draw after words."""


@torch.no_grad()
def explore_stream(
    request: SuperResolutionRequest, original: Image.Image, models: Provider
) -> Generator[Progress | SuperResolutionResult, None, None]:
    """Draw several pictures that agree with a small one; a checked request.

    Returns: a generator of Progress, one per step, whose last item is one SuperResolutionResult; its pictures have the
             model's own size, and the small one is the scale's part of that.
    Raises:  UserError without words.
    """
    if not request.prompt.strip():
        raise UserError("Exploring needs words; say what the picture may show.")
    model, start = models.get(request.backend), time.perf_counter()
    side = model.spec.image_px
    few = round(side / request.scale)
    fitted, deed = fit_square(original, few)
    notes = [f"The picture {deed} of {few} px, so that {model.spec.name} can draw it {side} px wide."] if deed else []
    notes += read_prompts(model, request.prompt)
    small = to_tensor([fitted])[0]
    with model.lock:
        text = encode_prompt(model, request.prompt, size_px=(side, side))
    settings = DenoiseSettings(
        seed=request.seed,
        num_images=request.num_images,
        num_steps=request.num_steps,
        guidance_scale=request.guidance_scale,
        sampler=SAMPLER,
        width_px=side,
        height_px=side,
        start_step=min(request.num_steps - 1, round(request.num_steps * (1 - request.freedom_frac))),
    )
    guess = models.networks().enlarger(small[None], (side, side), torch.zeros(1))[0]
    latents = yield from denoise(model, text, settings, [PictureAgreement(small, guess)], notes)
    reduction, images = make_reduction((side, side), (few, few)), []
    for index, row in enumerate(latents.split(1)):
        with model.lock:
            pixels = decode_pixels(model, row)[0].float().cpu()
        last = Progress(request.num_steps, request.num_steps, f"agreeing, picture {index + 1} of {len(latents)}")
        pixels = yield from follow(
            make_exact(pixels, small, reduction), replace(last, preview=to_images(pixels[None])[0])
        )
        images.append(to_images(pixels[None])[0])
    baseline = to_images(enlarge(small[None], (side, side)))[0]
    yield SuperResolutionResult(
        image=images[0],
        baseline=baseline,
        original=fitted,
        measures=(*measure_enlarged(small, reduction, baseline, images[0]), measure_variety(images)),
        seed_used=request.seed,
        seconds=time.perf_counter() - start,
        notes=tuple(dict.fromkeys(notes)),
        request=request,
        others=tuple(images[1:]),
    )


def measure_variety(images: list[Image.Image]) -> Measure:
    """Measure how far the pictures lie apart: the mean difference of all pairs, in levels of 255; 0 for one."""
    arrays = [np.asarray(image, dtype=np.float32) for image in images]
    gaps = [float(np.abs(one - other).mean()) for one, other in combinations(arrays, 2)]
    return Measure(
        "variety_levels", "difference between the pictures", 0.0, sum(gaps) / len(gaps) if gaps else 0.0, "of 255"
    )
