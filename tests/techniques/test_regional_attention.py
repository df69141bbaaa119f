"""Regional attention: the mix against a slow formula, and layouts that mean nothing change nothing."""

from __future__ import annotations

import pytest
import torch

from pipelines.errors import UserError
from pipelines.layout import Box
from pipelines.model import ModelBundle
from pipelines.techniques.regional_attention import RegionalAttention, mix_regions
from tests.runs import draw


def test_the_mix_equals_the_slow_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    whole, parts = torch.rand(2, 5, 3, generator=generator), torch.rand(2, 2, 5, 3, generator=generator)
    masks = torch.rand(2, 5, generator=generator)
    mixed = mix_regions(whole, parts, masks, 10.0)
    for image in range(2):
        for cell in range(5):
            total = whole[image, cell] + sum(10 * masks[k, cell] * parts[k, image, cell] for k in range(2))
            assert torch.allclose(mixed[image, cell], total / (1 + 10 * masks[:, cell].sum()), atol=1e-6)
    assert torch.equal(mix_regions(whole, parts, masks, 0.0), whole)
    with pytest.raises(ValueError, match="masks of 4 cells for features of 5"):
        mix_regions(whole, parts, masks[:, :4], 1.0)


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sdxl"])
def test_phrases_equal_to_the_prompt_give_the_plain_picture(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    boxes = (Box("a red boat", 0.1, 0.1, 0.5, 0.9), Box("a red boat", 0.6, 0.2, 0.9, 0.9))
    same = draw(model, "a red boat", RegionalAttention(boxes, until_frac=1.0))[0]
    assert torch.allclose(same, draw(model, "a red boat")[0], atol=1e-4)
    other = draw(model, "a red boat", RegionalAttention((Box("a blue star", 0.1, 0.1, 0.5, 0.9),)))[0]
    assert not torch.allclose(other, same, atol=1e-2)


def test_boxes_act_on_pictures_that_are_not_square(tiny_sd: ModelBundle) -> None:
    boxes = (Box("a blue star", 0.0, 0.0, 0.5, 1.0),)
    wide = draw(tiny_sd, "a red boat", RegionalAttention(boxes), size_cells=(8, 12))[0]
    assert wide.shape[-2:] == (8, 12) and wide.isfinite().all()


def test_nothing_to_place_is_said_and_bad_boxes_are_refused(tiny_sd: ModelBundle) -> None:
    latents, notes, _ = draw(tiny_sd, ", ,", RegionalAttention())
    assert torch.equal(latents, draw(tiny_sd, ", ,")[0])
    assert any("found nothing to place" in note for note in notes)
    with pytest.raises(UserError, match="outside the picture"):
        draw(tiny_sd, "a boat", RegionalAttention((Box("a boat", -1, 0, 1, 1),)))
