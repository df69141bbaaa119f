"""Widgets built from parameter records, and the small pieces of page that every tab shows.

No number is written here: ranges, labels and help texts come from `pipelines.ranges`. Text from a visitor or a
model is escaped in this file and nowhere else.
"""

from __future__ import annotations

import re
import secrets
from abc import ABCMeta
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from html import escape
from typing import Any

import gradio as gr

from pipelines import Choice, Flag, ImageResult, Measure, Progress, Range, Text, catalogue
from tabs.files import save_png

Control = Range | Choice | Text | Flag
WHOLE_NUMBER = re.compile(r"\s*[+-]?\d{1,40}\s*")


def pass_on(widget: Any) -> Any:
    """Let a wrong value through to the request, whose own sentence answers then and not the widget's."""
    return _read_by(widget, keep_payload)


def read_file(widget: Any) -> Any:
    """Let a file through as it came: our own check has a sentence for everything that can be wrong with it."""
    return _read_by(widget, find_path)


def keep_payload(_: Any, payload: Any) -> Any:
    """Return what the page sent."""
    return payload


def find_path(_: Any, payload: Any) -> str | None:
    """Return where the file of an upload lies."""
    return None if payload is None else str(payload.path or payload.url)


def _read_by(widget: Any, preprocess: Callable[[Any, Any], Any]) -> Any:
    """Let a widget read what the page sends in its own way.

    The class is changed and not the widget alone: after an update gradio builds the visitor's widget from its class.
    """
    kind: Any = type(widget)
    widget.__class__ = _make_reader(kind, preprocess)
    return widget


@cache
def _make_reader(kind: Any, preprocess: Callable[[Any, Any], Any]) -> Any:
    # gradio finds the widget's page code by the parent's name where is_template is there. Its own metaclass would write
    # a file beside this one for every class that it makes.
    members = {"preprocess": preprocess, "is_template": True, "__module__": __name__}
    return ABCMeta.__new__(type(kind), kind.__name__, (kind,), members)


def make_control(spec: Control, *, value: Any = None, **options: Any) -> gr.components.Component:
    """Build the widget of one described field; `value` replaces the default of the record."""
    start = spec.default if value is None else value
    shared = {"label": spec.label, "info": spec.help or None, "value": start, **options}
    if isinstance(spec, Flag):
        return pass_on(gr.Checkbox(**shared))
    if isinstance(spec, Text):
        return pass_on(gr.Textbox(max_lines=1, **shared))
    if isinstance(spec, Choice):
        return pass_on(gr.Dropdown(choices=list(spec.options), filterable=False, **shared))
    return pass_on(gr.Slider(minimum=spec.low, maximum=spec.high, step=spec.step, **shared))


def make_seed_box(spec: Range, *, value: Any = None) -> tuple[gr.Textbox, gr.Button]:
    """Build the seed field and its dice: text, because the highest seeds do not survive a browser's number."""
    with gr.Row(elem_classes="seed-row", equal_height=True):
        box = gr.Textbox(
            str(spec.default if value is None else value),
            label=spec.label,
            info=spec.help,
            max_lines=1,
            scale=1,
            min_width=120,
            elem_classes="seed",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
        )
        dice = gr.Button("New seed", elem_classes="dice", scale=0, min_width=44)
    dice.click(lambda: roll_seed(spec), None, box, queue=False, show_progress="hidden", api_visibility="private")
    return box, dice


def roll_seed(spec: Range) -> str:
    """Draw a seed inside the range."""
    return str(int(spec.low) + secrets.randbelow(int(spec.high) - int(spec.low) + 1))


def to_seed(text: Any) -> Any:
    """Turn the seed field into a number; what is no whole number stays as it is, and `validate` names it."""
    if isinstance(text, str) and WHOLE_NUMBER.fullmatch(text):
        return int(text)
    return text


