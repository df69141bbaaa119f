"""Putting a thing into other pictures: where its words are, as large as they say, and nothing of the old one left."""

from __future__ import annotations

import pytest
import torch

from pipelines.images import decode, encode, to_tensor
from pipelines.model import ModelBundle
from pipelines.subject_paste import GROWN, SIDE_SHARES, find_box, find_extent, fit_box, paste, warp
from pipelines.subject_source import make_subject_source
from tests.pictures import make_ramp


def test_a_place_is_a_box_with_the_same_middle_and_spread() -> None:
    place = torch.zeros(1, 32, 32)
    place[:, 8:16, 4:20] = 1.0
    x0, y0, x1, y1 = find_box(place)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((12 / 32, 12 / 32))
    assert x1 - x0 == pytest.approx(GROWN * 16 / 32, rel=0.01) and y1 - y0 == pytest.approx(GROWN * 8 / 32, rel=0.02)
    place[:, 31, 31] = 0.25
    assert find_box(place) == (x0, y0, x1, y1), "a stray cell that draws little does not count"


def test_a_thing_comes_to_lie_in_its_box() -> None:
    outline = torch.zeros(1, 1, 64, 64)
    outline[..., 8:24, 8:40] = 1.0
    own = find_extent(outline[0])
    assert own == (8 / 64, 8 / 64, 40 / 64, 24 / 64)
    fit = fit_box(own, (0.5, 0.5, 0.5 + 0.75**0.5 * 0.5, 0.5 + 0.75**0.5 * 0.5))
    moved = warp(outline, own, fit)
    scale, x, y = fit
    found = find_extent(moved[0])
    assert found == pytest.approx((x, y, x + 0.5 * scale, y + 0.25 * scale), abs=0.02)
    assert found[0] >= 0 and found[2] <= 1 and float(moved.sum()) > float(outline.sum())


@pytest.mark.parametrize(
    ("wanted", "share"), [((0.0, 0.0, 0.01, 0.01), SIDE_SHARES[0]), ((0, 0, 1, 1), SIDE_SHARES[1])]
)
def test_a_thing_is_never_tiny_nor_all(wanted: tuple[float, float, float, float], share: float) -> None:
    scale, x, y = fit_box((0.2, 0.2, 0.6, 0.4), wanted)
    assert 0.4 * scale == pytest.approx(share) and x >= 0 and y >= 0 and x + 0.4 * scale <= 1


@torch.no_grad()
def test_the_thing_is_in_and_far_cells_stay(tiny_sd: ModelBundle) -> None:
    outline = torch.zeros(1, 1, 64, 64)
    outline[..., :24, :24] = 1.0
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :3, :3] = 1.0
    source = make_subject_source(tiny_sd, make_ramp(64), mask, outline)
    latents = encode(tiny_sd, to_tensor([make_ramp(64).rotate(90), make_ramp(64).rotate(180)]))
    places = torch.zeros(2, 1, 8, 8)
    places[0, :, 5:7, 5:7] = places[1, :, 1:3, 1:3] = 1.0
    new, inside, around = paste(tiny_sd, latents, source, places)
    assert new.shape == latents.shape and set(inside.unique().tolist()) == {0.0, 1.0}
    assert inside[0, 0, 5, 5] == 1 and inside[1, 0, 1, 1] == 1 and (around >= inside).all()
    alone = paste(tiny_sd, latents[:1], source, places[:1])
    assert torch.allclose(alone[0], new[:1], atol=1e-4) and torch.equal(alone[1], inside[:1])
    with pytest.raises(ValueError, match="not cut out"):
        paste(tiny_sd, latents, make_subject_source(tiny_sd, make_ramp(64), mask), places)
    assert len(decode(tiny_sd, new)) == 2
