"""The seam measure: about 1 on a drawn picture, far above with an artificial seam, wherever the content is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.seams import measure_seams
from pipelines.windows import place_windows

SIDE_PX = 64
WINDOWS = place_windows((16, 16), 8, 0.5)  # cells of 4 px: borders at 16, 32 and 48 px


def draw(seam: int = 0, *, at_px: int = 32, is_row: bool = False) -> Image.Image:
    """Draw a soft hill with grain in the middle, and lighten everything beyond a line by `seam` levels."""
    rng = np.random.default_rng(5)
    ramp = np.linspace(-1, 1, SIDE_PX)
    hill = 100 * np.exp(-3 * (ramp[:, None] ** 2 + ramp[None, :] ** 2))
    levels = 60 + hill + rng.normal(0, 1 + hill / 25)
    if is_row:
        levels[at_px:] += seam
    else:
        levels[:, at_px:] += seam
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


def test_a_picture_without_seams_measures_about_one() -> None:
    assert measure_seams([draw()], WINDOWS, 4) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("is_row", [False, True])
def test_a_seam_is_seen_at_a_border_and_only_there(is_row: bool) -> None:
    assert measure_seams([draw(30, is_row=is_row)], WINDOWS, 4) > 1.7
    assert measure_seams([draw(60, is_row=is_row)], WINDOWS, 4) > measure_seams([draw(30, is_row=is_row)], WINDOWS, 4)
    assert measure_seams([draw(30, at_px=37, is_row=is_row)], WINDOWS, 4) == pytest.approx(1, abs=0.15)


def test_one_window_has_no_borders_and_a_wrong_size_is_refused() -> None:
    assert measure_seams([draw(30)], place_windows((8, 8), 8, 0.5), 8) == 1.0
    with pytest.raises(ValueError, match="64 x 64"):
        measure_seams([draw()], WINDOWS)
    with pytest.raises(ValueError, match="no inside"):
        measure_seams([draw()], place_windows((16, 16), 4, 0.5), 4)
