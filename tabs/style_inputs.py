"""The left side of the style tab: which style pictures, how much of them, and one request out of all widgets.

A style picture is an example, an upload or words. Technique controls follow from `pipelines.catalogue`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from pipelines import STYLE_TECHNIQUES, StyleRequest, catalogue, read_picture, specs, validate
from tabs.controls import make_control, make_seed_box, pass_on, read_file, show_error, show_notes, to_seed
from tabs.running import build_actions
from tabs.technique_picker import option_key
from tabs.wiring import Updates, wire

LISTING = Path(__file__).resolve().parents[1] / "assets" / "examples" / "style" / "styles.json"
# Where an option stands: outright, or with the second style picture; every other one is folded into the settings.
OUTRIGHT = ("strength", "depth")
WITH_SECOND = ("blend", "is_across")
HALF = 0.5
PICTURES = ("reference", "second")
PLAIN = ("prompt", "read_by", "extend", "negative_prompt", "num_steps", "guidance_scale", "sampler", "num_images")


@dataclass(frozen=True)
class ExampleStyle:
    """Name one of the example style pictures, and say in words what it shows."""

    name: str
    path: Path
    alt: str

    def open(self) -> Image.Image:
        """Load the picture."""
        with Image.open(self.path) as picture:
            return picture.convert("RGB")


@cache
def list_styles() -> tuple[ExampleStyle, ...]:
    """List the example style pictures in display order."""
    rows = json.loads(LISTING.read_text("utf-8"))["styles"]
    return tuple(ExampleStyle(row["name"], LISTING.parent / row["file"], row["alt"]) for row in rows)


def find_style(name: str) -> int:
    """Return the place of an example style on the shelf."""
    return [style.name for style in list_styles()].index(name)


def list_options(place: tuple[str, ...] | None = None) -> list[tuple[str, str, Any]]:
    """List (technique, option, spec) of all options, of those in one place, or with () of the folded ones."""
    found = [(name, option, spec) for name, entry in list_techniques().items() for option, spec in entry.specs.items()]
    if place is None:
        return found
    return [row for row in found if (row[1] in place if place else row[1] not in (*OUTRIGHT, *WITH_SECOND))]


def list_techniques() -> Mapping[str, Any]:
    """List what can take a style from a picture."""
    return catalogue(STYLE_TECHNIQUES)


def to_request(values: Mapping[str, Any], *, is_compared: bool) -> tuple[StyleRequest, tuple[str, ...]]:
    """Collect the values of the widgets into one checked request, and notes about the uploads; words win."""
    plain = {name: values[name] for name in (*PLAIN, *(f"{name}_prompt" for name in PICTURES), "backend")}
    pictures: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    for name in PICTURES:
        if values[name] and not has_words(values[f"{name}_prompt"]):
            upload = read_picture(values[name])
            pictures[name] = upload.picture
            notes += upload.notes
    choice: dict[str, dict[str, Any]] = {}
    if technique := values["technique"]:
        has_second = "second" in pictures or has_words(values["second_prompt"])
        known = [option for name, option, _ in list_options() if name == technique]
        asked = [option for option in known if has_second or option not in WITH_SECOND]
        choice = {technique: {option: values[option_key(technique, option)] for option in asked}}
    request = StyleRequest(**plain, **pictures, seed=to_seed(values["seed"]), techniques=choice, compare=is_compared)
    return validate(request), notes


def has_words(text: Any) -> bool:
    """Tell whether a text field says anything; what is no text is left to the request's own check."""
    return bool(text.strip()) if isinstance(text, str) else text is not None


def to_widgets(request: StyleRequest) -> Updates:
    """Turn a request into the values of the widgets that made it; its pictures are chosen apart."""
    values: Updates = {name: getattr(request, name) for name in (*PLAIN, *(f"{name}_prompt" for name in PICTURES))}
    technique = next(iter(request.techniques), "")
    given = request.techniques.get(technique, {})
    for name, option, spec in list_options():
        start = HALF if option == "blend" else spec.default
        values[option_key(name, option)] = given.get(option, start) if name == technique else start
    return {**values, "seed": str(request.seed), "technique": technique}


