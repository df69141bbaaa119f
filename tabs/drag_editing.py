"""Tab "Drag editing": handles are clicked on a picture and pulled to their targets, and the picture follows.

Handlers come first and are plain functions of plain values; `build` lays out the widgets and wires them by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from pipelines import DragRequest, read_drag_settings, validate, write_mask
from tabs.controls import show_error, show_notes, show_status, to_seed
from tabs.drag_inputs import (
    PLAIN,
    build_inputs,
    build_run,
    list_options,
    on_technique_changed,
    to_request,
    to_widgets,
    wait_for_picture,
)
from tabs.drag_picture import Source, draw, place_picture, show_canvas
from tabs.drag_result import build_result, clear_result, show_kept, show_result, show_start, show_step
from tabs.examples import read_examples
from tabs.running import connect_prompt, load, watch
from tabs.shown import DRAG_TAB, connect_shown
from tabs.technique_picker import option_key
from tabs.wiring import Services, Updates, wire, wire_end, wire_stop

NAME = DRAG_TAB
TITLE = "Drag editing"
INTRO = "Click what should move and where it should go: the picture is redrawn so that it is there, and the rest stays."
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples" / "drag_editing.json"
PICTURES = EXAMPLES.parent / "drag"
EXPLANATION = Path(__file__).with_suffix(".md")
READY = "Press Run, or Ctrl + Enter, and watch the points travel."
# What a row of the examples may name beside the plain fields of a request.
ROW_KEYS = ("label", "picture", "mask", "alt")


def on_run(services: Services, *, points: Any, source: Source, **values: Any) -> Iterator[Updates]:
    """Pull what lies under the handles to their targets; a picture that is still missing is drawn first."""
    yield {"stopped": "", "kept": None, "picture_notes": ""}
    asked = to_request({**values, "points": points}, source)
    if asked.picture is None and asked.prompt.strip():
        source = yield from draw(services, asked, points)
        asked = to_request({**values, "points": points}, source)
    model = yield from load(services, asked.backend)

    from pipelines import drag_stream, fit_request

    request = fit_request(asked, model.spec.image_px)
    if request.picture is not None:
        yield show_start(request)
    shown = partial(show_step, request=request)
    finished = partial(show_result, asked=asked, source=source)
    yield from watch(services, request, lambda: drag_stream(request, services.models), finished, show_step=shown)


def on_draw(services: Services, *, prompt: Any, seed: Any, backend: Any, points: Any) -> Iterator[Updates]:
    """Draw a picture of the words onto the canvas."""
    yield {**clear_result(READY), "picture_notes": ""}
    request = DragRequest(prompt=prompt, seed=to_seed(seed), backend=backend)
    yield from draw(services, request, points)
    yield {"status": show_status(READY)}


def on_stop(*, trace: tuple[int, int] | None, kept: Any) -> Updates:
    """Keep the best state of a stopped run and say how far it came."""
    if kept is not None:
        words = f"Stopped with {kept.left_px:.0f} px to go; the best picture so far stays. Left: before. Right: now."
        return {**show_kept(kept), "stopped": show_status(words, kind="stopped"), "trace": None}
    words = "Stopped before anything was pulled; your picture is as it was."
    return {"trace": None, **({} if trace is None else {"stopped": show_status(words, kind="stopped")})}


def on_uploaded(*, path: Any, backend: str, points: Any) -> Updates:
    """Lay an uploaded picture on the canvas."""
    if not path:
        return {}
    source, updates = place_picture(path, backend, points)
    return {**updates, **clear_result(READY), "picture_notes": show_notes(source.notes), "prompt": ""}


def on_sent(*, sent: Mapping[str, Any], backend: str) -> Updates:
    """Take a picture, and the words that drew it, from another tab or from this one's own result."""
    if sent["tab"] != NAME:
        return {}
    source, updates = place_picture(sent["path"], backend, None)
    return {
        **updates,
        **clear_result(READY),
        "picture_notes": show_notes(source.notes),
        "prompt": sent.get("prompt", ""),
    }


def on_restore(*, dropped: str | None) -> Updates:
    """Put the settings of a dropped PNG back into the widgets; points wait for their picture if it was an upload."""
    if dropped is None:
        return {}
    request, is_drawn = read_drag_settings(dropped)
    sentence = "press Run for the same picture." if is_drawn else "upload its picture again and press Run."
    return {
        **to_widgets(request),
        **clear_result(""),
        "backend": request.backend,
        "points": wait_for_picture(request),
        "source": Source(),
        "status": show_status(f"The settings of this PNG are back; {sentence}", kind="done"),
    }


def load_examples() -> dict[str, Any]:
    """Read the examples and the values the tab starts with; each row may set any plain field of the request."""
    return read_examples(EXAMPLES, DragRequest, ROW_KEYS)


def read_row(row: Mapping[str, Any]) -> tuple[DragRequest, Source]:
    """Turn a row of the examples into a request, and the picture that it is about."""
    plain = {name: value for name, value in row.items() if name not in ROW_KEYS}
    request = validate(DragRequest(**{**plain, "pairs": tuple(row["pairs"])}))
    if "picture" not in row:
        return request, Source()
    with Image.open(PICTURES / row["picture"]) as picture:
        return request, Source(picture.convert("RGB"))