def show_status(sentence: str, *, done: float | None = None, kind: str = "") -> str:
    """Draw the line under the picture: a sentence and, while something runs, how much is done (0..1)."""
    bar = "" if done is None else f'<span class="bar"><i style="width:{done:.1%}"></i></span>'
    return f'<div class="status {kind}">{bar}<p>{escape(sentence)}</p></div>'


def show_error(sentence: str) -> str:
    """Draw a sentence that says what to do."""
    return show_status(sentence, kind="error")


def show_progress(progress: Progress) -> str:
    """Draw "step 7/20, 0.9 s left" and the bar."""
    left = f", {progress.seconds_left:.1f} s left" if progress.seconds_left else ""
    text = (progress.note or f"step {progress.step}/{progress.num_steps}") + left
    return show_status(text, done=progress.step / progress.num_steps, kind="running")


def show_facts(facts: Iterable[tuple[str, str]], measures: Iterable[Measure], *, is_compared: bool) -> str:
    """Draw the facts of a run and what was measured; a comparison shows both numbers."""
    cards = [f'<div class="fact"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>' for name, value in facts]
    for measure in measures:
        off = f'<s title="off">{format_number(measure.off, measure.unit)}</s> ' if is_compared else ""
        unit = f" <small>{escape(measure.unit)}</small>" if measure.unit not in ("", "share") else ""
        cards.append(
            f'<div class="fact measure"><dt>{escape(measure.label)}</dt>'
            f"<dd>{off}<b>{format_number(measure.on, measure.unit)}</b>{unit}</dd></div>"
        )
    return f'<dl class="facts">{"".join(cards)}</dl>'


def format_number(value: float, unit: str = "") -> str:
    """Write a measured number with three significant digits, a share of 0..1 as a percentage."""
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def show_notes(notes: Iterable[str]) -> str:
    """Draw the sentences about what was done differently from the request."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def show_unknown_words(model: str, words: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Name the words of a prompt that a model never learned, with the nearest ones that it knows."""
    lines = []
    for word, nearest in words:
        known = ", ".join(nearest)
        hint = f"; nearest: <b>{escape(known)}</b>" if known else ""
        lines.append(f"<li>{escape(model)} does not know \u2018{escape(word)}\u2019{hint}</li>")
    return f'<ul class="unknown">{"".join(lines)}</ul>' if lines else ""


def show_badge(facts: Iterable[str], *, kind: str = "ready") -> str:
    """Draw the facts about the loaded model as one row of small labels."""
    pills = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f'<ul class="badge {kind}" aria-label="The loaded model">{pills}</ul>'


def build_lines(invitation: str) -> dict[str, Any]:
    """Lay out the line under the picture."""
    return {
        "status": gr.HTML(show_status(invitation), elem_classes="status-box", apply_default_css=False),
        # Stop speaks here: late words of the ended run may still reach the line above, and must not overwrite these.
        "stopped": gr.HTML(elem_classes="status-box stopped-box", apply_default_css=False),
    }


def build_result(invitation: str) -> dict[str, Any]:
    """Lay out the right side: the picture on its stage, one line about it, facts, and what to do with it."""
    made: dict[str, Any] = {}
    shown = {"show_label": False, "interactive": False, "buttons": ["fullscreen"]}
    with gr.Column(elem_classes="stage-box"):
        made["picture"] = gr.Image(
            format="png", elem_classes="picture", alt_text="No picture yet", container=False, **shown
        )
        # Its own limit of 500 px would leave a margin on a projector; the style sheet knows the room.
        made["pair"] = gr.ImageSlider(
            format="png", elem_classes="pair", visible=False, container=False, max_height=4096, **shown
        )
        made |= build_lines(invitation)
    return made | build_findings("What the techniques looked at")


