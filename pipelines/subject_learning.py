"""Learning a subject: a few pictures and a word become an adapter, within a minute on a processor.

Closing the stream stops the learning; the last LearnProgress holds what was learned by then. The model itself never
changes.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace

import torch
from PIL import Image

from pipelines.adapters import Adapter, pack_adapter
from pipelines.denoise import DenoiseSettings, denoise
from pipelines.errors import UserError
from pipelines.fit import FitSettings, Lesson, fit
from pipelines.images import decode, encode, to_tensor
from pipelines.lora import Lora, adapt
from pipelines.model import ModelBundle, TextCond
from pipelines.params import validate
from pipelines.subject_pictures import SubjectPictures, prepare_pictures
from pipelines.subject_sheet import dim_surroundings, make_sheet
from pipelines.subject_types import LearnProgress, LearnRequest, LearnResult
from pipelines.subject_words import check_word, compile_prompt
from pipelines.text_side import encode_many, encode_prompt, read_prompts
from pipelines.text_to_image import ModelProvider
from pipelines.types import Progress

SAMPLER = "dpmpp_2m"
GUIDANCE = 5.5
SAMPLE_STEPS, NUM_SAMPLES = 8, 3
PRIOR_STEPS, NUM_PRIOR = 10, 6
PRIOR_SIZE = 2
# What was learned so far is copied every so many steps, for a stop to keep.
KEEP_EVERY = 5
BATCH_SIZE, DRAWS = 4, 2
REACH = "coarse"
MAX_TIMESTEP = 1000
FINAL_RATE_FRAC = 0.1


@dataclass(eq=False)
class _Learning:
    """Hold what a run of learning has found out so far."""

    request: LearnRequest
    model: ModelBundle
    subject: SubjectPictures
    captions: tuple[str, ...]
    about: Adapter
    sample_text: TextCond
    start: float
    losses: list[float] = field(default_factory=list)
    samples: list[tuple[int, Image.Image]] = field(default_factory=list)
    adapter: Adapter | None = None
    is_shown: bool = False

    def report(self, progress: Progress) -> LearnProgress:
        """Add what was learned so far to a report; the first one shows the pictures themselves."""
        done = len(self.losses)
        preview = progress.preview
        if not self.is_shown:
            self.is_shown = True
            preview = make_sheet(dim_surroundings(self.subject), self.model.spec.image_px)
        left_s = (time.perf_counter() - self.start) / done * (self.request.num_steps - done) if done else 0.0
        return LearnProgress(
            done,
            self.request.num_steps,
            progress.note,
            preview,
            left_s,
            losses=tuple(self.losses),
            samples=tuple(self.samples),
            adapter=self.adapter,
        )


@torch.no_grad()
def learn_stream(request: LearnRequest, models: ModelProvider) -> Generator[LearnProgress | LearnResult, None, None]:
    """Learn a subject from its pictures.

    Returns: a generator of LearnProgress, step 0 while pictures are read and, for DreamBooth, pictures of the class are
             drawn, then one per step and a few more while samples are drawn; its last item is one LearnResult.
    Raises:  UserError with one sentence for what the user can correct; BackendUnavailable if the model cannot run.
    """
    request = validate(request)
    word = check_word(request.word)
    start = time.perf_counter()
    model = models.get(request.backend)
    subject = prepare_pictures(model, request.pictures, word, request.phrase)
    captions = _check_captions(request.captions or subject.captions, word, len(subject.pictures))
    prompts = [compile_prompt(caption, word, subject.phrase) for caption in captions]
    notes = [*subject.notes, *read_prompts(model, prompts[0].base)]
    side_px = model.spec.image_px
    sample = compile_prompt(request.sample_prompt.strip() or f"{word} on the beach", word, subject.phrase)
    with model.lock:
        latents = encode(model, to_tensor(subject.pictures))
        text, base = (_encode_rows(model, rows) for rows in ([p.subject for p in prompts], [p.base for p in prompts]))
        sample_text = encode_prompt(model, sample.subject, size_px=(side_px, side_px))
    about = Adapter(b"", word, subject.phrase, request.backend, request.objective, thumbnail=_make_thumbnail(subject))
    run = _Learning(request, model, subject, captions, about, sample_text, start)
    yield run.report(Progress(0, request.num_steps, "reading the pictures"))
    masks = None if subject.masks is None else subject.masks.to(latents)
    lesson = Lesson(latents, text, base, masks)
    if request.objective == "dreambooth" and request.prior_weight:
        prior = yield from _draw_prior(run, base)
        lesson = replace(lesson, prior=prior, prior_text=_repeat(base, NUM_PRIOR))
    run.start = time.perf_counter()
    yield from _fit(run, lesson)
    assert run.adapter is not None
    yield LearnResult(
        adapter=run.adapter,
        losses=tuple(run.losses),
        samples=tuple(run.samples),
        pictures=subject.pictures,
        captions=captions,
        phrase=subject.phrase,
        seconds=time.perf_counter() - start,
        notes=tuple(dict.fromkeys(notes)),
        request=request,
    )


def propose_captions(request: LearnRequest, models: ModelProvider) -> SubjectPictures:
    """Crop the pictures of a request and write captions for them, to be shown and edited before learning.

    Raises: UserError as `learn_stream` does for its pictures and word; BackendUnavailable if the model cannot run.
    """
    model = models.get(request.backend)
    return prepare_pictures(model, request.pictures, check_word(request.word), request.phrase)


def _check_captions(captions: tuple[str, ...], word: str, count: int) -> tuple[str, ...]:
    """Refuse captions that cannot teach the word.

    Raises: UserError if their number is another one than that of the pictures, or one does not name the subject.
    """
    if len(captions) != count:
        raise UserError(f"There are {len(captions)} captions for {count} pictures; write one for each.")
    for number, caption in enumerate(captions, 1):
        if compile_prompt(caption, word, "it").span == (0, 0):
            raise UserError(f"Caption {number} does not name {word!r}; it must say where the subject is in it.")
    return captions


def _encode_rows(model: ModelBundle, prompts: list[str]) -> TextCond:
    """Encode one prompt per picture, with the empty prompt as the other half."""
    side_px = model.spec.image_px
    shared = encode_prompt(model, prompts[0], size_px=(side_px, side_px))
    rows = encode_many(model, prompts)
    return replace(shared, hidden_cond=rows.hidden, pooled_cond=rows.pooled, prompt="")


def _repeat(text: TextCond, count: int) -> TextCond:
    """Repeat the rows of a condition in turn until there are `count`."""
    picks = [index % len(text.hidden_cond) for index in range(count)]
    return replace(text, hidden_cond=text.hidden_cond[picks], pooled_cond=text.pooled_cond[picks])


def _make_thumbnail(subject: SubjectPictures) -> Image.Image:
    """Cut the subject out of the first picture."""
    picture, box = subject.pictures[0], subject.boxes_px[0]
    if box is None:
        return picture
    x0, y0, x1, y1 = box
    half = 0.6 * max(x1 - x0, y1 - y0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    edges = (max(0, x - half), max(0, y - half), min(picture.width, x + half), min(picture.height, y + half))
    return picture.crop(tuple(round(edge) for edge in edges))  # type: ignore[arg-type]


def _settings(model: ModelBundle, seed: int, *, num_images: int, num_steps: int, preview_every: int) -> DenoiseSettings:
    side_px = model.spec.image_px
    return DenoiseSettings(
        seed, num_images, num_steps, GUIDANCE, SAMPLER, side_px, side_px, preview_every=preview_every
    )


def _draw_prior(run: _Learning, base: TextCond) -> Generator[LearnProgress, None, torch.Tensor]:
    """Draw pictures of the class with the model as it is; shapes: returns (NUM_PRIOR, c, h, w) latents."""
    settings = _settings(run.model, run.request.seed, num_images=NUM_PRIOR, num_steps=PRIOR_STEPS, preview_every=0)
    stream = denoise(run.model, _repeat(base, NUM_PRIOR), settings, [], [])
    while True:
        try:
            progress = next(stream)
        except StopIteration as end:
            latents: torch.Tensor = end.value
            return latents
        yield run.report(replace(progress, note=f"drawing what such a thing looks like, {progress.note}"))


def make_settings(request: LearnRequest) -> FitSettings:
    """Say how a request is fitted."""
    return FitSettings(
        num_steps=request.num_steps,
        rank=request.rank,
        learning_rate=request.learning_rate,
        batch_size=BATCH_SIZE,
        max_timestep=MAX_TIMESTEP,
        seed=request.seed,
        objective=request.objective,
        prior_weight=request.prior_weight,
        prior_size=PRIOR_SIZE,
        beta=request.beta,
        draws=DRAWS if request.objective == "dco" else 1,
        final_rate_frac=FINAL_RATE_FRAC,
        reach=REACH,
    )


def _fit(run: _Learning, lesson: Lesson) -> Generator[LearnProgress, None, None]:
    """Fit the side paths, with samples on the way."""
    request = run.request
    at = {round((index + 1) * request.num_steps / NUM_SAMPLES) for index in range(NUM_SAMPLES)}
    for progress in fit(run.model, lesson, make_settings(request)):
        assert progress.lora is not None
        run.losses.append(progress.loss)
        if progress.step % KEEP_EVERY == 0 or progress.step in (1, request.num_steps):
            run.adapter = pack_adapter(progress.lora.detach(), replace(run.about, num_steps=progress.step))
        yield run.report(progress)
        if progress.step in at:
            yield from _draw_sample(run, progress.lora.detach(), progress.step)


def _draw_sample(run: _Learning, lora: Lora, step: int) -> Generator[LearnProgress, None, None]:
    """Draw the sample prompt with what was learned so far."""
    settings = _settings(run.model, run.request.seed, num_images=1, num_steps=SAMPLE_STEPS, preview_every=1)
    stream = denoise(adapt(run.model, lora), run.sample_text, settings, [], [])
    while True:
        try:
            progress = next(stream)
        except StopIteration as end:
            with run.model.lock:
                run.samples.append((step, decode(run.model, end.value)[0]))
            break
        yield run.report(replace(progress, note=f"drawing a sample, {progress.note}"))
    yield run.report(Progress(step, run.request.num_steps, f"learned {step} steps", run.samples[-1][1]))
