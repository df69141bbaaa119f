"""Drag editing: does the thing get where it is pulled, stay what it is, and leave nothing behind? And how long?

Every way of dragging gets the same pictures, handles and masks, once each; beside them stand doing nothing, pasting
the cut-out thing, and the exact answer after the autoencoder. drag_pairs.py says what is asked for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.drag_figures import (
    BUDGETS,
    COLUMNS,
    DIFFUSION,
    DRAWN,
    INSTANT,
    METHODS,
    NOISE,
    OPTIMISING,
    PASTED,
    UNTOUCHED,
    compare_pulls,
    summarise,
    take,
)
from benchmarks.drag_measures import (
    GHOST_FRAC,
    Box,
    FeatureRuler,
    draw_path,
    find_thing,
    measure_distance,
    measure_ghost,
    measure_mse,
    measure_path,
    measure_slip,
    measure_ssim,
    paste,
)
from benchmarks.drag_pairs import EDIT_SEEDS, Edit, Edits, Truth, find_edits, measure_truth
from benchmarks.fidelity import PARSER_FOLDER
from benchmarks.figures import Figure, RunSettings, make_figure, make_median_figure
from benchmarks.held_out import NUM_STEPS, load_storybook, round_trip
from benchmarks.memory import OneModel
from benchmarks.progress import count
from benchmarks.sheets import save_sheet
from benchmarks.studio import KEPT_DIGITS, Arm, load_arm, save_arm
from benchmarks.trials import Seen
from pipelines import DragPair, DragProgress, DragRequest, DragResult, drag_stream, style_reference
from pipelines.errors import UserError
from pipelines.model import ModelBundle
from pipelines.scene_parser import ParsedScene, SceneParser, load_parser
from pipelines.techniques import make_drag
from pipelines.techniques.drag_diffusion import DragDiffusion
from pipelines.techniques.drag_noise import DragNoise

# An edit is judged by what the parser reads in the exact answer: what it always gets wrong of a thing then cancels out.
# Where it does not even see how far the exact answer is, within this share of the way, the other rulers judge alone.
READ_FRAC = 1 / 3
TIMED_PX, NUM_TIMED = 40.0, 5
FOLLOWED_SHARE = 6
ROWS_PER_SHEET = 12
SHEET_ARMS = (PASTED, *METHODS)


class DragStudio:
    """Drag and judge the same edits in every way, each finished arm kept where that is asked for."""

    def __init__(
        self,
        model: ModelBundle,
        parser: SceneParser,
        settings: RunSettings,
        *,
        first_seed: int = EDIT_SEEDS,
        num_steps: int = NUM_STEPS,
    ) -> None:
        self.model, self.parser, self.num_steps = model, parser, num_steps
        self.sheet, self.keep = settings.sheet, settings.keep
        self.found: Edits = find_edits(settings.n, first_seed)
        self.edits = self.found.edits
        self.truths = [measure_truth(edit) for edit in self.edits]
        self.goals = [self._read_goal(edit, truth) for edit, truth in zip(self.edits, self.truths)]
        self.ruler = FeatureRuler(model)
        self._paths: dict[int, np.ndarray] = {}
        self._wanted: dict[int, torch.Tensor] = {}
        self.images: dict[str, list[Image.Image]] = {}

    def drag(self, label: str, techniques: Mapping[str, Mapping[str, Any]], size: int | None = None) -> Arm:
        """Drag every edit, or the first ones, with one method and its defaults, or those given."""

        def draw(index: int) -> Image.Image:
            return drag_once(self.model, self.ask(index, techniques)).image

        # With all its defaults, so that a kept arm is drawn anew where one of them has changed.
        return self._make(label, draw, repr(make_drag(techniques, None)), size)

    def leave(self) -> Arm:
        """Judge the pictures as they were."""
        return self._make(UNTOUCHED, lambda index: self.truths[index].picture)

    def paste(self) -> Arm:
        """Judge the cut-out thing pasted where it should be, with nothing removed."""
        return self._make(PASTED, lambda index: paste(self.edits[index], self.truths[index]))

    def draw(self) -> Arm:
        """Judge the exact answer after the autoencoder, set into the picture: the best that can be expected."""

        def answer(index: int) -> Image.Image:
            truth = self.truths[index]
            return Image.composite(round_trip(self.model, [truth.target])[0], truth.picture, truth.mask_picture)

        return self._make(DRAWN, answer)

    def ask(self, index: int, techniques: Mapping[str, Mapping[str, Any]]) -> DragRequest:
        """Make the request of one edit with the page's own settings."""
        edit, truth = self.edits[index], self.truths[index]
        return DragRequest(
            picture=truth.picture,
            prompt=edit.prompt,
            pairs=tuple(DragPair(h.x, h.y, h.target_x, h.target_y) for h in edit.handles),
            mask=truth.mask_picture,
            techniques={name: dict(options) for name, options in techniques.items()},
            seed=index,
            num_steps=self.num_steps,
        )

    def judge(self, index: int, image: Image.Image, parsed: ParsedScene) -> list[float]:
        """Measure one picture; the values of COLUMNS but the last."""
        edit, truth, picture = self.edits[index], self.truths[index], np.asarray(image.convert("RGB"))
        if index not in self._paths:
            self._paths[index] = draw_path(edit, truth.mask)
            self._wanted[index] = self.ruler.pick(edit, self.ruler.read(truth.picture, edit.prompt))
        distance, is_kept, slip = self._judge_box(index, parsed)
        return [
            distance,
            edit.length_px * measure_path(self._paths[index], picture, truth.mask),
            self.ruler.measure(edit, self._wanted[index], self.ruler.read(image, edit.prompt)),
            is_kept,
            slip,
            measure_mse(picture, truth.before, ~truth.mask),
            measure_mse(picture, truth.after, truth.mask),
            measure_ssim(picture, truth.after, truth.mask),
            measure_ghost(truth, picture),
        ]

    def _judge_box(self, index: int, parsed: ParsedScene) -> tuple[float, float, float]:
        """Return what the parser says: distance, 1 if class and colour are right, slip; NaN where it cannot judge."""
        edit, truth, goal = self.edits[index], self.truths[index], self.goals[index]
        if goal is None:
            return float("nan"), float("nan"), float("nan")
        thing, is_kept = find_thing(edit, truth, parsed)
        # Nothing found counts as nothing moved.
        box = thing.box_px if thing else truth.box_before
        return measure_distance(edit, box, goal), float(is_kept), measure_slip(edit, box, goal)

    def _make(self, label: str, draw: Callable[[int], Image.Image], settings: str = "", size: int | None = None) -> Arm:
        """Make an arm picture by picture, or take the kept one; --sheet needs the pictures, so it makes them anew."""
        arm = Arm([])
        asked = [f"{edit!r} {self.num_steps} {settings}" for edit in self.edits[:size]]
        kept = self.keep and self.keep / f"drag_{label}.json.gz"
        if kept and self.sheet is None and load_arm(kept, arm, asked):
            return arm
        images, rows = [], []
        for index in count(range(len(asked)), label):
            is_declined = False
            try:
                images.append(draw(index))
            except UserError as error:
                # What a method will not do counts as not done, and is counted.
                print(f"\n{label} declines edit {index}: {error}", file=sys.stderr)
                images.append(self.truths[index].picture)
                is_declined = True
            parsed = self.parser.parse(images[-1:])[0]
            arm.seen.append(Seen(parsed))
            rows.append([*self.judge(index, images[-1], parsed), float(is_declined)])
        arm.features = np.array(rows).round(KEPT_DIGITS)
        self.images[label] = images
        if kept:
            save_arm(kept, arm, asked)
        return arm

    def _read_goal(self, edit: Edit, truth: Truth) -> Box | None:
        """Return the thing's box as the parser reads it in the exact answer; None if it cannot judge this edit."""
        boxes: list[Box] = []
        exact_boxes = (truth.box_before, truth.box_after)
        for scene, exact in zip(self.parser.parse([truth.picture, truth.target]), exact_boxes):
            thing, is_kept = find_thing(edit, replace(truth, box_after=exact), scene)
            if thing is None or not is_kept:
                return None
            boxes.append(thing.box_px)
        exact_px = measure_distance(edit, *exact_boxes)
        is_seen = abs(measure_distance(edit, boxes[0], boxes[1]) - exact_px) <= READ_FRAC * exact_px
        return boxes[1] if is_seen else None

    def save_sheets(self, folder: Path, arms: Mapping[str, Arm]) -> None:
        """Write every edit with its answer and what each method made of it."""
        shown = [label for label in SHEET_ARMS if label in self.images]
        cells, titles = [], []
        for index, (edit, truth) in enumerate(zip(self.edits, self.truths)):
            cells += [mark_handles(edit, truth.picture), truth.target]
            titles += [f"{index} {edit.sort} {edit.length_px:.0f} px {edit.thing.kind}", "exact answer"]
            for label in shown:
                row = dict(zip(COLUMNS, arms[label].features[index]))
                cells.append(self.images[label][index])
                marks = (" LOST" if row["kept"] == 0 else "") + (" GHOST" if row["ghost"] > GHOST_FRAC else "")
                titles.append(
                    f"{label} {row['distance']:.0f}/{row['path_distance']:.0f} px{marks} {row['inside_ssim']:.2f}"
                )
        columns = 2 + len(shown)
        starts = range(0, len(cells), ROWS_PER_SHEET * columns)
        for number, (start, stop) in enumerate(pairwise([*starts, len(cells)])):
            save_sheet(folder / f"drag_{number}.png", cells[start:stop], columns=columns, titles=titles[start:stop])


