"""The paint canvas as a widget: strokes over a picture, as a mask of what belongs to an object or in colours.

Smaller than gradio's own editor, which loads a drawing engine, and keyboard and brush stay those of the drag canvas.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr
from PIL import Image

SCRIPT = Path(__file__).with_suffix(".js")
JPEG_QUALITY = 90
_COLOUR = '<label>Colour <input type="color" class="paint-colour" value="#e03131"></label>'
MARKUP = """
<div class="paint" data-empty="true">
  <div class="paint-tools" role="toolbar" aria-label="What the brush does">
    <button type="button" class="paint-mode" data-mode="paint" aria-pressed="true">Paint</button>
    <button type="button" class="paint-mode" data-mode="erase" aria-pressed="false">Erase</button>
    {colour}
    <label class="paint-size">Brush <input type="range" class="paint-brush" min="1" max="25" value="8"></label>
    <button type="button" class="paint-undo">Undo</button>
  </div>
  <div class="paint-field">
    <img class="paint-picture" alt="" draggable="false" hidden>
    <canvas class="paint-sheet" width="1" height="1"></canvas>
  </div>
  <p class="paint-hint" aria-live="polite"></p>
</div>
"""
EMPTY = MappingProxyType(
    {"picture": "", "key": "", "width": 0, "height": 0, "alt": "", "hint": "", "paint": None, "touched": False}
)


def build_paint_canvas(hint: str, *, with_colours: bool) -> gr.HTML:
    """Build an empty canvas for a mask, or for strokes in colours.

    A function and no subclass: gradio writes a stub file beside the source of every subclass.
    """
    canvas = gr.HTML(
        {**EMPTY, "hint": hint},
        html_template=MARKUP.replace("{colour}", _COLOUR if with_colours else ""),
        js_on_load=SCRIPT.read_text("utf-8"),
        apply_default_css=False,
        elem_classes="paint-canvas",
    )
    meant = "the strokes on nothing" if with_colours else "white is meant"
    description = f"paint, a PNG of the picture's size as data address, {meant}, or null; touched, if it was painted"
    canvas.api_info = lambda: {"type": "object", "description": description}
    return canvas


def lay_picture(picture: Image.Image, *, alt: str, hint: str, paint: str | None = None) -> dict[str, Any]:
    """Make the canvas's value for a new picture with nothing painted by hand."""
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    address = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    key = hashlib.sha256(data.getvalue()).hexdigest()[:16]
    width, height = picture.size
    size = {"width": width, "height": height}
    return {**EMPTY, "picture": address, "key": key, **size, "alt": alt, "hint": hint, "paint": paint}


def find_paint(canvas: Any) -> str | None:
    """Return what the visitor painted, as it came; None if nothing was."""
    if not isinstance(canvas, Mapping) or not canvas.get("touched"):
        return None
    paint = canvas.get("paint")
    return None if paint is None else str(paint)
