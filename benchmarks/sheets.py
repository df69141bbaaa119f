"""Contact sheets, so that people can look at what was measured."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

GAP_PX = 6
TEXT_PX = 16


def save_sheet(path: Path, images: Sequence[Image.Image], *, columns: int, titles: Sequence[str] = ()) -> None:
    """Write pictures of equal size in rows, each with its title above it where titles are given."""
    width, height = images[0].size
    step_x, step_y = width + GAP_PX, height + GAP_PX + (TEXT_PX if titles else 0)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * step_x + GAP_PX, rows * step_y + GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left, top = GAP_PX + index % columns * step_x, GAP_PX + index // columns * step_y
        if titles:
            draw.text((left, top), titles[index], fill="black")
            top += TEXT_PX
        sheet.paste(image, (left, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
