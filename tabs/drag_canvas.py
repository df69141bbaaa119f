"""The drag canvas as a widget: a picture on which handles and targets are clicked and what may move is painted.

A canvas of its own, because gradio's picture tells a click in px of the screen as soon as it is shown larger than it
is, knows no moving of a point, and tells its painting apart from its clicks. Its value is one plain mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr

SCRIPT = Path(__file__).with_suffix(".js")
MARKUP = """
<div class="drag" data-mode="none">
  <div class="drag-tools" role="toolbar" aria-label="What a click does">
    <h3>2. Click what moves, then where to</h3>
    <button type="button" class="drag-mode" data-mode="points" aria-pressed="true">Points</button>
    <button type="button" class="drag-mode" data-mode="paint" title="Paint what may move">Mask</button>
    <button type="button" class="drag-mode" data-mode="erase" title="Rub out of the mask">Erase</button>
    <label class="drag-size">Brush <input type="range" class="drag-brush" min="4" max="64" value="24"></label>
  </div>
  <div class="drag-field">
    <img class="drag-picture" alt="" draggable="false" hidden>
    <canvas class="drag-mask" width="1" height="1"></canvas>
    <svg class="drag-arrows" aria-hidden="true"></svg>
  </div>
  <p class="drag-hint" aria-live="polite"></p>
  <div class="drag-rows"></div>
  <div class="drag-buttons">
    <button type="button" class="drag-undo">Undo</button>
    <button type="button" class="drag-clear">Clear</button>
    <button type="button" class="drag-unmask">Clear mask</button>
    <button type="button" class="drag-add">Add a pair</button>
    <button type="button" class="drag-exact" aria-pressed="false">As numbers</button>
  </div>
</div>
"""
EMPTY = MappingProxyType({"picture": "", "key": "", "width": 0, "height": 0, "alt": "", "pairs": (), "mask": None})


def build_canvas(value: Mapping[str, Any] | None = None) -> gr.HTML:
    """Build a canvas, empty or with a picture.

    A function and no subclass: gradio writes a stub file beside the source of every subclass.
    """
    canvas = gr.HTML(
        dict(value or EMPTY),
        html_template=MARKUP,
        js_on_load=SCRIPT.read_text("utf-8"),
        apply_default_css=False,
        elem_classes="drag-canvas",
    )
    description = (
        "pairs, each with handle_x, handle_y, target_x, target_y in px of the picture; mask, a PNG of the picture's "
        "size as data address, white may move, or null"
    )
    canvas.api_info = lambda: {"type": "object", "description": description}
    return canvas