def show_choice(name: str, style: str | None) -> Updates:
    """Put an example into the place of a style picture and mark it on the shelf; None leaves the place empty."""
    index = None if style is None else find_style(style)
    return {
        name: None if index is None else list_styles()[index].open(),
        f"{name}_shelf": gr.Gallery(selected_index=index),
        f"{name}_notes": "",
    }


def on_shelf(name: str, index: int) -> Updates:
    """Take an example as style picture; words for one are cleared."""
    return {**show_choice(name, list_styles()[index].name), f"{name}_prompt": ""}


def on_uploaded(name: str, *, path: Any) -> Updates:
    """Look whether an upload can be used, before a run does; words for a picture are cleared."""
    if not path:
        return {f"{name}_notes": "", f"{name}_shelf": gr.Gallery(selected_index=None)}
    notes = show_notes(read_picture(path).notes)
    return {f"{name}_notes": notes, f"{name}_shelf": gr.Gallery(selected_index=None), f"{name}_prompt": ""}


def on_refused(name: str) -> Updates:
    """Leave the place of a style picture empty after an upload that cannot be used; the sentence about it stays."""
    return {name: None, f"{name}_shelf": gr.Gallery(selected_index=None)}


def on_second_changed(*, second: Any, second_prompt: Any) -> Updates:
    """Show the blend once there is something to blend with."""
    return {"blend_group": gr.Column(visible=bool(second) or has_words(second_prompt))}


def on_technique_changed(*, technique: Any) -> Updates:
    """Show the controls of the chosen technique, hide the others."""
    return {group: gr.Column(visible=group.partition(" ")[0] == technique) for group in list_groups()}


def list_groups() -> list[str]:
    """Name the groups of controls: one outright and one folded per technique that has such options."""
    return [name for place in (OUTRIGHT, ()) for name in group_options(place)]


def group_options(place: tuple[str, ...]) -> dict[str, list[tuple[str, str, Any]]]:
    """Sort the options of one place into groups of one technique each."""
    groups: dict[str, list[tuple[str, str, Any]]] = {}
    for row in list_options(place):
        groups.setdefault(f"{row[0]} {'outright' if place else 'folded'}", []).append(row)
    return groups


