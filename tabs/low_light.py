"""Tab "Low light": a dark photo becomes a bright one, and what was added to it is shown and measured.

Handlers come first and are plain functions of plain values; `build` lays out the widgets and wires them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines import (
    WAYS_OF_LIGHTING,
    LowLightRequest,
    LowLightResult,
    Progress,
    UserError,
    read_burst,
    read_dark_photo,
    read_low_light_settings,
    read_photo,
)
from tabs.controls import show_error, show_notes, show_status
from tabs.examples import read_examples
from tabs.files import save_picture
from tabs.light_inputs import (
    DARKENING,
    PLAIN,
    build_inputs,
    build_run,
    explain,
    on_method_changed,
    to_darkening,
    to_request,
    to_widgets,
)
from tabs.light_result import build_result, clear_result, on_arm, on_view, show_kept, show_result, show_start, show_step
from tabs.running import load
from tabs.shown import LIGHT_TAB, connect_shown
from tabs.wiring import Services, Updates, pace, wire, wire_end, wire_stop

NAME = LIGHT_TAB
TITLE = "Low light"
INTRO = "Brings a dark photo to light, takes its noise away, and shows where detail was added that you cannot trust."
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples" / "low_light.json"
PICTURES = EXAMPLES.parent / "light"
EXPLANATION = Path(__file__).with_suffix(".md")
READY = "Press Run, or Ctrl + Enter."
# What a row of the examples may name beside the plain fields of a request.
ROW_KEYS = ("label", "picture", "clip", "truth")


def on_run(services: Services, **values: Any) -> Iterator[Updates]:
    """Light a picture, or merge several and light what comes out; the first view comes at once."""
    return light(services, values, compare=False)


def on_compare(services: Services, **values: Any) -> Iterator[Updates]:
    """Light a picture by every method, one after the other, with the same seed."""
    return light(services, values, compare=True)


def light(services: Services, values: Mapping[str, Any], *, compare: bool) -> Iterator[Updates]:
    """Check what is asked, run it, and show every step and the result."""
    yield {"stopped": "", "kept": None}
    asked, notes = to_request(values)
    request = replace(asked, compare=compare)
    methods = WAYS_OF_LIGHTING if compare else (request.method,)
    if problem := explain(services, methods):
        raise UserError(problem)
    yield show_start()
    if "retinex" in methods:
        yield from load(services, request.backend)

    from pipelines import low_light_stream

    with closing(services.models.run(low_light_stream(request, services.models))) as stream:
        for item in pace(stream):
            if isinstance(item, LowLightResult):
                yield show_result(item, notes)
            elif isinstance(item, Progress):
                yield show_step(item)


def on_stop(*, trace: tuple[int, int] | None, kept: Callable[[], LowLightResult] | None) -> Updates:
    """Keep what a stopped run has lit, and say how far it came."""
    if trace is None:
        return {}
    step, num_steps = trace
    if kept is None:
        return {"stopped": show_status("Stopped; nothing was lit yet.", kind="stopped"), "trace": None}
    words = f"Stopped after {step} of {num_steps}; what is there stays. Left: before. Right: so far."
    return {**show_kept(kept()), "stopped": show_status(words, kind="stopped"), "trace": None}


def on_picture(*, path: Any) -> Updates:
    """Look at an uploaded picture: what was changed to read it, and whether it is dark."""
    if not path:
        return {"picture_notes": "", "truth": "", **clear_result(READY)}
    upload = read_dark_photo(path)

    from pipelines import tell_light

    return {
        "picture_notes": show_notes((*upload.notes, tell_light(upload.picture))),
        "truth": "",
        "burst": None,
        "burst_notes": "",
        **clear_result(READY),
    }


def on_refused() -> Updates:
    """Leave the place of the picture empty after an upload that cannot be used; the sentence about it stays."""
    return {"picture": None, "truth": ""}


def on_burst(*, paths: Any) -> Updates:
    """Look at several pictures of one scene, and show the first in the place of the picture."""
    if not paths:
        return {"burst_notes": ""}
    pictures = read_burst(paths)
    words = f"{len(pictures)} pictures; Run lays them on each other first."
    first = save_picture(pictures[0].convert("RGB"), "limelight-first.png")
    told = {"picture": first, "picture_notes": "", "truth": "", "burst_notes": show_notes([words])}
    return {**told, **clear_result(READY)}


def on_burst_refused() -> Updates:
    """Take files that are no burst out of their place; the sentence about them stays."""
    return {"burst": None}


def on_darken(*, picture: Any, truth: str, **values: Any) -> Updates:
    """Take the picture again with less light; the bright one is kept to measure against."""
    bright = truth or picture
    if not bright:
        raise UserError("There is no picture to darken; upload one, or send one from another tab.")
    request = to_darkening(values)

    from pipelines import darken_photo, tell_light

    dark = darken_photo(read_photo(bright).picture, request)
    words = f"{request.light_frac:g} of the light is left. {tell_light(dark)}"
    return {
        "picture": save_picture(dark, "limelight-dark.png"),
        "picture_notes": show_notes([words]),
        "burst": None,
        "burst_notes": "",
        **clear_result("The bright original is known, so the result is measured against it. " + READY),
        "truth": bright,
    }


def on_sent(*, sent: Mapping[str, Any]) -> Updates:
    """Take a picture from another tab."""
    return {**on_picture(path=sent["path"]), "picture": sent["path"]} if sent["tab"] == NAME else {}


def on_restore(*, dropped: str | None) -> Updates:
    """Put the settings of a dropped PNG back into the widgets; the picture that was lit is not inside."""
    if dropped is None:
        return {}
    request = read_low_light_settings(dropped)
    words = "The settings of this PNG are back; upload its picture again and press Run."
    return {**to_widgets(request), **clear_result(""), "status": show_status(words, kind="done")}


def load_examples() -> dict[str, Any]:
    """Read the examples and the values the tab starts with; each row may set any plain field of the request."""
    return read_examples(EXAMPLES, LowLightRequest, ROW_KEYS)


def find_picture(row: Mapping[str, Any], key: str = "picture") -> str:
    """Return where a picture of an example lies; empty if it has none of that kind."""
    return str(PICTURES / row[key]) if key in row else ""


def on_example(row: Mapping[str, Any]) -> Updates:
    """Fill the widgets with an example; what it does not set goes back to its default."""
    fields = {name: value for name, value in row.items() if name not in ROW_KEYS}
    clip = find_picture(row, "clip")
    looked = {"picture_notes": "", "burst_notes": "", **clear_result(READY)}
    pictures = {"picture": find_picture(row), "burst": [clip] if clip else None, "truth": find_picture(row, "truth")}
    return {**looked, **to_widgets(LowLightRequest(**fields)), **pictures}


def build(services: Services) -> None:
    """Lay out the tab and connect it."""
    document = load_examples()
    with gr.Column(elem_classes="shelf light-tab"):
        gr.HTML(f"<p>{INTRO}</p>", elem_classes="intro", apply_default_css=False)
        with gr.Row(elem_classes="bench", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
                inputs, groups = build_inputs(document["start"], find_picture(document["start"]))
                inputs["truth"].value = find_picture(document["start"], "truth")
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
    """Wire what lights: Run, Compare and the examples; and Stop."""
    given = ("picture", "burst", "truth", *PLAIN, "seed")
    fields_in = {name: inputs[name] for name in given} | {"backend": services.backend}
    model: dict[str, Any] = {
        "outputs": result,
        "uses_model": True,
        "error_output": "status",
        "describe_error": show_error,
        "show_progress": "minimal",
        "show_progress_on": result["status"],
    }
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    run = partial(on_run, services)
    runs = [
        wire(inputs["run"].click, run, fields_in, api_name="low_light", **model),
        wire(inputs["compare"].click, partial(on_compare, services), fields_in, api_name="low_light_compare", **model),
    ]
    filled = {name: inputs[name] for name in (*given, "picture_notes", "burst_notes")} | result
    for button, row in examples:
        fill = wire(button.click, partial(on_example, row), {}, filled, **quick)
        runs.append(wire(fill.success, run, fields_in, **model))
    wire_end(runs, "() => limelight.end()")
    held = {name: result[name] for name in ("trace", "kept")}
    wire_stop(inputs["stop"], runs, on_stop, held, result)


def connect_rest(services: Services, inputs: dict[str, Any], result: dict[str, Any], groups: Mapping[str, Any]) -> None:
    """Wire what lights nothing: pictures that come, darkening, settings, views, and the buttons below the result."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    # Through the queue, because gradio tells a failure only of queued events.
    queued: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    noted: dict[str, Any] = {"error_output": "picture_notes", "describe_error": show_error, **queued}
    names = ("truth", "burst", "picture_notes", "burst_notes")
    placed = {name: inputs[name] for name in names} | result
    path = {"path": inputs["picture"]}
    uploaded = wire(inputs["picture"].upload, on_picture, path, placed, api_name="light_upload", **noted)
    wire(inputs["picture"].clear, on_picture, path, placed, **noted)
    wire(uploaded.failure, on_refused, {}, {name: inputs[name] for name in ("picture", "truth")}, **queued)
    full = {"picture": inputs["picture"], **placed}
    wire(services.sent.change, on_sent, {"sent": services.sent}, full, **noted)
    told_burst = {**noted, "error_output": "burst_notes"}
    burst = wire(inputs["burst"].upload, on_burst, {"paths": inputs["burst"]}, full, **told_burst)
    wire(inputs["burst"].clear, on_burst, {"paths": inputs["burst"]}, full, **told_burst)
    wire(burst.failure, on_burst_refused, {}, {"burst": inputs["burst"]}, **queued)
    darkening = {name: inputs[name] for name in ("picture", "truth", *DARKENING, "seed")}
    wire(inputs["darken"].click, on_darken, darkening, full, api_name="darken", **noted)
    restored = {name: inputs[name] for name in (*PLAIN, "seed")} | result
    told: dict[str, Any] = {"error_output": "status", "describe_error": show_error, **queued}
    wire(inputs["dropped"].change, on_restore, {"dropped": inputs["dropped"]}, restored, **told)
    wire(inputs["method"].change, on_method_changed, {"method": inputs["method"]}, groups, **quick)
    seen = {name: result[name] for name in ("pair", "loupe")}
    wire(result["view"].input, on_view, {"view": result["view"], "arm": result["arm"]}, seen, **quick)
    wire_choice(result)
    connect_shown(services, inputs, result)


def wire_choice(result: Mapping[str, Any]) -> None:
    """Put the method that is clicked onto the stage."""
    names = ("pair", "loupe", "view", "chart", "facts", "arm", "download", "shown", "path")
    chosen = {name: result[name] for name in names}

    def choose(arms: Any, event: gr.SelectData) -> dict[Any, Any]:
        return {chosen[name]: value for name, value in on_arm(arms=arms, index=event.index).items()}

    hidden: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    result["sketches"].select(choose, [result["arms"]], list(chosen.values()), **hidden)
