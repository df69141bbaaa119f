"""Super-resolution: a photograph of any shape and mode becomes a larger one, at any scale from 1 to 8.

Faithful adds only what follows from the picture and agrees with it exactly; Detail adds what is likely; Known damage
undoes what is described; Explore draws several answers after words. Closing the stream stops the run at the next tile.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import torch
from PIL import Image

from pipelines.backprojection import Reduction, make_axis
from pipelines.colour_fix import fix_colours
from pipelines.detailing import add_detail, count_tiles, guess_clean
from pipelines.enlarged_size import plan_size
from pipelines.enlarging import drop_trifles, enlarge_by_views, make_closer, make_exact
from pipelines.errors import UserError
from pipelines.exploring import Provider, explore_stream
from pipelines.images import to_images, to_tensor
from pipelines.networks import Networks
from pipelines.params import validate
from pipelines.photo_measures import BAND_ROWS, find_lost, measure_enlarged
from pipelines.preconditioned_guidance import Damage, guide
from pipelines.residual_shift import NUM_STEPS
from pipelines.restorer import make_task
from pipelines.seeding import make_generators
from pipelines.sr_lite import enlarge
from pipelines.streams import follow
from pipelines.types import Progress, SuperResolutionProgress, SuperResolutionRequest, SuperResolutionResult
from pipelines.uploads import has_alpha, to_plain

PREVIEW_PX = 768

Stream = Generator[Progress, None, torch.Tensor]


@dataclass(eq=False)
class _Run:
    """Hold a picture on its way.

    Shapes: small (3, h, w) in -1..1; alpha (1, h, w) in -1..1 or None; size (H, W); lost (h, w) bool or None.
    """

    request: SuperResolutionRequest
    networks: Networks
    original: Image.Image
    small: torch.Tensor
    alpha: torch.Tensor | None
    size: tuple[int, int]
    reduction: Reduction
    lost: torch.Tensor | None = None
    notes: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def report(self, done: int, total: int, note: str, large: torch.Tensor | None) -> Progress:
        """Report finished pieces of work, with the picture so far in at most PREVIEW_PX."""
        shown, keep = None, None
        if large is not None:
            stride = max(1, -(-max(self.size) // PREVIEW_PX))
            shown = to_images(large[None, :, ::stride, ::stride])[0]
            # Nothing is computed for a stop that does not come.
            keep = partial(_conclude, self, large)
        passed = time.perf_counter() - self.start
        left_s = passed / done * (total - done) if done else 0.0
        return SuperResolutionProgress(done, total, note, shown, left_s, keep)


@torch.no_grad()
def super_resolution_stream(
    request: SuperResolutionRequest, models: Provider
) -> Generator[Progress | SuperResolutionResult, None, None]:
    """Enlarge a photograph.

    Returns: a generator of Progress, one or more per tile, whose previews are the picture so far; its last item is
             one SuperResolutionResult. Grey stays grey, transparent stays transparent.
    Raises:  UserError with one sentence for what the user can correct; BackendUnavailable without weights.
    """
    request = validate(request)
    if request.picture is None:
        raise UserError("There is no picture yet; upload one, choose an example, or send one from another tab.")
    original = to_plain(request.picture)
    if request.mode == "explore":
        yield from explore_stream(request, original, models)
        return
    run = _prepare(request, models.networks(), original)
    work = {"faithful": _enlarge, "detail": _detail, "damage": _undo}[request.mode]
    yield _conclude(run, (yield from work(run)))


def _conclude(run: _Run, large: torch.Tensor) -> SuperResolutionResult:
    """Make a result of a picture, finished or not."""
    image = _finish(run, large)
    del large  # a large picture in numbers is 200 MB, and as many again for the next
    baseline = _finish(run, enlarge(run.small[None], run.size)[0])
    return SuperResolutionResult(
        image=image,
        baseline=baseline,
        original=run.original,
        measures=measure_enlarged(run.small, run.reduction, baseline, image, lost=run.lost),
        seed_used=run.request.seed,
        seconds=time.perf_counter() - run.start,
        notes=tuple(run.notes),
        request=run.request,
    )


def _prepare(request: SuperResolutionRequest, networks: Networks, original: Image.Image) -> _Run:
    """Check the request and turn its picture into numbers."""
    is_guided = request.mode == "damage"
    is_harmless = request.scale == 1 and request.blur_px == 0 and request.noise_levels == 0
    if is_guided and is_harmless and request.missing == "none":
        raise UserError("No damage is described; set blur, noise or lost pixels, or choose another mode.")
    plan = plan_size(original.size, request.scale, request.mode)
    if plan.problem:
        raise UserError(plan.problem)
    size = (plan.after[1], plan.after[0])
    blur_px = request.blur_px * request.scale if is_guided else 0.0
    sides = zip(size, (original.height, original.width))
    alpha = to_tensor([original.getchannel("A")])[0, :1] if has_alpha(original) else None
    return _Run(
        request=request,
        networks=networks,
        original=original,
        small=to_tensor([original])[0],
        alpha=alpha,
        size=size,
        reduction=Reduction(*(make_axis(many, few, blur_px) for many, few in sides)),
    )


def _enlarge(run: _Run) -> Stream:
    """Faithful: the network's picture, made to agree with the upload."""
    large = yield from _enlarge_loosely(run, 0)
    if run.request.source == "camera":
        run.notes.append("Noise and file traces were smoothed, so the result does not agree exactly with the upload.")
    return (yield from _agree(run, large))


