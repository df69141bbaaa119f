"""The right side of the drag tab: the handles on their way, then before and after, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from pipelines import DragProgress, DragRequest, DragResult, Progress
from tabs.controls import build_findings, build_lines, show_facts, show_notes, show_progress, show_status
from tabs.drag_picture import Source, is_drawn, to_data
from tabs.files import save_picture, save_png
from tabs.wiring import Updates

INKS = ("#d5f06a", "#6ad0f0", "#f0a06a", "#d78af0", "#f06a8a", "#8af0b4")
EMPTY_STAGE = '<div class="picture"><div class="empty"></div></div>'
SLIDER_PERCENT = 15
BUTTONS = ("reuse", "copy", "use", "drag", "enlarge", "light", "solid")


@dataclass(frozen=True)
class Kept:
    """Hold what a stop keeps: the best picture so far, the one it comes from, and what is still to go."""

    state: Image.Image
    before: Image.Image
    left_px: float
    request: DragRequest


def build_result(invitation: str) -> dict[str, Any]:
    """Lay out the right side: the handles' way, the slider; below them facts and what to do with the picture."""
    made: dict[str, Any] = {}
    with gr.Column(elem_classes="stage-box"):
        made["travel"] = gr.HTML(EMPTY_STAGE, elem_classes="travel-box", apply_default_css=False)
        made["pair"] = gr.ImageSlider(
            format="png",
            elem_classes="pair",
            visible=False,
            container=False,
            # What was dragged is seen at once, and what was there by sliding.
            slider_position=SLIDER_PERCENT,
            # Its own limit of 500 px would leave a margin on a projector; the style sheet knows the room.
            max_height=4096,
            show_label=False,
            interactive=False,
            buttons=["fullscreen"],
        )
        made |= build_lines(invitation)
    made |= build_findings("What was moved", drag="Drag on")
    made["kept"] = gr.State(None)
    return made


def clear_result(invitation: str) -> Updates:
    """Empty the stage for another picture."""
    off: dict[str, Any] = {"interactive": False}
    return {
        "travel": gr.HTML(EMPTY_STAGE, visible=True),
        "pair": gr.ImageSlider(visible=False),
        "status": show_status(invitation),
        "stopped": "",
        "facts": "",
        "notes": "",
        "sketches": gr.Gallery([], visible=False),
        "python": gr.Code(visible=False),
        "download": gr.DownloadButton(**off),
        **{name: gr.Button(**off) for name in BUTTONS},
        "kept": None,
    }


def show_start(request: DragRequest) -> Updates:
    """Lay the picture on the stage, all handles where they were set."""
    starts = tuple((pair.handle_x, pair.handle_y) for pair in request.pairs)
    to_go = sum(pair.length_px for pair in request.pairs) / len(request.pairs)
    progress = DragProgress(0, request.num_steps, handles=starts, left_px=to_go, state=request.picture)
    return {"travel": gr.HTML(draw_travel(progress, request), visible=True), "pair": gr.ImageSlider(visible=False)}


def show_step(progress: Progress, *, request: DragRequest) -> Updates:
    """Turn one finished step into updates: the line under the picture, and where the handles are."""
    if not isinstance(progress, DragProgress):
        return {"status": show_progress(progress)}
    words = progress.note or f"step {progress.step}/{progress.num_steps}"
    if progress.left_px and "px to go" not in words:
        words += f", {progress.left_px:.0f} px to go"
    updates: Updates = {
        "status": show_progress(replace(progress, note=words)),
        "travel": gr.HTML(draw_travel(progress, request), visible=True),
        "pair": gr.ImageSlider(visible=False),
    }
    if progress.state is not None and request.picture is not None:
        updates["kept"] = Kept(progress.state, request.picture, progress.left_px, request)
    return updates


