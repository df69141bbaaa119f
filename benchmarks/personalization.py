"""Personalization: is it this very thing, in what the prompt asks for? And what does learning and drawing cost?

Every subject has a marking that training never saw. Curves of identity against prompt fidelity: DreamBooth-LoRA over
its weight, DCO with reward guidance over the slider; the plain model and Instant are points. subject_trials.py says
what is asked and how it is judged.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.fidelity import PARSER_FOLDER
from benchmarks.figures import Figure, RunSettings, make_median_figure
from benchmarks.held_out import PICTURE_SEEDS, encode_prompts, load_storybook
from benchmarks.memory import OneModel
from benchmarks.progress import count
from benchmarks.sheets import save_sheet
from benchmarks.subject_rows import (
    DCO,
    GUIDED,
    INSTANT,
    LIKENESSES,
    LORA,
    PLAIN,
    UNSHOWN,
    WEIGHTS,
    Key,
    SubjectRows,
    make_figures,
)
from benchmarks.subject_trials import Trial, make_trial, measure_clean, measure_fidelity, measure_identity
from pipelines.adapters import Adapter, read_adapter
from pipelines.backends import PROJECT_DIR
from pipelines.denoise import DenoiseSettings, denoise
from pipelines.images import decode
from pipelines.lora_files import read_lora
from pipelines.model import ModelBundle
from pipelines.personalization import Positions, find_names, read_own_picture, subject_stream
from pipelines.scene_parser import SceneParser, load_parser
from pipelines.subject_learning import learn_stream, make_settings
from pipelines.subject_pictures import ROOM_SHARE, prepare_pictures
from pipelines.subject_source import make_subject_source
from pipelines.subject_types import LearnRequest, LearnResult, SubjectRequest
from pipelines.subject_words import compile_prompt
from pipelines.techniques.base import Technique
from pipelines.techniques.masked_subject import MaskedSubject
from pipelines.techniques.reward_guidance import RewardGuidance
from pipelines.techniques.subject_lora import SubjectLora
from pipelines.types import TextToImageRequest
from training.identity_reader import IdentityReader, load_identity_reader

READER_FOLDER = PROJECT_DIR / "assets" / "identity_reader"
FIRST_SEED = PICTURE_SEEDS + 900_000
NUM_PROMPTS = 20
# Fewer than on the page, because 12 subjects have some 2,000 pictures.
PICTURE_STEPS = 10
NUM_TIMED, TIMED_TURNS = 3, 5


class SubjectStudio:
    """Learn, draw and judge subjects, each finished way of drawing kept where that is asked for."""

    def __init__(self, model: ModelBundle, parser: SceneParser, reader: IdentityReader, settings: RunSettings) -> None:
        self.model, self.parser, self.reader = model, parser, reader
        self.sheet, self.keep = settings.sheet, settings.keep
        self.num_steps = PICTURE_STEPS

    def learn(self, trial: Trial, objective: str) -> Adapter:
        """Learn a subject as the page does, or take what was learned for the same request."""
        request = _ask_to_learn(trial, objective)
        named = hashlib.sha256(f"{make_settings(request)} {trial.subject}".encode()).hexdigest()[:16]
        path = self.keep and self.keep / "adapters" / f"{objective}_{named}.safetensors"
        if path and path.is_file():
            return read_adapter(path.read_bytes())
        *_, result = learn_stream(request, OneModel(self.model))
        assert isinstance(result, LearnResult)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(result.adapter.data)
            part.replace(path)
        return result.adapter

    def run_trial(self, seed: int, num_prompts: int, *, held_out: bool = True) -> SubjectRows:
        """Measure one subject by every way."""
        trial = make_trial(seed, num_prompts, held_out=held_out)
        rows = SubjectRows(*measure_clean(self.reader, trial))
        wanted = {key: self.describe(trial, key) for key in list_ways()}
        path = self.keep and self.keep / f"subject_{seed}.json.gz"
        if path:
            rows.load(path, wanted)
        drawn: dict[str, list[Image.Image]] = {}
        for key in wanted:
            if key in rows.asked:
                continue
            images = self.draw(trial, seed, key)
            scenes = self.parser.parse(images)
            identity = measure_identity(self.reader, trial, images, scenes)
            rows.add(key, wanted[key], identity, measure_fidelity(trial, trial.asks, scenes))
            drawn[f"{key[0]} {key[1]}"] = images
            if path:
                rows.save(path)
        if self.sheet is not None and drawn:
            self._save_sheet(trial, seed, drawn)
        return rows

    def describe(self, trial: Trial, key: Key) -> str:
        """Say all that decides a way's pictures."""
        name, value = key
        objective = "dreambooth" if name == LORA else "dco" if name in (DCO, GUIDED, UNSHOWN) else ""
        learned = make_settings(_ask_to_learn(trial, objective)) if objective else ""
        options = MaskedSubject() if name == INSTANT else RewardGuidance() if name in (GUIDED, UNSHOWN) else ""
        room = f" {ROOM_SHARE}" if name == GUIDED else ""
        return f"{name} {value} {self.num_steps} {trial.subject} {trial.asks} {learned} {options}{room}"

    def choose(self, trial: Trial, key: Key) -> tuple[str, list[Technique]]:
        """Choose what a way draws with: whose prompt, and the techniques."""
        name, value = key
        if name == PLAIN:
            return "base", []
        if name == INSTANT:
            return "base", [self._read_instant(trial)]
        adapter = self.learn(trial, "dreambooth" if name == LORA else "dco")
        lora, _ = read_lora(adapter.data, self.model)
        if name in (LORA, DCO):
            return "subject", [SubjectLora(lora, value)]
        text = encode_prompts(self.model, self._prompts(trial, "subject"))
        own = () if name == UNSHOWN else read_own_picture(self.model, adapter, [])
        return "base", [RewardGuidance(lora, text, *self.find_names(trial), own, value)]

    def _prompts(self, trial: Trial, side: str) -> list[str]:
        asked = [compile_prompt(ask.say(trial.word), trial.word, trial.subject.phrase) for ask in trial.asks]
        return [getattr(prompt, side) for prompt in asked]

    def _read_instant(self, trial: Trial) -> MaskedSubject:
        """Make the technique of one picture, the first."""
        ready = prepare_pictures(self.model, trial.references[:1], trial.word, trial.subject.phrase)
        assert ready.masks is not None
        source = make_subject_source(self.model, ready.pictures[0], ready.masks, ready.outlines[0])
        return MaskedSubject((source,), *self.find_names(trial))

    def find_names(self, trial: Trial) -> tuple[Positions, tuple[Positions, ...]]:
        """Find the subject's name, which begins every prompt, and other things, which each prompt has of its own."""
        prompts = self._prompts(trial, "base")
        found = [find_names(self.model, prompt, trial.subject.phrase) for prompt in prompts]
        return found[0][0], tuple(rivals[0] for _, rivals in found)

    @torch.no_grad()
    def draw(self, trial: Trial, seed: int, key: Key) -> list[Image.Image]:
        """Draw all prompts of a subject by one way; picture k has the same noise in every way."""
        default = TextToImageRequest("")
        settings = DenoiseSettings(
            seed=seed % 2**31,
            num_images=len(trial.asks),
            num_steps=self.num_steps,
            guidance_scale=default.guidance_scale,
            sampler=default.sampler,
            width_px=self.model.spec.image_px,
            height_px=self.model.spec.image_px,
            preview_every=0,
        )
        side, techniques = self.choose(trial, key)
        stream = denoise(self.model, encode_prompts(self.model, self._prompts(trial, side)), settings, techniques, [])
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return decode(self.model, end.value)

    def _save_sheet(self, trial: Trial, seed: int, rows: Mapping[str, Sequence[Image.Image]]) -> None:
        """Write the first pictures of every way below each other, the references and clean renders on top."""
        assert self.sheet is not None
        columns = min(8, len(trial.asks))
        blank = [Image.new("RGB", trial.references[0].size, "white")] * columns
        clean = [Image.fromarray(one.rgb) for one in trial.clean]
        pictures = [*[*trial.references, *blank][:columns], *clean[:columns]]
        titles = [*["given"] * columns, *[ask.say("") for ask in trial.asks[:columns]]]
        for name, images in rows.items():
            pictures += [*images, *blank][:columns]
            titles += [name] * columns
        save_sheet(self.sheet / f"subject_{seed}.png", pictures, columns=columns, titles=titles)


