"""Tab "Super-resolution": a picture of any kind, a scale with decimals, a mode; tiles appear, then slider and loupe.

Handlers come first and are plain functions of plain values; `build` lays out the widgets and wires them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines import (
    Progress,
    SuperResolutionRequest,
    SuperResolutionResult,
    UserError,
    read_photo,
    read_super_resolution_settings,
)
from tabs.controls import show_error, show_notes, show_status
from tabs.enlarge_inputs import (
    PLAIN,
    build_inputs,
    build_run,
    explain,
    on_mode_changed,
    on_planned,
    to_request,
    to_widgets,
)
from tabs.enlarge_result import build_result, clear_result, on_answer, show_kept, show_result, show_start, show_step
from tabs.examples import read_examples
from tabs.running import connect_prompt, load, name_unknown_words
from tabs.shown import ENLARGE_TAB, connect_shown
from tabs.wiring import Services, Updates, pace, wire, wire_end, wire_stop

NAME = ENLARGE_TAB
TITLE = "Super-resolution"
INTRO = "Enlarge any picture, up to 8 times and 4096 px: what is added is shown beside interpolation, and measured."
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples" / "super_resolution.json"
PICTURES = EXAMPLES.parent / "enlarge"
EXPLANATION = Path(__file__).with_suffix(".md")
READY = "Press Run, or Ctrl + Enter."
# What a row of the examples may name beside the plain fields of a request.
ROW_KEYS = ("label", "picture")
PLANNED = ("size", "scale", "mode")


def on_run(services: Services, *, picture: Any, **values: Any) -> Iterator[Updates]:
    """Enlarge a picture, tile by tile, or draw answers after words."""
    yield {"stopped": "", "kept": None, "picture_notes": ""}
    request, notes = to_request({**values, "picture": picture})
    if problem := explain(services, request.mode):
        raise UserError(problem)
    yield show_start()
    if request.mode == "explore":
        model = yield from load(services, request.backend)
        yield {"unknown": name_unknown_words(request.prompt, request.backend, model)}

    from pipelines import super_resolution_stream

    with closing(services.models.run(super_resolution_stream(request, services.models))) as stream:
        for item in pace(stream):
            if isinstance(item, SuperResolutionResult):
                yield show_result(item, notes)
            elif isinstance(item, Progress):
                yield show_step(item)


def on_stop(*, trace: tuple[int, int] | None, kept: Callable[[], SuperResolutionResult] | None) -> Updates:
    """Keep what a stopped run has finished, and say how far it came."""
    if trace is None:
        return {}
    step, num_steps = trace
    if kept is None:
        seen = "the unfinished picture stays here" if step else "nothing was finished yet"
        words = f"Stopped at step {step} of {num_steps}; {seen}."
        return {"stopped": show_status(words, kind="stopped"), "trace": None}
    words = f"Stopped after {step} of {num_steps}; what is finished stays. Left: bicubic. Right: so far."
    return {**show_kept(kept()), "stopped": show_status(words, kind="stopped"), "trace": None}


def on_picture(*, path: Any) -> Updates:
    """Look at an uploaded picture: its size, what was changed to read it, and whether its file loses detail."""
    if not path:
        return {"size": None, "picture_notes": "", **clear_result(READY)}
    upload = read_photo(path)
    return {
        "size": upload.picture.size,
        "source": "camera" if upload.is_lossy else "clean",
        "picture_notes": show_notes(upload.notes),
        **clear_result(READY),
    }


def on_refused() -> Updates:
    """Leave the place of the picture empty after an upload that cannot be used; the sentence about it stays."""
    return {"picture": None, "size": None}


def on_sent(*, sent: Mapping[str, Any]) -> Updates:
    """Take a picture, and the words that drew it, from another tab or from this one's own result."""
    if sent["tab"] != NAME:
        return {}
    return {**on_picture(path=sent["path"]), "picture": sent["path"], "prompt": sent.get("prompt", "")}


def on_restore(*, dropped: str | None) -> Updates:
    """Put the settings of a dropped PNG back into the widgets; the picture that was enlarged is not inside."""
    if dropped is None:
        return {}
    request = read_super_resolution_settings(dropped)
    words = "The settings of this PNG are back; upload its picture again and press Run."
    return {**to_widgets(request), **clear_result(""), "status": show_status(words, kind="done")}


def load_examples() -> dict[str, Any]:
    """Read the examples and the values the tab starts with; each row may set any plain field of the request."""
    return read_examples(EXAMPLES, SuperResolutionRequest, ROW_KEYS)


def find_picture(row: Mapping[str, Any]) -> str:
    """Return where the picture of an example lies."""
    return str(PICTURES / row["picture"])


def on_example(row: Mapping[str, Any]) -> Updates:
    """Fill the widgets with an example; what it does not set goes back to its default."""
    fields = {name: value for name, value in row.items() if name not in ROW_KEYS}
    looked = on_picture(path=find_picture(row))
    source = {} if "source" in fields else {"source": looked["source"]}
    return {**looked, **to_widgets(SuperResolutionRequest(**fields)), **source, "picture": find_picture(row)}