def _enlarge_loosely(run: _Run, more: int) -> Stream:
    """Enlarge with the network; `more` pieces of work will follow."""
    stream = enlarge_by_views(run.networks.enlarger, run.small, run.size, damage=float(run.request.source == "camera"))
    while True:
        try:
            done, total, large = next(stream)
        except StopIteration as end:
            return end.value if run.request.source == "camera" else drop_trifles(end.value, run.small)
        yield run.report(done, total + more, f"tile {done} of {total}", large)


def _agree(run: _Run, large: torch.Tensor) -> Stream:
    """Make a picture agree with the upload: exactly with a clean one, with a camera's only where it has no noise."""
    agree = make_closer if run.request.source == "camera" else make_exact
    report = run.report(1, 1, "agreeing with the upload", large)
    return (yield from follow(agree(large, run.small, run.reduction), report))


def _detail(run: _Run) -> Stream:
    """Detail: the Faithful picture and, as far as asked, what the restorer adds to it."""
    request, restorer = run.request, run.networks.restorer
    is_clean = request.source == "clean"
    num_tiles = count_tiles(run.size) * NUM_STEPS
    faithful = yield from _enlarge_loosely(run, num_tiles)
    faithful = yield from _agree(run, faithful)
    stream = add_detail(
        restorer,
        faithful,
        make_generators(request.seed, 1)[0],
        noise=0.0 if is_clean else None,
        num_steps=NUM_STEPS,
    )
    detailed = yield from _report_steps(run, stream, num_tiles)
    large = faithful + request.detail_frac * (detailed - faithful)
    return (yield from _agree(run, large)) if is_clean else fix_colours(large, faithful)


def _report_steps(run: _Run, stream: Generator[tuple[int, torch.Tensor], None, torch.Tensor], total: int) -> Stream:
    """Report the tiles of all steps of adding detail."""
    for done in count(1):
        try:
            step, shown = next(stream)
        except StopIteration as end:
            return end.value
        yield run.report(min(done, total), total, f"detail, step {min(step + 1, NUM_STEPS)} of {NUM_STEPS}", shown)
    raise AssertionError("counting does not end")


def _undo(run: _Run) -> Stream:
    """Known damage: guidance towards what the described damage would have made of the result."""
    request, restorer = run.request, run.networks.restorer
    lost = find_lost(run.original, request.missing)
    if lost is not None and not lost.any():
        raise UserError(f"No pixel of this picture is {request.missing}; say how lost pixels are marked, or none.")
    run.alpha = None if request.missing == "transparent" else run.alpha
    run.lost = lost
    seen = None if lost is None else 1.0 - lost.float()
    damage = Damage(run.reduction, request.noise_levels / (255 / 2), seen)
    task = make_task("prior", 1)

    def denoise(noisy: torch.Tensor, sigma: float) -> Generator[None, None, torch.Tensor]:
        return guess_clean(restorer, noisy, torch.zeros_like(noisy), (sigma, 0.0), task)

    observed = run.small if seen is None else run.small * seen
    stream = guide(denoise, observed, damage, make_generators(request.seed, 1)[0], num_steps=request.num_steps)
    while True:
        try:
            step, shown = next(stream)
        except StopIteration as end:
            return end.value
        yield run.report(step, request.num_steps, f"step {step} of {request.num_steps}", shown)


def _finish(run: _Run, large: torch.Tensor) -> Image.Image:
    """Turn numbers into a picture of the mode that the upload had."""
    image = Image.new("RGB", (large.shape[2], large.shape[1]))
    for top in range(0, image.height, BAND_ROWS):
        image.paste(to_images(large[None, :, top : top + BAND_ROWS])[0], (0, top))
    if run.original.mode in ("L", "LA"):
        image = image.convert("L")
    if run.alpha is not None:
        alpha = enlarge(run.alpha[None], run.size)[0].expand(3, -1, -1)
        image.putalpha(to_images(alpha[None])[0].getchannel(0))
    return image
