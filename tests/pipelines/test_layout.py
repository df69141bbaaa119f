"""Layouts: bad boxes are refused in one sentence, prompts become boxes, boxes become exact cell masks."""

from __future__ import annotations

import pytest
import torch

from pipelines.errors import UserError
from pipelines.layout import (
    MAX_BOXES,
    MIN_FREE_FRAC,
    Box,
    check_boxes,
    choose_cells,
    make_free_mask,
    make_masks,
    propose_boxes,
    to_slabs,
)
from pipelines.prompt_plan import plan_prompt


@pytest.mark.parametrize(
    ("box", "says"),
    [
        (Box("a boat", -0.1, 0, 0.5, 0.5), "outside the picture"),
        (Box("a boat", 0.2, 0.2, 0.7, 1.2), "outside the picture"),
        (Box("a boat", 0.3, 0.3, 0.3, 0.8), "too small"),
        (Box("a boat", 0.6, 0.3, 0.3, 0.8), "too small"),
        (Box("   ", 0.1, 0.1, 0.9, 0.9), "no phrase"),
        (Box("a " * 200, 0.1, 0.1, 0.9, 0.9), "too long"),
        (Box("a boat", float("nan"), 0.1, 0.9, 0.9), "outside the picture"),
    ],
)
def test_a_bad_box_is_refused_in_one_sentence(box: Box, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_boxes([Box("a moon", 0.1, 0.1, 0.4, 0.4), box])
    assert "2" in str(caught.value) and str(caught.value).count("\n") == 0


def test_ten_boxes_are_too_many() -> None:
    with pytest.raises(UserError, match=f"10 boxes; draw at most {MAX_BOXES}"):
        check_boxes([Box("a boat", 0.1, 0.1, 0.4, 0.4)] * 10)


@pytest.mark.parametrize(
    ("relation", "axis", "sign"),
    [("left of", "x0", -1), ("right of", "x0", 1), ("above", "y0", -1), ("below", "y0", 1)],
)
def test_a_relation_places_two_things(relation: str, axis: str, sign: int) -> None:
    boat, moon = propose_boxes(plan_prompt(f"a red boat {relation} a white moon, night sky"))
    assert (boat.phrase, moon.phrase) == ("a red boat", "a white moon")
    assert (getattr(boat, axis) - getattr(moon, axis)) * sign > 0.2
    check_boxes([boat, moon])


def test_a_number_gives_as_many_boxes_and_nothing_gives_none() -> None:
    boxes = propose_boxes(plan_prompt("three red stars and a moon"))
    assert [box.phrase for box in boxes] == ["a red star"] * 3 + ["a moon"]
    assert propose_boxes(plan_prompt("")) == ()
    assert propose_boxes(plan_prompt("four stars, four boats")) == ()


def test_masks_cover_exactly_the_area_on_every_grid() -> None:
    boxes = [Box("a", 0.1, 0.25, 0.6, 0.9), Box("b", 0.0, 0.0, 0.08, 0.08)]
    for cells in (4, 8, 16, 32):
        masks = make_masks(boxes, cells, 2 * cells)
        assert masks.shape == (2, cells, 2 * cells)
        areas = [(box.x1 - box.x0) * (box.y1 - box.y0) for box in boxes]
        assert torch.allclose(masks.mean((1, 2)), torch.tensor(areas), atol=1e-5)
        assert (masks > 0).flatten(1).any(1).all()


def test_a_box_owns_the_cells_that_it_covers_by_half_and_never_none() -> None:
    boxes = [Box("a", 0.1, 0.25, 0.6, 0.9), Box("b", 0.47, 0.47, 0.55, 0.55), Box("c", 0.0, 0.0, 1.0, 1.0)]
    for cells in (4, 8, 16, 32):
        owned = choose_cells(make_masks(boxes, cells, 2 * cells))
        assert owned.dtype == torch.bool and owned.flatten(1).any(1).all() and owned[2].all()
        for row in range(cells):
            for column in range(2 * cells):
                down = max(0, min(row + 1, 0.9 * cells) - max(row, 0.25 * cells))
                across = max(0, min(column + 1, 0.6 * 2 * cells) - max(column, 0.1 * 2 * cells))
                assert owned[0, row, column] == (down * across >= 0.4999)
    assert choose_cells(make_masks(boxes, 4, 4))[1].sum() == 1


def test_a_box_that_ends_in_the_middle_of_a_cell_owns_it() -> None:
    owned = choose_cells(make_masks([Box("a", 0.0, 0.0, 0.1875, 1.0)], 8, 8))[0]
    assert owned[:, :2].all() and not owned[:, 2:].any()


@pytest.mark.parametrize(
    ("prompt", "first", "second"),
    [
        ("a boat left of a moon", (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)),
        ("a boat right of a moon", (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)),
        ("a boat above a moon", (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)),
        ("a boat below a moon", (0.0, 0.5, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5)),
    ],
)
def test_slabs_fill_the_picture_in_the_places_of_their_boxes(prompt: str, first: tuple, second: tuple) -> None:
    assert to_slabs(propose_boxes(plan_prompt(prompt))) == (Box("a boat", *first), Box("a moon", *second))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_slabs_cover_every_cell_once(count: int) -> None:
    boxes = propose_boxes(plan_prompt("a boat" + ", a moon" * (count - 1)))
    assert torch.allclose(make_masks(to_slabs(boxes), 8, 12).sum(0), torch.ones(8, 12), atol=1e-5)


def test_a_free_mask_leaves_out_what_is_taken_unless_too_little_remains() -> None:
    slab = Box("a moon", 0.5, 0.0, 1.0, 1.0)
    free = make_free_mask(slab, [Box("a boat", 0.2, 0.5, 0.75, 1.0), Box("a cat", 0.5, 0.75, 0.75, 1.0)], 4, 4)
    assert free.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert MIN_FREE_FRAC > 0.25
    assert torch.equal(make_free_mask(slab, [Box("a boat", 0.0, 0.25, 1.0, 1.0)], 4, 4), make_masks([slab], 4, 4)[0])
