"""The right side of the style tab: the style pictures beside what was drawn, one row for each way of drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from pipelines import StyleArm, StyleRequest, StyleResult
from tabs.controls import build_findings, build_lines, show_facts, show_notes, show_status
from tabs.files import save_png
from tabs.wiring import Updates

MAX_ARMS = 3
SOURCES = "Where the style came from"


def build_result(invitation: str) -> dict[str, Any]:
    """Lay out the right side: the unfinished picture, then the rows; below them facts and what to do with it."""
    made: dict[str, Any] = {}
    shown: dict[str, Any] = {"show_label": False, "interactive": False, "format": "png", "object_fit": "contain"}
    with gr.Column(elem_classes="stage-box"):
        made["picture"] = gr.Image(
            format="png",
            elem_classes="picture",
            alt_text="No picture yet",
            container=False,
            show_label=False,
            interactive=False,
            buttons=["fullscreen"],
        )
        with gr.Row(visible=False, elem_classes="style-sheet", equal_height=False) as made["sheet"]:
            with gr.Column(elem_classes="style-pictures", scale=1, min_width=90):
                made["references"] = gr.Gallery(columns=1, height="auto", buttons=["fullscreen"], **shown)
            with gr.Column(elem_classes="style-arms", scale=4, min_width=220):
                for index in range(MAX_ARMS):
                    made |= build_arm(index, shown)
        made |= build_lines(invitation)
    return made | build_findings(SOURCES)


def build_arm(index: int, shown: dict[str, Any]) -> dict[str, Any]:
    """Lay out the row of one way of drawing: its title with numbers, and its pictures."""
    with gr.Column(visible=False, elem_classes="style-arm") as row:
        title = gr.HTML(elem_classes="arm-title", apply_default_css=False)
        images = gr.Gallery(height="auto", buttons=["fullscreen", "download"], elem_classes="arm-pictures", **shown)
    return {f"arm_{index}": row, f"title_{index}": title, f"images_{index}": images}


def show_result(result: StyleResult, upload_notes: Sequence[str] = ()) -> Updates:
    """Turn a finished run into updates: the rows, facts, sketches, notes, and what the buttons need."""
    request = replace(result.request, seed=result.seed_used, compare=False)
    is_compared = len(result.arms) > 1
    updates: Updates = {}
    for index in range(MAX_ARMS):
        arm = result.arms[index] if index < len(result.arms) else None
        updates |= show_arm(index, arm, save_arm(arm, result) if arm else [], is_compared=is_compared)
    path = save_arm(result.arms[-1], result)[0][0]
    titles = [arm.title for arm in result.arms]
    sentence = f"{', '.join(titles)}: the same seeds in the same places. " if is_compared else ""
    return updates | {
        "picture": gr.Image(visible=False),
        "sheet": gr.Row(visible=True),
        "references": name_references(result),
        "status": show_status(f"{sentence}Done in {result.seconds:.1f} s", kind="done"),
        "facts": show_facts(list_facts(result), () if is_compared else result.arms[-1].measures, is_compared=False),
        "sketches": gr.Gallery(
            [(picture, caption) for caption, picture in result.sketches], visible=bool(result.sketches)
        ),
        "notes": show_notes(dict.fromkeys((*upload_notes, *result.notes))),
        "download": gr.DownloadButton(value=path, interactive=True),
        "reuse": gr.Button(interactive=True),
        "copy": gr.Button(interactive=True),
        "use": gr.Button(interactive=True),
        "drag": gr.Button(interactive=True),
        "enlarge": gr.Button(interactive=True),
        "light": gr.Button(interactive=True),
        "solid": gr.Button(interactive=True),
        "shown": forget_uploads(request, result),
        "path": path,
    }


def show_arm(index: int, arm: StyleArm | None, pictures: Sequence[tuple[str, str]], *, is_compared: bool) -> Updates:
    """Turn one way of drawing into its row; a row that is not needed is hidden."""
    if arm is None:
        return {f"arm_{index}": gr.Column(visible=False), f"images_{index}": []}
    is_wide = arm.images[0].width > arm.images[0].height
    columns = 1 if len(pictures) == 1 or is_wide else 4 if is_compared else 2
    measures = show_facts((), arm.measures, is_compared=False) if is_compared else ""
    return {
        f"arm_{index}": gr.Column(visible=True),
        f"title_{index}": gr.HTML(f"<h3>{escape(arm.title)}</h3>{measures}", visible=is_compared),
        f"images_{index}": gr.Gallery(list(pictures), columns=columns),
    }


def save_arm(arm: StyleArm, result: StyleResult) -> list[tuple[str, str]]:
    """Write the pictures of one row, each with the settings that draw it alone, and say in words what each is."""
    asked = result.request.techniques
    choice = {} if not arm.name else {arm.name: asked.get(arm.name, {})}
    own = replace(result, arms=(arm,), request=replace(result.request, techniques=choice))
    words = f"{result.request.prompt}; {arm.title}, seed "
    return [(save_png(own, index), f"{words}{result.seed_used + index}") for index in range(len(arm.images))]


def name_references(result: StyleResult) -> list[tuple[Any, str]]:
    """Pair the style pictures with their names."""
    names = ("Style picture", "Second style picture")
    words = (result.request.reference_prompt, result.request.second_prompt)
    given = (result.request.reference, result.request.second)
    labels = [
        name if picture is not None else f"{name}, drawn: {text}"
        for name, text, picture in zip(names, words, given)
        if picture is not None or text.strip()
    ]
    return list(zip(result.references, labels))


def list_facts(result: StyleResult) -> list[tuple[str, str]]:
    """List what is true of the whole run."""
    size = " x ".join(str(side) for side in result.images[0].size)
    facts = [("time", f"{result.seconds:.1f} s"), ("seed", str(result.seed_used)), ("size", size)]
    names = ("the style picture", "the second one")
    return facts + [
        (f"Inversion error of {name}", f"{error:.1f} dB") for name, error in zip(names, result.inversions_db)
    ]


def forget_uploads(request: StyleRequest, result: StyleResult) -> StyleRequest:
    """Keep of each upload only the small picture that the model saw."""
    seen = iter(result.references)
    kept: dict[str, Any] = {}
    for name in ("reference", "second"):
        if getattr(request, name) is not None:
            kept[name] = next(seen)
        elif getattr(request, f"{name}_prompt").strip():
            next(seen)
    return replace(request, **kept)
