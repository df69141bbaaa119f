"""Where a drag takes things: maps from handles, the warp of a grid, the fill of what is left, what a handle holds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipelines.drag_points import DragPair
from pipelines.drag_things import find_region, sharpen, walk
from pipelines.drag_warp import LIKE_FRAC, fill_open, list_places, make_pull, sample, to_cells, warp
from pipelines.errors import UserError
from tests.drags import make_disc

SIZE = (64, 64)


def pull_disc(*pairs: DragPair, pull: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """Pull a disc of radius 16 in the middle; returns its matrix and shift."""
    made = make_pull(make_disc(SIZE, 32, 32, 16), pairs, pull)
    starts = torch.tensor([[pair.handle_x, pair.handle_y] for pair in pairs], dtype=torch.float32)
    assert torch.allclose(made.find_origins(made.take(starts, 0.7), 0.7), starts, atol=1e-3)
    return made.matrix, made.shift


def test_one_handle_in_the_middle_moves() -> None:
    matrix, shift = pull_disc(DragPair(30, 34, 40, 29))
    assert torch.equal(matrix, torch.eye(2)) and shift.tolist() == [10, -5]


def test_one_handle_at_the_edge_stretches_away_from_the_opposite_edge() -> None:
    matrix, shift = pull_disc(DragPair(48, 32, 64, 32))
    assert matrix.tolist() == [[1.5, 0.0], [0.0, 1.0]]
    assert (matrix @ torch.tensor([16.0, 20.0]) + shift).tolist() == [16, 20], "the opposite edge stays"
    assert torch.equal(pull_disc(DragPair(48, 32, 64, 32), pull="move")[0], torch.eye(2))
    assert pull_disc(DragPair(40, 32, 48, 32), pull="stretch")[0][0, 0] > 1.3


def test_several_handles_scale_and_turn() -> None:
    sides = ((16, 32), (48, 32), (32, 16), (32, 48))
    pairs = [DragPair(x, y, 32 + 1.25 * (x - 32), 30 + 1.25 * (y - 32)) for x, y in sides]
    matrix, shift = pull_disc(*pairs)
    assert torch.allclose(matrix, 1.25 * torch.eye(2), atol=1e-5)
    assert torch.allclose(matrix @ torch.tensor([32.0, 32.0]) + shift, torch.tensor([32.0, 30.0]), atol=1e-4)
    turned, _ = pull_disc(DragPair(20, 32, 32, 20), DragPair(44, 32, 32, 44))
    assert torch.allclose(turned, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-5)
    uneven = [DragPair(x, y, 32 + 1.5 * (x - 32), y + 0.1) for x, y in sides]
    assert torch.allclose(pull_disc(*uneven)[0], torch.diag(torch.tensor([1.5, 1.0])), atol=1e-4)


def test_a_thing_is_not_turned_inside_out() -> None:
    with pytest.raises(UserError, match="bring the target nearer"):
        pull_disc(DragPair(48, 32, 10, 32))


def test_warping_moves_the_thing_and_fills_what_it_left() -> None:
    thing = make_disc(SIZE, 24, 32, 10)
    grid = torch.where(thing > 0, 1.0, 0.25).expand(1, 2, -1, -1)
    pull = make_pull(thing, [DragPair(24, 32, 44, 32)], "move")
    moved = warp(grid, [pull])
    wanted = torch.where(make_disc(SIZE, 44, 32, 10) > 0, 1.0, 0.25)
    assert torch.allclose(moved.grid, wanted.expand(1, 2, -1, -1), atol=1e-5)
    assert moved.arrived[0, 0, 32, 44] == 1 and moved.left[0, 0, 32, 18] == 1 and moved.left[0, 0, 32, 44] == 0
    assert torch.allclose(warp(grid, [pull], frac=0.0).grid, grid, atol=1e-5)
    region = find_region([pull], None)
    assert region[0, 0, 32, 20] == region[0, 0, 32, 50] == 1 and region[0, 0, 5, 5] == 0


def find_end(grid: torch.Tensor, is_open: torch.Tensor, start: tuple[int, int], way: tuple[int, int]) -> Any:
    """Walk from an open cell to the first closed one; its value and how many steps that took, None without one."""
    (row, column), (height, width) = start, is_open.shape
    for steps in range(1, height + width):
        y, x = row + steps * way[0], column + steps * way[1]
        if not (0 <= y < height and 0 <= x < width):
            return None
        if not is_open[y, x]:
            return float(grid[0, 0, y, x]), steps
    return None


def test_holes_are_filled_by_inverse_distance_and_rather_between_ends_that_are_alike() -> None:
    """Against the formula cell by cell: sum of value / distance, each direction by how alike its two ends are."""
    generator = torch.Generator().manual_seed(0)
    grid, is_open = torch.randn(1, 1, 9, 11, generator=generator), torch.rand(9, 11, generator=generator) < 0.4
    filled = fill_open(grid, is_open)
    slack = LIKE_FRAC * float(grid.std())
    num_preferred = 0
    for row, column in torch.nonzero(is_open).tolist():
        down, across = (
            [find_end(grid, is_open, (row, column), (sign * y, sign * x)) for sign in (1, -1)]
            for y, x in ((1, 0), (0, 1))
        )
        shares = [0.5, 0.5]
        if None not in (*down, *across):
            unlike = [abs(first[0] - second[0]) + slack for first, second in (down, across)]
            shares = [1 / side**2 / sum(1 / other**2 for other in unlike) for side in unlike]
            num_preferred += 1
        found = [(*end, share) for ends, share in zip((down, across), shares) for end in ends if end]
        weights = sum(share / steps for _, steps, share in found)
        expected = sum(value * share / steps for value, steps, share in found) / weights
        assert math.isclose(float(filled[0, 0, row, column]), expected, abs_tol=1e-5)
    assert num_preferred > 5
    assert torch.equal(filled[0, 0][~is_open], grid[0, 0][~is_open])
    assert torch.equal(fill_open(grid, torch.ones(9, 11, dtype=torch.bool)), grid)


def test_an_edge_goes_on_through_a_hole() -> None:
    edge = torch.where(torch.arange(16)[:, None] < 8, 1.0, -1.0).expand(1, 3, 16, 16)
    is_open = torch.zeros(16, 16, dtype=torch.bool)
    is_open[4:13, 2:13] = True
    assert (fill_open(edge, is_open) - edge).abs().max() < 0.02
    turned = edge.transpose(2, 3)
    assert (fill_open(turned, is_open.T) - turned).abs().max() < 0.02


def test_places_of_a_grid_and_of_the_picture_agree() -> None:
    places = list_places((4, 8), (64, 128))
    assert places[0, 0].tolist() == [7.5, 7.5] and to_cells(places, (4, 8), (64, 128))[2, 5].tolist() == [5, 2]
    grid = torch.arange(32.0).view(1, 1, 4, 8)
    assert torch.equal(sample(grid, to_cells(places, (4, 8), (64, 128))), grid)


def test_a_random_walk_stops_at_a_border() -> None:
    """Two halves of unlike features: what is seeded in one half fills it and nothing else."""
    features = torch.zeros(2, 8, 8)
    features[0, :, :4] = features[1, :, 4:] = 1.0
    seeds = torch.full((8, 8), -1.0)
    seeds[3, 1], seeds[3, 6] = 1.0, 0.0
    share = walk(features, seeds)
    assert share[:, :4].min() > 0.9 and share[:, 4:].max() < 0.1


def test_a_rough_outline_becomes_the_things_own() -> None:
    true = make_disc(SIZE, 32, 32, 14)
    pixels = torch.where(true > 0, 0.8, -0.5).expand(1, 3, -1, -1)
    rough = make_disc(SIZE, 33, 31, 16)
    found = sharpen(rough, pixels) > 0.5
    assert int((found != (true > 0.5)).sum()) < int(((rough > 0.5) != (true > 0.5)).sum()) / 3
