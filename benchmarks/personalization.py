"""Personalization: is it this very thing, in what the prompt asks for? And what does learning and drawing cost?

Every subject has a marking that training never saw. Curves of identity against prompt fidelity: DreamBooth-LoRA over
its weight, DCO with reward guidance over the slider; the plain model and Instant are points. subject_trials.py says
what is asked and how it is judged.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.fidelity import PARSER_FOLDER
from benchmarks.figures import Figure, RunSettings, bootstrap, make_figure, make_median_figure
from benchmarks.held_out import NUM_STEPS, PICTURE_SEEDS, encode_prompts, load_storybook
from benchmarks.memory import OneModel
from benchmarks.progress import count
from benchmarks.sheets import save_sheet
from benchmarks.subject_trials import (
    Trial,
    make_trial,
    measure_clean,
    measure_fidelity,
    measure_hypervolume,
    measure_identity,
)
from pipelines.adapters import Adapter
from pipelines.backends import PROJECT_DIR
from pipelines.denoise import DenoiseSettings, denoise
from pipelines.images import decode
from pipelines.lora_files import read_lora
from pipelines.model import ModelBundle
from pipelines.personalization import subject_stream
from pipelines.prompt_plan import find_tokens
from pipelines.scene_parser import SceneParser, load_parser
from pipelines.subject_learning import learn_stream
from pipelines.subject_pictures import prepare_pictures
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
PICTURES_PER_CALL = 4
# The curves: what is swept of each way of drawing; the default comes first and is the point that is reported.
LIKENESSES = (0.45, 0.25, 0.6, 0.8)
WEIGHTS = (1.0, 0.4, 0.7, 1.3)
PLAIN, LORA, DCO, GUIDED, INSTANT = "plain", "dreambooth", "dco", "guided", "instant"
Key = tuple[str, float]


@dataclass(eq=False)
class Table:
    """Hold what was measured. Shapes: identity, fidelity[key] (subjects, prompts); clean, unmarked the same."""

    identity: dict[Key, list[np.ndarray]] = field(default_factory=dict)
    fidelity: dict[Key, list[np.ndarray]] = field(default_factory=dict)
    clean: list[np.ndarray] = field(default_factory=list)
    unmarked: list[np.ndarray] = field(default_factory=list)
    learn_s: list[float] = field(default_factory=list)

    def add(self, key: Key, identity: np.ndarray, fidelity: np.ndarray) -> None:
        """Add one subject's pictures of one way of drawing."""
        self.identity.setdefault(key, []).append(identity)
        self.fidelity.setdefault(key, []).append(fidelity)

    def point(self, key: Key, subjects: Sequence[int] | None = None) -> tuple[float, float]:
        """Return identity as a share of clean renders', and fidelity as a share of the plain model's."""
        rows = range(len(self.clean)) if subjects is None else subjects
        means = [
            float(np.mean([part[row].mean() for row in rows]))
            for part in (self.identity[key], self.clean, self.fidelity[key], self.fidelity[(PLAIN, 0.0)])
        ]
        return means[0] / means[1], means[2] / means[3]

    def curve(self, name: str, subjects: Sequence[int] | None = None) -> float:
        """Return the hypervolume of one way's points, the plain model's included."""
        keys = [key for key in self.identity if key[0] in (name, PLAIN)]
        return measure_hypervolume([self.point(key, subjects) for key in keys])


