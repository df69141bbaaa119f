"""Style prompting: a style picture and words become pictures of the words in that style.

The style picture is read once for all seeds and settings that share it. With `compare` the same seeds are also drawn
with words only and with StyleAligned. Closing the stream stops the run.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from pipelines.arms import count_on
from pipelines.denoise import DenoiseSettings, Sketches, denoise, refuse_misfits
from pipelines.errors import UserError
from pipelines.images import decode, fit_square
from pipelines.inversion import invert, measure_inversion
from pipelines.model import ModelBundle
from pipelines.params import validate
from pipelines.schedules import list_timesteps
from pipelines.style_measures import measure_style
from pipelines.style_reference import StyleSource, make_source
from pipelines.style_sketches import draw_sources
from pipelines.technique_catalogue import STYLE_TECHNIQUES, catalogue
from pipelines.techniques import make_style
from pipelines.techniques.base import Technique
from pipelines.techniques.outpaint import Outpaint
from pipelines.text_side import encode_prompt, read_prompts
from pipelines.text_to_image import ModelProvider
from pipelines.types import Measure, Progress, StyleArm, StyleRequest, StyleResult

WORDS_ONLY = "Words only"
BASELINE = "style_aligned"
# From this inversion error on (PSNR, higher is better) a picture is one that the model could have drawn.
KNOWN_DB = 28.0
MAX_KEPT_ERRORS = 1024

Chosen = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Style:
    """Hold what is known of the style pictures: as seen, as encoded, and how well each can be inverted."""

    pictures: tuple[Image.Image, ...]
    sources: tuple[StyleSource, ...]
    inversions_db: tuple[float, ...]


@torch.no_grad()
def style_stream(request: StyleRequest, models: ModelProvider) -> Generator[Progress | StyleResult, None, None]:
    """Draw a prompt in the style of a picture.

    Returns: a generator of Progress, step 0 while the style picture is drawn and read, then one per step over all
             arms; its last item is one StyleResult.
    Raises:  UserError with one sentence for what the user can correct; BackendUnavailable if the model cannot run.
    """
    request = validate(request)
    if not request.prompt.strip():
        raise UserError('The prompt is empty; say what to draw, for example "a cat and a blue cup".')
    if request.reference is None and not request.reference_prompt.strip():
        raise UserError("There is no style picture; choose an example, upload one, or describe one in words.")
    model = models.get(request.backend)
    notes = read_prompts(model, request.prompt, request.negative_prompt)
    start = time.perf_counter()
    style = yield from _prepare(model, request, notes)
    width_px, place = _plan_canvas(model, request)
    arms = _list_arms(request)
    sketches = Sketches()
    drawn: list[tuple[str, tuple[Image.Image, ...]]] = []
    for name, chosen in arms:
        techniques = [*make_style(chosen, style.sources), *_extend(request, style, place)]
        label = f"{_title(name)}, " if len(arms) > 1 else ""
        stream = _draw(model, request, techniques, width_px=width_px, notes=notes, sketches=sketches)
        images = yield from count_on(stream, label, len(drawn), len(arms))
        drawn.append((name, tuple(images)))
    with model.lock:
        measured = [measure_style(model, request.prompt, style.pictures, images) for _, images in drawn]
    yield StyleResult(
        arms=tuple(
            StyleArm(name, _title(name), images, _pair(measured[0], measures))
            for (name, images), measures in zip(drawn, measured)
        ),
        references=style.pictures,
        inversions_db=style.inversions_db,
        seed_used=request.seed,
        seconds=time.perf_counter() - start,
        notes=tuple(dict.fromkeys(notes)),
        request=request,
        sketches=draw_sources(drawn[-1][1][0], style.pictures, sketches.sources),
    )


def _title(name: str) -> str:
    """Name an arm for a reader."""
    return catalogue(STYLE_TECHNIQUES)[name].title if name else WORDS_ONLY


def _list_arms(request: StyleRequest) -> list[tuple[str, Chosen]]:
    """List what is drawn, what was asked for last: (technique's name, the choice of it)."""
    asked = next(iter(request.techniques), "")
    arms: list[tuple[str, Chosen]] = [(asked, request.techniques)]
    if request.compare:
        others: list[tuple[str, Chosen]] = [("", {}), (BASELINE, {BASELINE: {}})]
        arms = [arm for arm in others if arm[0] != asked] + arms
    return arms


def _pair(first: Sequence[Measure], measures: Sequence[Measure]) -> tuple[Measure, ...]:
    """Put the first arm's numbers beside an arm's own."""
    return tuple(replace(own, off=other.on) for other, own in zip(first, measures))


def _prepare(model: ModelBundle, request: StyleRequest, notes: list[str]) -> Generator[Progress, None, _Style]:
    """Draw the style pictures that are given in words, encode all, and see how well each can be inverted."""
    pictures: list[Image.Image] = []
    for label, given, words in (
        ("style picture", request.reference, request.reference_prompt),
        ("second style picture", request.second, request.second_prompt),
    ):
        if given is not None:
            picture, note = fit_square(given, model.spec.image_px)
            pictures.append(picture)
            notes += [f"The {label} {note}."] if note else []
        elif words.strip():
            notes += read_prompts(model, words)
            asked = replace(request, prompt=words, num_images=1)
            stream = _draw(model, asked, [], width_px=model.spec.image_px, notes=notes, sketches=Sketches())
            images = yield from _as_preparation(stream, f"drawing the {label}")
            pictures += images
    sources, errors = [], []
    for picture in pictures:
        source = make_source(model, picture)
        error = yield from _check_inversion(model, picture, source)
        errors.append(error)
        if error < KNOWN_DB:
            notes.append(
                f"{model.spec.name} redraws this style picture with {error:.0f} dB only, so it is none of its world: "
                "expect its colours and broad strokes, not its details."
            )
        if request.read_by == "inversion":
            source = yield from _walk(model, source, request)
        sources.append(source)
    return _Style(tuple(pictures), tuple(sources), tuple(errors))


def _check_inversion(model: ModelBundle, picture: Image.Image, source: StyleSource) -> Generator[Progress, None, float]:
    """Return the PSNR in dB of a picture that was inverted and drawn again, known or measured."""
    memory = model.inversion_memory
    if (known := memory.get(source.key)) is not None:
        return known
    error, _ = yield from measure_inversion(model, picture, source.latents, source.text)
    memory[source.key] = error
    while len(memory) > MAX_KEPT_ERRORS:
        memory.popitem(last=False)
    return error


def _walk(model: ModelBundle, source: StyleSource, request: StyleRequest) -> Generator[Progress, None, StyleSource]:
    """Invert a style picture at the steps of the run, so that these latents are read."""
    timesteps = list_timesteps(request.sampler, model.scheduler_config, request.num_steps)
    walk = yield from invert(model, source.latents, source.text, timesteps, sampler=request.sampler)
    return replace(source, walk=walk, key=f"{source.key} inverted {request.sampler} {request.num_steps}")


def _plan_canvas(model: ModelBundle, request: StyleRequest) -> tuple[int, int]:
    """Return the canvas's width in px, and where the style picture's left edge stands in it in cells."""
    side_px = model.spec.image_px
    factor = {"no": 1, "left": 2, "right": 2, "both": 3}[request.extend]
    width_px = min(factor * side_px, model.spec.max_image_px)
    unit_px = model.spec.px_per_cell * 2 ** (len(model.unet.config.block_out_channels) - 1)
    width_px -= width_px % unit_px
    room = (width_px - side_px) // model.spec.px_per_cell
    return width_px, {"left": room, "both": room // 2}.get(request.extend, 0)


def _extend(request: StyleRequest, style: _Style, place: int) -> list[Technique]:
    """Keep the first style picture inside the canvas, if it is to be extended."""
    return [Outpaint(references=style.sources[:1], place_cells=place)] if request.extend != "no" else []


def _draw(
    model: ModelBundle,
    request: StyleRequest,
    techniques: Sequence[Technique],
    *,
    width_px: int,
    notes: list[str],
    sketches: Sketches,
) -> Generator[Progress, None, list[Image.Image]]:
    """Draw the request's pictures with some techniques."""
    refuse_misfits(model, request.sampler, techniques)
    with model.lock:
        text = encode_prompt(model, request.prompt, request.negative_prompt, size_px=(width_px, model.spec.image_px))
    settings = DenoiseSettings(
        seed=request.seed,
        num_images=request.num_images,
        num_steps=request.num_steps,
        guidance_scale=request.guidance_scale,
        sampler=request.sampler,
        width_px=width_px,
        height_px=model.spec.image_px,
    )
    latents = yield from denoise(model, text, settings, techniques, notes, sketches=sketches)
    with model.lock:
        return decode(model, latents)


def _as_preparation(
    stream: Generator[Progress, None, list[Image.Image]], label: str
) -> Generator[Progress, None, list[Image.Image]]:
    """Pass on a run that only prepares another one: step 0, with its own count in the note."""
    while True:
        try:
            progress = next(stream)
        except StopIteration as end:
            return end.value
        yield replace(progress, step=0, note=f"{label}, {progress.note}", seconds_left=0.0)
