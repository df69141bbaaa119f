"""Tab "Style prompting": a style picture and words become pictures of the words in that style.

Handlers come first and are plain functions of plain values; `build` lays out the widgets and wires them by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines import StyleRequest, read_style_settings
from tabs.controls import show_error, show_status, show_step
from tabs.examples import read_examples
from tabs.running import connect_prompt, on_stop, watch
from tabs.shown import STYLE_TAB, connect_shown
from tabs.style_inputs import (
    PICTURES,
    PLAIN,
    build_inputs,
    connect_inputs,
    find_style,
    list_options,
    list_styles,
    show_choice,
    to_request,
    to_widgets,
)
from tabs.style_result import build_result, show_result
from tabs.technique_picker import option_key
from tabs.wiring import Services, Updates, wire, wire_end, wire_stop

NAME = STYLE_TAB
TITLE = "Style prompting"
INTRO = "A picture says how, your words say what: its colours, strokes and texture are taken, its things are not."
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples" / "style_prompting.json"
EXPLANATION = Path(__file__).with_suffix(".md")
READY = "Press Run, or Ctrl + Enter here."
# What a row of the examples may name beside the fields of a request: example style pictures, and words for its button.
ROW_KEYS = ("label", "style", "second_style")


def on_generate(services: Services, **values: Any) -> Iterator[Updates]:
    """Draw pictures of the prompt in the style of a picture, step by step."""
    yield from draw(services, values, is_compared=False)


def on_compare(services: Services, **values: Any) -> Iterator[Updates]:
    """Draw the same seeds with words only, with StyleAligned, and as asked."""
    yield from draw(services, values, is_compared=True)


def draw(services: Services, values: Mapping[str, Any], *, is_compared: bool) -> Iterator[Updates]:
    """Turn the values of the widgets into one request and show how it is drawn."""
    yield {"stopped": ""}
    request, notes = to_request(values, is_compared=is_compared)

    def open_stream() -> Any:
        from pipelines import style_stream

        return style_stream(request, services.models)

    shown = partial(show_step, prompt=request.prompt, hides="sheet")
    yield from watch(services, request, open_stream, partial(show_result, upload_notes=notes), show_step=shown)


def on_restore(*, dropped: str | None) -> Updates:
    """Put the settings of a dropped PNG back into the widgets; the style picture is not in it and stays."""
    if dropped is None:
        return {}
    sentence = "The settings of this PNG are back, all but its style picture; choose that one and press Run."
    return {
        **to_widgets(read_style_settings(dropped)),
        "status": show_status(sentence, kind="done"),
        "stopped": "",
    }


def on_sent(*, sent: Mapping[str, Any]) -> Updates:
    """Take a picture that another tab sent as style picture."""
    if sent["tab"] != NAME:
        return {}
    return {**show_choice("reference", None), "reference": sent["path"], "reference_prompt": ""}


def load_examples() -> dict[str, Any]:
    """Read the examples and the values the tab starts with; each row may set any plain field of the request."""
    return read_examples(EXAMPLES, StyleRequest, ROW_KEYS, without=PICTURES)


def on_example(row: Mapping[str, Any]) -> Updates:
    """Fill the widgets with an example; what it does not set goes back to its default, the backend stays."""
    request = StyleRequest(**{name: value for name, value in row.items() if name not in ROW_KEYS})
    values = to_widgets(request)
    return {
        **values,
        **show_choice("reference", row.get("style")),
        **show_choice("second", row.get("second_style")),
        "second_fold": gr.Accordion(open="second_style" in row),
    }


def build(services: Services) -> None:
    """Lay out the tab and connect it."""
    document = load_examples()
    with gr.Column(elem_classes="shelf style-tab"):
        gr.HTML(f"<p>{INTRO}</p>", elem_classes="intro", apply_default_css=False)
        with gr.Row(elem_classes="bench", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
                inputs, groups = build_inputs(document["start"], READY)
            with gr.Column(scale=6, min_width=300, elem_classes="result"):
                result = build_result("Choose a style picture, say what to draw, and press Run.")
        with gr.Row(elem_classes="examples"):
            examples = [build_example(row) for row in document["examples"]]
        with gr.Accordion("How it works", open=False, elem_classes="how"):
            gr.Markdown(
                EXPLANATION.read_text("utf-8"), latex_delimiters=[{"left": "$$", "right": "$$", "display": True}]
            )
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    connect_inputs(inputs, groups, quick)
    connect(services, inputs, result, tuple(zip(examples, document["examples"])))


def build_example(row: Mapping[str, Any]) -> gr.Button:
    """Make the button of an example, with its style picture on it."""
    icon = str(list_styles()[find_style(row["style"])].path) if "style" in row else None
    return gr.Button(row["label"], icon=icon, elem_classes="example", min_width=200)


def list_fields(services: Services, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """List the widgets whose values make a request, in the order of the API's fields."""
    words = [part for name in PICTURES for part in (name, f"{name}_prompt")]
    options = [option_key(name, option) for name, option, _ in list_options()]
    names = ("prompt", *words, "technique", *options, *PLAIN[1:], "seed")
    return {name: inputs[name] for name in names} | {"backend": services.backend}


def connect(
    services: Services, inputs: dict[str, Any], result: dict[str, Any], examples: tuple[tuple[gr.Button, Any], ...]
) -> None:
    """Wire every widget of the tab to its handler."""
    fields_in = list_fields(services, inputs)
    shelves = {f"{name}_{part}": inputs[f"{name}_{part}"] for name in PICTURES for part in ("shelf", "notes")}
    fold = {"second_fold": inputs["second_fold"]}
    settings = {name: widget for name, widget in fields_in.items() if name != "backend"}
    model: dict[str, Any] = {
        "outputs": {**result, "unknown": inputs["unknown"], "badge": services.badge},
        "uses_model": True,
        "error_output": "status",
        "describe_error": show_error,
        "show_progress": "minimal",
        "show_progress_on": result["status"],
    }
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    generate = partial(on_generate, services)
    runs = [wire(inputs["run"].click, generate, fields_in, api_name="style_prompting", **model)]
    runs.append(wire(inputs["compare"].click, partial(on_compare, services), fields_in, **model))
    for button, row in examples:
        fill = wire(button.click, partial(on_example, row), {}, {**settings, **shelves, **fold}, **quick)
        runs.append(wire(fill.success, generate, fields_in, **model))
    wire_end(runs, "() => limelight.end()")
    trace = {"trace": result["trace"]}
    wire_stop(inputs["stop"], runs, on_stop, trace, {**trace, "stopped": result["stopped"]})
    lines = {"status": result["status"], "stopped": result["stopped"]}
    problem: dict[str, Any] = {"error_output": "status", "describe_error": show_error}
    wire(
        inputs["dropped"].change, on_restore, {"dropped": inputs["dropped"]}, {**settings, **lines}, **problem, **quick
    )
    connect_shown(services, inputs, result)
    place = {name: inputs[name] for name in ("reference", "reference_prompt", "reference_shelf", "reference_notes")}
    wire(services.sent.change, on_sent, {"sent": services.sent}, place, **quick)
    connect_prompt(services, inputs)
