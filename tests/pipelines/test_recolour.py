"""Recolouring: strokes on one view colour what is seen there, its mirror image, or everything of that colour."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.errors import UserError
from pipelines.mesh import Mesh, extract_surface, find_grid
from pipelines.recolour import draw_model, recolour_model

GREY, BLUE = (0.5, 0.5, 0.5), (0.2, 0.3, 0.9)


def make_ball() -> Mesh:
    """Make a grey ball whose upper half is blue."""
    place = find_grid(32)
    x, y, z = np.meshgrid(place, place, place, indexing="ij")
    ball = extract_surface(0.7 - np.sqrt(x**2 + y**2 + z**2), (1.0, 1.0, 1.0))
    colours = np.where(ball.vertices[:, 1:2] > 0, np.float32(BLUE), np.float32(GREY))
    return replace(ball, colours=colours.astype(np.float32))


def paint(box: list[float], size: int = 100, colour: str = "red") -> Image.Image:
    """Paint a rectangle given in shares of the view."""
    strokes = Image.new("RGBA", (size, size))
    ImageDraw.Draw(strokes).rectangle([part * size for part in box], fill=colour)
    return strokes


def find_red(mesh: Mesh) -> np.ndarray:
    """Tell which corners are red."""
    return (mesh.colours[:, 0] > 0.6) & (mesh.colours[:, 2] < 0.3)


def test_only_what_is_seen_under_a_stroke_changes() -> None:
    ball = make_ball()
    painted = recolour_model(ball, paint([0.55, 0.3, 0.7, 0.7]), (0.0, 0.0))
    x, y, z = ball.vertices.T
    is_red = find_red(painted)
    under = (x > 0.14) & (x < 0.36) & (np.abs(y) < 0.35) & (z > 0.2)
    assert is_red[under].all() and not is_red[z < 0].any() and not is_red[x < 0].any()
    assert np.array_equal(painted.colours[z < 0], ball.colours[z < 0])
    assert np.array_equal(painted.vertices, ball.vertices) and np.array_equal(painted.faces, ball.faces)


def test_a_stroke_on_the_side_lands_on_the_side() -> None:
    ball = make_ball()
    is_red = find_red(recolour_model(ball, paint([0.4, 0.3, 0.6, 0.7]), (90.0, 0.0)))
    assert is_red.any() and (ball.vertices[is_red, 0] > 0.4).all()


def test_a_mirrored_stroke_lands_on_both_sides() -> None:
    ball = make_ball()
    is_red = find_red(recolour_model(ball, paint([0.6, 0.3, 0.75, 0.7]), (0.0, 0.0), reach="mirrored"))
    x, z = ball.vertices[is_red, 0], ball.vertices[is_red, 2]
    assert (x > 0.15).sum() == pytest.approx((x < -0.15).sum(), rel=0.15) and (z > 0).all()


def test_everything_of_a_colour_is_recoloured_and_nothing_else() -> None:
    ball = make_ball()
    is_red = find_red(recolour_model(ball, paint([0.45, 0.6, 0.55, 0.7]), (0.0, 0.0), reach="alike"))
    assert is_red[ball.vertices[:, 1] < -0.05].all() and not is_red[ball.vertices[:, 1] > 0.05].any()


def test_shading_stays() -> None:
    ball = make_ball()
    shaded = replace(ball, colours=ball.colours * np.where(ball.vertices[:, :1] > 0, 1, 0.7).astype(np.float32))
    painted = recolour_model(shaded, paint([0.4, 0.6, 0.6, 0.75], colour="#c04040"), (0.0, 0.0), reach="alike").colours
    below = (ball.vertices[:, 1] < -0.3) & (ball.vertices[:, 2] > 0.3)
    light, dark = (
        painted[below & side, 0].mean() for side in (ball.vertices[:, 0] > 0.05, ball.vertices[:, 0] < -0.05)
    )
    assert dark / light == pytest.approx(0.7, rel=0.1)


def test_strokes_beside_the_model_are_one_sentence() -> None:
    with pytest.raises(UserError, match="paint over it in the view"):
        recolour_model(make_ball(), paint([0.0, 0.0, 0.05, 0.05]), (0.0, 0.0))


def test_a_model_is_drawn_from_several_sides() -> None:
    views = draw_model(make_ball(), [(0.0, 0.0), (180.0, 0.0)], 40)
    assert [view.size for view in views] == [(40, 40)] * 2 and views[0].getpixel((0, 0)) == (255, 255, 255)
