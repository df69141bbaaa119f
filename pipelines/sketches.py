"""Pictures that explain a technique: a map or a layout, drawn over the finished picture, and its earlier stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from pipelines.denoise import Sketches
from pipelines.images import to_images
from pipelines.layout import Box

SHADE_FRAC = 0.22
LINE_FRAC = 0.008
LETTER_FRAC = 0.06
INKS = ("#d5f06a", "#6ad0f0", "#f0a06a", "#d78af0", "#f06a8a", "#8af0b4")
BOXES_CAPTION = "The layout"


def draw_sketches(picture: Image.Image, sketches: Sketches) -> tuple[tuple[str, Image.Image], ...]:
    """Draw everything that a run has to show, each with its caption: the layout first, then stages, then maps."""
    drawn = [(BOXES_CAPTION, draw_boxes(picture, sketches.boxes))] if sketches.boxes else []
    for caption, (stage, boxes) in sketches.pictures.items():
        drawn.append((caption, draw_boxes(stage.resize(picture.size), boxes)))
    return (*drawn, *((caption, draw_map(picture, cells)) for caption, cells in sketches.maps.items()))


def draw_map(picture: Image.Image, cells: torch.Tensor) -> Image.Image:
    """Light the picture where a map is high and leave the rest in the dark.

    Shapes: cells (h, w), any range; its highest cell is fully lit, its lowest in the dark.
    """
    cells = cells.detach().float().cpu()
    cells = (cells - cells.min()) / (cells.max() - cells.min()).clamp_min(1e-12)
    smooth = F.interpolate(cells[None, None], size=picture.size[::-1], mode="bilinear", align_corners=False)
    light = to_images(smooth.expand(1, 3, -1, -1) * 2 - 1)[0].convert("L")
    return Image.composite(picture, ImageEnhance.Brightness(picture).enhance(SHADE_FRAC), light)


def draw_boxes(picture: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Draw the outline of each box, with its phrase inside its upper edge."""
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    width, height = picture.size
    line_px, letter_px = (max(1, round(frac * min(width, height))) for frac in (LINE_FRAC, LETTER_FRAC))
    font = ImageFont.load_default(letter_px)
    for index, box in enumerate(boxes):
        ink = INKS[index % len(INKS)]
        corner = (box.x0 * (width - 1), box.y0 * (height - 1))
        pen.rectangle((*corner, box.x1 * (width - 1), box.y1 * (height - 1)), outline=ink, width=line_px)
        place = (corner[0] + 2 * line_px, corner[1] + 2 * line_px)
        pen.rectangle(pen.textbbox(place, box.phrase, font=font), fill="#12120e")
        pen.text(place, box.phrase, fill=ink, font=font)
    return drawn
