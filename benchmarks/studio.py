"""Pictures for comparisons: the same prompts and seeds without and with a technique, each drawn once and kept.

The pictures come from the page's own path, one request each. What is asked for is in trials.py.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.figures import RunSettings
from benchmarks.held_out import NUM_STEPS, PICTURE_SEEDS, draw_scenes
from benchmarks.memory import OneModel
from benchmarks.progress import count
from benchmarks.quality import Reference, see
from benchmarks.sheets import save_sheet
from benchmarks.trials import Case, Seen, Trial, make_cases, measure_brightness
from pipelines import ImageResult, TextToImageRequest, text_to_image_stream
from pipelines.backends import PROJECT_DIR
from pipelines.model import ModelBundle
from pipelines.scene_parser import ParsedObject, ParsedScene, SceneParser

FIRST_SEED = PICTURE_SEEDS + 500_000
REFERENCE_SEEDS = PICTURE_SEEDS + 600_000
NUM_REFERENCE_SCENES = 1000
NUM_TIMED = 5
KEPT_DIGITS = 4
Score = Callable[[Case, Seen], float]


@dataclass
class Arm:
    """Hold the pictures of one arm, in the order of its cases.

    Shapes: features (n, channels), what `quality.see` makes of them; rows (n,), counted as UNet inputs of the trained
            size.
    """

    cases: list[Case]
    seen: list[Seen] = field(default_factory=list)
    features: np.ndarray = field(default_factory=lambda: np.zeros((0, 1)))
    rows: list[float] = field(default_factory=list)

    def score(self, score: Score) -> np.ndarray:
        """Judge every picture. Shapes: returns (n,)."""
        return np.array([score(case, seen) for case, seen in zip(self.cases, self.seen, strict=True)])


class Times(NamedTuple):
    """Hold seconds per picture without and with a technique, and those until their first steps."""

    off: list[float]
    on: list[float]
    first_off: list[float]
    first_on: list[float]


class Studio:
    """Draw arms, each only once however many techniques are compared with it."""

    def __init__(
        self, model: ModelBundle, parser: SceneParser, settings: RunSettings, num_steps: int = NUM_STEPS
    ) -> None:
        self.model, self.parser, self.num_steps = model, parser, num_steps
        self.n, self.sheet, self.keep = settings.n, settings.sheet, settings.keep
        scenes = draw_scenes(REFERENCE_SEEDS, min(NUM_REFERENCE_SCENES, 50 * settings.n))
        self.reference = Reference.fit(see(parser, [Image.fromarray(drawn.rgb) for _, drawn in scenes]))
        self._drawn: dict[str, Arm] = {}

    def draw_pair(self, trial: Trial) -> tuple[Arm, Arm]:
        """Draw a technique's pictures, and those that they are compared with."""
        return self._draw_once(trial, trial.against), self._draw_once(trial, trial.techniques)

    def _draw_once(self, trial: Trial, names: Sequence[str]) -> Arm:
        """Draw the pictures of some techniques on a trial's task, or give those that another trial asked for."""
        steps = [f"{trial.num_steps} steps"] if trial.num_steps else []
        label = " ".join((trial.task, trial.sampler, *steps, *(names or ("plain",))))
        if label not in self._drawn:
            self._drawn[label] = self.draw(label, trial, names)
        return self._drawn[label]

    def draw(self, label: str, trial: Trial, names: Sequence[str], **changes: Any) -> Arm:
        """Draw every case of a trial's task; picture k has seed FIRST_SEED + k in all arms."""
        arm = Arm(make_cases(trial.task, self.n))
        requests = [self.ask(trial, names, arm.cases[k], FIRST_SEED + k, **changes) for k in range(self.n)]
        asked = [repr((case, request)) for case, request in zip(arm.cases, requests, strict=True)]
        kept = self.keep and self.keep / f"{label.replace(' ', '_')}.json.gz"
        if kept and load_arm(kept, arm, asked):
            return arm
        images = []
        with _counted_rows(self.model) as rows:
            for request in count(requests, label):
                before = sum(rows)
                *_, result = text_to_image_stream(request, OneModel(self.model))
                assert isinstance(result, ImageResult)
                images.append(result.images[0])
                arm.rows.append(sum(rows) - before)
        brightness = [measure_brightness(np.asarray(image.convert("RGB"))) for image in images]
        arm.seen = [Seen(*pair) for pair in zip(self.parser.parse(images), brightness, strict=True)]
        arm.features = see(self.parser, images).round(KEPT_DIGITS)
        if self.sheet is not None:
            _save_sheet(self.sheet / f"{label.replace(' ', '_')}.png", arm, images, trial.score)
        if kept:
            save_arm(kept, arm, asked)
        return arm

    def ask(self, trial: Trial, names: Sequence[str], case: Case, seed: int, **changes: Any) -> TextToImageRequest:
        """Make the request of one picture."""
        return TextToImageRequest(
            case.ask.prompt,
            seed=seed,
            techniques=trial.choose(case, names),
            num_steps=trial.num_steps or self.num_steps,
            sampler=trial.sampler,
            width_px=case.sides_px[0],
            height_px=case.sides_px[1],
            **changes,
        )

    def time_pair(self, trial: Trial) -> Times:
        """Time some pictures without and with a technique, in turns; kept arms may be of a busier machine."""
        times = Times([], [], [], [])
        for case in make_cases(trial.task, min(self.n, NUM_TIMED)):
            for names, seconds, waits in (
                (trial.against, times.off, times.first_off),
                (trial.techniques, times.on, times.first_on),
            ):
                start = time.perf_counter()
                stream = text_to_image_stream(self.ask(trial, names, case, FIRST_SEED), OneModel(self.model))
                next(stream)
                waits.append(time.perf_counter() - start)
                deque(stream, maxlen=0)
                seconds.append(time.perf_counter() - start)
        return times


