"""The left side of the super-resolution tab: a picture, a mode, a scale, and one checked request out of all widgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from types import MappingProxyType
from typing import Any

import gradio as gr

from pipelines import SuperResolutionRequest, UserError, plan_size, read_photo, specs, validate
from tabs.controls import make_control, make_seed_box, pass_on, read_file, show_status, to_seed
from tabs.wiring import Services, Updates

PLAIN = (
    *("scale", "mode", "source", "detail_frac", "blur_px", "noise_levels", "missing"),
    *("prompt", "num_images", "freedom_frac", "guidance_scale", "num_steps"),
)
# A mode's title, what it does, and whose method it is.
MODES = MappingProxyType(
    {
        "faithful": (
            "Faithful",
            "Adds only what follows from the picture, then makes it agree: shrunk again, it is your picture.",
            "Chen et al. 2021, LIIF; Wang et al. 2022, range-null space",
        ),
        "detail": (
            "Detail",
            "Adds likely detail in a few diffusion steps. It looks sharper, and what is added is invented.",
            "Yue et al. 2023, ResShift",
        ),
        "damage": (
            "Known damage",
            "Undoes what you describe: blur, noise, lost pixels. Looks for a picture which that would turn into yours.",
            "Garber and Tirer 2024, DDPG",
        ),
        "explore": (
            "Explore",
            "Several different pictures for one small one, steered by words; all of them shrink to yours.",
            "Gandikota and Chandramouli 2024",
        ),
    }
)
# What each mode has beside the scale; what has no effect in a mode is not shown.
OPTIONS = MappingProxyType(
    {
        "faithful": ("source",),
        "detail": ("source", "detail_frac", "seed"),
        "damage": ("blur_px", "noise_levels", "missing", "num_steps", "seed"),
        "explore": ("prompt", "num_images", "freedom_frac", "guidance_scale", "num_steps", "seed"),
    }
)
SOURCES = (("Clean", "clean"), ("From a camera, or a JPEG", "camera"))
PICTURE_HEIGHT_PX = 220


def to_request(values: Mapping[str, Any]) -> tuple[SuperResolutionRequest, tuple[str, ...]]:
    """Collect the values of the widgets into one checked request, and notes about the upload."""
    if not values["picture"]:
        raise UserError("There is no picture yet; upload one, choose an example, or send one from another tab.")
    fields = {name: values[name] for name in (*PLAIN, "backend")}
    request = validate(SuperResolutionRequest(**fields, seed=to_seed(values["seed"])))
    upload = read_photo(values["picture"])
    return replace(request, picture=upload.picture), upload.notes


def to_widgets(request: SuperResolutionRequest) -> Updates:
    """Turn a request into the values of the widgets that made it, except for the picture."""
    return {**{name: getattr(request, name) for name in PLAIN}, "seed": str(request.seed)}


def explain(services: Services, mode: str) -> str:
    """Say in one sentence why a mode cannot run here; empty if it can."""
    return str(services.models.networks().explain_missing(mode))


def on_planned(services: Services, *, size: tuple[int, int] | None, scale: Any, mode: Any, backend: str) -> Updates:
    """Say before a run what comes out of it, or why it cannot."""
    plan, problem = write_plan(size, scale, mode, backend)
    problem = (explain(services, mode) if mode in MODES else "") or problem
    return {"plan": show_status(problem, kind="error") if problem else plan, "run": gr.Button(interactive=not problem)}


def write_plan(size: tuple[int, int] | None, scale: Any, mode: Any, backend: str) -> tuple[str, str]:
    """Write how large the picture becomes, and the sentence that it would be too large."""
    if not size or not isinstance(scale, int | float):
        return "", ""
    plan = plan_size(size, scale, mode, backend)
    return f'<p class="plan">{write_size(plan.before)} \u2192 {write_size(plan.after)}</p>', plan.problem


def on_mode_changed(*, mode: Any) -> Updates:
    """Show what the chosen mode does, and what it can be told."""
    options = OPTIONS.get(mode, ())
    seen = {
        "source": "source" in options,
        "detail_frac": "detail_frac" in options,
        "damage": "blur_px" in options,
        "words": "prompt" in options,
        "settings": "seed" in options,
        "num_steps": "num_steps" in options,
        "guidance_scale": "guidance_scale" in options,
    }
    return {
        "about": describe_mode(mode) if mode in MODES else "",
        **{f"{name} group": gr.Column(visible=is_seen) for name, is_seen in seen.items()},
    }


def describe_mode(mode: str) -> str:
    """Say what a mode does and where it comes from."""
    _, words, source = MODES[mode]
    return f"<p>{escape(words)} <cite>{escape(source)}.</cite></p>"


def write_size(size: tuple[int, int]) -> str:
    """Write a size in px."""
    return f"{size[0]} x {size[1]} px"


def build_inputs(
    start: Mapping[str, Any], picture: str, size: tuple[int, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lay out the left side; returns the widgets with values, and the groups to show or hide."""
    described: dict[str, Any] = specs(SuperResolutionRequest)
    made: dict[str, Any] = {}
    made["picture"] = gr.Image(
        picture,
        label="A photo or any other picture",
        type="filepath",
        format="png",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=PICTURE_HEIGHT_PX,
        elem_classes="enlarge-picture",
        buttons=[],
    )
    read_file(made["picture"])
    made["picture_notes"] = gr.HTML(elem_classes="choice-notes", apply_default_css=False)
    mode = start.get("mode", described["mode"].default)
    with gr.Group(elem_classes="enlarge-how"):
        titles = [(title, name) for name, (title, *_) in MODES.items()]
        made["mode"] = pass_on(gr.Radio(titles, value=mode, label="Mode", elem_classes="picker"))
        about = gr.HTML(describe_mode(mode), elem_classes="technique-words", apply_default_css=False)
        made["scale"] = make_control(described["scale"], value=start.get("scale"))
        plan, _ = write_plan(size, start.get("scale", described["scale"].default), mode, described["backend"].default)
        made["plan"] = gr.HTML(plan, elem_classes="plan-box choice-notes", apply_default_css=False)
    groups = build_options(made, described, mode)
    with gr.Accordion("Settings from a PNG", open=False, elem_classes="restore"):
        made["dropped"] = gr.File(label="Drop a PNG from this tab", file_types=[".png"], height=120)
    return made, {"about": about, **groups}


