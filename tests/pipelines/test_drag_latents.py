"""Kernels of dragging by optimisation, against slow formulas: what regions and points ask for, where handles are."""

from __future__ import annotations

import pytest
import torch

from pipelines.drag_latents import (
    ARRIVED_CELLS,
    STILL_WEIGHT,
    place_points,
    point_loss,
    ramp,
    region_loss,
    to_picture,
    track_points,
)
from pipelines.drag_points import DragPair
from pipelines.drag_warp import make_pull, warp
from pipelines.model import ModelBundle
from tests.drags import make_disc, make_task

CELLS = (16, 16)


def draw_noise(channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Features of nothing in particular."""
    return torch.randn(1, channels, *CELLS, generator=torch.Generator().manual_seed(seed))


def test_a_region_is_asked_for_its_own_features_farther_along() -> None:
    pull = make_pull(make_disc(CELLS, 5, 8, 3), [DragPair(5, 8, 10, 8)], "move")
    original, features, mask = draw_noise(), draw_noise(seed=1), torch.ones(1, 1, *CELLS)
    mask[..., :4, :] = 0
    moved = warp(original, [pull], frac=0.5)
    total = weights = 0.0
    for y in range(CELLS[0]):
        for x in range(CELLS[1]):
            concerned = max(float(moved.arrived[0, 0, y, x]), float(moved.left[0, 0, y, x]))
            weight = (concerned + STILL_WEIGHT * (1 - concerned)) * float(mask[0, 0, y, x])
            unlike = sum(abs(float(features[0, c, y, x] - moved.grid[0, c, y, x])) for c in range(3)) / 3
            total, weights = total + weight * unlike, weights + weight
    assert float(region_loss(features, original, [pull], mask, 0.5)) == pytest.approx(total / weights, abs=1e-5)
    assert float(region_loss(moved.grid, original, [pull], mask, 0.5)) == 0
    changed = features.clone().requires_grad_(True)
    region_loss(changed, original, [pull], mask, 1.0).backward()  # type: ignore[no-untyped-call]
    assert changed.grad is not None and not changed.grad[..., :4, :].any() and changed.grad[..., 4:, :].any()


def test_points_ask_their_surroundings_one_cell_ahead() -> None:
    features = draw_noise()
    handles, targets = torch.tensor([[4.0, 5.0], [9.0, 9.0]]), torch.tensor([[4.0, 11.0], [9.1, 9.0]])
    expected = 0.0
    for y in range(4, 7):
        for x in range(3, 6):
            expected += float((features[0, :, y + 1, x] - features[0, :, y, x]).abs().mean())
    # The second one has arrived.
    assert (targets - handles)[1].norm() < ARRIVED_CELLS
    assert float(point_loss(features, handles, targets)) == pytest.approx(expected, rel=1e-4)
    changed = features.clone().requires_grad_(True)
    point_loss(changed, handles[:1], targets[:1]).backward()  # type: ignore[no-untyped-call]
    # Only what lies ahead is to change, since where the handle is has no gradient.
    assert changed.grad is not None and not changed.grad[0, :, 4, 3:6].any() and changed.grad[0, :, 7, 3:6].any()
    assert not point_loss(changed, handles, handles).requires_grad


def test_a_handle_is_found_where_its_features_went_and_stays_where_all_is_alike() -> None:
    original = draw_noise(8)
    starts = torch.tensor([[5.0, 6.0]])
    moved = original.roll((0, 1), (2, 3))
    assert track_points(moved, original, starts, starts).tolist() == [[6.0, 6.0]]
    flat = torch.ones(1, 8, *CELLS)
    assert track_points(flat, flat, starts, starts).tolist() == starts.tolist()
    # Almost as like a cell away as here: the expected place wins.
    nearly = flat.clone()
    nearly[0, :, 6, 6] += 1e-7
    assert track_points(nearly, nearly, starts, starts).tolist() == starts.tolist()


@pytest.mark.parametrize("num_rounds", [2, 8, 16, 30])
def test_the_way_is_gone_in_quarters_and_done_by_the_last_round(num_rounds: int) -> None:
    shares = [ramp(done, num_rounds) for done in range(num_rounds)]
    assert shares == sorted(shares) and shares[0] == 0.25 and shares[-1] == 1
    assert set(shares) == {0.25, 0.5, 0.75, 1} or num_rounds < 6
    assert num_rounds < 6 or shares.count(1) >= num_rounds / 2


def test_places_go_to_cells_and_back(tiny_sd: ModelBundle) -> None:
    task = make_task(tiny_sd, 64, 64)
    points = place_points(task, 0.5, (8, 8))
    assert to_picture(points, (8, 8), task)[0] == pytest.approx(task.place_handles(0.5)[0], abs=1e-4)
    assert task.place_handles(0.5)[0] == pytest.approx((40, 32)) and points[0].tolist() == pytest.approx(
        [4.5625, 3.5625]
    )
