"""Drag editing: a picture, handles and targets become the picture with what the handles hold pulled to the targets.

The picture is inverted to a middle noise level, pulled there by a method and drawn again; outside of what may change,
its own pixels are put back. Closing the stream stops the run; the last DragProgress holds the best state by then.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator
from dataclasses import astuple, dataclass, field, replace

import torch
from PIL import Image

from pipelines.backends import find_spec
from pipelines.denoise import DenoiseSettings, denoise
from pipelines.drag_measures import (
    composite,
    draw_drag_sketches,
    feather,
    measure_drag,
    read_drag_features,
    to_grey,
)
from pipelines.drag_points import DragPair, check_pairs
from pipelines.drag_task import DragTask
from pipelines.drag_things import find_region, group_handles
from pipelines.drag_warp import make_pull
from pipelines.errors import UserError
from pipelines.fit import fit_lora
from pipelines.images import decode, encode, fit_square, to_tensor
from pipelines.inversion import invert, measure_psnr, resample
from pipelines.lora import adapt
from pipelines.model import ModelBundle, TextCond
from pipelines.params import validate
from pipelines.schedules import list_timesteps
from pipelines.style_reference import StyleSource
from pipelines.techniques import make_drag
from pipelines.text_side import encode_prompt, read_prompts
from pipelines.text_to_image import ModelProvider, text_to_image_stream
from pipelines.types import DragProgress, DragRequest, DragResult, ImageResult, Progress, TextToImageRequest

SAMPLER = "ddim"
# Below this inversion error (PSNR) a picture is not what the model would draw.
KNOWN_DB = 24.0
# Previews of the last stage are decoded this often, so that a stop keeps a sharp picture.
DECODE_EVERY = 3


class Stages:
    """Take the seconds of each stage of a run, by name."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """Say that a stage has ended; what passed since the one before belongs to it."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now


@dataclass(eq=False)
class _Run:
    """Hold what a drag has found out so far."""

    request: DragRequest
    model: ModelBundle
    picture: Image.Image
    text: TextCond
    latents: torch.Tensor
    first: int
    notes: list[str]
    stages: Stages
    inversion_db: float = 0.0
    key: str = ""
    sketches: list[tuple[str, Image.Image]] = field(default_factory=list)


def fit_picture(picture: Image.Image, backend: str) -> tuple[Image.Image, str]:
    """Bring a picture to the square that a backend draws, which is what points are set in.

    Returns: an RGB picture, and a sentence on what was done to it, "" if nothing was.
    """
    fitted, deed = fit_square(picture, find_spec(backend).image_px)
    return fitted, f"The picture {deed}." if deed else ""


def ask_for_picture(request: DragRequest) -> TextToImageRequest:
    """Say how a picture is drawn that is to be dragged and was not given."""
    return TextToImageRequest(request.prompt, seed=request.seed, backend=request.backend)


def fit_request(request: DragRequest, side_px: int) -> DragRequest:
    """Bring picture, points and mask of a drag to the size that a model draws, as when another model is chosen.

    Returns: the request itself where nothing is to be done.
    Raises:  UserError if the picture is not square.
    """
    picture = request.picture
    if picture is None or picture.size == (side_px, side_px):
        return request
    if picture.width != picture.height:
        raise UserError("The picture is not square; choose it again, so that it is fitted.")
    factor = side_px / picture.width
    # Places are the middles of pixels, whose borders are what grows.
    pairs = tuple(DragPair(*((side + 0.5) * factor - 0.5 for side in astuple(pair))) for pair in request.pairs)
    size = (side_px, side_px)
    mask = request.mask and request.mask.convert("L").resize(size, Image.Resampling.NEAREST)
    return replace(request, picture=picture.resize(size, Image.Resampling.LANCZOS), pairs=pairs, mask=mask)


@torch.no_grad()
def drag_stream(request: DragRequest, models: ModelProvider) -> Generator[Progress | DragResult, None, None]:
    """Pull what the handles hold to their targets.

    Returns: a generator of Progress, step 0 while the picture is drawn, learned and inverted, and of DragProgress from
             the pull on; its last item is one DragResult.
    Raises:  UserError with one sentence for what the user can correct; BackendUnavailable if the model cannot run.
    """
    request = validate(request)
    if request.picture is None and not request.prompt.strip():
        raise UserError("There is no picture yet; upload one, choose an example, or describe one in words.")
    if request.picture is not None:
        check_pairs(request.pairs, request.picture.size, request.mask)
    model = models.get(request.backend)
    notes = read_prompts(model, request.prompt) if request.prompt.strip() else []
    stages = Stages()
    picture = request.picture or (yield from _draw_first(request, models))
    if picture.size != (model.spec.image_px, model.spec.image_px):
        notes.append(f"The picture was resized to {model.spec.image_px} px, which is what {model.spec.name} draws.")
        request = fit_request(replace(request, picture=picture), model.spec.image_px)
    picture = (request.picture or picture).convert("RGB")
    check_pairs(request.pairs, picture.size, request.mask)
    with model.lock:
        text = encode_prompt(model, request.prompt, size_px=picture.size)
        latents = encode(model, to_tensor([picture]))
    stages.end("read")
    first = min(round(make_drag(request.techniques, None).start_frac * request.num_steps), request.num_steps - 1)
    run = _Run(request, model, picture, text, latents, first, notes, stages)
    task, region = yield from _prepare(run)
    drawn = yield from _pull(run, task, region)
    with run.model.lock:
        image = composite(picture, decode(run.model, drawn)[0], feather(region))
    stages.end("draw")
    handles, measures = measure_drag(run.model, task, picture, image, region=region, text=text)
    stages.end("measure")
    yield DragResult(
        image=image,
        original=picture,
        mask=region,
        handles=handles,
        measures=measures,
        seed_used=request.seed,
        seconds=time.perf_counter() - stages.start,
        stages_s=tuple(stages.seconds.items()),
        inversion_db=run.inversion_db,
        notes=tuple(dict.fromkeys(notes)),
        request=request,
        sketches=draw_drag_sketches(picture, task, region),
    )


