"""Back-projection is exact: at any scale, at the borders, and once is enough."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.backprojection import make_axis, make_blur, make_reduction, make_taps, project

SIZES = [
    ((48, 64), (24, 32)),
    ((53, 40), (16, 12)),
    ((37, 61), (10, 37)),
    ((64, 64), (8, 8)),
    ((9, 9), (9, 9)),
    ((7, 30), (1, 4)),
]


def draw(*shape: int) -> torch.Tensor:
    """Random numbers in -1..1, always the same."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize(("large", "small"), SIZES)
def test_the_result_is_reduced_to_the_small_picture(large: tuple[int, int], small: tuple[int, int]) -> None:
    target = draw(3, *small)
    result = project(draw(3, *large), target)
    assert (make_reduction(large, small).reduce(result) - target).abs().max() < 1e-6


@pytest.mark.parametrize(("large", "small"), SIZES)
def test_projecting_twice_is_projecting_once(large: tuple[int, int], small: tuple[int, int]) -> None:
    once = project(draw(3, *large), draw(3, *small))
    assert (project(once, draw(3, *small)) - once).abs().max() < 1e-6


def test_the_change_is_the_smallest_that_does_it() -> None:
    large, small = draw(3, 30, 26), draw(3, 13, 11)
    reduction = make_reduction((30, 26), (13, 11))
    operator = torch.kron(reduction.rows.matrix, reduction.columns.matrix)
    gap = (small - reduction.reduce(large)).flatten(1)
    least = torch.linalg.lstsq(operator, gap.T, driver="gelsd").solution.T.view_as(large)
    assert (project(large, small) - large - least).abs().max() < 1e-8


def test_the_matrices_are_those_of_pillow() -> None:
    picture = (draw(40, 52) * 100 + 128).numpy().astype(np.float32)
    ours = make_reduction((40, 52), (17, 15)).reduce(torch.from_numpy(picture).double())
    theirs = Image.fromarray(picture).resize((15, 17), Image.Resampling.BICUBIC)
    assert np.abs(ours.numpy() - np.asarray(theirs)).max() < 1e-3


@pytest.mark.parametrize(("many", "few"), [(40, 17), (33, 32), (64, 8), (9, 1), (100, 37)])
def test_the_taps_are_those_of_the_resizer(many: int, few: int) -> None:
    unit = torch.eye(many, dtype=torch.float64)[None, None]
    theirs = torch.nn.functional.interpolate(unit, size=(few, many), mode="bicubic", antialias=True)[0, 0]
    assert (make_taps(many, few) - theirs).abs().max() < 1e-12


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = draw(3, 50, 40), draw(3, 21, 13)
    whole = project(large, small)
    monkeypatch.setattr("pipelines.backprojection.BAND_ROWS", 4)
    assert (project(large, small) - whole).abs().max() < 1e-12


def test_a_blur_keeps_brightness_and_is_undone_where_it_can_be() -> None:
    assert (make_blur(20, 1.3).sum(1) - 1).abs().max() < 1e-12
    axis = make_axis(48, 24, blur_px=0.8)
    target = draw(5, 24)
    filled = axis.spread(target @ axis.inverse)
    assert (axis.reduce(filled) - target).abs().max() < 1e-6


def test_what_would_grow_is_refused() -> None:
    with pytest.raises(ValueError, match="10 px cannot be reduced to 11 px"):
        make_axis(10, 11)
