"""Parallax: layers put together again are the picture; near things move more than far ones; holes are filled."""

import numpy as np
import pytest

from pipelines.parallax import draw_frame, fill_behind, make_layers, sway_camera


def make_scene() -> tuple[np.ndarray, np.ndarray]:
    """Make a red square in front of a blue-to-green background."""
    picture = np.zeros((64, 64, 3), np.float32)
    picture[..., 2], picture[..., 1] = np.linspace(1, 0, 64)[:, None], np.linspace(0, 1, 64)[:, None]
    mask = np.zeros((64, 64), np.float32)
    mask[24:44, 20:44] = 1
    picture[mask > 0] = [1, 0, 0]
    return picture, mask


def test_from_the_front_the_layers_are_the_picture() -> None:
    picture, mask = make_scene()
    layers = make_layers(picture, mask)
    assert (layers.alpha[0] == 1).all() and (np.diff(layers.nearness) > 0).all()
    assert np.abs(draw_frame(layers, (0.0, 0.0)) - picture).max() < 0.02


def test_the_object_moves_more_than_what_is_behind_it() -> None:
    picture, mask = (np.kron(part, np.ones((4, 4) + (1,) * (part.ndim - 2), np.float32)) for part in make_scene())
    layers = make_layers(picture, mask)
    left, right = (draw_frame(layers, (side, 0.0)) for side in (-1.0, 1.0))
    columns = [np.nonzero(frame[136, :, 0] > 0.5)[0].mean() for frame in (left, right)]
    assert 1 < columns[0] - columns[1] < 12  # the camera goes right, the near object left
    assert np.abs(left[8] - picture[8]).max() < 0.05


def test_frames_make_a_round() -> None:
    frames = sway_camera(make_layers(*make_scene(), num_planes=4), 6)
    assert len(frames) == 6 and all(frame.shape == (64, 64, 3) for frame in frames)
    assert not np.array_equal(frames[1], frames[5])


def test_a_hole_is_filled_from_its_sides() -> None:
    picture, mask = make_scene()
    filled = fill_behind(picture, mask > 0)
    assert np.array_equal(filled[mask == 0], picture[mask == 0])
    assert filled[34, 32, 0] == pytest.approx(0, abs=1e-6) and 0.2 < filled[34, 32, 1] < 0.8
    assert np.array_equal(fill_behind(picture, np.zeros((64, 64), bool)), picture)