def _prepare(run: _Run) -> Generator[Progress, None, tuple[DragTask, Image.Image]]:
    """Learn the picture if asked, invert it, and find what the handles hold and what may change."""
    request, model, picture = run.request, run.model, run.picture
    name = hashlib.sha256(run.latents.cpu().numpy().tobytes() + request.prompt.encode()).hexdigest()
    run.key = f"drag {name} {request.num_steps} {run.first} {request.fit}"
    if request.fit:
        lora = yield from fit_lora(model, run.latents, run.text)
        run.model = model = adapt(model, lora)
        run.stages.end("fit")
    timesteps = list_timesteps(SAMPLER, model.scheduler_config, request.num_steps)[run.first :]
    walk = yield from invert(model, run.latents, run.text, timesteps)
    run.stages.end("invert")
    if run.key not in model.inversion_memory:
        again = yield from resample(model, walk[timesteps[0]], run.text, timesteps)
        with model.lock:
            model.inversion_memory[run.key] = measure_psnr(picture, decode(model, again)[0])
    run.inversion_db = model.inversion_memory[run.key]
    if run.inversion_db < KNOWN_DB:
        advice = "its details may change" if request.fit else "switch on learning the picture first"
        run.notes.append(f"{model.spec.name} redraws this picture with {run.inversion_db:.0f} dB only; {advice}.")
    with model.lock:
        features = None if model.judge else read_drag_features(model, run.latents, run.text)
        groups, num_lost = group_handles(model, picture, features, request.pairs, request.mask)
    if num_lost:
        run.notes.append(f"{num_lost} of the handles hold no thing, so a disc around each is taken along.")
    pulls = tuple(make_pull(thing, pairs, request.pull) for thing, pairs in groups)
    free = find_region(pulls, request.mask)
    mask = torch.nn.functional.max_pool2d(free, model.spec.px_per_cell)
    source = StyleSource(run.latents, run.text, run.key, walk)
    run.stages.end("check")
    return DragTask(source, to_tensor([picture]), request.pairs, pulls, mask), to_grey(free[0, 0])


def _pull(run: _Run, task: DragTask, region: Image.Image) -> Generator[Progress, None, torch.Tensor]:
    """Drag and draw; each report tells where the handles are and what a stop would keep."""
    request, soft = run.request, feather(region)
    settings = DenoiseSettings(
        seed=request.seed,
        num_images=1,
        num_steps=request.num_steps,
        guidance_scale=1.0,
        sampler=SAMPLER,
        width_px=run.picture.width,
        height_px=run.picture.height,
        start_step=run.first,
        decode_every=DECODE_EVERY,
    )
    stream = denoise(run.model, run.text, settings, [make_drag(request.techniques, task)], run.notes)
    last = replace(task.report(request.num_steps, "", task.place_handles(0.0)), state=run.picture)
    is_sharp = False
    yield replace(last, note="the handles are set", preview=run.picture)
    while True:
        try:
            progress = next(stream)
        except StopIteration as end:
            return end.value
        shown = progress.preview
        if isinstance(progress, DragProgress):
            last = replace(last, handles=progress.handles, left_px=progress.left_px)
        elif progress.step == run.first + 1:
            run.stages.end("pull")
        if shown and (shown.size == run.picture.size or not is_sharp):
            is_sharp = shown.size == run.picture.size
            last = replace(last, state=composite(run.picture, shown.resize(run.picture.size), soft))
        view = composite(run.picture, shown.resize(run.picture.size), soft) if shown else last.state
        yield replace(
            last,
            step=max(0, progress.step - run.first) if progress.step else 0,
            num_steps=request.num_steps - run.first,
            note=progress.note,
            preview=view,
            seconds_left=progress.seconds_left,
        )


def _draw_first(request: DragRequest, models: ModelProvider) -> Generator[Progress, None, Image.Image]:
    """Draw the picture that is to be pulled from its words."""
    for item in text_to_image_stream(ask_for_picture(request), models):
        if isinstance(item, ImageResult):
            return item.images[0]
        yield replace(item, step=0, note=f"drawing the picture, {item.note}", seconds_left=0.0)
    raise AssertionError("the stream of a picture ends with its result")