def mark_handles(edit: Edit, picture: Image.Image) -> Image.Image:
    """Draw the ways of the handles over a picture."""
    marked = picture.copy()
    pen = ImageDraw.Draw(marked)
    for handle in edit.handles:
        pen.line((handle.x, handle.y, handle.target_x, handle.target_y), fill="magenta", width=2)
        pen.ellipse((handle.x - 3, handle.y - 3, handle.x + 3, handle.y + 3), outline="red", width=2)
    return marked


def drag_once(model: ModelBundle, request: DragRequest) -> DragResult:
    """Drag through the page's own stream."""
    *_, result = drag_stream(request, OneModel(model))
    assert isinstance(result, DragResult)
    return result


class Followed(NamedTuple):
    """Hold the seconds of a drag: in all, of the pull alone, and the longest between two moments that see a stop."""

    total: float
    pull: float
    longest_wait: float


def follow(model: ModelBundle, request: DragRequest) -> Followed:
    """Drag and take the time; a pull lasts from the first report of handles to the last before the picture is drawn.

    A stream is stopped between two of its reports, so that the longest wait is how long a stop can take.
    """
    start = last = time.perf_counter()
    pulled: list[float] = []
    longest = 0.0
    for item in drag_stream(request, OneModel(model)):
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        if isinstance(item, DragProgress) and item.step == 0:
            pulled.append(now)
    return Followed(last - start, pulled[-1] - pulled[0], longest)