def _save_sheet(path: Path, arm: Arm, images: Sequence[Image.Image], score: Score) -> None:
    """Write the first pictures of an arm with their scores."""
    titles = [f"{value:.2f} {case.ask.prompt}" for value, case in zip(arm.score(score), arm.cases, strict=True)]
    save_sheet(path, images[:48], columns=8, titles=titles[:48])


def save_arm(path: Path, arm: Arm, asked: Sequence[str], *, judges: Sequence[str] = ()) -> None:
    """Keep a finished arm with what was asked for; `judges` are the folders of weights that its features come from."""
    values = {
        "asked": list(asked),
        "weights": identify_weights(asked, judges),
        "seen": [asdict(seen) for seen in arm.seen],
        "features": arm.features.tolist(),
        "rows": arm.rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    # Small enough to be committed: what was seen in each picture is the evidence behind a figure.
    part.write_bytes(gzip.compress(json.dumps(values, separators=(",", ":")).encode(), mtime=0))
    part.replace(path)


def load_arm(path: Path, arm: Arm, asked: Sequence[str], *, judges: Sequence[str] = ()) -> bool:
    """Fill an arm from where it was kept; False if it is not there, or was asked for otherwise, or of other weights."""
    if not path.is_file():
        return False
    values = json.loads(gzip.decompress(path.read_bytes()))
    if (values["asked"], values["weights"]) != (list(asked), identify_weights(asked, judges)):
        return False
    for seen in values["seen"]:
        parsed = seen["parsed"]
        objects = tuple(ParsedObject(**(thing | {"box_px": tuple(thing["box_px"])})) for thing in parsed["objects"])
        arm.seen.append(Seen(ParsedScene(**(parsed | {"objects": objects})), seen["brightness"]))
    arm.features = np.array(values["features"])
    arm.rows = values["rows"]
    return True


def identify_weights(asked: Sequence[str], judges: Sequence[str]) -> str:
    """Name the weights that draw and judge what was asked for by their manifests."""
    extra = ("initial_mean",) if any("sing_diffusion" in one for one in asked) else ()
    manifests = [PROJECT_DIR / "assets" / part / "MANIFEST.json" for part in ("storybook", "parser", *extra, *judges)]
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
