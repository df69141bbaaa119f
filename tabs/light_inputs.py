"""The left side of the low-light tab: a dark photo or several of one scene, a method, and one checked request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from types import MappingProxyType
from typing import Any

import gradio as gr

from pipelines import (
    DarkenRequest,
    LowLightRequest,
    UserError,
    read_burst,
    read_dark_photo,
    read_photo,
    specs,
    validate,
)
from tabs.controls import make_control, make_seed_box, pass_on, read_file, to_seed
from tabs.wiring import Services, Updates

PLAIN = ("method", "brightness", "noise_frac", "detail_frac", "colour", "num_passes", "force")
DARKENING = ("light_frac", "grain", "lamps")
# A method's title, what it does, and whose it is.
METHODS = MappingProxyType(
    {
        "diffusion": (
            "Diffusion",
            "A network that knows what noise in the dark hides. It lights, measures, and lights again.",
            "Li et al. 2024, LightDiff; Yue et al. 2023, ResShift",
        ),
        "curve": (
            "Curve",
            "A small network bends every pixel's curve. Nothing is added, and the noise stays.",
            "Guo et al. 2020, Zero-DCE",
        ),
        "lime": (
            "LIME",
            "No network: the light that fell on things is estimated, and the picture divided by it.",
            "Guo, Li and Ling 2017",
        ),
        "retinex": (
            "Latent Retinex",
            "The model's own latents are taken apart into things and light; more light is put back in.",
            "Jiang et al. 2024, LightenDiffusion",
        ),
    }
)
# What each method can be told beside brightness and colour; what has no effect in one is not shown.
OPTIONS = MappingProxyType(
    {
        "diffusion": ("noise_frac", "detail_frac", "num_passes", "seed"),
        "curve": (),
        "lime": ("noise_frac",),
        "retinex": ("noise_frac",),
    }
)
GROUPS = ("noise_frac", "detail_frac", "num_passes", "seed")
PICTURE_HEIGHT_PX = 220
CLIP_KINDS = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def to_request(values: Mapping[str, Any]) -> tuple[LowLightRequest, tuple[str, ...]]:
    """Collect the values of the widgets into one checked request, and notes about the upload."""
    fields = {name: values[name] for name in (*PLAIN, "backend")}
    request = validate(LowLightRequest(**fields, seed=to_seed(values["seed"])))
    if values["burst"]:
        return replace(request, burst=read_burst(values["burst"])), ()
    if not values["picture"]:
        raise UserError("There is no picture yet; upload one, choose an example, or send one from another tab.")
    upload = read_dark_photo(values["picture"])
    truth = read_photo(values["truth"]).picture if values["truth"] else None
    return replace(request, picture=upload.picture, truth=truth), upload.notes


def to_darkening(values: Mapping[str, Any]) -> DarkenRequest:
    """Collect the values of the tool that darkens."""
    return validate(DarkenRequest(**{name: values[name] for name in DARKENING}, seed=to_seed(values["seed"])))


def to_widgets(request: LowLightRequest) -> Updates:
    """Turn a request into the values of the widgets that made it, except for the pictures."""
    return {**{name: getattr(request, name) for name in PLAIN}, "seed": str(request.seed)}


def explain(services: Services, methods: Sequence[str]) -> str:
    """Say in one sentence why one of some methods cannot run here; empty if all can."""
    networks = services.models.networks()
    return next(filter(None, (str(networks.explain_missing(method)) for method in methods)), "")


def on_method_changed(*, method: Any) -> Updates:
    """Show what the chosen method does, and what it can be told."""
    options = OPTIONS.get(method, ())
    return {
        "about": describe_method(method) if method in METHODS else "",
        **{f"{name} group": gr.Column(visible=name in options) for name in GROUPS},
    }


def describe_method(method: str) -> str:
    """Say what a method does and where it comes from."""
    _, words, source = METHODS[method]
    return f"<p>{escape(words)} <cite>{escape(source)}.</cite></p>"


def build_inputs(start: Mapping[str, Any], picture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lay out the left side; returns the widgets by field name, and what belongs to some methods only."""
    described: Mapping[str, Any] = specs(LowLightRequest)
    made: dict[str, Any] = {}
    made["picture"] = gr.Image(
        picture,
        label="A dark photo",
        type="filepath",
        format="png",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=PICTURE_HEIGHT_PX,
        elem_classes="light-picture",
        buttons=[],
    )
    read_file(made["picture"])
    made["picture_notes"] = gr.HTML(elem_classes="choice-notes", apply_default_css=False)
    method = start.get("method", described["method"].default)
    with gr.Group(elem_classes="light-how"):
        titles = [(title, name) for name, (title, *_) in METHODS.items()]
        made["method"] = pass_on(gr.Radio(titles, value=method, label="Method", elem_classes="picker"))
        about = gr.HTML(describe_method(method), elem_classes="technique-words", apply_default_css=False)
        made["brightness"] = make_control(described["brightness"], value=start.get("brightness"))
    groups = build_options(made, described, method)
    build_darkroom(made)
    with gr.Accordion("Several dark photos of one scene", open=False, elem_classes="light-burst"):
        made["burst"] = gr.File(
            label="A burst of photos, or a short clip (animated WebP, PNG or GIF)",
            file_count="multiple",
            file_types=list(CLIP_KINDS),
            height=140,
        )
        made["burst_notes"] = gr.HTML(elem_classes="choice-notes", apply_default_css=False)
    with gr.Accordion("Settings from a PNG", open=False, elem_classes="restore"):
        made["dropped"] = gr.File(label="Drop a PNG from this tab", file_types=[".png"], height=120)
    made["truth"] = gr.State("")
    return made, {"about": about, **groups}


def build_options(made: dict[str, Any], described: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Lay out what only some methods can be told, colour, and what is rarely touched."""
    shown = on_method_changed(method=method)
    groups: dict[str, Any] = {}

    def group(name: str) -> gr.Column:
        key = f"{name} group"
        groups[key] = gr.Column(visible=shown[key].visible, elem_classes="plain-group")
        return groups[key]

    with gr.Group(elem_classes="light-options"):
        with group("noise_frac"):
            made["noise_frac"] = make_control(described["noise_frac"])
        with group("detail_frac"):
            made["detail_frac"] = make_control(described["detail_frac"])
        made["colour"] = make_control(described["colour"])
    with gr.Accordion("Settings", open=False, elem_classes="settings"):
        made["force"] = make_control(described["force"])
        with group("num_passes"):
            made["num_passes"] = make_control(described["num_passes"])
        with group("seed"):
            made["seed"], _ = make_seed_box(described["seed"])
    return groups


def build_darkroom(made: dict[str, Any]) -> None:
    """Lay out the tool that takes a picture again with less light."""
    darkening: Mapping[str, Any] = specs(DarkenRequest)
    with gr.Accordion("No dark photo at hand? Darken this one", open=False, elem_classes="light-darkroom"):
        made |= {name: make_control(darkening[name]) for name in DARKENING}
        made["darken"] = gr.Button("Darken the picture", elem_classes="darken")


def build_run() -> dict[str, gr.Button]:
    """Lay out Run, Compare and Stop above the stage, so that they are seen beside the settings."""
    with gr.Row(elem_classes="actions"):
        return {
            "run": gr.Button("Run", variant="primary", elem_classes="run", min_width=80),
            "compare": gr.Button("Compare", elem_classes="compare", min_width=100),
            "stop": gr.Button("Stop", variant="stop", elem_classes="stop", min_width=70),
        }
