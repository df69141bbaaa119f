"""Tab "3D preview": a picture of one object becomes a model that can be turned; the first shape at once.

Handlers come first and are plain functions of plain values; `build` lays out the widgets and wires them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines import Preview3dRequest, Preview3dResult, Progress, UserError
from tabs.controls import show_error, show_status
from tabs.examples import read_examples
from tabs.preview_inputs import (
    PLAIN,
    build_inputs,
    build_run,
    explain,
    on_checked,
    on_method_changed,
    to_request,
)
from tabs.preview_paint import build_paint, connect_paint
from tabs.preview_picture import READY, on_draw, on_picture, on_refused, on_sent
from tabs.preview_result import build_result, show_result, show_start, show_step
from tabs.shown import PREVIEW_TAB, connect_copy
from tabs.wiring import Services, Updates, pace, wire, wire_end, wire_stop

NAME = PREVIEW_TAB
TITLE = "3D preview"
INTRO = "One picture of an object becomes a model that you can turn: first its outline blown up, then what is behind."
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples" / "preview_3d.json"
PICTURES = EXAMPLES.parent / "preview"
EXPLANATION = Path(__file__).with_suffix(".md")
# What a row of the examples may name beside the plain fields of a request.
ROW_KEYS = ("label", "picture")


def end_updates() -> Updates:
    """Return what a run says last: gradio tells it twice, and its viewer forgets a model told twice while loading."""
    return {"trace": None}


def on_run(services: Services, *, picture: Any, **values: Any) -> Iterator[Updates]:
    """Make a model of a picture, stage by stage."""
    yield {"stopped": "", "kept": None, "picture_notes": ""}
    request, notes = to_request({**values, "picture": picture})
    if problem := explain(services, request.method):
        raise UserError(problem)
    yield show_start()

    from pipelines import preview_3d_stream

    with closing(services.models.run(preview_3d_stream(request, services.models))) as stream:
        are_views_shown = False
        for item in pace(stream):
            if isinstance(item, Preview3dResult):
                yield show_result(item, notes)
            elif isinstance(item, Progress):
                yield show_step(item, with_views=not are_views_shown)
                are_views_shown |= bool(getattr(item, "views", ()))
    yield end_updates()


def on_stop(*, trace: tuple[int, int] | None, kept: Callable[[], Preview3dResult] | None) -> Iterator[Updates]:
    """Keep the best model of a stopped run, and say how far it came."""
    if trace is None:
        return
    step, num_steps = trace
    if kept is None:
        words = f"Stopped at step {step} of {num_steps}; nothing was finished yet."
        yield {"stopped": show_status(words, kind="stopped"), "trace": None}
        return
    words = f"Stopped after {step} of {num_steps}; the best model so far stays."
    yield {**show_result(kept()), "stopped": show_status(words, kind="stopped"), "status": "", "trace": None}
    yield end_updates()


def on_open(*, path: Any, cutout: Any) -> Updates:
    """Show what is taken for the object of a picture that lies there since the page was built."""
    if not path or (isinstance(cutout, Mapping) and cutout.get("key")):
        return {}
    return {"cutout": on_picture(path=path)["cutout"]}


def load_examples() -> dict[str, Any]:
    """Read the examples and the values the tab starts with; each row may set any plain field of the request."""
    return read_examples(EXAMPLES, Preview3dRequest, ROW_KEYS, without=("painted",))


def find_picture(row: Mapping[str, Any]) -> str:
    """Return where the picture of an example lies."""
    return str(PICTURES / row["picture"])


def on_example(row: Mapping[str, Any]) -> Updates:
    """Fill the widgets with an example; what it does not set goes back to its default."""
    request = Preview3dRequest(**{name: value for name, value in row.items() if name not in ROW_KEYS})
    plain = {name: getattr(request, name) for name in PLAIN} | {"seed": str(request.seed)}
    return {**on_picture(path=find_picture(row)), **plain, "picture": find_picture(row)}


def build(services: Services) -> None:
    """Lay out the tab and connect it."""
    document = load_examples()
    start = document["start"]
    with gr.Column(elem_classes="shelf preview-tab"):
        gr.HTML(f"<p>{INTRO}</p>", elem_classes="intro", apply_default_css=False)
        with gr.Row(elem_classes="bench", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
                inputs, groups = build_inputs(start, find_picture(start))
            with gr.Column(scale=6, min_width=300, elem_classes="result"):
                inputs |= build_run()
                result = build_result(READY) | build_paint()
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
    connect_paint(result)
    connect_copy(result)


def connect_runs(
    services: Services, inputs: dict[str, Any], result: dict[str, Any], examples: list[tuple[gr.Button, Any]]
) -> None:
    """Wire what makes a model: Run and the examples; and Stop."""
    fields_in = {name: inputs[name] for name in ("picture", "cutout", *PLAIN, "seed")}
    model: dict[str, Any] = {
        "outputs": {**result, "picture_notes": inputs["picture_notes"]},
        "uses_model": True,
        "error_output": "status",
        "describe_error": show_error,
        "show_progress": "minimal",
        "show_progress_on": result["status"],
    }
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    run = partial(on_run, services)
    runs = [wire(inputs["run"].click, run, fields_in, api_name="preview_3d", **model)]
    filled = {name: inputs[name] for name in ("picture", "cutout", *PLAIN, "seed", "picture_notes")} | result
    for button, row in examples:
        fill = wire(button.click, partial(on_example, row), {}, filled, **quick)
        runs.append(wire(fill.success, run, fields_in, **model))
    drawn = {name: inputs[name] for name in ("picture", "cutout", "picture_notes")} | result
    words = {"prompt": inputs["prompt"], "seed": inputs["seed"], "backend": services.backend}
    runs.append(wire(inputs["draw"].click, partial(on_draw, services), words, **{**model, "outputs": drawn}))
    wire_end(runs, "() => limelight.end()")
    held = {name: result[name] for name in ("trace", "kept")}
    wire_stop(inputs["stop"], runs, on_stop, held, result)


def connect_rest(services: Services, inputs: dict[str, Any], result: dict[str, Any], groups: Mapping[str, Any]) -> None:
    """Wire what makes no model: pictures that come, and the method's own settings."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    # Through the queue, because gradio tells a failure only of queued events.
    queued: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    noted: dict[str, Any] = {"error_output": "picture_notes", "describe_error": show_error, **queued}
    placed = {name: inputs[name] for name in ("picture_notes", "cutout")} | result
    path = {"path": inputs["picture"]}
    taken = wire(inputs["picture"].upload, on_picture, path, placed, api_name="preview_upload", **noted)
    wire(inputs["picture"].clear, on_picture, path, placed, **noted)
    wire(taken.failure, on_refused, {}, {name: inputs[name] for name in ("picture", "cutout")}, **queued)
    wire(inputs["correct"].expand, on_open, path | {"cutout": inputs["cutout"]}, {"cutout": inputs["cutout"]}, **quick)
    sent = {"picture": inputs["picture"], **placed}
    wire(services.sent.change, on_sent, {"sent": services.sent}, sent, **noted)
    wire(inputs["method"].change, on_method_changed, {"method": inputs["method"]}, groups, **quick)
    checked = {name: inputs[name] for name in ("plan", "run")}
    late: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": None, "show_progress": "hidden"}
    wire(inputs["method"].change, partial(on_checked, services), {"method": inputs["method"]}, checked, **late)
