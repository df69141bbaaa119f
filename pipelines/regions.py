"""The regions of one run: its boxes, their phrases as a model reads them, and where they lie on every grid.

What the techniques that follow a layout share; what attention or noise makes of a region is their own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.attention_maps import to_grid
from pipelines.layout import Box, check_boxes, choose_cells, make_masks, propose_boxes
from pipelines.model import ModelBundle, TextCond
from pipelines.prompt_plan import join_phrases, plan_prompt
from pipelines.text_side import describe_reading, encode_prompt
from pipelines.types import RunInfo


@dataclass(frozen=True)
class Regions:
    """Hold the boxes of a run, each with its encoded phrase; size_cells is (height, width) of the latents."""

    boxes: tuple[Box, ...]
    texts: tuple[TextCond, ...]
    size_cells: tuple[int, int]

    def cut(self, num_cells: int) -> torch.Tensor:
        """Return which cells belong to each box on the grid of a layer with so many cells, (k, h, w) bool."""
        return choose_cells(make_masks(self.boxes, *to_grid(num_cells, self.size_cells)))


def read_regions(model: ModelBundle, run: RunInfo, boxes: Sequence[Box]) -> Regions:
    """Read the phrase of every box in the prompt's setting; without boxes, they are proposed from the prompt.

    Words of a drawn box's phrase that the model never learned are told in the run's notes, once each.

    Returns: regions; none if the prompt names nothing to place.
    Raises:  UserError if a box cannot be drawn.
    """
    plan = plan_prompt(run.text.prompt)
    checked = check_boxes(boxes or propose_boxes(plan))
    px = model.spec.px_per_cell
    size_px = (run.width_cells * px, run.height_cells * px)
    phrases = [join_phrases(box.phrase, plan.setting) for box in checked]
    with model.lock:
        texts = tuple(encode_prompt(model, phrase, size_px=size_px) for phrase in phrases)
    # What is wrong with the prompt's own words is told anyway.
    told = {sentence for box in boxes for sentence in describe_reading(box.phrase, model)[1]}
    for sentence in sorted(told - set(describe_reading(run.text.prompt, model)[1])):
        run.note(f"In a box: {sentence}")
    return Regions(checked, texts, (run.height_cells, run.width_cells))