def build_options(made: dict[str, Any], described: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """Lay out what only some modes can be told; what the first mode has no use for is hidden."""
    shown = {name.removesuffix(" group"): group for name, group in on_mode_changed(mode=mode).items()}
    groups: dict[str, Any] = {}

    def group(name: str) -> gr.Column:
        groups[f"{name} group"] = gr.Column(visible=shown[name].visible, elem_classes="plain-group")
        return groups[f"{name} group"]

    with group("words"):
        made["prompt"] = gr.Textbox(
            described["prompt"].default, label=described["prompt"].label, info=described["prompt"].help, max_lines=4
        )
        made["unknown"] = gr.HTML(elem_classes="unknown-box", apply_default_css=False)
        made |= {name: make_control(described[name]) for name in ("num_images", "freedom_frac")}
    with gr.Group(elem_classes="enlarge-options"):
        with group("source"):
            spec = described["source"]
            made["source"] = pass_on(
                gr.Radio(list(SOURCES), value=spec.default, label=spec.label, info=spec.help, elem_classes="picker")
            )
        with group("detail_frac"):
            made["detail_frac"] = make_control(described["detail_frac"])
        with group("damage"):
            made |= {name: make_control(described[name]) for name in ("blur_px", "noise_levels", "missing")}
    with group("settings"):
        with gr.Accordion("Settings", open=False, elem_classes="settings"):
            made["seed"], _ = make_seed_box(described["seed"])
            for name in ("num_steps", "guidance_scale"):
                with group(name):
                    made[name] = make_control(described[name])
    return groups


def build_run() -> dict[str, gr.Button]:
    """Lay out Run and Stop above the stage, so that both are seen beside the settings."""
    with gr.Row(elem_classes="actions"):
        return {
            "run": gr.Button("Run", variant="primary", elem_classes="run", min_width=80),
            "stop": gr.Button("Stop", variant="stop", elem_classes="stop", min_width=70),
        }
