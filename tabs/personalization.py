"""Tab "Personalization": a few pictures of one thing and a word for it, then this thing in other scenes.

Handlers come first and are plain functions of plain values; `build` lays out the widgets and wires them by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines import SubjectRequest, read_subject_settings
from tabs.controls import show_error, show_status
from tabs.shown import connect_shown
from tabs.subject_choice import WORDS, Learned, build_choice, connect_choice, find_adapters, list_subjects
from tabs.subject_inputs import (
    DRAWN,
    INSTANT,
    LEARNED,
    LEARNED_WAY,
    build_drawing,
    build_learning,
    build_words,
    list_options,
    to_widgets,
)
from tabs.subject_result import build_result
from tabs.subject_runs import on_compare, on_draw, on_learn, on_propose, on_stop_any, on_words_changed
from tabs.subject_shelf import build_shelf, connect_shelf
from tabs.technique_picker import option_key
from tabs.wiring import Services, Updates, wire, wire_end, wire_stop

NAME = "personalization"
TITLE = "Personalization"
INTRO = "One to six pictures of one thing and a word for it: learned in a minute, then drawn wherever you say."
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples" / "personalization.json"
EXPLANATION = Path(__file__).with_suffix(".md")
READY = "Choose a thing and press Run. Learn shows how it gets to know yours."


def name_examples(rows: Sequence[Mapping[str, Any]], *, word: Any) -> Updates:
    """Write the subject's own word onto the examples."""
    return {f"example_{index}": gr.Button(fill_word(row, word)) for index, row in enumerate(rows)}


def fill_word(row: Mapping[str, Any], word: Any) -> str:
    """Write the prompt of an example, with the word of the subject that is chosen."""
    return str(row["prompt"]).format(word=str(word or "").strip() or "it")


def on_example(row: Mapping[str, Any], *, word: Any, learned: Learned, subject: Any) -> Updates:
    """Fill in an example; where nothing was learned of the subject, it is drawn at once."""
    way = LEARNED_WAY if find_adapters(learned, subject) else INSTANT
    return {"prompt": fill_word(row, word), "seed": str(row["seed"]), "way": way}


def on_restore(*, dropped: str | None) -> Updates:
    """Put the settings of a dropped PNG back into the widgets; the subject is not in it and stays."""
    if dropped is None:
        return {}
    sentence = "The settings of this PNG are back, all but its subject; choose that one and press Run."
    return {**to_widgets(read_subject_settings(dropped)), "status": show_status(sentence, kind="done"), "stopped": ""}


def load_examples() -> dict[str, Any]:
    """Read the examples and the values the tab starts with."""
    document: dict[str, Any] = json.loads(EXAMPLES.read_text("utf-8"))
    return document


def show_part(number: int, words: str) -> None:
    """Head one of the three parts of the left side."""
    gr.HTML(f"<h2><b>{number}</b> {words}</h2>", elem_classes="part", padding=False)


