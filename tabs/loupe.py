"""The loupe as a widget: one place of two compared pictures at their own pixels, side by side.

It reads both pictures off the slider of its tab, so that nothing is sent twice; its value says where to look first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr
from PIL import Image, ImageChops

SCRIPT = Path(__file__).with_suffix(".js")
MARKUP = """
<div class="loupe" hidden>
  <div class="loupe-views" tabindex="0" role="application" aria-roledescription="loupe"
       aria-label="Loupe: arrow keys move it, plus and minus change its size">
    <figure><div class="loupe-view"></div><figcaption></figcaption></figure>
    <figure><div class="loupe-view"></div><figcaption></figcaption></figure>
  </div>
  <div class="loupe-tools" role="toolbar" aria-label="Size of the loupe's pixels">
    <button type="button" data-zoom="1" aria-pressed="true">1:1</button>
    <button type="button" data-zoom="2" aria-pressed="false">2:1</button>
    <button type="button" data-zoom="4" aria-pressed="false">4:1</button>
    <p class="loupe-hint"></p>
  </div>
</div>
"""
NOTHING = MappingProxyType({"key": "", "width": 0, "height": 0, "x": 0, "y": 0, "left": "", "right": ""})
GRID = 24  # cells along each side in which the largest difference is looked for


def build_loupe() -> gr.HTML:
    """Build a loupe that shows nothing yet."""
    loupe = gr.HTML(
        dict(NOTHING), html_template=MARKUP, js_on_load=SCRIPT.read_text("utf-8"), apply_default_css=False,
        elem_classes="loupe-box",
    )  # fmt: skip
    loupe.api_info = lambda: {"type": "object", "description": "where the loupe looks, in px of the picture"}
    return loupe


def point_loupe(key: str, left: Image.Image, right: Image.Image, names: tuple[str, str]) -> Mapping[str, Any]:
    """Make the loupe's value: it opens where two pictures of equal size differ most."""
    x, y = find_difference(left, right)
    sides = {"left": names[0], "right": names[1]}
    return {"key": key, "width": right.width, "height": right.height, "x": x, "y": y, **sides}


def find_difference(left: Image.Image, right: Image.Image) -> tuple[int, int]:
    """Find the middle of the place where two pictures of equal size differ most, in px."""
    cells = (min(GRID, right.width), min(GRID, right.height))
    change = ImageChops.difference(left.convert("L"), right.convert("L")).resize(cells, Image.Resampling.BOX)
    levels = change.tobytes()
    row, column = divmod(levels.index(max(levels)), cells[0])
    return int((column + 0.5) * right.width / cells[0]), int((row + 0.5) * right.height / cells[1])