def draw_travel(progress: DragProgress, request: DragRequest) -> str:
    """Draw the unfinished picture with each handle on its way: where it began, where it is, where it should go."""
    picture = progress.preview or progress.state
    if picture is None:
        return EMPTY_STAGE
    width, height = picture.size
    unit = min(width, height) / 256
    marks = []
    for index, (pair, (x, y)) in enumerate(zip(request.pairs, progress.handles)):
        ink = INKS[index % len(INKS)]
        start, goal = (pair.handle_x + 0.5, pair.handle_y + 0.5), (pair.target_x + 0.5, pair.target_y + 0.5)
        now = (x + 0.5, y + 0.5)
        marks += [
            draw_line(now, goal, f'class="to-go" stroke="{ink}" stroke-width="{1.4 * unit:.2f}"'),
            draw_line(start, now, f'class="gone" stroke="{ink}" stroke-width="{2.2 * unit:.2f}"'),
            draw_dot(goal, 4.5 * unit, f'class="goal" fill="none" stroke="{ink}" stroke-width="{1.6 * unit:.2f}"'),
            draw_dot(now, 5.2 * unit, f'class="now" fill="{ink}" stroke="#12120e" stroke-width="{1.2 * unit:.2f}"'),
            f'<text x="{now[0]:.1f}" y="{now[1]:.1f}" font-size="{6.4 * unit:.1f}">{index + 1}</text>',
        ]
    words = escape(f"Unfinished picture, {progress.left_px:.0f} px to go: {request.prompt}", quote=True)
    return (
        f'<div class="picture travel"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{words}">'
        f'<image href="{to_data(picture)}" width="{width}" height="{height}"/>{"".join(marks)}</svg></div>'
    )


def draw_line(start: tuple[float, float], end: tuple[float, float], style: str) -> str:
    """Draw a line between two places in px of the picture."""
    return f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" {style}/>'


def draw_dot(place: tuple[float, float], radius: float, style: str) -> str:
    """Draw a circle around a place in px of the picture."""
    return f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius:.2f}" {style}/>'


def show_result(result: DragResult, *, asked: DragRequest, source: Source) -> Updates:
    """Turn a finished run into updates: before and after, facts, sketches, notes, and what the buttons need.

    `asked` is the request in px of the canvas; the settings of the result are its, and name no picture that was drawn.
    """
    settings = replace(asked, picture=None) if is_drawn(asked, source) else asked
    path = save_png(replace(result, request=settings))
    sketches = [(picture, caption) for caption, picture in result.sketches]
    return {
        "travel": gr.HTML(visible=False),
        "pair": show_pair(result.original, path, f"{name_picture(asked.prompt)}, dragged by {count(asked)}"),
        "status": show_status(f"Done in {result.seconds:.1f} s. Left: before. Right: after.", kind="done"),
        "facts": show_facts(list_facts(result), result.measures, is_compared=True),
        "sketches": gr.Gallery(sketches, visible=bool(sketches)),
        "notes": show_notes(dict.fromkeys((*source.notes, *result.notes, *list_stages(result)))),
        "download": gr.DownloadButton(value=path, interactive=True),
        **{name: gr.Button(interactive=True) for name in BUTTONS},
        "shown": settings,
        "path": path,
        "kept": None,
    }


def show_kept(kept: Kept) -> Updates:
    """Show the best picture of a stopped run as its result; it holds no settings, as no run ends there."""
    path = save_picture(kept.state, "limelight-stopped.png")
    return {
        "travel": gr.HTML(visible=False),
        "pair": show_pair(kept.before, path, f"{name_picture(kept.request.prompt)}; stopped on the way"),
        "download": gr.DownloadButton(value=path, interactive=True),
        **{name: gr.Button(interactive=name not in ("reuse", "copy")) for name in BUTTONS},
        "shown": kept.request,
        "path": path,
        "kept": None,
    }


def show_pair(before: Image.Image, after: str, label: str) -> gr.ImageSlider:
    """Lay both pictures under the slider; the page's script gives the label to both as alternative text."""
    return gr.ImageSlider(value=(before, after), label=label, visible=True)


def name_picture(prompt: str) -> str:
    """Say in words what a picture shows, as far as known."""
    return prompt.strip() or "your picture"


def list_stages(result: DragResult) -> Iterable[str]:
    """Say in one sentence where the time went."""
    stages = [f"{name} {seconds:.1f}" for name, seconds in result.stages_s]
    if stages:
        yield f"Seconds of each stage: {', '.join(stages)}."


def count(request: DragRequest) -> str:
    """Say how many pairs there are."""
    return "one pair" if len(request.pairs) == 1 else f"{len(request.pairs)} pairs"


def list_facts(result: DragResult) -> Iterable[tuple[str, str]]:
    """List what is true of the whole run."""
    yield "time", f"{result.seconds:.1f} s"
    yield "seed", str(result.seed_used)
    yield "size", " x ".join(str(side) for side in result.image.size)
    yield "Inversion error of the picture", f"{result.inversion_db:.1f} dB"
