"""Windows: they cover everything and share enough, also with moved edges; the moves use all of their reach."""

from __future__ import annotations

import pytest
import torch

from pipelines.model import ModelBundle
from pipelines.text_side import encode_prompt
from pipelines.windows import average_windows, move_edges, pick_shift, place_windows, tell_size


@pytest.mark.parametrize(
    ("size", "overlap"), [((8, 24), 0.5), ((17, 9), 0.25), ((8, 8), 0.5), ((5, 30), 0.9), ((8, 16), 0)]
)
def test_windows_cover_every_cell_and_share_enough(size: tuple[int, int], overlap: float) -> None:
    windows = place_windows(size, 8, overlap)
    counts = torch.zeros(size)
    for window in windows:
        counts[window] += 1
        assert counts[window].shape == (min(8, size[0]), min(8, size[1]))
    assert (counts > 0).all()
    starts = sorted({across.start for _, across in windows})
    assert all(8 - (b - a) >= int(8 * overlap) for a, b in zip(starts, starts[1:]))
    if overlap == 0:
        assert (counts == 1).all()


@pytest.mark.parametrize("shift", [(0, 0), (2, -2), (-1, 1)])
def test_moved_edges_still_cover_every_cell(shift: tuple[int, int]) -> None:
    size = (16, 28)
    before = place_windows(size, 8, 0.5)
    after = move_edges(before, size, shift)
    counts = torch.zeros(size)
    for old, new in zip(before, after):
        counts[new] += 1
        for axis in (0, 1):
            for end, border in (("start", 0), ("stop", size[axis])):
                was, now = getattr(old[axis], end), getattr(new[axis], end)
                assert now == (was if was == border else was + shift[axis])
    assert (counts > 0).all()


def test_edges_use_all_of_their_reach_evenly() -> None:
    shifts = [pick_shift(step, 5, 2) for step in range(50)]
    assert shifts[0] == (0, 0)
    for axis in (0, 1):
        seen = [shift[axis] for shift in shifts]
        assert set(seen) == {-4, -2, 0, 2, 4} and max(seen.count(one) for one in set(seen)) <= 13
    assert len(set(shifts)) > 10  # not along one diagonal
    assert {pick_shift(step, 1, 2) for step in range(9)} == {(0, 0)}


def test_a_part_is_told_its_size(tiny_sdxl: ModelBundle, tiny_sd: ModelBundle) -> None:
    with torch.no_grad():
        text = encode_prompt(tiny_sdxl, "a red boat", size_px=(192, 64))
        plain = encode_prompt(tiny_sd, "a red boat", size_px=(192, 64))
    assert tell_size(text, (96, 64)).time_ids.tolist() == [[64, 96, 0, 0, 64, 96]]
    assert tell_size(plain, (96, 64)) is plain


def test_faded_windows_count_less_towards_their_inner_edges() -> None:
    latents = torch.zeros(1, 1, 4, 12)
    windows = place_windows((4, 12), 8, 0.5)

    def predict(part: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full_like(part, index), torch.ones_like(part)

    mixed, ones = average_windows(latents, windows, predict, is_faded=True)
    assert torch.allclose(ones, torch.ones_like(ones))
    # The second window's share rises over the four cells that both see: 0.5 of 0.5 + 3.5, then 1.5 of 4, ...
    expected = torch.tensor([0.0] * 4 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 4)
    assert torch.allclose(mixed, expected.expand(1, 1, 4, 12))
    flat, _ = average_windows(latents, windows, predict)
    assert torch.equal(flat[0, 0, 0, 4:8], torch.full((4,), 0.5))
