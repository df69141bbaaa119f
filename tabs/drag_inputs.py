"""The left side of the drag tab: a picture, points and a mask on it, the method, and one request out of all widgets.

Method controls follow from `pipelines.catalogue`.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from pipelines import (
    DRAG_TECHNIQUES,
    DragPair,
    DragRequest,
    UserError,
    catalogue,
    check_pairs,
    read_mask,
    specs,
    validate,
    write_mask,
)
from tabs.controls import make_control, make_seed_box, pass_on, read_file, to_seed
from tabs.drag_canvas import build_canvas
from tabs.drag_picture import Source, check_shown, show_canvas
from tabs.technique_picker import option_key
from tabs.wiring import Updates

PLAIN = ("prompt", "pull", "fit", "num_steps")
ENDS = ("handle", "target")
UPLOADS = (".png", ".jpg", ".jpeg", ".webp")


def to_request(values: Mapping[str, Any], source: Source) -> DragRequest:
    """Collect the values of the widgets into one checked request; without a picture it will be drawn from the words."""
    canvas: Mapping[str, Any] = values["points"] if isinstance(values["points"], Mapping) else {}
    check_shown(canvas, source)
    technique = values["technique"]
    options = {option: values[option_key(name, option)] for name, option, _ in list_options() if name == technique}
    request = validate(
        DragRequest(
            **{name: values[name] for name in PLAIN},
            picture=source.picture,
            pairs=to_pairs(canvas.get("pairs")),
            mask=to_mask(canvas),
            techniques={technique: options},
            seed=to_seed(values["seed"]),
            backend=values["backend"],
        )
    )
    if request.picture is not None:
        if request.mask is not None and request.mask.size != request.picture.size:
            raise UserError("The mask is not as large as the picture; clear it and paint it again.")
        check_pairs(request.pairs, request.picture.size, request.mask)
    elif not request.pairs:
        raise UserError("There is no picture and no pair yet; draw or upload a picture and click on it.")
    return request


def to_mask(canvas: Mapping[str, Any]) -> Image.Image | None:
    """Read what was painted; None if nothing was."""
    return None if canvas.get("mask") is None else read_mask(canvas["mask"])


def to_pairs(clicked: Any) -> Any:
    """Turn the canvas's pairs into those of a request; one without target is named, other forms its check refuses."""
    if not isinstance(clicked, list | tuple):
        return clicked or ()
    for number, pair in enumerate(clicked, 1):
        if isinstance(pair, Mapping) and {"handle_x", "handle_y"} == set(pair):
            raise UserError(f"Handle {number} has no target yet; click where it should go, or delete it.")
    return tuple(clicked)


def to_widgets(request: DragRequest) -> Updates:
    """Turn a request into the values of the widgets that made it, except for the canvas."""
    values: Updates = {name: getattr(request, name) for name in PLAIN}
    technique = next(iter(request.techniques))
    given = request.techniques[technique]
    for name, option, spec in list_options():
        values[option_key(name, option)] = given.get(option, spec.default) if name == technique else spec.default
    return {**values, "seed": str(request.seed), "technique": technique}


def wait_for_picture(request: DragRequest) -> dict[str, Any]:
    """Make the canvas's value for points whose picture is still to come."""
    mask = None if request.mask is None else write_mask(request.mask)
    return show_canvas(Source(), map(to_plain, request.pairs), mask)


def to_plain(pair: DragPair) -> dict[str, int]:
    """Write a pair as the canvas holds it."""
    return {f"{end}_{axis}": round(getattr(pair, f"{end}_{axis}")) for end in ENDS for axis in "xy"}


def list_options() -> list[tuple[str, str, Any]]:
    """List (technique, option, spec) of all options."""
    techniques = catalogue(DRAG_TECHNIQUES).items()
    return [(name, option, spec) for name, entry in techniques for option, spec in entry.specs.items()]


def on_technique_changed(*, technique: Any) -> Updates:
    """Show what the chosen method does, and its controls."""
    names = list(catalogue(DRAG_TECHNIQUES))
    return {key: gr.Column(visible=key.split()[0] == technique) for name in names for key in (name, f"{name} options")}


def build_inputs(start: Mapping[str, Any], canvas: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lay out the left side; returns the widgets with values, and the groups to show or hide."""
    described: dict[str, Any] = specs(DragRequest)
    made: dict[str, Any] = {}
    with gr.Row(elem_classes="drag-source", equal_height=True):
        made["prompt"] = gr.Textbox(
            start.get("prompt", ""), label="1. A picture: words to draw, or an upload", max_lines=2, min_width=180
        )
        made["draw"] = gr.Button("Draw", elem_classes="draw", scale=0, min_width=70)
        made["upload"] = gr.UploadButton("Upload", file_types=list(UPLOADS), scale=0, min_width=70)
        read_file(made["upload"])
    made["unknown"] = gr.HTML(elem_classes="unknown-box", apply_default_css=False)
    made["picture_notes"] = gr.HTML(elem_classes="choice-notes", apply_default_css=False)
    with gr.Group(elem_classes="drag-points"):
        made["points"] = build_canvas(canvas)
    groups = build_method(made, described)
    with gr.Accordion("Settings from a PNG", open=False, elem_classes="restore"):
        made["dropped"] = gr.File(label="Drop a PNG from this tab", file_types=[".png"], height=120)
    return made, groups


def build_method(made: dict[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out how it is pulled: the methods, what each does, and the folded settings."""
    entries = catalogue(DRAG_TECHNIQUES)
    titles = [(entry.title, name) for name, entry in entries.items()]
    first = titles[0][1]
    pull: Any = described["pull"]
    groups: dict[str, Any] = {}
    with gr.Group(elem_classes="drag-method"):
        made["technique"] = pass_on(gr.Radio(titles, value=first, label="Method", elem_classes="picker"))
        for name, entry in entries.items():
            with gr.Column(visible=name == first, elem_classes="technique") as groups[name]:
                words = f"{escape(entry.summary)} <cite>{escape(entry.source)}.</cite>"
                gr.HTML(f"<p>{words}</p>", elem_classes="technique-words", apply_default_css=False)
    with gr.Accordion("Settings", open=False, elem_classes="settings"):
        made["pull"] = pass_on(gr.Radio(list(pull.options), value=pull.default, label=pull.label, info=pull.help))
        made["fit"] = make_control(described["fit"])
        for name, entry in entries.items():
            with gr.Column(visible=name == first, elem_classes="plain-group") as groups[f"{name} options"]:
                made |= {option_key(name, option): make_control(spec) for option, spec in entry.specs.items()}
        made["seed"], _ = make_seed_box(described["seed"])
        made["num_steps"] = make_control(described["num_steps"])
    return groups


def build_run() -> dict[str, gr.Button]:
    """Lay out Run and Stop: above the stage, so that both are seen beside the canvas, and below it on a phone."""
    with gr.Row(elem_classes="actions"):
        return {
            "run": gr.Button("3. Run", variant="primary", elem_classes="run", min_width=80),
            "stop": gr.Button("Stop", variant="stop", elem_classes="stop", min_width=70),
        }