class SubjectStudio:
    """Learn, draw and judge subjects."""

    def __init__(self, model: ModelBundle, parser: SceneParser, reader: IdentityReader, settings: RunSettings) -> None:
        self.model, self.parser, self.reader, self.settings = model, parser, reader, settings
        self.table = Table()
        self.num_steps = NUM_STEPS

    def learn(self, trial: Trial, **changes: Any) -> Adapter:
        """Learn a subject as the page does, without samples on the way being judged."""
        request = LearnRequest(trial.references, trial.word, trial.subject.phrase, **changes)
        *_, result = learn_stream(request, OneModel(self.model))
        assert isinstance(result, LearnResult)
        if request.objective == "dco":
            self.table.learn_s.append(result.seconds)
        return result.adapter

    def run_trial(self, seed: int, num_prompts: int, *, held_out: bool = True) -> None:
        """Measure one subject by every way."""
        trial = make_trial(seed, num_prompts, held_out=held_out)
        clean, unmarked = measure_clean(self.reader, trial)
        self.table.clean.append(clean)
        self.table.unmarked.append(unmarked)
        rows = {PLAIN: self._add((PLAIN, 0.0), trial, seed, "base", [])}
        for objective, name in (("dreambooth", LORA), ("dco", DCO)):
            adapter = self.learn(trial, objective=objective)
            lora, _ = read_lora(adapter.data, self.model)
            for weight in WEIGHTS if name == LORA else WEIGHTS[:1]:
                rows[f"{name} {weight}"] = self._add(
                    (name, weight), trial, seed, "subject", [SubjectLora(lora, weight)]
                )
        text = encode_prompts(self.model, self._prompts(trial, "subject"))
        for likeness in LIKENESSES:
            key = (GUIDED, likeness)
            rows[f"{GUIDED} {likeness}"] = self._add(key, trial, seed, "base", [RewardGuidance(lora, text, likeness)])
        rows[INSTANT] = self._add((INSTANT, 0.0), trial, seed, "base", [self._read_instant(trial)])
        if self.settings.sheet is not None:
            self._save_sheet(trial, seed, rows)

    def _prompts(self, trial: Trial, side: str) -> list[str]:
        asked = [compile_prompt(ask.say(trial.word), trial.word, trial.subject.phrase) for ask in trial.asks]
        return [getattr(prompt, side) for prompt in asked]

    def _read_instant(self, trial: Trial) -> MaskedSubject:
        """Make the technique of one picture, the first."""
        ready = prepare_pictures(self.model, trial.references[:1], trial.word, trial.subject.phrase)
        assert ready.masks is not None
        # Every prompt begins with the subject, so its words stand at the same place in all.
        prompt = self._prompts(trial, "base")[0]
        at = prompt.find(trial.subject.phrase)
        words = find_tokens(prompt, (at, at + len(trial.subject.phrase)), self.model.sides[0])
        return MaskedSubject((make_subject_source(self.model, ready.pictures[0], ready.masks),), words)

    @torch.no_grad()
    def _add(self, key: Key, trial: Trial, seed: int, side: str, techniques: Sequence[Technique]) -> list[Image.Image]:
        """Draw all prompts of a subject by one way and judge them; picture k has the same noise in every way."""
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
        stream = denoise(self.model, encode_prompts(self.model, self._prompts(trial, side)), settings, techniques, [])
        while True:
            try:
                next(stream)
            except StopIteration as end:
                images = decode(self.model, end.value)
                break
        scenes = self.parser.parse(images)
        self.table.add(
            key, measure_identity(self.reader, trial, images, scenes), measure_fidelity(trial, trial.asks, scenes)
        )
        return images

    def _save_sheet(self, trial: Trial, seed: int, rows: Mapping[str, Sequence[Image.Image]]) -> None:
        """Write the first pictures of every way below each other, the references and clean renders on top."""
        assert self.settings.sheet is not None
        columns = min(8, len(trial.asks))
        blank = [Image.new("RGB", trial.references[0].size, "white")] * columns
        clean = [Image.fromarray(one.rgb) for one in trial.clean]
        pictures = [*[*trial.references, *blank][:columns], *clean[:columns]]
        titles = [*["given"] * columns, *[ask.say("") for ask in trial.asks[:columns]]]
        for name, images in rows.items():
            pictures += images[:columns]
            titles += [name] * columns
        save_sheet(self.settings.sheet / f"subject_{seed}.png", pictures, columns=columns, titles=titles)


def make_figures(table: Table) -> dict[str, Figure]:
    """Put identity, fidelity and the gain in hypervolume together."""
    subjects = np.arange(len(table.clean))
    gain = [np.array(subjects)]

    def measure_gain(groups: Sequence[np.ndarray]) -> float:
        rows = [int(row) for row in groups[0]]
        return table.curve(GUIDED, rows) - table.curve(LORA, rows)

    best, plain = table.point((GUIDED, LIKENESSES[0])), table.point((PLAIN, 0.0))
    return {
        "hypervolume_gain": Figure(measure_gain(gain), 0.0, bootstrap(gain, measure_gain)),
        "identity_fraction": Figure(
            best[0], plain[0], bootstrap(gain, lambda g: table.point((GUIDED, LIKENESSES[0]), list(g[0]))[0])
        ),
        "prompt_fidelity_fraction": Figure(
            best[1], 1.0, bootstrap(gain, lambda g: table.point((GUIDED, LIKENESSES[0]), list(g[0]))[1])
        ),
    }


def time_ways(model: ModelBundle, adapter: Adapter, trial: Trial, repeats: int) -> dict[str, Figure]:
    """Time one picture by the plain model and by the subject's, alternately, and Instant from nothing."""
    prompt = trial.asks[0].say(trial.word)
    seconds: dict[str, list[float]] = {PLAIN: [], GUIDED: [], INSTANT: []}
    for repeat in range(repeats + 1):
        for name in seconds:
            start = time.perf_counter()
            if name == INSTANT:
                model.style_memory.clear()
                asked = SubjectRequest(
                    prompt, picture=trial.references[0], word=trial.word, phrase=trial.subject.phrase, seed=repeat
                )
            else:
                options = {"reward_guidance": {"likeness": 0.0 if name == PLAIN else LIKENESSES[0]}}
                asked = SubjectRequest(prompt, adapters=(adapter,), seed=repeat, techniques=options)
            list(subject_stream(asked, OneModel(model)))
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    ratios = np.array(seconds[GUIDED]) / np.array(seconds[PLAIN])
    return {
        "sample_cost_ratio": make_median_figure(list(ratios), baseline=1.0),
        "instant_s": make_median_figure(seconds[INSTANT], unit="s", baseline=float(np.median(seconds[PLAIN]))),
    }


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Measure `n` subjects with NUM_PROMPTS prompts each."""
    model = load_storybook(settings.device)
    studio = SubjectStudio(model, load_parser(PARSER_FOLDER), load_identity_reader(READER_FOLDER), settings)
    for seed in count(range(FIRST_SEED, FIRST_SEED + settings.n), "subjects"):
        studio.run_trial(seed, NUM_PROMPTS)
    figures = make_figures(studio.table)
    figures["learn_s"] = make_figure(studio.table.learn_s, unit="s")
    trial = make_trial(FIRST_SEED, 1, held_out=True)
    return figures | time_ways(model, studio.learn(trial), trial, 5)