def list_rounds(name: str) -> list[int]:
    """List the numbers of rounds at which an optimising method is followed: BUDGETS of its own."""
    own = {NOISE: DragNoise().num_rounds, DIFFUSION: DragDiffusion().num_rounds}[name]
    return [max(1, round(budget * own)) for budget in BUDGETS]


def measure_times(studio: DragStudio, model: ModelBundle) -> tuple[dict[str, Figure], dict[str, list[float]]]:
    """Time the three methods in turns on the moves nearest to 40 px, with nothing remembered from one to the next.

    Returns: the figures, and the seconds of the pull alone of both optimising methods for BUDGETS of their rounds.
    """
    moves = [index for index, edit in enumerate(studio.edits) if edit.sort == "moved"]
    nearest = sorted(moves, key=lambda index: abs(studio.edits[index].length_px - TIMED_PX))[:NUM_TIMED]
    runs: list[tuple[str, int | None]] = [(name, None) for name in METHODS]
    runs += [(name, rounds) for name in OPTIMISING for rounds in list_rounds(name)[:-1]]
    seen: dict[tuple[str, int | None], list[Followed]] = {run: [] for run in runs}
    # The first turn only warms up.
    for turn in count(range(len(nearest) + 1), "timed turns"):
        for name, rounds in runs:
            style_reference.forget(model)
            options = {} if rounds is None else {"num_rounds": rounds}
            followed = follow(model, studio.ask(nearest[max(0, turn - 1)], {name: options}))
            if turn:
                seen[name, rounds].append(followed)
    style_reference.forget(model)
    fitted = follow(model, replace(studio.ask(nearest[0], {DIFFUSION: {}}), fit=True))
    totals = {name: make_median_figure([one.total for one in seen[name, None]], unit="s") for name in METHODS}
    pulls = {run: make_median_figure([one.pull for one in rows], unit="s") for run, rows in seen.items()}
    figures = {f"{'instant' if name == INSTANT else name}_s": figure for name, figure in totals.items()}
    figures |= {f"{name}_pull_s": pulls[name, None] for name in METHODS}
    figures[f"{DIFFUSION}_fitted_s"] = Figure(fitted.total, unit="s")
    waits = [one.longest_wait for rows in seen.values() for one in rows]
    figures["stop_max_s"] = Figure(max(*waits, fitted.longest_wait), unit="s")
    followed_s = {
        name: [pulls[name, rounds].value for rounds in (*list_rounds(name)[:-1], None)] for name in OPTIMISING
    }
    return figures, followed_s


def measure_equal_distance(
    studio: DragStudio, arms: Mapping[str, Arm], seconds: Mapping[str, Sequence[float]]
) -> dict[str, Figure]:
    """Follow both optimising methods over fewer rounds on a part of the edits, and compare at equal distance.

    Judged by drawings along the way, which can judge every edit.
    """
    size = max(1, len(studio.edits) // FOLLOWED_SHARE)
    left = {}
    for name in OPTIMISING:
        drawn = [
            studio.drag(f"{name}_{rounds}", {name: {"num_rounds": rounds}}, size) for rounds in list_rounds(name)[:-1]
        ]
        left[name] = np.stack([take(arm, "path_distance")[:size] for arm in (*drawn, arms[name])], 1)
    return compare_pulls(take(arms[UNTOUCHED], "path_distance")[:size], left, seconds)


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Drag every edit in all ways, judge and time them."""
    model = load_storybook(settings.device, "fp32")
    studio = DragStudio(model, load_parser(PARSER_FOLDER, device=model.plan.device), settings)
    arms = {UNTOUCHED: studio.leave(), PASTED: studio.paste(), DRAWN: studio.draw()}
    arms |= {name: studio.drag(name, {name: {}}) for name in METHODS}
    if settings.sheet is not None:
        studio.save_sheets(settings.sheet, arms)
    # Time is taken in the page's own number format.
    times, pulls = measure_times(studio, load_storybook(settings.device))
    figures = summarise(studio.edits, arms) | times | measure_equal_distance(studio, arms, pulls)
    figures["refused_rate"] = Figure(studio.found.refused_frac)
    figures["unread_rate"] = make_figure([goal is None for goal in studio.goals])
    return figures