def build_findings(sketches: str, *, drag: str = "Drag this") -> dict[str, Any]:
    """Lay out what stands below every stage: facts, explaining pictures, notes, and what to do with the picture.

    `drag` names the button that sends the picture to the tab where it is dragged.
    """
    made: dict[str, Any] = {}
    made["facts"] = gr.HTML(elem_classes="facts-box", apply_default_css=False)
    made["sketches"] = gr.Gallery(
        label=sketches,
        visible=False,
        columns=3,
        height="auto",
        elem_classes="sketches",
        format="png",
        interactive=False,
        buttons=["fullscreen"],
    )
    made["notes"] = gr.HTML(elem_classes="notes-box", apply_default_css=False)
    with gr.Row(elem_classes="keep"):
        made["download"] = gr.DownloadButton("Download PNG", interactive=False, size="sm", min_width=110)
        made["reuse"] = gr.Button("Reuse seed", interactive=False, size="sm", min_width=100)
        made["copy"] = gr.Button("Copy as Python", interactive=False, size="sm", min_width=120)
        made["use"] = gr.Button("Use as style", interactive=False, size="sm", min_width=110)
        made["drag"] = gr.Button(drag, interactive=False, size="sm", min_width=90)
        made["enlarge"] = gr.Button("Enlarge", interactive=False, size="sm", min_width=80)
        made["light"] = gr.Button("Light up", interactive=False, size="sm", min_width=80)
        made["solid"] = gr.Button("Make 3D", interactive=False, size="sm", min_width=80)
    made["python"] = gr.Code(language="python", label="The same picture in Python", visible=False)
    made["shown"] = gr.State(None)
    made["path"] = gr.State("")
    made["trace"] = gr.State(None)
    return made


def show_step(progress: Progress, *, prompt: str, hides: str) -> dict[str, Any]:
    """Turn one finished step into updates: the line under the picture, and the preview if there is one.

    `hides` names the widget that shows a finished result in the preview's place.
    """
    updates: dict[str, Any] = {"status": show_progress(progress)}
    if progress.preview is not None:
        alt_text = f"Unfinished picture, step {progress.step} of {progress.num_steps}: {prompt}"
        updates["picture"] = gr.Image(progress.preview, alt_text=alt_text, visible=True)
        updates[hides] = gr.update(visible=False)
    return updates


def show_result(result: ImageResult) -> dict[str, Any]:
    """Turn a finished run into updates: picture or pair, facts, measures, notes, and what the buttons need."""
    request = replace(result.request, seed=result.seed_used, compare=False)
    path = save_png(result)
    is_compared = bool(result.baseline_images)
    pair: dict[str, Any] = {"visible": is_compared}
    sentence = f"Done in {result.seconds:.1f} s"
    if is_compared:
        plain = replace(request, techniques={})
        pair["value"] = (save_png(replace(result, images=result.baseline_images, request=plain)), path)
        titles = " + ".join(catalogue()[name].title for name in request.techniques)
        # The script gives this label to both pictures as alternative text.
        pair["label"] = f"{request.prompt}; left plain guidance, right with {titles}"
        sentence = f"Left: plain guidance. Right: {titles}. {sentence}"
    size = " x ".join(str(side) for side in result.images[0].size)
    facts = (("time", f"{result.seconds:.1f} s"), ("seed", str(result.seed_used)), ("size", size))
    return {
        "picture": gr.Image(path, alt_text=f"Generated picture: {request.prompt}", visible=not is_compared),
        "pair": gr.ImageSlider(**pair),
        "status": show_status(sentence, kind="done"),
        "facts": show_facts(facts, result.measures, is_compared=is_compared),
        "notes": show_notes(result.notes),
        "sketches": gr.Gallery(
            [(picture, caption) for caption, picture in result.sketches], visible=bool(result.sketches)
        ),
        "download": gr.DownloadButton(value=path, interactive=True),
        "reuse": gr.Button(interactive=True),
        "copy": gr.Button(interactive=True),
        "use": gr.Button(interactive=True),
        "drag": gr.Button(interactive=True),
        "enlarge": gr.Button(interactive=True),
        "light": gr.Button(interactive=True),
        "solid": gr.Button(interactive=True),
        "shown": request,
        "path": path,
    }
