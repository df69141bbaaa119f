"""Widgets repeat the numbers of the parameter records; what a visitor typed is shown as text, never as markup."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from gradio.data_classes import FileData
from gradio.state_holder import SessionState

from pipelines import Choice, Measure, Progress, Range, TextToImageRequest, ranges
from tabs import controls

SPECS = ranges(TextToImageRequest)
SCRIPT = "<script>alert(1)</script>"


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if isinstance(spec, Range)])
def test_a_slider_has_the_range_of_its_record(name: str) -> None:
    spec = SPECS[name]
    assert isinstance(spec, Range)
    if spec.default is None:
        return
    slider = controls.make_control(spec)
    assert (slider.minimum, slider.maximum, slider.step, slider.value) == (spec.low, spec.high, spec.step, spec.default)
    assert slider.label == spec.label


def test_a_menu_has_the_options_of_its_record() -> None:
    spec = SPECS["sampler"]
    assert isinstance(spec, Choice)
    menu = controls.make_control(spec)
    assert [value for _, value in menu.choices] == list(spec.options)
    assert menu.value == spec.default


@pytest.mark.parametrize("value", [1e9, -5, "text", None])
def test_a_wrong_value_is_left_to_the_request(value: object) -> None:
    for name in ("guidance_scale", "sampler"):
        assert controls.make_control(SPECS[name]).preprocess(value) is value


def test_after_an_update_a_widget_still_reads_in_our_way() -> None:
    with gr.Blocks(analytics_enabled=False) as page:
        picture = controls.read_file(gr.Image(type="filepath"))
        strength = controls.make_control(SPECS["guidance_scale"])
        gr.Button().click(lambda: None, None, [picture, strength])
    (listener,) = page.fns.values()
    visit = SessionState(page)
    changes = page.postprocess_data(listener, [gr.skip(), gr.update(visible=True)], visit)
    with ThreadPoolExecutor() as thread:  # the browser's tests leave an event loop running in this one
        thread.submit(asyncio.run, changes).result()
    sent = FileData(path="a/broken.png")
    for widget, value, read in ((picture, sent, "a/broken.png"), (picture, None, None), (strength, 1e9, 1e9)):
        assert widget.preprocess(value) == read
        assert visit[widget._id] is not widget and visit[widget._id].preprocess(value) == read
        assert visit[widget._id].get_block_name() == type(widget).__name__.lower()
    assert not Path(controls.__file__).with_suffix(".pyi").exists()


@pytest.mark.parametrize(("text", "seed"), [("7", 7), (" 42 ", 42), ("-1", -1), (str(2**64), 2**64), (7, 7)])
def test_a_whole_number_becomes_the_seed(text: object, seed: int) -> None:
    assert controls.to_seed(text) == seed


@pytest.mark.parametrize("text", ["", "seven", "1.5", "9" * 5000, None])
def test_anything_else_stays_and_is_named_by_the_request(text: object) -> None:
    assert controls.to_seed(text) == text


def test_the_dice_stay_inside_the_range() -> None:
    assert {controls.roll_seed(Range(0, 3, 5, 1)) for _ in range(200)} == {"3", "4", "5"}


def test_the_dice_button_belongs_to_the_seed() -> None:
    spec = SPECS["seed"]
    assert isinstance(spec, Range)
    with gr.Blocks(analytics_enabled=False) as page:
        box, dice = controls.make_seed_box(spec, value=9)
    assert box.value == "9"
    assert [target[0] for fn in page.fns.values() for target in fn.targets] == [dice._id]


def test_progress_says_the_step_and_the_time_left() -> None:
    shown = controls.show_progress(Progress(step=7, num_steps=20, seconds_left=0.93))
    assert "step 7/20, 0.9 s left" in shown
    assert "width:35.0%" in shown
    assert "left" not in controls.show_progress(Progress(step=20, num_steps=20))


def test_a_comparison_shows_both_numbers() -> None:
    measures = (Measure("clipped_frac", "Burnt out", 0.21, 0.04, "share"), Measure("time", "Time", 1.0, 2.0, "s"))
    both = controls.show_facts((("seed", "7"),), measures, is_compared=True)
    assert "21.0%" in both and "4.0%" in both and "<small>s</small>" in both
    assert "21.0%" not in controls.show_facts((), measures, is_compared=False)


def test_nothing_a_visitor_typed_becomes_markup() -> None:
    shown = (
        controls.show_status(SCRIPT),
        controls.show_error(SCRIPT),
        controls.show_notes([SCRIPT]),
        controls.show_unknown_words(SCRIPT, [(SCRIPT, (SCRIPT,))]),
        controls.show_badge([SCRIPT]),
        controls.show_facts([(SCRIPT, SCRIPT)], [Measure("a", SCRIPT, 1, 2, SCRIPT)], is_compared=True),
        controls.show_progress(Progress(step=1, num_steps=2, note=SCRIPT)),
    )
    assert not [text for text in shown if "<script" in text]


def test_unknown_words_come_with_the_nearest_known_ones() -> None:
    shown = controls.show_unknown_words("storybook", [("dragon", ("fish", "duck")), ("qzx", ())])
    assert "storybook does not know \u2018dragon\u2019; nearest: <b>fish, duck</b>" in shown
    assert "storybook does not know \u2018qzx\u2019</li>" in shown
    assert controls.show_unknown_words("storybook", ()) == ""
