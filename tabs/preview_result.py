"""The right side of the 3D tab: the model that can be turned, the drawn views, one round as a clip, and the files."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from pipelines import Preview3dProgress, Preview3dResult, Progress
from tabs.controls import build_lines, show_facts, show_notes, show_progress, show_status
from tabs.files import save_clip, save_data
from tabs.preview_inputs import METHODS
from tabs.wiring import Updates

EMPTY_STAGE = '<div class="picture"><div class="empty"></div></div>'
# Behind the model, and from where it is first seen: (longitude, latitude) in degrees, distance by the viewer's choice.
CLEAR = (0.93, 0.94, 0.96, 1.0)
CAMERA = (60, 75, None)
STAGE_PX = 420
ROUND_DEG = 15.0  # how far from above a round is seen
JPEG_QUALITY = 88


def build_result(invitation: str) -> dict[str, Any]:
    """Lay out the right side."""
    made: dict[str, Any] = {}
    with gr.Column(elem_classes="stage-box"):
        made["model"] = gr.Model3D(
            label="The model; drag to turn it",
            clear_color=CLEAR,
            camera_position=CAMERA,
            height=STAGE_PX,
            visible=False,
            interactive=False,
            elem_classes="model",
        )
        made["live"] = gr.HTML(EMPTY_STAGE, elem_classes="live-box", apply_default_css=False)
        made["round"] = gr.HTML(elem_classes="round-box", apply_default_css=False)
        made |= build_lines(invitation)
    made["facts"] = gr.HTML(elem_classes="facts-box", apply_default_css=False)
    made["views"] = gr.Gallery(
        label="The object as it was understood, and the drawn views",
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
        for name, words in (("glb", "Download GLB"), ("obj", "Download OBJ"), ("clip", "Download clip")):
            made[name] = gr.DownloadButton(words, interactive=False, size="sm", min_width=110)
        made["copy"] = gr.Button("Copy as Python", interactive=False, size="sm", min_width=120)
    made["python"] = gr.Code(language="python", label="The same model in Python", visible=False)
    for name in ("trace", "kept", "mesh", "shown"):
        made[name] = gr.State(None)
    return made


def clear_result(invitation: str) -> Updates:
    """Empty the stage for another picture."""
    return {
        "live": gr.HTML(EMPTY_STAGE, visible=True),
        "model": gr.Model3D(visible=False),
        "round": "",
        "status": show_status(invitation),
        "stopped": "",
        "facts": "",
        "notes": "",
        "views": gr.Gallery([], visible=False),
        **{name: gr.DownloadButton(interactive=False) for name in ("glb", "obj", "clip")},
        "kept": None,
        "mesh": None,
        "shown": None,
        "copy": gr.Button(interactive=False),
        "python": gr.Code(visible=False),
        "repaint": gr.Accordion(visible=False, open=False),
    }


def show_start() -> Updates:
    """Say that a run begins, on an empty stage."""
    return {**clear_result(""), "status": show_status("Starting", done=0, kind="running"), "trace": (0, 1)}


def show_step(progress: Progress, *, with_views: bool = False) -> Updates:
    """Show a stage: what is drawn at the moment, the model as far as there is a new one, and the views if asked."""
    from pipelines import to_glb

    updates: Updates = {"status": show_progress(progress), "trace": (progress.step, progress.num_steps)}
    if progress.preview is not None:
        updates["live"] = gr.HTML(show_picture(progress.preview, f"Unfinished, {progress.note}", "live"), visible=True)
    if isinstance(progress, Preview3dProgress):
        updates["kept"] = progress.keep
        if progress.mesh is not None:
            # Each under a name of its own: gradio's viewer drops a file that it is given again while still loading it.
            name = f"limelight-step-{progress.step}.glb"
            updates["model"] = gr.Model3D(save_data(to_glb(progress.mesh), name), visible=True)
        if with_views and progress.views:
            updates["round"] = show_round(progress.views, "The drawn views, one after the other")
    return updates


def show_result(result: Preview3dResult, notes: Sequence[str] = ()) -> Updates:
    """Turn a finished run into updates: the model, one round of it, the views, facts, notes and files."""
    from pipelines import to_glb, to_obj

    title = METHODS[result.request.method][0]
    clip = save_clip(result.turntable, "limelight-turntable.webp")
    shown = [(result.cutout, "your object"), *((view, f"side {45 * k}°") for k, view in enumerate(result.views))]
    alt = f"The object in one round, made by {title}"
    updates: Updates = {
        "live": gr.HTML(show_clip(result.turntable, alt), visible=result.mesh is None),
        "round": "" if result.mesh is None else show_round(result.turntable, alt),
        "model": gr.Model3D(visible=False),
        "status": show_status(f"Done in {result.seconds:.1f} s, {title}.", kind="done"),
        "facts": show_facts(list_facts(result), result.measures, is_compared=False),
        "views": gr.Gallery(shown, visible=True),
        "notes": show_notes(dict.fromkeys((*notes, *result.notes))),
        "clip": gr.DownloadButton(value=clip, interactive=True),
        "trace": None,
        "kept": None,
        "mesh": result.mesh,
        # Without its pictures, which a browser's state need not hold.
        "shown": replace(result.request, picture=None),
        "copy": gr.Button(interactive=True),
        "repaint": gr.Accordion(visible=result.mesh is not None, open=False),
    }
    if result.mesh is not None:
        glb = save_data(to_glb(result.mesh), "limelight.glb")
        updates["model"] = gr.Model3D(glb, visible=True)
        updates["glb"] = gr.DownloadButton(value=glb, interactive=True)
        obj = save_data(to_obj(result.mesh), "limelight.obj")
        updates["obj"] = gr.DownloadButton(value=obj, interactive=True)
    return updates


def list_facts(result: Preview3dResult) -> Iterator[tuple[str, str]]:
    """List what is true of the whole run."""
    yield "time", f"{result.seconds:.1f} s"
    yield "first shape", f"{result.first_shape_s:.1f} s"
    if result.mesh is not None:
        yield "triangles", f"{len(result.mesh.faces):,}"
    if result.views:
        yield "seed", str(result.seed_used)


def show_picture(picture: Image.Image, alt: str, kind: str = "") -> str:
    """Draw one picture on the stage."""
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return _wrap(data.getvalue(), "jpeg", alt, kind)


def show_clip(frames: Sequence[Image.Image], alt: str) -> str:
    """Draw frames that go on for ever on the stage."""
    data = io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], duration=80, loop=0, quality=80)
    return _wrap(data.getvalue(), "webp", alt, "")


def show_round(frames: Sequence[Image.Image], alt: str) -> str:
    """Lay frames beside each other and show one at a time, chosen by a slider; the page's script moves them."""
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height))
    for index, frame in enumerate(frames):
        strip.paste(frame, (width * index, 0))
    data = io.BytesIO()
    strip.save(data, "WEBP", quality=85)
    address = f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    return (
        f'<div class="round" style="--frames: {len(frames)}"><div class="round-view" role="img" '
        f'aria-label="{escape(alt, quote=True)}" style="background-image: url({address})"></div>'
        f'<label>Turn <input type="range" min="0" max="{len(frames) - 1}" value="0"></label></div>'
    )


def _wrap(data: bytes, kind: str, alt: str, state: str) -> str:
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return f'<div class="picture {state}"><img src="{address}" alt="{escape(alt, quote=True)}"></div>'