def build(services: Services) -> None:
    """Lay out the tab and connect it."""
    document = load_examples()
    start = document["start"]
    with gr.Column(elem_classes="shelf enlarge-tab"):
        gr.HTML(f"<p>{INTRO}</p>", elem_classes="intro", apply_default_css=False)
        with gr.Row(elem_classes="bench", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
                size = read_photo(find_picture(start)).picture.size
                inputs, groups = build_inputs(start, find_picture(start), size)
                inputs["size"] = gr.State(size)
            with gr.Column(scale=6, min_width=300, elem_classes="result"):
                inputs |= build_run()
                result = build_result(READY)
        with gr.Row(elem_classes="examples"):
            examples = [
                (gr.Button(row["label"], icon=find_picture(row), elem_classes="example", min_width=200), row)
                for row in document["examples"]
            ]
        with gr.Accordion("How it works", open=False, elem_classes="how"):
            gr.Markdown(
                EXPLANATION.read_text("utf-8"), latex_delimiters=[{"left": "$$", "right": "$$", "display": True}]
            )
    connect_runs(services, inputs, result, examples)
    connect_rest(services, inputs, result, groups)


def connect_runs(
    services: Services, inputs: dict[str, Any], result: dict[str, Any], examples: list[tuple[gr.Button, Any]]
) -> None:
    """Wire what enlarges: Run and the examples; and Stop."""
    fields_in = {name: inputs[name] for name in ("picture", *PLAIN, "seed")} | {"backend": services.backend}
    model: dict[str, Any] = {
        "outputs": {**result, "picture_notes": inputs["picture_notes"], "unknown": inputs["unknown"]},
        "uses_model": True,
        "error_output": "status",
        "describe_error": show_error,
        "show_progress": "minimal",
        "show_progress_on": result["status"],
    }
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    run = partial(on_run, services)
    runs = [wire(inputs["run"].click, run, fields_in, api_name="super_resolution", **model)]
    filled = {name: inputs[name] for name in ("picture", *PLAIN, "seed", "size", "picture_notes")} | result
    for button, row in examples:
        fill = wire(button.click, partial(on_example, row), {}, filled, **quick)
        runs.append(wire(fill.success, run, fields_in, **model))
        # gradio tells the change of a state only after queued events.
        wire_plan(services, inputs, fill.success)
    wire_end(runs, "() => limelight.end()")
    held = {name: result[name] for name in ("trace", "kept")}
    wire_stop(inputs["stop"], runs, on_stop, held, result)


def connect_rest(services: Services, inputs: dict[str, Any], result: dict[str, Any], groups: Mapping[str, Any]) -> None:
    """Wire what enlarges nothing: pictures that come, the plan, settings, and the buttons below the result."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    # Through the queue, because gradio tells a failure only of queued events.
    queued: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    noted: dict[str, Any] = {"error_output": "picture_notes", "describe_error": show_error, **queued}
    placed = {name: inputs[name] for name in ("size", "source", "picture_notes")} | result
    path = {"path": inputs["picture"]}
    taken = [
        wire(inputs["picture"].upload, on_picture, path, placed, api_name="enlarge_upload", **noted),
        wire(inputs["picture"].clear, on_picture, path, placed, **noted),
    ]
    refused = {name: inputs[name] for name in ("picture", "size")}
    wire(taken[0].failure, on_refused, {}, refused, **queued)
    sent = {"picture": inputs["picture"], "prompt": inputs["prompt"], **placed}
    taken.append(wire(services.sent.change, on_sent, {"sent": services.sent}, sent, **noted))
    restored = {name: inputs[name] for name in (*PLAIN, "seed")} | result
    told: dict[str, Any] = {"error_output": "status", "describe_error": show_error, **queued}
    wire(inputs["dropped"].change, on_restore, {"dropped": inputs["dropped"]}, restored, **told)
    wire(inputs["mode"].change, on_mode_changed, {"mode": inputs["mode"]}, groups, **quick)
    wire_plan(services, inputs, [*(inputs[name].change for name in PLANNED), services.backend.change])
    wire_choice(result)
    connect_shown(services, inputs, result)
    connect_prompt(services, inputs)


def wire_plan(services: Services, inputs: Mapping[str, Any], triggers: Any) -> None:
    """Say what comes out of a run, or why it cannot, whenever something of it has changed."""
    planned = {name: inputs[name] for name in PLANNED} | {"backend": services.backend}
    shown = {name: inputs[name] for name in ("plan", "run")}
    late: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": None, "show_progress": "hidden"}
    wire(triggers, partial(on_planned, services), planned, shown, **late)


def wire_choice(result: Mapping[str, Any]) -> None:
    """Put the answer that is clicked onto the stage."""
    chosen = {name: result[name] for name in ("pair", "loupe", "path", "download", "shown")}

    def choose(answers: Any, event: gr.SelectData) -> dict[Any, Any]:
        return {chosen[name]: value for name, value in on_answer(answers=answers, index=event.index).items()}

    hidden: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    result["sketches"].select(choose, [result["answers"]], list(chosen.values()), **hidden)
