"""Extension: the known picture stays where it is, fades into new ground, and what does not fit is cut off."""

from __future__ import annotations

import torch

from pipelines.model import ModelBundle
from pipelines.style_reference import make_source
from pipelines.techniques.outpaint import Outpaint, fade
from tests.pictures import make_ramp
from tests.runs import draw


def test_columns_fade_towards_open_sides_only() -> None:
    assert fade(6, False, False, 3).tolist() == [1.0] * 6
    right = fade(6, False, True, 3)
    assert torch.allclose(right, torch.tensor([1, 1, 1, 2.5 / 3, 1.5 / 3, 0.5 / 3]))
    assert torch.equal(fade(6, True, False, 3), right.flip(0))
    assert fade(4, True, True, 0).tolist() == [1.0] * 4


def test_the_known_part_is_the_picture(tiny_model: ModelBundle) -> None:
    source = make_source(tiny_model, make_ramp(64))
    plain = draw(tiny_model, "a boat", size_cells=(8, 16)).latents
    for place, kept, new in ((0, slice(0, 6), slice(8, 16)), (8, slice(10, 16), slice(0, 8))):
        keeping = Outpaint((source,), place_cells=place, fade_cells=2)
        drawn = draw(tiny_model, "a boat", keeping, size_cells=(8, 16)).latents
        start = kept.start - place
        assert torch.allclose(drawn[..., kept], source.latents[..., start : start + 6], atol=1e-3)
        assert not torch.allclose(drawn[..., new], plain[..., new], atol=1e-3), "new ground knows the picture"


def test_what_does_not_fit_is_cut_off(tiny_sd: ModelBundle) -> None:
    source = make_source(tiny_sd, make_ramp(64))
    drawn = draw(tiny_sd, "a boat", Outpaint((source,), place_cells=4, fade_cells=0)).latents
    assert torch.allclose(drawn[..., 4:], source.latents[..., :4], atol=1e-3)
