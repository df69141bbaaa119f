"""Text to image: a request becomes a stream of Progress and, last, one ImageResult.

With `compare` the same seed is drawn without and with the chosen techniques. Closing the stream stops the run.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Protocol

import torch
from PIL import Image

from pipelines.arms import count_on
from pipelines.denoise import DenoiseSettings, Sketches, denoise, refuse_misfits
from pipelines.errors import UserError
from pipelines.images import check_size, decode
from pipelines.measures import measure
from pipelines.model import ModelBundle
from pipelines.params import validate
from pipelines.sketches import draw_sketches
from pipelines.techniques import make_techniques
from pipelines.techniques.base import Technique
from pipelines.text_side import encode_prompt, read_prompts
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
    notes += read_prompts(model, request.prompt, request.negative_prompt) + _name_idle_settings(request, techniques)
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
        latents = yield from count_on(stream, label, len(drawn), len(arms))
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
