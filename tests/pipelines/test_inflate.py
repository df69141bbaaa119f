"""Inflate: a disc becomes a ball, any silhouette a closed body that looks like its picture from the front."""

import numpy as np
import pytest

from pipelines.inflate import inflate, solve_membrane
from pipelines.mesh import draw_mesh, find_grid, is_watertight
from training.world.solid_views import frame, render_views
from training.world.solids import make_body, sample_solid


def make_disc(radius: float, size_px: int = 128) -> np.ndarray:
    """Make the mask of a disc in the middle."""
    steps = find_grid(size_px)
    return (steps[None] ** 2 + steps[:, None] ** 2 < radius**2).astype(np.float32)


def test_the_membrane_over_a_disc_is_the_known_one() -> None:
    height = solve_membrane(make_disc(0.8, 64) > 0.5)
    assert height.max() == pytest.approx(25.6**2, rel=0.04)
    assert height[32, 32 + 16] == pytest.approx(25.6**2 - 16.5**2, rel=0.08)


def test_a_disc_becomes_a_ball() -> None:
    mesh = inflate(np.full((128, 128, 3), 0.5, np.float32), make_disc(0.7), thickness=1.0)
    assert is_watertight(mesh) and np.abs(mesh.vertices).max(0) == pytest.approx([0.7, 0.7, 0.7], abs=0.03)


@pytest.mark.parametrize("seed", [505, 3, 11])
def test_the_front_looks_like_the_picture(seed: int) -> None:
    views = render_views(frame(make_body(sample_solid(seed))), [(0.0, 0.0)], 128)
    mesh = inflate(views.rgb[0], views.mask[0])
    (picture,), (cover,) = draw_mesh(mesh, [(0.0, 0.0)], 128)
    both, either = np.minimum(cover, views.mask[0]).sum(), np.maximum(cover, views.mask[0]).sum()
    assert is_watertight(mesh) and len(mesh.faces) <= 30_000
    assert both / either > 0.95
    assert -10 * np.log10(((picture - views.rgb[0]) ** 2).mean()) > 24


def test_an_upper_half_that_is_red_stays_above() -> None:
    picture = np.zeros((128, 128, 3), np.float32)
    picture[:64, :, 0], picture[64:, :, 2] = 1.0, 1.0
    mesh = inflate(picture, make_disc(0.7))
    top, bottom = mesh.vertices[:, 1] > 0.3, mesh.vertices[:, 1] < -0.3
    assert mesh.colours[top, 0].mean() > 0.95 and mesh.colours[bottom, 2].mean() > 0.95


def test_two_parts_become_two_closed_bodies() -> None:
    mask = np.roll(make_disc(0.3), 40, 1) + np.roll(make_disc(0.3), -40, 1)
    assert is_watertight(inflate(np.ones((128, 128, 3), np.float32), mask))
    with pytest.raises(ValueError, match="empty"):
        inflate(np.ones((128, 128, 3), np.float32), np.zeros((128, 128), np.float32))