def build_inputs(start: Mapping[str, Any], ready: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lay out the left side; returns the widgets with values, and the groups to show or hide."""
    extend: Any = specs(StyleRequest)["extend"]
    made: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    made["prompt"] = gr.Textbox(
        start["prompt"], label="Prompt", lines=2, max_lines=8, elem_classes="prompt", info=f"What to draw. {ready}"
    )
    made["unknown"] = gr.HTML(elem_classes="unknown-box", apply_default_css=False)
    made |= build_actions()
    made |= build_choice("reference", "Style picture", start.get("style"))
    with gr.Accordion("Second style", open=False, elem_classes="second-style") as made["second_fold"]:
        made |= build_choice("second", "Second style picture", None)
        with gr.Column(visible=False, elem_classes="blend") as groups["blend_group"]:
            made |= make_options(list_options(WITH_SECOND))
    with gr.Group(elem_classes="style-controls"):
        build_groups(made, groups, OUTRIGHT)
        made["extend"] = pass_on(
            gr.Radio(list(extend.options), value=extend.default, label=extend.label, info=extend.help)
        )
    with gr.Accordion("Settings", open=False, elem_classes="settings"):
        build_settings(made, groups, start["seed"])
    with gr.Accordion("Settings from a PNG", open=False, elem_classes="restore"):
        made["dropped"] = gr.File(label="Drop a PNG from this tab", file_types=[".png"], height=120)
    return made, groups


def build_settings(made: dict[str, Any], groups: dict[str, Any], seed: int) -> None:
    """Lay out the folded settings."""
    described: dict[str, Any] = specs(StyleRequest)
    made["seed"], _ = make_seed_box(described["seed"], value=seed)
    titles = [(entry.title, name) for name, entry in list_techniques().items()]
    made["technique"] = pass_on(
        gr.Dropdown(titles, value=titles[0][1], label="Technique", info="How the style is taken.", filterable=False)
    )
    build_groups(made, groups, ())
    for name in ("read_by", "num_images", "num_steps", "guidance_scale", "sampler"):
        made[name] = make_control(described[name])
    words = described["negative_prompt"]
    made["negative_prompt"] = gr.Textbox("", label=words.label, info=words.help)


def build_groups(made: dict[str, Any], groups: dict[str, Any], place: tuple[str, ...]) -> None:
    """Build the options of one place, a group for each technique; only the first technique's shows at the start."""
    first = next(iter(list_techniques()))
    for name, rows in group_options(place).items():
        with gr.Column(visible=rows[0][0] == first, elem_classes="plain-group") as groups[name]:
            made |= make_options(rows)


def make_options(rows: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """Build the widgets of some options; a blend starts in the middle, where both pictures show."""
    return {
        option_key(name, option): make_control(spec, value=HALF if option == "blend" else None)
        for name, option, spec in rows
    }


def build_choice(name: str, label: str, style: str | None) -> dict[str, Any]:
    """Lay out one choice of a style picture: a shelf of examples, the place it comes to, or words for one."""
    described: dict[str, Any] = specs(StyleRequest)
    made: dict[str, Any] = {}
    index = None if style is None else find_style(style)
    with gr.Row(elem_classes="style-choice", equal_height=True):
        made[f"{name}_shelf"] = gr.Gallery(
            [(example.open(), example.alt) for example in list_styles()],
            label=f"{label}: an example",
            columns=4,
            height="auto",
            allow_preview=False,
            selected_index=index,
            format="png",
            interactive=False,
            buttons=[],
            elem_classes="style-shelf",
            scale=3,
            min_width=200,
        )
        made[name] = gr.Image(
            None if index is None else list_styles()[index].open(),
            label="or your own",
            type="filepath",
            format="png",
            image_mode=None,
            sources=["upload"],
            height=178,
            elem_classes="style-place",
            scale=2,
            min_width=130,
            buttons=[],
        )
        read_file(made[name])
    made[f"{name}_notes"] = gr.HTML(elem_classes="choice-notes", apply_default_css=False)
    made[f"{name}_prompt"] = make_control(described[f"{name}_prompt"])
    return made


def connect_inputs(made: Mapping[str, Any], groups: Mapping[str, Any], quick: dict[str, Any]) -> None:
    """Connect what happens on the left side before a run."""
    for name in PICTURES:
        parts = {part: made[part] for part in (name, f"{name}_shelf", f"{name}_notes", f"{name}_prompt")}
        connect_shelf(name, parts, quick)
        problem: dict[str, Any] = {"error_output": f"{name}_notes", "describe_error": show_error}
        checked = {key: part for key, part in parts.items() if key != name}
        looked = partial(on_uploaded, name)
        # Through the queue, because gradio tells a failure only of queued events.
        queued: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
        uploaded = wire(made[name].upload, looked, {"path": made[name]}, checked, **problem, **queued)
        place = {key: made[key] for key in (name, f"{name}_shelf")}
        wire(uploaded.failure, partial(on_refused, name), {}, place, **quick)
        wire(made[name].clear, looked, {"path": made[name]}, checked, **quick)
    second = {name: made[name] for name in ("second", "second_prompt")}
    shown = {"blend_group": groups["blend_group"]}
    wire([widget.change for widget in second.values()], on_second_changed, second, shown, **quick)
    technique = {"technique": made["technique"]}
    wire(
        made["technique"].change, on_technique_changed, technique, {key: groups[key] for key in list_groups()}, **quick
    )


def connect_shelf(name: str, parts: Mapping[str, Any], quick: dict[str, Any]) -> None:
    """Let a click on an example choose it; gradio tells which one only to a listener of its own form."""

    def choose(event: gr.SelectData) -> dict[Any, Any]:
        return {parts[key]: value for key, value in on_shelf(name, event.index).items()}

    parts[f"{name}_shelf"].select(choose, None, list(parts.values()), api_visibility="private", **quick)