def list_ways() -> list[Key]:
    """List the ways of drawing in the order in which they are drawn: what is reported before what is swept."""
    first: list[Key] = [(PLAIN, 0.0), (GUIDED, LIKENESSES[0]), (LORA, WEIGHTS[0]), (INSTANT, 0.0), (DCO, 1.0)]
    swept = [*((GUIDED, value) for value in LIKENESSES[1:]), *((LORA, value) for value in WEIGHTS[1:])]
    return [*first, *swept, *((UNSHOWN, value) for value in LIKENESSES)]


def _ask_to_learn(trial: Trial, objective: str) -> LearnRequest:
    return LearnRequest(trial.references, trial.word, trial.subject.phrase, objective=objective)


def draw_subjects(settings: RunSettings) -> list[SubjectRows]:
    """Draw and judge `n` subjects with NUM_PROMPTS prompts each, without taking the time of anything."""
    # As for the other techniques: less time than fp32, and all ways are drawn in it.
    model = load_storybook(settings.device, "bf16")
    studio = SubjectStudio(model, load_parser(PARSER_FOLDER), load_identity_reader(READER_FOLDER), settings)
    seeds = range(FIRST_SEED, FIRST_SEED + settings.n)
    return [studio.run_trial(seed, NUM_PROMPTS) for seed in count(seeds, "subjects")]


