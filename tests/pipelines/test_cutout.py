"""Cutting out: the object of a plain, drawn or transparent picture, or one sentence that says why there is none."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.cutout import Cutout, cut_out, frame_object
from pipelines.errors import UserError
from training.world.render import draw_masks, render
from training.world.scene import Scene, SceneObject


def draw(*shapes: tuple[tuple[int, int, int, int], str], paper: str = "white", size: int = 200) -> Image.Image:
    """Draw ellipses on paper."""
    picture = Image.new("RGB", (size, size), paper)
    for box, colour in shapes:
        ImageDraw.Draw(picture).ellipse(box, fill=colour)
    return picture


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return intersection over union of two masks."""
    return float((a & b).sum() / (a | b).sum())


def test_a_disc_on_paper_is_cut_out_exactly() -> None:
    cutout = cut_out(draw(((60, 40, 140, 120), "red")))
    truth = np.asarray(draw(((60, 40, 140, 120), "black")).convert("L")) < 128
    assert overlap(cutout.mask > 0.5, truth) > 0.96 and cutout.notes == ()


@pytest.mark.parametrize("background", ["plain", "meadow", "sea", "mountains", "desert"])
@pytest.mark.parametrize("style", ["flat", "line art", "clay", "papercut"])
def test_a_drawn_object_is_found_on_its_background(background: str, style: str) -> None:
    scene = Scene((SceneObject("robot", "purple", 128.0, 120.0, 130.0),), background, "day", style, seed=4)
    truth = draw_masks(scene)[0]
    assert overlap(cut_out(Image.fromarray(render(scene).rgb)).mask > 0.5, truth) > 0.75


def test_the_hole_of_a_handle_stays_open() -> None:
    picture = draw(((40, 40, 160, 160), "blue"), ((70, 70, 130, 130), "white"))
    assert cut_out(picture).mask[100, 100] == 0


def test_eyes_in_the_colour_of_the_paper_are_no_holes() -> None:
    picture = draw(((40, 40, 160, 160), "blue"), ((75, 75, 90, 90), "white"), ((110, 75, 125, 90), "white"))
    cutout = cut_out(picture)
    assert cutout.mask[82, 82] == 1 and cutout.mask[82, 117] == 1


def test_transparency_says_what_the_object_is() -> None:
    picture = draw(((60, 40, 140, 120), "white")).convert("RGBA")
    picture.putalpha(draw(((60, 40, 140, 120), "white"), paper="black").convert("L"))
    cutout = cut_out(picture)
    assert cutout.mask[80, 100] == 1 and cutout.mask[10, 10] == 0
    with pytest.raises(UserError, match="transparent everywhere"):
        cut_out(Image.new("RGBA", (100, 100)))


def test_a_painted_mask_decides_alone() -> None:
    picture = draw(((20, 20, 80, 80), "red"), ((120, 120, 190, 190), "blue"))
    painted = draw(((20, 20, 80, 80), "white"), paper="black").convert("L")
    cutout = cut_out(picture, painted=painted)
    assert cutout.mask[50, 50] == 1 and cutout.mask[150, 150] == 0 and cutout.notes == ()
    with pytest.raises(UserError, match="painted mask is empty"):
        cut_out(picture, painted=Image.new("L", (200, 200)))


def test_of_several_objects_the_largest_is_taken_and_that_is_said() -> None:
    cutout = cut_out(draw(((10, 10, 70, 70), "red"), ((110, 110, 190, 190), "blue")))
    assert cutout.mask[150, 150] == 1 and cutout.mask[40, 40] == 0 and "one more thing" in cutout.notes[0]


def test_what_floats_close_to_the_object_belongs_to_it() -> None:
    cutout = cut_out(draw(((50, 60, 150, 160), "red"), ((85, 30, 115, 54), "red")))
    assert cutout.mask[40, 100] == 1 and cutout.notes == ()


def test_an_object_cut_by_the_edge_is_named() -> None:
    cutout = cut_out(draw(((60, 120, 140, 280), "red")))
    assert cutout.mask[195, 100] == 1 and "cut off" in cutout.notes[0]


@pytest.mark.parametrize("paper", ["black", "white"])
def test_nothing_to_see_is_one_sentence(paper: str) -> None:
    for picture in (draw(paper=paper), draw(((60, 40, 140, 120), paper), paper=paper)):
        with pytest.raises(UserError, match=r"^No object stands out .*\.$"):
            cut_out(picture)


def test_too_small_is_one_sentence() -> None:
    with pytest.raises(UserError, match="8 x 8 px, which is too small"):
        cut_out(Image.new("RGB", (8, 8)))
    with pytest.raises(UserError, match="px large; choose a larger one"):
        cut_out(draw(((20, 20, 24, 24), "red"), size=64))


def test_a_large_picture_is_brought_down_first() -> None:
    assert max(cut_out(draw(((500, 500, 1500, 1500), "red"), size=2000)).mask.shape) == 320


def test_an_object_is_framed_in_the_middle_at_its_size() -> None:
    mask = np.zeros((60, 90), np.float32)
    mask[10:20, 5:45] = 1
    rgb = np.zeros((60, 90, 3), np.float32)
    rgb[..., 0] = 1
    picture, framed = frame_object(Cutout(rgb, mask), 64)
    rows, columns = np.nonzero((framed > 0.5).any(1))[0], np.nonzero((framed > 0.5).any(0))[0]
    assert (columns[0], columns[-1]) == (8, 55) and (rows[0], rows[-1]) == (26, 37)
    assert picture[32, 32] == pytest.approx([1, 0, 0], abs=0.02) and picture[2, 2] == pytest.approx([1, 1, 1], abs=0.02)
