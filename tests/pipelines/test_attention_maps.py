"""Conditions of single pictures; masks from attention: above the mean, without specks, and small things survive."""

from __future__ import annotations

import torch

from pipelines.attention_maps import MIN_OPENED_CELLS, pick_row, to_mask
from pipelines.model import TextCond


def test_a_row_is_picked_from_every_half_that_has_one_per_picture() -> None:
    rows, shared = torch.arange(3.0), torch.zeros(1)
    text = TextCond(
        rows.view(3, 1, 1), shared.view(1, 1, 1), shared.view(1, 1), rows.view(3, 1), torch.zeros(1, 0), "a boat"
    )
    picked = pick_row(text, 2)
    assert picked.hidden_uncond.tolist() == [[[2.0]]] and picked.pooled_cond.tolist() == [[2.0]]
    assert picked.hidden_cond is text.hidden_cond and picked.pooled_uncond is text.pooled_uncond
    assert picked.prompt == "a boat"


def test_a_mask_is_what_lies_above_the_mean_without_specks() -> None:
    average = torch.zeros(16, 20)
    average[3:9, 5:12] = 1.0
    expected = average > 0.5
    average[14, 2], average[0, 19] = 1.0, 1.0
    assert torch.equal(to_mask(average), expected)


def test_small_and_thin_things_are_not_opened_away() -> None:
    small = torch.zeros(16, 16)
    small[4:6, 4:8] = 1.0
    assert int(small.sum()) < MIN_OPENED_CELLS and torch.equal(to_mask(small), small > 0)
    thin = torch.zeros(16, 16)
    thin[:, 7] = 1.0
    assert torch.equal(to_mask(thin), thin > 0)
    assert not to_mask(torch.ones(16, 16)).any()