def build(services: Services) -> None:
    """Lay out the tab and connect it."""
    document = load_examples()
    first = list_subjects()[0]
    start = {"word": first.word, "phrase": first.phrase, **document["start"]}
    with gr.Column(elem_classes="shelf subject-tab"):
        gr.HTML(f"<p>{INTRO}</p>", elem_classes="intro", apply_default_css=False)
        with gr.Row(elem_classes="bench", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
                show_part(1, "Choose a thing, or give your own")
                inputs = build_choice() | build_words(start)
                show_part(2, "Learn it")
                inputs |= build_learning(first.key)
                show_part(3, "Draw it")
                inputs |= build_drawing(start, "Call it by its word. Press Run, or Ctrl + Enter here.")
                inputs |= build_shelf()
            with gr.Column(scale=6, min_width=300, elem_classes="result"):
                result = build_result(READY)
        with gr.Row(elem_classes="examples"):
            examples = [
                (gr.Button(fill_word(row, first.word), elem_classes="example", min_width=200), row)
                for row in document["examples"]
            ]
        with gr.Accordion("How it works", open=False, elem_classes="how"):
            gr.Markdown(
                EXPLANATION.read_text("utf-8"), latex_delimiters=[{"left": "$$", "right": "$$", "display": True}]
            )
    connect_runs(services, inputs, result, examples)
    connect_rest(services, inputs, result, examples)


def list_fields(services: Services, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """List the widgets whose values make a request to learn, and one to draw."""
    known = ("learned", "subject")
    settings = tuple(f"learn_{name}" for name in LEARNED)
    learn = (*known, "pictures", *WORDS, "captions", "objective", "sample_prompt", "prompt", *settings)
    options = [option_key(name, option) for name, option, _ in list_options()]
    drawing = (*known, "objective", "way", "prompt", "pictures", *WORDS, "draw_by", *options, *DRAWN, "seed")
    backend = {"backend": services.backend}
    return {name: inputs[name] for name in learn} | backend, {name: inputs[name] for name in drawing} | backend


def connect_runs(
    services: Services, inputs: dict[str, Any], result: dict[str, Any], examples: Sequence[tuple[gr.Button, Any]]
) -> None:
    """Wire what needs the model: Learn, Run, Compare, the examples, captions; and what stops them."""
    learn_in, draw_in = list_fields(services, inputs)
    model: dict[str, Any] = {
        "uses_model": True,
        "error_output": "status",
        "describe_error": show_error,
        "show_progress": "minimal",
        "show_progress_on": result["status"],
    }
    drawing = {**model, "outputs": {**result, "unknown": inputs["unknown"], "badge": services.badge}}
    filled = {name: inputs[name] for name in ("captions", "phrase", "learned", "ready", "way")}
    draw = partial(on_draw, services)
    runs = [
        wire(inputs["learn"].click, partial(on_learn, services), learn_in, **{**model, "outputs": result | filled}),
        wire(inputs["run"].click, draw, draw_in, api_name="personalization", **drawing),
        wire(inputs["compare"].click, partial(on_compare, services), draw_in, **drawing),
    ]
    names = ("captions", "phrase", "seen", "crops", "captions_fold")
    proposed = {name: inputs[name] for name in names} | {"status": result["status"]}
    asked = {name: inputs[name] for name in ("pictures", "word", "phrase")} | {"backend": services.backend}
    propose = partial(on_propose, services)
    uploaded = connect_choice(inputs, result["status"])
    for trigger in (inputs["propose"].click, uploaded.success):
        runs.append(wire(trigger, propose, asked, **{**model, "outputs": proposed}))
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    known = {name: inputs[name] for name in ("word", "learned", "subject")}
    for button, row in examples:
        example = {name: inputs[name] for name in ("prompt", "seed", "way")}
        fill = wire(button.click, partial(on_example, row), known, example, **quick)
        runs.append(wire(fill.success, draw, draw_in, **drawing))
    runs.append(connect_shelf(services, inputs, result["status"]))
    wire_end(runs, "() => limelight.end()")
    trace = {"trace": result["trace"]}
    for button in (inputs["stop"], inputs["stop_learning"]):
        wire_stop(button, runs, on_stop_any, trace, {**trace, "stopped": result["stopped"]})


def connect_rest(
    services: Services, inputs: dict[str, Any], result: dict[str, Any], examples: Sequence[tuple[gr.Button, Any]]
) -> None:
    """Wire what needs no model: the buttons below a result, settings from a PNG, and words as they are typed."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    connect_shown(services, inputs, result)
    restored = {name: inputs[name] for name in to_widgets(SubjectRequest(""))}
    lines = {"status": result["status"], "stopped": result["stopped"]}
    problem: dict[str, Any] = {"error_output": "status", "describe_error": show_error}
    wire(inputs["dropped"].change, on_restore, {"dropped": inputs["dropped"]}, restored | lines, **problem, **quick)
    typed: dict[str, Any] = {name: inputs[name] for name in ("prompt", *WORDS)} | {"backend": services.backend}
    changes = [widget.change for widget in typed.values()]
    words = partial(on_words_changed, services)
    wire(changes, words, typed, {"unknown": inputs["unknown"]}, trigger_mode="always_last", **quick)
    rows = [row for _, row in examples]
    buttons = {f"example_{index}": button for index, (button, _) in enumerate(examples)}
    wire(inputs["word"].change, partial(name_examples, rows), {"word": inputs["word"]}, buttons, **quick)
