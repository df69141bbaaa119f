"""The layout canvas as a widget: an empty picture on which boxes are drawn, each with a phrase.

Its value is a list of plain boxes, [{"phrase", "x0", "y0", "x1", "y1"}] in fractions 0..1 of the picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

SCRIPT = Path(__file__).with_suffix(".js")
MARKUP = """
<div class="layout">
  <div class="layout-field" aria-hidden="true"></div>
  <p class="layout-hint">Drag on the dark field to draw a box. Without boxes, they are placed from the prompt.</p>
  <div class="layout-rows"></div>
  <div class="layout-buttons">
    <button type="button" class="layout-fill">Fill from the prompt</button>
    <button type="button" class="layout-add">Add a box</button>
    <button type="button" class="layout-clear">Clear</button>
  </div>
</div>
"""


def build_canvas(value: list[dict[str, Any]] | None = None) -> gr.HTML:
    """Build an empty canvas; its event `submit` asks to fill in the boxes from the prompt.

    A function and no subclass: gradio writes a stub file beside the source of every subclass.
    """
    canvas = gr.HTML(
        value or [],
        html_template=MARKUP,
        js_on_load=SCRIPT.read_text("utf-8"),
        apply_default_css=False,
        elem_classes="layout-canvas",
    )
    description = "boxes, each with phrase, x0, y0, x1, y1 in 0..1 of the picture"
    canvas.api_info = lambda: {"type": "array", "items": {"type": "object"}, "description": description}
    return canvas
