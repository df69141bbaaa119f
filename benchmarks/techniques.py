"""What each technique changes: the same prompts and seeds without and with it, judged by the scene parser.

The pictures come from the page's own path, one request each. What is asked for is in trials.py.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.fidelity import PARSER_FOLDER
from benchmarks.figures import Figure, RunSettings, bootstrap, make_figure
from benchmarks.held_out import NUM_STEPS, PICTURE_SEEDS, draw_scenes, load_storybook
from benchmarks.memory import OneModel
from benchmarks.progress import count
from benchmarks.quality import Reference, compare, see
from benchmarks.sheets import save_sheet
from benchmarks.trials import (
    TRIALS,
    Case,
    Seen,
    Trial,
    fill_boxes,
    is_found,
    is_right,
    make_cases,
    measure_brightness,
    overlap_boxes,
)
from pipelines import Progress, TextToImageRequest, text_to_image_stream
from pipelines.backends import PROJECT_DIR
from pipelines.denoise import DenoiseSettings, Sketches, denoise
from pipelines.model import ModelBundle
from pipelines.scene_parser import ParsedObject, ParsedScene, SceneParser, load_parser
from pipelines.techniques import make_techniques
from pipelines.text_side import encode_prompt

FIRST_SEED = PICTURE_SEEDS + 500_000
REFERENCE_SEEDS = PICTURE_SEEDS + 600_000
NUM_REFERENCE_SCENES = 1000
NUM_GUIDANCE_CASES = 8
Score = Callable[[Case, Seen], float]


@dataclass
class Arm:
    """Hold the pictures of one arm, in the order of its cases.

    Shapes: features (n, channels), what `quality.see` makes of them; seconds and rows (n,), rows counted as UNet
            inputs of the trained size; waits (n,) seconds to the first step.
    """

    cases: list[Case]
    seen: list[Seen] = field(default_factory=list)
    features: np.ndarray = field(default_factory=lambda: np.zeros((0, 1)))
    seconds: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def score(self, score: Score) -> np.ndarray:
        """Judge every picture. Shapes: returns (n,)."""
        return np.array([score(case, seen) for case, seen in zip(self.cases, self.seen, strict=True)])


class Studio:
    """Draw arms, each only once however many techniques are compared with it."""

    def __init__(
        self, model: ModelBundle, parser: SceneParser, settings: RunSettings, num_steps: int = NUM_STEPS
    ) -> None:
        self.model, self.parser, self.num_steps = model, parser, num_steps
        self.n, self.sheet, self.keep = settings.n, settings.sheet, settings.keep
        scenes = draw_scenes(REFERENCE_SEEDS, min(NUM_REFERENCE_SCENES, 50 * settings.n))
        self.reference = Reference.fit(see(parser, [Image.fromarray(drawn.rgb) for _, drawn in scenes]))
        self._plain: dict[tuple[str, ...], Arm] = {}

    def draw_pair(self, trial: Trial) -> tuple[Arm, Arm]:
        """Draw a technique's pictures, and those that they are compared with."""
        key = (trial.task, trial.sampler, *trial.against)
        if key not in self._plain:
            instead: dict[str, Any] = {name: {} for name in trial.against}
            self._plain[key] = self.draw(f"{trial.task} without {trial.name}", trial, lambda case: instead)
        return self._plain[key], self.draw(f"{trial.task} with {trial.name}", trial, trial.choose)

    def draw(self, label: str, trial: Trial, choose: Callable[[Case], dict[str, Any]], **changes: Any) -> Arm:
        """Draw every case of a trial's task; picture k has seed FIRST_SEED + k in all arms."""
        arm = Arm(make_cases(trial.task, self.n))
        asked = [repr((case, choose(case), trial.sampler, self.num_steps, changes)) for case in arm.cases]
        kept = self.keep and self.keep / f"{label.replace(' ', '_')}.json"
        if kept and load_arm(kept, arm, asked):
            return arm
        images = []
        with _counted_rows(self.model) as rows:
            for index, case in enumerate(count(arm.cases, label)):
                request = TextToImageRequest(
                    case.ask.prompt,
                    seed=FIRST_SEED + index,
                    techniques=choose(case),
                    num_steps=self.num_steps,
                    sampler=trial.sampler,
                    width_px=case.sides_px[0],
                    height_px=case.sides_px[1],
                    **changes,
                )
                before, start = sum(rows), time.perf_counter()
                waits = []
                for event in text_to_image_stream(request, OneModel(self.model)):
                    if isinstance(event, Progress):
                        waits.append(time.perf_counter() - start)
                    else:
                        images.append(event.images[0])
                arm.seconds.append(time.perf_counter() - start)
                arm.rows.append(sum(rows) - before)
                arm.waits.append(waits[0])
        brightness = [measure_brightness(np.asarray(image.convert("RGB"))) for image in images]
        arm.seen = [Seen(*pair) for pair in zip(self.parser.parse(images), brightness, strict=True)]
        arm.features = see(self.parser, images)
        if self.sheet is not None:
            _save_sheet(self.sheet / f"{label.replace(' ', '_')}.png", arm, images, trial.score)
        if kept:
            save_arm(kept, arm, asked)
        return arm


