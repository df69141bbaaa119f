"""Regions: phrases are read in the prompt's setting, and boxes are cut anew for every grid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipelines.errors import UserError
from pipelines.layout import Box, choose_cells, make_masks
from pipelines.model import ModelBundle
from pipelines.regions import read_regions
from pipelines.text_side import encode_prompt
from pipelines.types import RunInfo


def make_run(model: ModelBundle, prompt: str, size_cells: tuple[int, int]) -> RunInfo:
    """Describe a run without starting it."""
    with torch.no_grad():
        text = encode_prompt(model, prompt, size_px=(64, 64))
    return RunInfo(2, 1, *size_cells, 4.0, "ddim", text, (torch.Generator(),), lambda sentence: None)


@torch.no_grad()
def test_a_phrase_is_read_in_the_setting_at_the_size_of_the_picture(tiny_sdxl: ModelBundle) -> None:
    box = Box("a blue star", 0.0, 0.0, 0.5, 1.0)
    regions = read_regions(tiny_sdxl, make_run(tiny_sdxl, "a red boat, night sky", (8, 12)), (box,))
    px = tiny_sdxl.spec.px_per_cell
    expected = encode_prompt(tiny_sdxl, "a blue star, night sky", size_px=(12 * px, 8 * px))
    assert regions.boxes == (box,) and regions.texts[0].prompt == expected.prompt
    assert torch.equal(regions.texts[0].hidden_cond, expected.hidden_cond)
    assert torch.equal(regions.texts[0].pooled_cond, expected.pooled_cond)
    assert torch.equal(regions.texts[0].time_ids, expected.time_ids)


@torch.no_grad()
def test_boxes_are_proposed_cut_on_every_grid_and_checked(tiny_sd: ModelBundle) -> None:
    run = make_run(tiny_sd, "a red boat and a blue star", (6, 14))
    regions = read_regions(tiny_sd, run, ())
    assert [box.phrase for box in regions.boxes] == ["a red boat", "a blue star"]
    for height, width in ((6, 14), (3, 7), (2, 4)):
        assert torch.equal(regions.cut(height * width), choose_cells(make_masks(regions.boxes, height, width)))
    with pytest.raises(UserError, match="no phrase"):
        read_regions(tiny_sd, run, (Box(" ", 0.0, 0.0, 0.5, 0.5),))


@torch.no_grad()
def test_unknown_words_of_a_drawn_box_are_named_once(tiny_storybook: ModelBundle) -> None:
    notes: list[str] = []
    run = replace(make_run(tiny_storybook, "a boat and a griffin", (8, 8)), note=notes.append)
    phrases = ("a red dragon", "a dragon", "a griffin", "a blue star")
    read_regions(tiny_storybook, run, [Box(phrase, 0.0, 0.0, 0.5, 1.0) for phrase in phrases])
    assert notes == ["In a box: storybook does not know 'dragon'."]