def show_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make the canvas's value for a row of the examples."""
    request, source = read_row(row)
    value = wait_for_picture(request)
    if "mask" in row:
        with Image.open(PICTURES / row["mask"]) as mask:
            value["mask"] = write_mask(mask)
    return show_canvas(source, value["pairs"], value["mask"], alt=row.get("alt", ""))


def on_example(row: Mapping[str, Any], *, backend: str) -> Updates:
    """Fill the widgets with an example; what it does not set goes back to its default, the backend stays."""
    request, source = read_row(row)
    return {**to_widgets(request), **clear_result(READY), "points": show_row(row), "source": source}


def build(services: Services) -> None:
    """Lay out the tab and connect it."""
    document = load_examples()
    with gr.Column(elem_classes="shelf drag-tab"):
        gr.HTML(f"<p>{INTRO}</p>", elem_classes="intro", apply_default_css=False)
        with gr.Row(elem_classes="bench", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
                inputs, groups = build_inputs(document["start"], show_row(document["start"]))
                inputs["source"] = gr.State(read_row(document["start"])[1])
            with gr.Column(scale=6, min_width=300, elem_classes="result"):
                inputs |= build_run()
                result = build_result(READY)
        with gr.Row(elem_classes="examples"):
            examples = [build_example(row) for row in document["examples"]]
        with gr.Accordion("How it works", open=False, elem_classes="how"):
            gr.Markdown(
                EXPLANATION.read_text("utf-8"), latex_delimiters=[{"left": "$$", "right": "$$", "display": True}]
            )
    connect_runs(services, inputs, result, tuple(zip(examples, document["examples"])))
    connect_rest(services, inputs, result, groups)


def build_example(row: Mapping[str, Any]) -> gr.Button:
    """Make the button of an example, with its picture on it."""
    icon = str(PICTURES / row["picture"]) if "picture" in row else None
    return gr.Button(row["label"], icon=icon, elem_classes="example", min_width=200)


def connect_runs(
    services: Services, inputs: dict[str, Any], result: dict[str, Any], examples: tuple[tuple[gr.Button, Any], ...]
) -> None:
    """Wire what uses the model: Run, Draw, the examples; and Stop."""
    options = [option_key(name, option) for name, option, _ in list_options()]
    names = ("points", "source", *PLAIN[:1], "technique", *options, *PLAIN[1:], "seed")
    fields_in = {name: inputs[name] for name in names} | {"backend": services.backend}
    extra = {name: inputs[name] for name in ("unknown", "points", "source", "picture_notes")}
    model: dict[str, Any] = {
        "outputs": {**result, **extra, "badge": services.badge},
        "uses_model": True,
        "error_output": "status",
        "describe_error": show_error,
        "show_progress": "minimal",
        "show_progress_on": result["status"],
    }
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    run = partial(on_run, services)
    drawing = {name: inputs[name] for name in ("prompt", "seed")}
    drawing |= {"backend": services.backend, "points": inputs["points"]}
    runs = [
        wire(inputs["run"].click, run, fields_in, api_name="drag_editing", **model),
        wire(inputs["draw"].click, partial(on_draw, services), drawing, api_name="drag_draw", **model),
    ]
    filled = {name: widget for name, widget in fields_in.items() if name != "backend"} | result
    for button, row in examples:
        fill = wire(button.click, partial(on_example, row), {"backend": services.backend}, filled, **quick)
        runs.append(wire(fill.success, run, fields_in, **model))
    wire_end(runs, "() => limelight.end()")
    held = {name: result[name] for name in ("trace", "kept")}
    wire_stop(inputs["stop"], runs, on_stop, held, result)


def connect_rest(services: Services, inputs: dict[str, Any], result: dict[str, Any], groups: Mapping[str, Any]) -> None:
    """Wire what needs no model: uploads, pictures that are sent, settings, and the buttons below the result."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    problem: dict[str, Any] = {"describe_error": show_error}
    placed = {name: inputs[name] for name in ("points", "source", "picture_notes", "prompt")} | result
    # Through the queue, because gradio tells a failure only of queued events.
    queued: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    upload = {"path": inputs["upload"], "backend": services.backend, "points": inputs["points"]}
    noted: dict[str, Any] = {**problem, "error_output": "picture_notes"}
    wire(inputs["upload"].upload, on_uploaded, upload, placed, api_name="drag_upload", **noted, **queued)
    sent = {"sent": services.sent, "backend": services.backend}
    wire(services.sent.change, on_sent, sent, placed, **noted, **queued)
    settings = [option_key(name, option) for name, option, _ in list_options()]
    names = ("points", "source", *PLAIN, "technique", *settings, "seed")
    restored = {name: inputs[name] for name in names} | {"backend": services.backend} | result
    told: dict[str, Any] = {**problem, "error_output": "status"}
    wire(inputs["dropped"].change, on_restore, {"dropped": inputs["dropped"]}, restored, **told, **queued)
    wire(inputs["technique"].change, on_technique_changed, {"technique": inputs["technique"]}, groups, **quick)
    connect_shown(services, inputs, result)
    connect_prompt(services, inputs)