def _save_sheet(path: Path, arm: Arm, images: Sequence[Image.Image], score: Score) -> None:
    """Write the first pictures of an arm with their scores."""
    titles = [f"{value:.2f} {case.ask.prompt}" for value, case in zip(arm.score(score), arm.cases, strict=True)]
    save_sheet(path, images[:48], columns=8, titles=titles[:48])


def save_arm(path: Path, arm: Arm, asked: Sequence[str]) -> None:
    """Keep a finished arm with what was asked for."""
    values = {
        "asked": list(asked),
        "weights": _identify_weights(asked),
        "seen": [asdict(seen) for seen in arm.seen],
        "features": arm.features.tolist(),
        "costs": [arm.seconds, arm.rows, arm.waits],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values), "utf-8")
    part.replace(path)


def load_arm(path: Path, arm: Arm, asked: Sequence[str]) -> bool:
    """Fill an arm from where it was kept; False if it is not there, or was asked for otherwise, or of other weights."""
    if not path.is_file():
        return False
    values = json.loads(path.read_text("utf-8"))
    if (values["asked"], values["weights"]) != (list(asked), _identify_weights(asked)):
        return False
    for seen in values["seen"]:
        parsed = seen["parsed"]
        objects = tuple(ParsedObject(**(thing | {"box_px": tuple(thing["box_px"])})) for thing in parsed["objects"])
        arm.seen.append(Seen(ParsedScene(**(parsed | {"objects": objects})), seen["brightness"]))
    arm.features = np.array(values["features"])
    arm.seconds, arm.rows, arm.waits = values["costs"]
    return True


def _identify_weights(asked: Sequence[str]) -> str:
    """Name the weights that draw and judge what was asked for by their manifests."""
    extra = ("initial_mean",) if any("sing_diffusion" in one for one in asked) else ()
    manifests = [PROJECT_DIR / "assets" / part / "MANIFEST.json" for part in ("storybook", "parser", *extra)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in manifests)).hexdigest()


