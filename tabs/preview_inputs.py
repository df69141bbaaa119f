"""The left side of the 3D tab: a picture of one object, a method, and one checked request out of all widgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from types import MappingProxyType
from typing import Any

import gradio as gr

from pipelines import Preview3dRequest, UserError, read_mask, read_photo, specs, validate
from tabs.controls import make_control, make_seed_box, pass_on, read_file, show_status, to_seed
from tabs.paint_canvas import build_paint_canvas, find_paint
from tabs.wiring import Services, Updates

PLAIN = ("method", "view_steps", "fit_steps", "polish_rounds", "curriculum")
# A method's title, what it does, and whose method it is.
METHODS = MappingProxyType(
    {
        "inflate": (
            "Inflate",
            "Blows up the outline like a balloon: a closed model at once, the same behind as in front.",
            "The baseline that every other way must beat",
        ),
        "views": (
            "Views + fit",
            "Draws the object from eight sides together, then fits a small radiance field to them.",
            "Shi et al. 2023, Zero123++; Sun et al. 2022, DVGO",
        ),
        "polish": (
            "+ curriculum",
            "Then the network that drew the views looks at the model again and again, from coarse to fine.",
            "Yi et al. 2024, DTC123",
        ),
        "parallax": (
            "Parallax",
            "Cuts the whole picture into layers and sways the camera: depth at once, without a model.",
            "Zhao et al. 2022, GMPI",
        ),
    }
)
OPTIONS = MappingProxyType(
    {
        "inflate": (),
        "views": ("view_steps", "fit_steps", "seed"),
        "polish": ("view_steps", "fit_steps", "polish_rounds", "curriculum", "seed"),
        "parallax": (),
    }
)
PICTURE_HEIGHT_PX = 220


def to_request(values: Mapping[str, Any]) -> tuple[Preview3dRequest, tuple[str, ...]]:
    """Collect the values of the widgets into one checked request, and notes about the upload."""
    if not values["picture"]:
        raise UserError("There is no picture yet; upload one, choose an example, or send one from another tab.")
    request = validate(Preview3dRequest(**{name: values[name] for name in PLAIN}, seed=to_seed(values["seed"])))
    upload = read_photo(values["picture"])
    paint = find_paint(values.get("cutout"))
    painted = None if paint is None else read_mask(paint)
    return replace(request, picture=upload.picture, painted=painted), upload.notes


def explain(services: Services, method: str) -> str:
    """Say in one sentence why a method cannot run here; empty if it can."""
    return str(services.models.networks().explain_missing(method))


def describe_method(method: str) -> str:
    """Say what a method does and whose it is."""
    _, words, source = METHODS[method]
    return f'<p>{escape(words)} <span class="source">{escape(source)}</span></p>'


def on_method_changed(*, method: str) -> Updates:
    """Show what the chosen method can be told, and hide what it has no use for."""
    options = OPTIONS[method]
    shown = {f"{name} group": gr.Column(visible=name in options) for name in (*PLAIN[1:], "seed")}
    return {"about": describe_method(method), "settings group": gr.Column(visible=bool(options)), **shown}


def on_checked(services: Services, *, method: str) -> Updates:
    """Say at once if the chosen method cannot run here."""
    problem = explain(services, method)
    return {"plan": show_status(problem, kind="error") if problem else "", "run": gr.Button(interactive=not problem)}


def build_inputs(start: Mapping[str, Any], picture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lay out the left side; returns the widgets by name, and what comes and goes with the method."""
    described: dict[str, Any] = dict(specs(Preview3dRequest))
    made: dict[str, Any] = {}
    made["picture"] = gr.Image(
        picture,
        label="Picture of one object",
        type="filepath",
        format="png",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=PICTURE_HEIGHT_PX,
        elem_classes="enlarge-picture",
        buttons=[],
    )
    read_file(made["picture"])
    with gr.Row(elem_classes="preview-words", equal_height=True):
        made["prompt"] = gr.Textbox(
            label="Or words for one",
            placeholder="a red robot, plain background",
            max_lines=2,
            min_width=180,
            elem_classes="plain-prompt",
        )
        made["draw"] = gr.Button("Draw", elem_classes="draw", scale=0, min_width=70)
    made["picture_notes"] = gr.HTML(elem_classes="choice-notes", apply_default_css=False)
    with gr.Accordion("The object: correct its outline", open=False, elem_classes="preview-cutout") as made["correct"]:
        made["cutout"] = build_paint_canvas("Open this once there is a picture.", with_colours=False)
    method = start.get("method", described["method"].default)
    with gr.Group(elem_classes="enlarge-how"):
        titles = [(title, name) for name, (title, *_) in METHODS.items()]
        made["method"] = pass_on(gr.Radio(titles, value=method, label="Method", elem_classes="picker"))
        about = gr.HTML(describe_method(method), elem_classes="technique-words", apply_default_css=False)
        made["plan"] = gr.HTML(elem_classes="plan-box choice-notes", apply_default_css=False)
    shown = on_method_changed(method=method)
    groups: dict[str, Any] = {"about": about}
    groups["settings group"] = gr.Column(visible=shown["settings group"].visible, elem_classes="plain-group")
    with groups["settings group"], gr.Accordion("Settings", open=False, elem_classes="settings"):
        for name in (*PLAIN[1:], "seed"):
            key = f"{name} group"
            with gr.Column(visible=shown[key].visible, elem_classes="plain-group") as groups[key]:
                made[name] = _make_setting(name, described[name], start.get(name))
    return made, groups


def _make_setting(name: str, described: Any, value: Any) -> Any:
    """Make the widget of one setting."""
    if name == "seed":
        return make_seed_box(described)[0]
    return make_control(described, value=value)


def build_run() -> dict[str, gr.Button]:
    """Lay out Run and Stop above the stage, so that both are seen beside the settings."""
    with gr.Row(elem_classes="actions"):
        return {
            "run": gr.Button("Run", variant="primary", elem_classes="run", min_width=80),
            "stop": gr.Button("Stop", variant="stop", elem_classes="stop", min_width=70),
        }
