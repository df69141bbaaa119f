"""Trials of techniques: layouts that can be drawn, judgements, the distance of pictures, and who has an effect."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.figures import Figure, RunSettings
from benchmarks.geneval import Ask, Wanted
from benchmarks.quality import Reference, compare
from benchmarks.studio import Studio
from benchmarks.table import make_technique_table
from benchmarks.techniques import (
    compare_pairs,
    has_effect,
    measure_erasure,
    measure_trial,
)
from benchmarks.trials import (
    ERASED_KINDS,
    TASKS,
    TRIALS,
    Case,
    Seen,
    Trial,
    fill_boxes,
    has_all_things,
    has_one_thing,
    make_cases,
    measure_brightness,
    miss_brightness,
    overlap_boxes,
    share_right,
)
from pipelines.layout import Box, check_boxes
from pipelines.model import ModelBundle
from pipelines.params import validate
from pipelines.scene_parser import ParsedObject, ParsedScene, ParserConfig, ParserModel, SceneParser
from pipelines.types import TextToImageRequest
from training.world.scene import BACKGROUNDS, COLOURS, KINDS, LIGHTS, STYLES


def see_objects(*things: ParsedObject, brightness: float = 0.5) -> Seen:
    """Make a parsed picture of these things."""
    return Seen(ParsedScene(things, "plain", "day", "flat"), brightness)


BOAT = ParsedObject("boat", "red", (0.0, 0.0, 128.0, 128.0), 0.9)
MOON = ParsedObject("moon", "white", (128.0, 128.0, 256.0, 256.0), 0.9)
LAYOUT = Case(
    Ask("a red boat and a blue moon", (Wanted("boat", "red"), Wanted("moon", "blue"))),
    boxes=(Box("a red boat", 0.0, 0.0, 0.5, 0.5), Box("a blue moon", 0.5, 0.5, 1.0, 1.0)),
)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_cases_can_be_asked_for_and_are_the_same_every_time(task: str) -> None:
    cases = make_cases(task, 12)
    assert cases == make_cases(task, 12) and len(cases) == 12
    for trial in (trial for trial in TRIALS if trial.task == task):
        for case in cases:
            check_boxes(case.boxes)
            width_px, height_px = case.sides_px
            validate(
                TextToImageRequest(
                    case.ask.prompt,
                    techniques=trial.choose(case, trial.techniques),
                    width_px=width_px,
                    height_px=height_px,
                )
            )


def test_large_pictures_come_in_three_shapes() -> None:
    assert [case.sides_px for case in make_cases("large", 4)] == [(512, 512), (768, 256), (256, 768), (512, 512)]


def test_boxes_of_a_layout_do_not_touch() -> None:
    for case in make_cases("layout", 40):
        assert 2 <= len(case.boxes) <= 4 and len({thing.kind for thing in case.ask.wanted}) == len(case.boxes)
        for index, a in enumerate(case.boxes):
            for b in case.boxes[index + 1 :]:
                assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0


def test_erasing_asks_for_the_erased_thing_or_for_another() -> None:
    assert all(case.erased == case.ask.wanted[0].kind in ERASED_KINDS for case in make_cases("erased", 12))
    assert all(case.erased != case.ask.wanted[0].kind for case in make_cases("kept", 60))


def test_a_box_needs_the_right_thing_in_the_right_colour() -> None:
    assert fill_boxes(LAYOUT, see_objects(BOAT, MOON)) == 0.5  # the moon is there, but white
    assert overlap_boxes(LAYOUT, see_objects(BOAT, MOON)) == 1.0
    assert overlap_boxes(LAYOUT, see_objects(BOAT)) == 0.5
    assert fill_boxes(LAYOUT, see_objects()) == overlap_boxes(LAYOUT, see_objects()) == 0.0


def test_things_are_counted_as_the_metric_says() -> None:
    single = Case(Ask("a boat", (Wanted("boat"),)))
    assert has_one_thing(single, see_objects(BOAT)) == 1.0
    assert has_one_thing(single, see_objects(BOAT, BOAT)) == has_one_thing(single, see_objects(BOAT, MOON)) == 0.0
    assert has_all_things(LAYOUT, see_objects(MOON, BOAT)) == 1.0
    assert has_all_things(LAYOUT, see_objects(MOON)) == 0.0


def test_the_share_counts_things_in_their_own_colours() -> None:
    case = make_cases("four", 1)[0]
    first, second, third, fourth = case.ask.wanted
    boxes = (0.0, 0.0, 9.0, 9.0)
    seen = see_objects(
        ParsedObject(first.kind, str(first.colour), boxes, 0.9),
        ParsedObject(second.kind, str(third.colour), boxes, 0.9),
        ParsedObject(third.kind, str(third.colour), boxes, 0.9),
    )
    assert share_right(case, seen) == pytest.approx(0.5)


def test_four_things_have_four_kinds_and_colours_and_are_named_in_the_prompt() -> None:
    for case in make_cases("four", 20):
        assert len({thing.kind for thing in case.ask.wanted}) == len({thing.colour for thing in case.ask.wanted}) == 4
        assert all(f"{thing.colour} {thing.kind}" in case.ask.prompt for thing in case.ask.wanted)


def test_brightness_is_that_of_drawn_scenes_and_its_error_has_no_sign() -> None:
    cases = make_cases("brightness", 24)
    assert all(0 < case.brightness < 1 for case in cases)
    dark, bright = (
        [case.brightness for case in cases if (case.ask.style == "neon") is is_dark] for is_dark in (True, False)
    )
    assert max(dark) < sum(bright) / len(bright)
    assert measure_brightness(np.full((4, 4, 3), 255, np.uint8)) == pytest.approx(1)
    case = Case(cases[0].ask, brightness=0.4)
    assert [miss_brightness(case, see_objects(brightness=b)) for b in (0.3, 0.5)] == pytest.approx([0.1, 0.1])


def test_distance_is_zero_for_the_scenes_themselves_and_grows_with_a_shift() -> None:
    seen = np.random.default_rng(0).normal(size=(400, 6)) * [1, 2, 3, 4, 5, 6]
    reference = Reference.fit(seen)
    assert reference.measure(seen) == pytest.approx(0, abs=1e-9)
    # Two scene deviations along one axis: the mean term alone, 2 squared.
    axis = np.linalg.pinv(reference.axes)[0]
    assert reference.measure(seen + 2 * axis) == pytest.approx(4, rel=1e-6)
    assert reference.measure(reference.centre + 0 * seen) == pytest.approx(6, rel=1e-6)  # all pictures the same
    assert compare(reference, seen, seen) == (0, (0, 0))
    worse, (low, high) = compare(reference, seen, seen + 2 * axis)
    assert 0 < low < worse < high


def test_effect_is_above_zero_when_better() -> None:
    off, on = np.zeros(50), np.ones(50)
    assert compare_pairs(off, on).value == 1 and compare_pairs(off, on).baseline == 0
    assert compare_pairs(off, on, is_lower_better=True).value == -1


@pytest.mark.parametrize(
    ("effect", "distance", "unreadable", "expected"),
    [(0.1, -0.1, -0.1, True), (0.0, -0.1, -0.1, False), (0.1, 0.1, -0.1, False), (0.1, -0.1, 0.1, False)],
)
def test_an_effect_must_not_cost_quality(effect: float, distance: float, unreadable: float, expected: bool) -> None:
    lows = {"x_effect": effect, "x_distance": distance, "x_unreadable": unreadable}
    figures = {name: Figure(1.0, 0.0, (low, 2.0)) for name, low in lows.items()}
    assert has_effect(figures, "x") is expected
    assert has_effect(figures, "x", is_erasing=True) is (effect > 0)


def test_where_quality_is_the_metric_the_score_must_not_fall() -> None:
    figures = {f"x_{part}": Figure(-1.0, 0.0, (-2.0, -0.5)) for part in ("distance", "unreadable")}
    figures["x_effect"] = Figure(1.0, 0.0, (0.5, 2.0))
    for high, expected in ((0.1, True), (-0.1, False)):
        assert has_effect(figures | {"x_score": Figure(0.0, 0.0, (-0.2, high))}, "x") is expected


@pytest.fixture(scope="module")
def studio(tiny_storybook: ModelBundle) -> Studio:
    """A studio with a tiny model and a parser with random weights."""
    config = ParserConfig(KINDS, COLOURS, STYLES, BACKGROUNDS, LIGHTS, widths=(8, 8, 8, 8))
    return Studio(tiny_storybook, SceneParser(ParserModel(config)), RunSettings(1), num_steps=2)


def test_every_part_of_a_trial_is_measured(studio: Studio) -> None:
    erasing = next(trial for trial in TRIALS if trial.name == "rece")
    figures, off, on = measure_trial(studio, erasing)
    assert figures["rece_passes"].value == 1.0 and len(on.rows) == len(off.rows) == 1
    assert figures["rece_picture_seconds"].value > 0
    figures |= measure_erasure(studio, erasing, off, on)
    assert {"rece_effect", "rece_erased_rate", "rece_kept_loss", "rece_seconds"} <= set(figures)
    plain = {name: {"value": f.value, "baseline": f.baseline, "ci95": f.ci95} for name, f in figures.items()}
    assert len(make_technique_table(plain).splitlines()) == 3


def test_a_trial_of_quality_has_the_distance_as_its_effect(studio: Studio) -> None:
    figures, _, _ = measure_trial(studio, next(trial for trial in TRIALS if trial.name == "s_cfg"))
    effect, distance = figures["s_cfg_effect"], figures["s_cfg_distance"]
    assert effect.value == -distance.value and effect.baseline == distance.baseline
    assert effect.ci95 and distance.ci95 and effect.ci95 == (-distance.ci95[1], -distance.ci95[0])
    assert figures["s_cfg_score"].baseline is not None


def test_a_kept_arm_is_read_back_only_for_what_was_asked(studio: Studio, tmp_path: Path) -> None:
    trial = Trial("s_cfg", "", "four", has_all_things, ("s_cfg",))
    keeping = Studio(studio.model, studio.parser, RunSettings(1, keep=tmp_path), num_steps=2)
    drawn = keeping.draw("an arm", trial, trial.techniques)
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    again = keeping.draw("an arm", trial, trial.techniques)
    assert again.seen == drawn.seen and (again.features == drawn.features).all() and again.rows == drawn.rows
    assert kept.stat().st_mtime_ns == written
    keeping.draw("an arm", trial, ())
    assert kept.stat().st_mtime_ns != written


def test_an_arm_is_drawn_once_however_many_trials_ask_for_it(studio: Studio) -> None:
    trial = Trial("s_cfg", "", "attribution", has_all_things, ("s_cfg",))
    first, on = studio.draw_pair(trial)
    assert studio.draw_pair(trial)[0] is first
    against = Trial("cfg_rescale", "", "attribution", has_all_things, ("cfg_rescale",), against=("s_cfg",))
    assert studio.draw_pair(against)[0] is on
