"""Personalization: this one thing, in other scenes.

A subject is known from an adapter that was learned, or from one picture. Every way of drawing it is an arm with the
same seeds; with `compare` the plain model draws first. Closing the stream stops the run.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from pipelines.adapters import Adapter
from pipelines.arms import count_on
from pipelines.denoise import DenoiseSettings, Sketches, denoise, refuse_misfits
from pipelines.errors import UserError
from pipelines.images import decode
from pipelines.lora import Lora
from pipelines.lora_files import read_lora
from pipelines.model import ModelBundle, TextCond
from pipelines.params import validate
from pipelines.prompt_plan import find_tokens, plan_prompt
from pipelines.subject_measures import measure_subject
from pipelines.subject_pictures import ROOM_SHARE, SubjectPictures, give_room, prepare_pictures
from pipelines.subject_source import SubjectSource, make_subject_source
from pipelines.subject_types import SubjectArm, SubjectRequest, SubjectResult
from pipelines.subject_words import SubjectPrompt, check_word, compile_prompt, own_words
from pipelines.techniques.base import Technique
from pipelines.techniques.masked_subject import MaskedSubject
from pipelines.techniques.reward_guidance import RewardGuidance
from pipelines.techniques.subject_lora import SubjectLora
from pipelines.text_side import encode_prompt, read_prompts
from pipelines.text_to_image import ModelProvider
from pipelines.types import Measure, Progress
from pipelines.uploads import MIN_SIDE_PX

PLAIN = "Plain model"
MAX_KEPT_SUBJECTS = 8
_TITLES = {"dco": "DCO", "dreambooth": "DreamBooth", "": "LoRA file"}


@dataclass(frozen=True, eq=False)
class _Arm:
    """Hold what one arm is drawn with; likeness is measured against `shown`, a cut-out of the subject."""

    name: str
    title: str
    text: TextCond
    prompt: SubjectPrompt
    techniques: tuple[Technique, ...]
    shown: Image.Image | None


@torch.no_grad()
def subject_stream(request: SubjectRequest, models: ModelProvider) -> Generator[Progress | SubjectResult, None, None]:
    """Draw a subject in a new scene.

    Returns: a generator of Progress, step 0 while the picture of the subject is read, then one per step over all arms;
             its last item is one SubjectResult.
    Raises:  UserError with one sentence for what the user can correct; BackendUnavailable if the model cannot run.
    """
    request = validate(request)
    if not request.prompt.strip():
        raise UserError('The prompt is empty; say where the subject is, for example "my robot on the beach".')
    if not request.adapters and request.picture is None and request.draw_by != "plain":
        raise UserError("There is no subject yet; learn one, choose a saved one, or give one picture of it.")
    if request.draw_by == "instant" and request.picture is None:
        raise UserError("There is no picture of the subject; give one, Instant needs no more.")
    model = models.get(request.backend)
    start = time.perf_counter()
    notes: list[str] = []
    arms = _list_arms(request, model, notes)
    notes += read_prompts(model, arms[-1].prompt.base, request.negative_prompt)
    sketches = Sketches()
    drawn = []
    for index, arm in enumerate(arms):
        label = f"{arm.title}, " if len(arms) > 1 else ""
        stream = _draw(model, request, arm, notes, sketches)
        images = yield from count_on(stream, label, index, len(arms))
        drawn.append(tuple(images))
    shown = next((arm.shown for arm in arms if arm.shown), None)
    with model.lock:
        measured = [measure_subject(model, arms[-1].prompt.base, shown, images) for images in drawn]
    yield SubjectResult(
        arms=tuple(
            SubjectArm(arm.name, arm.title, images, _pair(measured[0], own))
            for arm, images, own in zip(arms, drawn, measured)
        ),
        seed_used=request.seed,
        seconds=time.perf_counter() - start,
        notes=tuple(dict.fromkeys(notes)),
        request=request,
    )


def _pair(first: Sequence[Measure], measures: Sequence[Measure]) -> tuple[Measure, ...]:
    """Put the first arm's numbers beside an arm's own."""
    return tuple(replace(own, off=other.on) for other, own in zip(first, measures))


def _list_arms(request: SubjectRequest, model: ModelBundle, notes: list[str]) -> list[_Arm]:
    """List what is drawn: the plain model when comparing, one arm per adapter, the picture's last."""
    if request.draw_by == "plain":
        word, phrase = own_words(request)
        return [_plain_arm(request, model, _compile(request.prompt, word, phrase, []))]
    arms = [_adapter_arm(request, model, adapter, notes) for adapter in request.adapters]
    if request.picture is not None:
        arms.append(_picture_arm(request, model, request.picture, notes))
    if request.compare:
        arms.insert(0, _plain_arm(request, model, arms[0].prompt))
    for arm in arms:
        refuse_misfits(model, request.sampler, arm.techniques)
    return arms


