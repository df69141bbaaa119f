"""Low light: a dark photograph, or several of one scene, becomes a bright one, and what was added is told.

A first view is there at once; the method goes on from it, tile by tile and pass by pass. A picture that is not dark
comes back unchanged. Closing the stream stops the run at the next tile; the picture so far can be kept.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from pipelines import lighting
from pipelines.brightening import measure_brightness
from pipelines.burst import merge_burst
from pipelines.darkening import Darkness, darken, draw_lamps
from pipelines.errors import UserError
from pipelines.images import to_images, to_tensor
from pipelines.light_measures import draw_added, explain, is_dark, make_baseline, make_histogram, measure_lit
from pipelines.lighting import Provider
from pipelines.low_light_types import (
    WAYS_OF_LIGHTING,
    DarkenRequest,
    LightArm,
    LowLightProgress,
    LowLightRequest,
    LowLightResult,
)
from pipelines.params import validate
from pipelines.seeding import make_generators
from pipelines.types import Progress
from pipelines.uploads import MAX_FRAMES, WORD_LEVELS, has_alpha, to_plain

PREVIEW_PX = 768
MAX_BURST_MEGAPIXELS = 64
# Sensor noise of a slider 0..1: from what a large modern sensor has to that of an old small one.
SHOT_RANGE = (1e-4, 0.012)
_TITLES = {"lime": "LIME", "curve": "Curve", "retinex": "Latent Retinex", "diffusion": "Diffusion"}


@dataclass(eq=False)
class _Run:
    """Hold a picture on its way.

    Shapes: single, the picture as given, and dark, merged with the others of a burst, (3, H, W) in -1..1; alpha the
            same or None.
    """

    request: LowLightRequest
    original: Image.Image
    single: torch.Tensor
    dark: torch.Tensor
    truth: torch.Tensor | None
    notes: list[str] = field(default_factory=list)
    arms: list[LightArm] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)
    began: float = field(default_factory=time.perf_counter)

    def report(self, step: lighting.Step, method: str) -> Progress:
        """Report finished pieces of work, with the picture so far in at most PREVIEW_PX."""
        done, total, words, lit = step
        stride = max(1, -(-max(lit.shape[1:]) // PREVIEW_PX))
        shown = to_images(add_colour(lit[:, ::stride, ::stride], self.request.colour)[None])[0]
        passed = time.perf_counter() - self.began
        left_s = passed / done * (total - done) if done else 0.0
        words = f"{_TITLES[method]}: {words}" if self.request.compare else words
        return LowLightProgress(done, total, words, shown, left_s, partial(_stop, self, method, lit))


@torch.no_grad()
def low_light_stream(request: LowLightRequest, models: Provider) -> Generator[Progress | LowLightResult, None, None]:
    """Light a dark photograph.

    Returns: a generator of Progress, the first one with a view that is already lit, then one or more per tile; its last
             item is one LowLightResult. Grey stays grey, transparent stays transparent.
    Raises:  UserError with one sentence for what the user can correct; BackendUnavailable without weights.
    """
    request = validate(request)
    run = yield from _prepare(request)
    if not request.force and not is_dark(run.dark):
        yield _keep_unchanged(run)
        return
    others = [name for name in WAYS_OF_LIGHTING if name != request.method] if request.compare else []
    for method in (*others, request.method):
        run.began = time.perf_counter()
        notes: list[str] = []
        stream = _open(run, method, models, notes)
        while True:
            try:
                step = next(stream)
            except StopIteration as end:
                lit = end.value
                break
            yield run.report(step, method)
        run.arms.append(_make_arm(run, method, lit))
        if method == request.method:
            run.notes += [*notes, *filter(None, [lighting.say_reached(lit, request)])]
    yield _conclude(run, tuple(run.arms))


def darken_photo(picture: Image.Image, request: DarkenRequest) -> Image.Image:
    """Take a picture again with less light, as a camera would: the page's tool to try low light on any picture."""
    request = validate(request)
    generator = make_generators(request.seed, 1)[0]
    pixels = to_tensor([picture])[0]
    lamps = draw_lamps((picture.height, picture.width), request.lamps, generator) if request.lamps else None
    low, high = SHOT_RANGE
    shot = low * (high / low) ** request.grain if request.grain else 0.0
    dark = darken(pixels, Darkness(request.light_frac, shot=shot), generator, lamps=lamps)
    return _to_picture(dark, to_plain(picture))


def tell_light(picture: Image.Image) -> str:
    """Say before a run how bright a picture is, and whether there is something to do about it."""
    pixels = to_pixels(picture)
    brightness = f"Brightness {measure_brightness(pixels):.2f}"
    if is_dark(pixels):
        return f"{brightness}: a dark picture."
    return f"{brightness}: not a dark picture. To see what the methods do, darken it below as a camera would."


def add_colour(picture: torch.Tensor, strength: float) -> torch.Tensor:
    """Move the colours of (3, H, W) away from grey or towards it; 1 changes nothing, 0 is grey."""
    if strength == 1:
        return picture
    grey = picture.mean(0, keepdim=True)
    return (grey + strength * (picture - grey)).clamp(-1, 1)


