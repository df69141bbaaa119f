"""The technique picker: what is added to plain guidance, each technique with its controls, and the layout canvas.

Everything follows from `pipelines.catalogue()`: a new technique appears here by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from pipelines import SAMPLERS, TechniqueEntry, catalogue
from tabs.controls import make_control
from tabs.layout_canvas import build_canvas
from tabs.wiring import Updates, wire

HINT = "Choose one or several: Run draws the same seed without and with them."


def option_key(technique: str, option: str) -> str:
    """Name the widget of one option of a technique."""
    return f"{technique}_{option}"


def list_options() -> list[tuple[TechniqueEntry, str]]:
    """List every option of every technique, in the order of the widgets."""
    return [(entry, option) for entry in catalogue().values() for option in entry.specs]


def build(picked: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lay out the picker.

    Returns: the widgets whose values make a choice (`picked`, `layout`, one per option), and the groups to show.
    """
    made: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    entries = catalogue()
    with gr.Group(elem_classes="techniques"):
        made["picked"] = gr.CheckboxGroup(
            [(entry.title, name) for name, entry in entries.items()],
            value=list(picked),
            label="Techniques",
            info=HINT,
            elem_classes="picker",
        )
        with gr.Column(visible=wants_layout(picked), elem_classes="layout-column") as groups["layout_column"]:
            made["layout"] = build_canvas()
        for name, entry in entries.items():
            with gr.Column(visible=name in picked, elem_classes="technique") as groups[group_key(name)]:
                gr.HTML(describe(entry), elem_classes="technique-words", apply_default_css=False)
                for option, spec in entry.specs.items():
                    made[option_key(name, option)] = make_control(spec)
    return made, groups


def connect(
    made: Mapping[str, Any], groups: Mapping[str, Any], prompt: gr.Textbox, sampler: gr.Dropdown, **event: Any
) -> None:
    """Show the controls of what is picked with a sampler that suits it, and fill the canvas when asked."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    picked = {"picked": made["picked"], "sampler": sampler}
    wire(made["picked"].change, on_pick, picked, {**groups, "sampler": sampler}, **quick)
    layout = {"layout": made["layout"]}
    wire(made["layout"].submit, on_fill, {"prompt": prompt}, layout, api_name="propose_layout", **quick, **event)


def first() -> list[str]:
    """Pick what a comparison shows where nothing is picked: the first technique."""
    return list(catalogue())[:1]


def group_key(technique: str) -> str:
    """Name the group of widgets of one technique."""
    return f"{technique}_group"


def describe(entry: TechniqueEntry) -> str:
    """Say what a technique does, what it lacks with other models, and whose it is."""
    sampler = f"Sets the sampler to {entry.page_sampler}." if entry.page_sampler else ""
    words = escape(" ".join(filter(None, (entry.summary, sampler, entry.elsewhere))))
    return f"<p><b>{escape(entry.title)}.</b> {words} <cite>{escape(entry.source)}.</cite></p>"


def wants_layout(picked: Sequence[str]) -> bool:
    """Tell whether one of the picked techniques draws by a layout."""
    return any(catalogue()[name].wants_boxes for name in picked if name in catalogue())


def on_pick(*, picked: Any, sampler: str) -> Updates:
    """Show the controls of the picked techniques, hide the others, and choose a sampler that suits them."""
    groups: Updates = {group_key(name): gr.Column(visible=name in picked) for name in catalogue()}
    return {
        **groups,
        "layout_column": gr.Column(visible=wants_layout(picked)),
        "sampler": choose_sampler(picked, sampler),
    }


def choose_sampler(picked: Sequence[str], sampler: str) -> str:
    """Return the sampler that the picked techniques want; the one that is set if it is among them, or any will do."""
    known = catalogue()
    wishes = {known[name].page_sampler for name in picked if name in known} - {""}
    # Listed last is the most special one, which suits the others too.
    return sampler if not wishes or sampler in wishes else max(wishes, key=SAMPLERS.index)


def on_fill(*, prompt: str) -> Updates:
    """Place the things of the prompt on the canvas."""
    from pipelines import propose_layout

    return {"layout": propose_layout(prompt)}


def to_choice(picked: Any, layout: Any, options: Mapping[str, Any]) -> Any:
    """Turn the values of the widgets into a choice {technique: {option: value}}; the check names what is unknown."""
    known = catalogue()
    choice: dict[str, Any] = {}
    for name in picked or ():
        entry = known.get(name)
        choice[name] = {option: options[option_key(name, option)] for option in entry.specs} if entry else {}
        if entry and entry.wants_boxes and layout:
            choice[name]["boxes"] = layout
    return choice


def to_widgets(choice: Mapping[str, Mapping[str, Any]]) -> Updates:
    """Turn a choice into the values of the widgets; what it does not name goes back to its default."""
    values: Updates = {"picked": list(choice), "layout": []}
    for entry, option in list_options():
        given: Mapping[str, Any] = choice.get(entry.name, {})
        values[option_key(entry.name, option)] = given.get(option, entry.specs[option].default)
    for options in choice.values():
        values["layout"] = options.get("boxes", values["layout"])
    return values