def time_learning(model: ModelBundle, trials: Sequence[Trial]) -> tuple[list[float], Adapter]:
    """Learn subjects as the page does, samples on the way included; returns seconds each, and the last adapter."""
    results = []
    for trial in trials:
        *_, result = learn_stream(_ask_to_learn(trial, "dco"), OneModel(model))
        assert isinstance(result, LearnResult)
        results.append(result)
    return [result.seconds for result in results], results[-1].adapter


def time_ways(model: ModelBundle, adapter: Adapter, trial: Trial, repeats: int) -> dict[str, Figure]:
    """Time one picture by the plain model and by the subject's, alternately, and Instant from nothing.

    The round that warms up also reads the subject's small picture, as the first drawing of a visit does.
    """
    prompt = trial.asks[0].say(trial.word)
    words: dict[str, Any]
    seconds: dict[str, list[float]] = {PLAIN: [], GUIDED: [], INSTANT: []}
    for repeat in range(repeats + 1):
        for name in seconds:
            start = time.perf_counter()
            words = {"word": trial.word, "phrase": trial.subject.phrase, "seed": repeat}
            if name == INSTANT:
                model.style_memory.clear()
                asked = SubjectRequest(prompt, picture=trial.references[0], **words)
            elif name == PLAIN:
                asked = SubjectRequest(prompt, draw_by="plain", **words)
            else:
                asked = SubjectRequest(prompt, adapters=(adapter,), seed=repeat)
            list(subject_stream(asked, OneModel(model)))
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    ratios = np.array(seconds[GUIDED]) / np.array(seconds[PLAIN])
    return {
        "sample_cost_ratio": make_median_figure(list(ratios), baseline=1.0),
        "instant_s": make_median_figure(seconds[INSTANT], unit="s", baseline=float(np.median(seconds[PLAIN]))),
    }


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Measure `n` subjects, and take the time of learning and drawing some in the page's own number format."""
    figures = make_figures(draw_subjects(settings))
    model = load_storybook(settings.device)
    trials = [make_trial(FIRST_SEED + index, 1, held_out=True) for index in range(min(NUM_TIMED, settings.n))]
    seconds, adapter = time_learning(model, trials)
    figures["learn_s"] = make_median_figure(seconds, unit="s")
    return figures | time_ways(model, adapter, trials[-1], TIMED_TURNS)