def _plain_arm(request: SubjectRequest, model: ModelBundle, prompt: SubjectPrompt) -> _Arm:
    """Prepare drawing with the model as it is, which reads the subject's common name."""
    return _Arm("", PLAIN, _encode(model, prompt.base, request.negative_prompt), prompt, (), None)


def _encode(model: ModelBundle, prompt: str, negative_prompt: str) -> TextCond:
    side_px = model.spec.image_px
    with model.lock:
        return encode_prompt(model, prompt, negative_prompt, size_px=(side_px, side_px))


def _compile(prompt: str, word: str, phrase: str, notes: list[str]) -> SubjectPrompt:
    """Write the prompt for both models, and say so where it does not name the subject."""
    compiled = compile_prompt(prompt, word, phrase)
    if compiled.span == (0, 0):
        unnamed = "The adapter does not say what its subject is called, so the prompt is read as it is."
        notes.append(f"The prompt does not name {word!r}, so the subject may not show." if word else unnamed)
    return compiled


def check_adapter(adapter: Adapter, model: ModelBundle) -> list[str]:
    """Refuse an adapter that a model cannot use.

    Returns: sentences about what of the file is left out.
    Raises:  UserError if the adapter is for another model.
    """
    return _read_fitting(adapter, model)[1]


def _read_fitting(adapter: Adapter, model: ModelBundle) -> tuple[Lora, list[str]]:
    """Read the side paths of an adapter; Raises: UserError if it is for another model."""
    if adapter.backend and adapter.backend != model.spec.name:
        raise UserError(f"This adapter was learned on {adapter.backend}; choose that backend, or learn it again here.")
    return read_lora(adapter.data, model)


def _adapter_arm(request: SubjectRequest, model: ModelBundle, adapter: Adapter, notes: list[str]) -> _Arm:
    """Prepare drawing with an adapter.

    Raises: UserError if the adapter is for another model.
    """
    lora, left_out = _read_fitting(adapter, model)
    notes += left_out
    phrase = adapter.phrase or request.phrase
    prompt = _compile(request.prompt, adapter.word or request.word, phrase, notes)
    name = request.draw_by
    if name in ("auto", "instant"):
        name = "reward_guidance" if adapter.objective == "dco" else "subject_lora"
    options = request.techniques.get(name, {})
    subject_text = _encode(model, prompt.subject, request.negative_prompt)
    title = _TITLES.get(adapter.objective, "LoRA file")
    if name == "subject_lora":
        return _Arm(name, title, subject_text, prompt, (SubjectLora(lora, **options),), adapter.thumbnail)
    base_text = _encode(model, prompt.base, request.negative_prompt)
    words, rivals = find_names(model, prompt.base, phrase)
    own = read_own_picture(model, adapter, notes)
    guided = RewardGuidance(lora, subject_text, words, rivals, own, **options)
    return _Arm(name, f"{title} + reward guidance", base_text, prompt, (guided,), adapter.thumbnail)