def _prepare(request: LowLightRequest) -> Generator[Progress, None, _Run]:
    """Check the request, turn its picture into numbers, and merge a burst."""
    pictures = request.burst or tuple(filter(None, [request.picture]))
    if not pictures:
        raise UserError("There is no picture yet; upload one, choose an example, or send one from another tab.")
    _check_burst(request)
    first = to_pixels(pictures[0])
    if float(first.max()) <= -1:
        raise UserError("This picture is black everywhere, so that there is nothing to bring to light; choose another.")
    truth = None if request.truth is None else to_pixels(request.truth)
    if truth is not None and truth.shape != first.shape:
        raise UserError("The bright original has another size than the dark picture; choose one of the same size.")
    run = _Run(request, to_plain(pictures[0]), first, first, truth)
    if len(pictures) > 1:
        run.dark = yield from _merge(run, pictures)
    return run


def _check_burst(request: LowLightRequest) -> None:
    """Refuse a burst that is too large."""
    burst = request.burst
    if len(burst) > MAX_FRAMES:
        raise UserError(f"These are {len(burst)} pictures; choose at most {MAX_FRAMES} of one scene.")
    megapixels = sum(picture.width * picture.height for picture in burst) / 10**6
    if megapixels > MAX_BURST_MEGAPIXELS:
        raise UserError(
            f"These pictures have {megapixels:.0f} megapixels together; choose fewer or smaller ones, "
            f"at most {MAX_BURST_MEGAPIXELS}."
        )


def _merge(run: _Run, pictures: tuple[Image.Image, ...]) -> Generator[Progress, None, torch.Tensor]:
    """Merge the pictures of a burst."""
    stream = merge_burst([to_pixels(picture) for picture in pictures])
    while True:
        try:
            done = next(stream)
        except StopIteration as end:
            merged, moves = end.value
            run.notes.append(f"{len(pictures)} pictures were merged; the farthest was moved by {max(moves):.1f} px.")
            return merged
        yield Progress(0, len(pictures), f"merging picture {done} of {len(pictures)}")


def _open(run: _Run, method: str, models: Provider, notes: list[str]) -> lighting.Lighting:
    """Start a method."""
    if method == "lime":
        return lighting.light_by_lime(run.dark, run.request, notes)
    if method == "curve":
        return lighting.light_by_curve(run.dark, run.request, models)
    open_stream = {"retinex": lighting.light_by_retinex, "diffusion": lighting.light_by_diffusion}[method]
    return open_stream(run.dark, run.request, models, notes)


def _make_arm(run: _Run, method: str, lit: torch.Tensor) -> LightArm:
    """Finish what a method made, and measure it."""
    seconds = time.perf_counter() - run.began
    lit = add_colour(lit, run.request.colour)
    brightness = measure_brightness(lit)
    baseline = make_baseline(run.single, brightness)
    merged = baseline if run.single is run.dark else make_baseline(run.dark, brightness)
    explanation = explain(lit, merged)
    return LightArm(
        method=method,
        image=_to_picture(lit, run.original),
        baseline=_to_picture(baseline, run.original),
        added=draw_added(lit, explanation.added),
        histogram=make_histogram(lit),
        measures=measure_lit(lit, run.single, baseline, explanation, truth=run.truth),
        seconds=seconds,
    )


def _stop(run: _Run, method: str, lit: torch.Tensor) -> LowLightResult:
    """Make a result of the picture so far: what a stop keeps."""
    return _conclude(run, (*run.arms, _make_arm(run, method, lit)))


def _conclude(run: _Run, arms: tuple[LightArm, ...]) -> LowLightResult:
    """Gather what came out."""
    return LowLightResult(
        arms=arms,
        original=run.original,
        histogram=make_histogram(run.single),
        is_dark=True,
        seed_used=run.request.seed,
        seconds=time.perf_counter() - run.start,
        notes=tuple(run.notes),
        request=replace(run.request, method=arms[-1].method),
    )


def _keep_unchanged(run: _Run) -> LowLightResult:
    """Give a picture that is not dark back as it is, and say so."""
    brightness = measure_brightness(run.dark)
    if run.single is run.dark:
        note = f"This picture is not dark (brightness {brightness:.2f}), so it comes back unchanged."
    else:
        note = f"These pictures are not dark (brightness {brightness:.2f}); they were only merged."
    image = run.original if run.single is run.dark else _to_picture(run.dark, run.original)
    arm = LightArm(
        method=run.request.method,
        image=image,
        baseline=run.original,
        added=draw_added(run.dark, torch.zeros_like(run.dark[:1])),
        histogram=make_histogram(run.dark),
        measures=measure_lit(run.dark, run.single, run.single, explain(run.dark, run.single), truth=run.truth),
        seconds=time.perf_counter() - run.start,
    )
    run.notes.append(f"{note} To light it all the same, switch on Light it anyway in the settings.")
    return replace(_conclude(run, (arm,)), is_dark=False)


def to_pixels(picture: Image.Image) -> torch.Tensor:
    """Turn a picture of any mode into (3, H, W) in -1..1; 16 bits keep all their levels."""
    if picture.mode.startswith("I") or picture.mode == "F":
        levels = torch.from_numpy(np.asarray(picture, dtype=np.float32)) / WORD_LEVELS
        return (levels.clamp(0, 1) * 2 - 1).expand(3, -1, -1).clone()
    return to_tensor([to_plain(picture)])[0]


def _to_picture(pixels: torch.Tensor, like: Image.Image) -> Image.Image:
    """Turn numbers into a picture, grey and transparent as another one is."""
    image = to_images(pixels[None])[0]
    if like.mode in ("L", "LA"):
        image = image.convert("L")
    if has_alpha(like):
        image.putalpha(like.getchannel("A"))
    return image
