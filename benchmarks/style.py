"""Style prompting: does the picture take the reference's style, and nothing else from it? And what does it cost?

Four ways to the same picture, at the same seed: words alone, StyleAligned, Visual Style Prompting, and naming the
style. The style reader judges the style, the scene parser what is shown. style_pairs.py says what is asked for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fidelity import PARSER_FOLDER
from benchmarks.figures import Figure, RunSettings, make_median_figure
from benchmarks.held_out import NUM_STEPS, PICTURE_SEEDS, load_storybook, round_trip
from benchmarks.memory import OneModel
from benchmarks.progress import count
from benchmarks.sheets import save_sheet
from benchmarks.studio import KEPT_DIGITS, NUM_TIMED, Arm, load_arm, save_arm
from benchmarks.style_pairs import (
    ALIGNED,
    DRAWN,
    NAMED,
    VISUAL,
    WORDS,
    compare_curves,
    describe_arms,
    describe_point,
    make_pairs,
    summarise,
)
from benchmarks.trials import Case, Seen
from pipelines import StyleRequest, StyleResult, TextToImageRequest, style_reference, style_stream, text_to_image_stream
from pipelines.backends import PROJECT_DIR
from pipelines.model import ModelBundle
from pipelines.scene_parser import SceneParser, load_parser
from training.style_reader import StyleReader, StyleReading, load_reader, make_true_reading
from training.world.render import render

READER_FOLDER = PROJECT_DIR / "assets" / "style_reader"
FIRST_SEED = PICTURE_SEEDS + 700_000
# The curves of style against content, on half of the pairs: the option that is swept, and its values.
SWEPT = {
    "vsp": (VISUAL, "strength", (0.2, 0.4, 0.6, 0.7, 0.8, 1.0)),
    "sa": (ALIGNED, "weight", (0.25, 0.5, 1.0, 2.0, 4.0)),
}
SWEPT_SHARE = 2
SCENES_PER_CALL = 32
NUM_SHEET_PAIRS = 24
Techniques = Mapping[str, Mapping[str, Any]]


class StyleStudio:
    """Draw and judge the arms of a comparison, each finished one kept where that is asked for."""

    def __init__(
        self,
        model: ModelBundle,
        parser: SceneParser,
        reader: StyleReader,
        settings: RunSettings,
        num_steps: int = NUM_STEPS,
    ) -> None:
        self.model, self.parser, self.reader, self.num_steps = model, parser, reader, num_steps
        self.sheet, self.keep = settings.sheet, settings.keep
        self.pairs = make_pairs(settings.n)
        self.references = [Image.fromarray(render(pair.reference).rgb) for pair in self.pairs]
        # A model's picture has passed the decoder, so its reference is read and compared after it too.
        self.decoded = self._pass_autoencoder(self.references)
        self.read = reader.read(self.decoded)
        scenes = [pair.reference for pair in self.pairs]
        self.truth = make_true_reading([scene.style for scene in scenes], [scene.look for scene in scenes])

    def draw(self, label: str, techniques: Techniques, *, share: int = 1, is_named: bool = False) -> Arm:
        """Draw the first n / share pairs; picture k has seed FIRST_SEED + k in all arms."""
        chosen = self.pairs[: max(1, len(self.pairs) // share)]
        requests = [self.ask(index, techniques, is_named=is_named) for index in range(len(chosen))]
        asked = [repr((pair, replace(request, reference=None))) for pair, request in zip(chosen, requests)]
        arm = Arm([Case(pair.ask) for pair in chosen])
        kept = self.keep and self.keep / f"style_{label}.json.gz"
        if kept and load_arm(kept, arm, asked, judges=("style_reader",)):
            return arm
        images = [draw_pictures(self.model, request)[0] for request in count(requests, label)]
        self.judge(arm, images)
        if self.sheet is not None:
            self._save_sheet(label, arm, images)
        if kept:
            save_arm(kept, arm, asked, judges=("style_reader",))
        return arm

    def draw_answers(self) -> Arm:
        """Draw and judge the scenes of the prompts in the references' style, after the autoencoder."""
        arm = Arm([Case(pair.ask) for pair in self.pairs])
        self.judge(arm, self._pass_autoencoder([Image.fromarray(render(pair.answer).rgb) for pair in self.pairs]))
        return arm

    def ask(self, index: int, techniques: Techniques, *, is_named: bool = False, **changes: Any) -> StyleRequest:
        """Make the request of one pair; words alone do not look at the reference."""
        pair = self.pairs[index]
        settings: dict[str, Any] = {"seed": FIRST_SEED + index, "num_steps": self.num_steps, "num_images": 1}
        return StyleRequest(
            pair.named if is_named else pair.ask.prompt,
            self.references[index],
            techniques={name: dict(options) for name, options in techniques.items()},
            **(settings | changes),
        )

    def judge(self, arm: Arm, images: Sequence[Image.Image]) -> None:
        """Fill an arm with what is seen in its pictures and how far they are from their references."""
        first = slice(len(images))
        styles = [pair.reference.style for pair in self.pairs[first]]
        reading = self.reader.read(images)
        read, truth = (StyleReading(one.probs[first], one.hidden[first]) for one in (self.read, self.truth))
        arm.seen = [Seen(parsed) for parsed in self.parser.parse(images)]
        arm.features = np.stack(
            [
                self.reader.distance(reading, read, styles),
                self.reader.distance(reading, truth, styles),
                self.reader.gram_distance(images, self.decoded[first]),
            ],
            1,
        ).round(KEPT_DIGITS)

    def _pass_autoencoder(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        starts = range(0, len(images), SCENES_PER_CALL)
        return [one for start in starts for one in round_trip(self.model, images[start : start + SCENES_PER_CALL])]

    def _save_sheet(self, label: str, arm: Arm, images: Sequence[Image.Image]) -> None:
        """Write the first pictures beside their references, with their distances."""
        assert self.sheet is not None
        rows = list(zip(self.references, images, self.pairs, arm.features))[:NUM_SHEET_PAIRS]
        beside = [image.resize(self.references[0].size) for row in rows for image in row[:2]]
        titles = [
            title for _, _, pair, row in rows for title in (pair.reference.style, f"{row[0]:.2f} {pair.ask.prompt}")
        ]
        save_sheet(self.sheet / f"style_{label}.png", beside, columns=8, titles=titles)


def draw_pictures(model: ModelBundle, request: StyleRequest) -> tuple[Image.Image, ...]:
    """Draw what a request asks for through the page's own stream."""
    *_, result = style_stream(request, OneModel(model))
    assert isinstance(result, StyleResult)
    return result.images


def measure_seconds(stream: Iterator[Any]) -> float:
    """Walk a stream to its end and return how long that took."""
    start = time.perf_counter()
    deque(stream, maxlen=0)
    return time.perf_counter() - start


def measure_costs(studio: StyleStudio, model: ModelBundle) -> dict[str, Figure]:
    """Time pictures without a reference, with a new one, with the same again, and four with a new one, in turns."""
    provider = OneModel(model)
    visual: Techniques = {VISUAL: {}}
    rows = []
    # The first turn only warms up.
    for turn in count(range(NUM_TIMED + 1), "timed turns"):
        index = turn % len(studio.pairs)
        plain = TextToImageRequest(studio.pairs[index].ask.prompt, num_steps=studio.num_steps)
        plain_s = measure_seconds(text_to_image_stream(plain, provider))
        style_reference.forget(model)
        first_s = measure_seconds(style_stream(studio.ask(index, visual), provider))
        again = studio.ask(index, visual, seed=FIRST_SEED + len(studio.pairs) + turn)
        again_s = measure_seconds(style_stream(again, provider))
        style_reference.forget(model)
        four_s = measure_seconds(style_stream(studio.ask(index, visual, num_images=4), provider))
        rows.append((plain_s, first_s, again_s, four_s))
    timed = rows[1:]
    plain_s = float(np.median([row[0] for row in timed]))
    return {
        "cached_cost_ratio": make_median_figure([again / plain for plain, _, again, _ in timed], baseline=1.0),
        "first_cost_ratio": make_median_figure([first / plain for plain, first, _, _ in timed], baseline=1.0),
        "four_pictures_s": make_median_figure([four for *_, four in timed], unit="s", baseline=4 * plain_s),
    }


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Compare the four ways, time them, and follow both techniques from weak to strong."""
    # As for the other techniques: less time than fp32, and all arms are drawn in it.
    model = load_storybook(settings.device, "bf16")
    parser = load_parser(PARSER_FOLDER, device=model.plan.device)
    studio = StyleStudio(model, parser, load_reader(READER_FOLDER), settings)
    arms = {
        WORDS: studio.draw(WORDS, {}),
        ALIGNED: studio.draw(ALIGNED, {ALIGNED: {}}),
        VISUAL: studio.draw(VISUAL, {VISUAL: {}}),
        NAMED: studio.draw(NAMED, {}, is_named=True),
        DRAWN: studio.draw_answers(),
    }
    figures = summarise(studio.pairs, arms)
    # Time is taken in the page's own number format.
    figures |= measure_costs(studio, load_storybook(settings.device))
    figures |= describe_arms(studio.pairs, arms)
    curves: dict[str, list[Arm]] = {}
    for label, (technique, option, levels) in SWEPT.items():
        for level in levels:
            arm = studio.draw(f"{label}_{level}", {technique: {option: level}}, share=SWEPT_SHARE)
            figures |= describe_point(f"{label}_{level}", arms[WORDS], arm)
            curves.setdefault(label, []).append(arm)
    return figures | {"pareto_worst_ratio": compare_curves(curves["sa"], curves["vsp"])}
