"""What a technique has to show becomes pictures of the result's size: the layout, then stages, then maps."""

from __future__ import annotations

import torch
from PIL import Image

from pipelines.denoise import Sketches
from pipelines.layout import Box
from pipelines.sketches import BOXES_CAPTION, INKS, draw_sketches

WHITE = Image.new("RGB", (96, 64), "white")
INK = tuple(int(INKS[0][place : place + 2], 16) for place in (1, 3, 5))


def test_layout_stages_and_maps_come_in_this_order_and_in_one_size() -> None:
    box = Box("a boat", 0.0, 0.0, 0.5, 1.0)
    sketches = Sketches(maps={"map": torch.eye(2)}, boxes=[box])
    sketches.add_picture("stage", Image.new("RGB", (24, 16), "black"), [box])
    drawn = dict(draw_sketches(WHITE, sketches))
    assert list(drawn) == [BOXES_CAPTION, "stage", "map"]
    assert all(picture.size == WHITE.size for picture in drawn.values())
    for caption, ground in ((BOXES_CAPTION, (255, 255, 255)), ("stage", (0, 0, 0))):
        assert drawn[caption].getpixel((0, 60)) == INK and drawn[caption].getpixel((80, 32)) == ground


def test_a_stage_replaces_an_earlier_one_of_its_caption_and_stays_as_it_was() -> None:
    stage, sketches = Image.new("RGB", (8, 8), "black"), Sketches()
    sketches.add_picture("stage", WHITE, [])
    sketches.add_picture("stage", stage, [Box("a boat", 0.0, 0.0, 1.0, 1.0)])
    assert len(draw_sketches(WHITE, sketches)) == 1
    assert not any(stage.tobytes()), "the box was drawn into the technique's own picture"