def _picture_arm(request: SubjectRequest, model: ModelBundle, picture: Image.Image, notes: list[str]) -> _Arm:
    """Prepare drawing from one picture, without learning."""
    word = check_word(request.word)
    subject = prepare_pictures(model, [picture], word, request.phrase)
    notes += subject.notes
    prompt = _compile(request.prompt, word, subject.phrase, notes)
    # The plain model reads the common name alone: a word that nobody learned would only disturb it.
    words, rivals = find_names(model, prompt.base, subject.phrase)
    mask = subject.masks
    if mask is None:
        cells = model.spec.image_px // model.spec.px_per_cell
        mask = torch.ones(1, 1, cells, cells)
    source = make_subject_source(model, subject.pictures[0], mask, subject.outlines[0] if subject.outlines else None)
    options = request.techniques.get(MaskedSubject.name, {})
    technique = MaskedSubject((source,), words, rivals, **options)
    text = _encode(model, prompt.base, request.negative_prompt)
    return _Arm(MaskedSubject.name, MaskedSubject.title, text, prompt, (technique,), cut_out(subject))


def read_own_picture(model: ModelBundle, adapter: Adapter, notes: list[str]) -> tuple[SubjectSource, ...]:
    """Cut the subject out of the small picture that its adapter brings along.

    Returns: nothing where there is no such picture, or nobody who could recognise the subject in it; notes gains a
             sentence where there is one that is not recognised. Then it is not put in.
    """
    shown = adapter.thumbnail
    if shown is None or min(shown.size) < MIN_SIDE_PX or not adapter.phrase:
        return ()
    if model.judge is None:
        notes.append(f"{model.spec.name} has no parser to find the subject in its small picture, so it is not put in.")
        return ()
    own = _find_own(model, shown, adapter.phrase)
    if not own:
        notes.append("The subject was not recognised in its own small picture, so it is not put in.")
    return own


def _find_own(model: ModelBundle, shown: Image.Image, phrase: str) -> tuple[SubjectSource, ...]:
    """Cut a subject out of its small picture, or take it from the model's memory of the last ones."""
    memory = model.subject_memory
    key = hashlib.sha256(f"{phrase} {shown.size} {shown.mode}".encode() + shown.tobytes()).hexdigest()
    found: tuple[SubjectSource, ...] | None = memory.get(key)
    if found is None:
        # The parser never saw a thing that fills its picture.
        subject = prepare_pictures(model, [give_room(shown, ROOM_SHARE)], "", phrase)
        found = ()
        if subject.masks is not None and subject.outlines[0] is not None:
            found = (make_subject_source(model, subject.pictures[0], subject.masks, subject.outlines[0]),)
        with model.lock:
            memory[key] = found
            while len(memory) > MAX_KEPT_SUBJECTS:
                memory.popitem(last=False)
    return found


Positions = tuple[int, ...]


def find_names(model: ModelBundle, prompt: str, phrase: str) -> tuple[Positions, tuple[Positions, ...]]:
    """Find where a prompt names a subject by its common name, and where it names other things.

    Returns: (words, rivals) as the techniques take them; (), () where it does not name the subject.
    """
    at = prompt.lower().find(phrase.lower()) if phrase.split() else -1
    if at < 0:
        return (), ()
    side, span = model.sides[0], (at, at + len(phrase))
    others = [
        thing.span for thing in plan_prompt(prompt).objects if thing.span[1] <= span[0] or thing.span[0] >= span[1]
    ]
    return find_tokens(prompt, span, side), (
        tuple(token for other in others for token in find_tokens(prompt, other, side)),
    )


def cut_out(subject: SubjectPictures) -> Image.Image:
    """Cut the subject out of the first picture, by its box."""
    box = subject.boxes_px[0]
    return subject.pictures[0] if box is None else subject.pictures[0].crop(tuple(round(side) for side in box))  # type: ignore[arg-type]


def _draw(
    model: ModelBundle, request: SubjectRequest, arm: _Arm, notes: list[str], sketches: Sketches
) -> Generator[Progress, None, list[Image.Image]]:
    """Draw the request's pictures of one arm."""
    settings = DenoiseSettings(
        seed=request.seed,
        num_images=request.num_images,
        num_steps=request.num_steps,
        guidance_scale=request.guidance_scale,
        sampler=request.sampler,
        width_px=model.spec.image_px,
        height_px=model.spec.image_px,
    )
    latents = yield from denoise(model, arm.text, settings, arm.techniques, notes, sketches=sketches)
    with model.lock:
        return decode(model, latents)
