"""Text to image: a request becomes a stream of Progress and, last, one ImageResult.

With `compare` the same seed is drawn without and with the chosen techniques. Closing the stream stops the run.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Sequence
from typing import Protocol

import torch
from PIL import Image

from pipelines.denoise import DenoiseSettings, Sketches, denoise, refuse_misfits
from pipelines.errors import UserError
from pipelines.images import check_size, decode
from pipelines.measures import measure
from pipelines.model import ModelBundle
from pipelines.params import validate
from pipelines.sketches import draw_sketches
from pipelines.techniques import make_techniques
from pipelines.techniques.base import Technique
from pipelines.text_side import describe_reading, encode_prompt
from pipelines.types import ImageResult, Progress, TextToImageRequest

Pictures = tuple[Image.Image, ...]


class ModelProvider(Protocol):
    """Hand out loaded models; `cache.ModelStore` is the real one."""

    def get(self, name: str) -> ModelBundle:
        """Return the bundle of a backend or raise BackendUnavailable."""
        ...


@torch.no_grad()
def text_to_image_stream(
    request: TextToImageRequest, models: ModelProvider
) -> Generator[Progress | ImageResult, None, None]:
    """Draw a prompt.

    Returns: a generator of Progress, one per step (both arms counted when comparing), then one ImageResult.
    Raises:  UserError with one sentence for what the user can correct; BackendUnavailable if the model cannot run.
    """
    request = validate(request)
    techniques = make_techniques(request.techniques)
    if not request.prompt.strip():
        raise UserError('The prompt is empty; say what to draw, for example "a red boat on the sea".')
    model = models.get(request.backend)
    width_px, height_px, notes = check_size(model, request.width_px, request.height_px)
    notes += _read_prompts(request, model) + _name_idle_settings(request, techniques)
    refuse_misfits(model, request.sampler, techniques)
    start = time.perf_counter()
    with model.lock:
        text = encode_prompt(model, request.prompt, request.negative_prompt, size_px=(width_px, height_px))
    settings = DenoiseSettings(
        seed=request.seed,
        num_images=request.num_images,
        num_steps=request.num_steps,
        guidance_scale=request.guidance_scale,
        sampler=request.sampler,
        width_px=width_px,
        height_px=height_px,
    )
    sketches = Sketches()
    drawn: list[Pictures] = []
    arms = [("without, ", ()), ("with, ", techniques)] if request.compare and techniques else [("", techniques)]
    for label, used in arms:
        stream = denoise(model, text, settings, used, notes, sketches=sketches)
        latents = yield from _count_on(stream, label, len(drawn), len(arms))
        with model.lock:
            drawn.append(tuple(decode(model, latents)))
    is_compared = len(drawn) > 1
    yield ImageResult(
        images=drawn[-1],
        baseline_images=drawn[0] if is_compared else (),
        seed_used=request.seed,
        seconds=time.perf_counter() - start,
        measures=measure(model, request.prompt, techniques, drawn, sketches) if is_compared else (),
        notes=tuple(dict.fromkeys(notes)),
        request=request,
        sketches=draw_sketches(drawn[-1][0], sketches),
    )


def _count_on(
    stream: Generator[Progress, None, torch.Tensor], label: str, arm: int, num_arms: int
) -> Generator[Progress, None, torch.Tensor]:
    """Number the steps of one arm within all arms and add the arms to come to the time left."""
    start = time.perf_counter()
    while True:
        try:
            progress = next(stream)
        except StopIteration as end:
            return end.value
        if progress.step == 0:
            start = time.perf_counter()
        step = arm * progress.num_steps + progress.step
        num_steps = num_arms * progress.num_steps
        yield dataclasses.replace(
            progress,
            step=step,
            num_steps=num_steps,
            note=f"{label}{progress.note}",
            seconds_left=(time.perf_counter() - start) / max(1, progress.step) * (num_steps - step),
        )


def _read_prompts(request: TextToImageRequest, model: ModelBundle) -> list[str]:
    """Tell what the model cannot read of both prompts; refuse a prompt of which it knows no word at all."""
    num_known, notes = describe_reading(request.prompt, model)
    if num_known == 0:
        raise UserError(
            f"{model.spec.name} knows no word of this prompt; use plain English words such as "
            f'"a red boat on the sea", or choose a larger backend.'
        )
    if request.negative_prompt.strip():
        notes += describe_reading(request.negative_prompt, model)[1]
    return notes


def _name_idle_settings(request: TextToImageRequest, techniques: Sequence[Technique]) -> list[str]:
    """Name settings that have no effect together, so that nothing is ignored silently."""
    notes = []
    titles = [technique.title for technique in techniques if "combine" in technique.points]
    if request.guidance_scale == 0.0:
        notes.append("Guidance 0 ignores the prompt; 1 follows it plainly, 3 to 5 follow it closely.")
    if request.guidance_scale == 1.0 and request.negative_prompt.strip():
        notes.append("The negative prompt has no effect at guidance 1; raise the guidance.")
    if request.guidance_scale == 1.0:
        notes += [f"{title} has no effect at guidance 1; raise the guidance." for title in titles]
    if request.compare and not request.techniques:
        notes.append("No technique is chosen, so there is nothing to compare; choose one.")
    return notes
