"""Recolouring in the 3D tab: a view of the model, strokes over it, and how far the colour goes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr

from pipelines import UserError, read_strokes
from tabs.controls import show_error, show_status
from tabs.files import save_clip, save_data
from tabs.paint_canvas import build_paint_canvas, find_paint, lay_picture
from tabs.preview_result import ROUND_DEG, show_round
from tabs.wiring import Updates, wire

VIEWS = MappingProxyType({"Front": (0.0, 0.0), "Right": (90.0, 0.0), "Back": (180.0, 0.0), "Left": (270.0, 0.0)})
REACHES = (
    ("What is under the stroke", "painted"),
    ("Its mirror image too", "mirrored"),
    ("All of that colour", "alike"),
)
VIEW_PX, FRAME_PX, NUM_FRAMES = 256, 192, 24
HINT = "Paint over the model, then press Recolour; other sides follow."


def build_paint() -> dict[str, Any]:
    """Lay out recolouring, shown once there is a model."""
    made: dict[str, Any] = {}
    with gr.Accordion("Recolour: paint on a view", open=False, visible=False) as made["repaint"]:
        made["side"] = gr.Radio(list(VIEWS), value="Front", label="View", elem_classes="picker")
        made["strokes"] = build_paint_canvas(HINT, with_colours=True)
        made["spread"] = gr.Radio(REACHES, value="painted", label="How far the colour goes", elem_classes="picker")
        made["recolour"] = gr.Button("Recolour", size="sm")
        made["paint_notes"] = gr.HTML(elem_classes="choice-notes", apply_default_css=False)
    return made


def on_view(*, mesh: Any, side: str) -> Updates:
    """Lay the chosen view of the model on the canvas."""
    if mesh is None:
        return {}

    from pipelines import draw_model

    (view,) = draw_model(mesh, [VIEWS[side]], VIEW_PX)
    return {"strokes": lay_picture(view, alt=f"The model, {side.lower()}", hint=HINT), "paint_notes": ""}


def on_recolour(*, mesh: Any, strokes: Any, side: str, spread: str) -> Updates:
    """Paint the model, and renew everything that shows it."""
    paint = find_paint(strokes)
    if mesh is None or paint is None:
        raise UserError("Nothing is painted yet; paint over the model in the view first.")

    from pipelines import draw_model, recolour_model, to_glb, to_obj

    painted = recolour_model(mesh, read_strokes(paint), VIEWS[side], reach=spread)
    turns = [(360.0 * index / NUM_FRAMES, ROUND_DEG) for index in range(NUM_FRAMES)]
    frames = draw_model(painted, turns, FRAME_PX)
    glb, obj = (save_data(write(painted), f"limelight.{kind}") for write, kind in ((to_glb, "glb"), (to_obj, "obj")))
    return {
        "mesh": painted,
        "model": glb,
        "round": show_round(frames, "The recoloured model in one round"),
        "glb": gr.DownloadButton(value=glb),
        "obj": gr.DownloadButton(value=obj),
        "clip": gr.DownloadButton(value=save_clip(frames, "limelight-turntable.webp")),
        **on_view(mesh=painted, side=side),
        "paint_notes": show_status("Recoloured; the files below hold it.", kind="done"),
    }


def connect_paint(result: Mapping[str, Any]) -> None:
    """Wire recolouring."""
    # Through the queue, because gradio tells a failure only of queued events.
    queued: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    noted: dict[str, Any] = {"error_output": "paint_notes", "describe_error": show_error, **queued}
    looked = {name: result[name] for name in ("mesh", "side")}
    seen = {name: result[name] for name in ("strokes", "paint_notes")}
    wire(result["repaint"].expand, on_view, looked, seen, **noted)
    wire(result["side"].change, on_view, looked, seen, **noted)
    given = {name: result[name] for name in ("mesh", "strokes", "side", "spread")}
    names = ("mesh", "model", "round", "glb", "obj", "clip", "strokes", "paint_notes")
    wire(result["recolour"].click, on_recolour, given, {name: result[name] for name in names}, **noted)