@contextmanager
def _counted_rows(model: ModelBundle) -> Iterator[list[float]]:
    """Count how many latents of the trained size go through the UNet inside a with-block."""
    rows: list[float] = []
    cells = (model.spec.image_px // model.spec.px_per_cell) ** 2

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        rows.append(inputs[0].shape[0] * inputs[0][0, 0].numel() / cells)

    handle = model.unet.register_forward_pre_hook(note)
    try:
        yield rows
    finally:
        handle.remove()


def compare_pairs(off: np.ndarray, on: np.ndarray, *, is_lower_better: bool = False) -> Figure:
    """Return what a technique adds to its own metric, with the interval over pairs; the baseline is the other arm."""
    gain = (off - on) if is_lower_better else (on - off)
    return Figure(float(gain.mean()), float(off.mean()), bootstrap([gain]))


def measure_trial(studio: Studio, trial: Trial) -> tuple[dict[str, Figure], Arm, Arm]:
    """Measure one technique: its effect, what it does to the pictures, and what it costs."""
    off, on = studio.draw_pair(trial)
    distance, interval = compare(studio.reference, off.features, on.features)
    lost = np.array([not seen.parsed.objects for seen in on.seen], dtype=float)
    lost -= np.array([not seen.parsed.objects for seen in off.seen], dtype=float)
    figures = {
        "effect": compare_pairs(off.score(trial.score), on.score(trial.score), is_lower_better=trial.is_lower_better),
        "distance": Figure(distance, studio.reference.measure(off.features), interval),
        "unreadable": make_figure(lost.tolist()),
        "passes": Figure(sum(on.rows) / sum(off.rows), 1.0),
        "picture_seconds": Figure(float(np.median(on.seconds)), float(np.median(off.seconds)), unit="s"),
    }
    return {f"{trial.name}_{name}": figure for name, figure in figures.items()}, off, on


def has_effect(figures: dict[str, Figure], name: str, *, is_erasing: bool = False) -> bool:
    """Say whether a technique does what it promises: interval above 0, and pictures not significantly worse.

    Differs: where a thing is to be missing, an empty picture is no loss.
    """
    effect, distance, unreadable = (figures[f"{name}_{part}"].ci95 for part in ("effect", "distance", "unreadable"))
    assert effect and distance and unreadable
    return effect[0] > 0 and (is_erasing or (distance[0] <= 0 and unreadable[0] <= 0))


@torch.no_grad()
def find_matched_guidance(model: ModelBundle, cases: Sequence[Case], num_steps: int = NUM_STEPS) -> float:
    """Return plain guidance as strong as S-CFG's is on average, over all cells and steps of some pictures."""
    default, means = TextToImageRequest(""), _Means()
    for index, case in enumerate(cases):
        settings = DenoiseSettings(
            seed=FIRST_SEED + index,
            num_images=1,
            num_steps=num_steps,
            guidance_scale=default.guidance_scale,
            sampler=default.sampler,
            width_px=case.sides_px[0],
            height_px=case.sides_px[1],
            preview_every=0,
        )
        text = encode_prompt(model, case.ask.prompt, size_px=case.sides_px)
        techniques = make_techniques({"s_cfg": {}})
        for _ in denoise(model, text, settings, techniques, [], sketches=Sketches(maps=means)):
            pass
    return round(default.guidance_scale * float(np.mean(means.values_seen)), 1)


class _Means(dict[str, torch.Tensor]):
    """Remember the mean of every map that is sketched, also of those that a later step replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.values_seen: list[float] = []

    def __setitem__(self, caption: str, cells: torch.Tensor) -> None:
        self.values_seen.append(float(cells.mean()))


def measure_matched(studio: Studio, trial: Trial, on: Arm) -> Figure:
    """Compare S-CFG with plain guidance that is as strong on average, or its gain might be that of more guidance."""
    guidance = find_matched_guidance(studio.model, on.cases[:NUM_GUIDANCE_CASES])
    plain = studio.draw(f"{trial.task} with guidance {guidance}", trial, lambda case: {}, guidance_scale=guidance)
    return compare_pairs(plain.score(trial.score), on.score(trial.score))


def measure_erasure(studio: Studio, trial: Trial, off: Arm, on: Arm) -> dict[str, Figure]:
    """Measure how often the erased thing is still found, what others lose, and the seconds before the first step."""
    kept = Trial("rece", "others are found", "kept", is_found, trial.techniques)
    kept_off, kept_on = studio.draw_pair(kept)
    extra = np.array(on.waits) - np.array(off.waits)
    return {
        "rece_erased_rate": make_figure(on.score(is_found).tolist(), baseline=float(off.score(is_found).mean())),
        "rece_kept_loss": compare_pairs(kept_off.score(is_found), kept_on.score(is_found), is_lower_better=True),
        "rece_seconds": Figure(float(np.median(extra)), unit="s"),
    }


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Try every technique on its own metric, then the best of them on attribution, position and layouts."""
    model = load_storybook(settings.device, "fp32")
    studio = Studio(model, load_parser(PARSER_FOLDER, device=model.plan.device), settings)
    figures: dict[str, Figure] = {}
    arms: dict[str, tuple[Arm, Arm]] = {}
    for trial in TRIALS:
        found, off, on = measure_trial(studio, trial)
        figures |= found
        arms[trial.name] = (off, on)
        if trial.name == "s_cfg":
            figures["s_cfg_matched"] = measure_matched(studio, trial, on)
        if trial.name == "rece":
            figures |= measure_erasure(studio, trial, off, on)
    figures |= summarise(studio, arms)
    erasing = {trial.name for trial in TRIALS if trial.task == "erased"}
    proven = [trial.name for trial in TRIALS if has_effect(figures, trial.name, is_erasing=trial.name in erasing)]
    return {"techniques_with_effect": Figure(float(len(proven)))} | figures


def summarise(studio: Studio, arms: dict[str, tuple[Arm, Arm]]) -> dict[str, Figure]:
    """Take the best technique on colour attribution, on positions and on layouts, next to plain guidance."""
    position = Trial("regional_attention", "position", "position", is_right, ("regional_attention",))
    attribution = Trial("s_cfg", "attribution", "attribution", is_right, ("s_cfg",))
    tried = {
        "best_attribution": [studio.draw_pair(attribution)],
        "best_position": [studio.draw_pair(position)],
    }
    figures = {name: _take_best(pairs, is_right) for name, pairs in tried.items()}
    layouts = [(arms[trial.name], trial) for trial in TRIALS if trial.task == "layout"]
    together = ("regional_attention", "draft_collage")
    joined = Trial(" and ".join(together), "boxes filled", "layout", fill_boxes, together, sampler="ddim")
    layouts.append((studio.draw_pair(joined), joined))
    (off, on), best = max(layouts, key=lambda layout: layout[0][1].score(layout[1].score).mean())
    for name, score in (("layout_instance_success", best.score), ("layout_miou", overlap_boxes)):
        figures[name] = make_figure(on.score(score).tolist(), baseline=float(off.score(score).mean()))
    return figures


def _take_best(pairs: Sequence[tuple[Arm, Arm]], score: Score) -> Figure:
    """Return the highest mean score among arms, plain ones included, next to the first plain one."""
    arms = [pairs[0][0], *(on for _, on in pairs)]
    best = max(arms, key=lambda arm: arm.score(score).mean())
    return make_figure(best.score(score).tolist(), baseline=float(arms[0].score(score).mean()))
