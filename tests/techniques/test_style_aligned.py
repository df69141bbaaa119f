"""StyleAligned: statistics against a slow formula, the weight against plain attention, one style picture only."""

from __future__ import annotations

import torch

from pipelines.model import ModelBundle
from pipelines.style_reference import make_source
from pipelines.techniques.style_aligned import StyleAligned, align_statistics
from tests.pictures import make_ramp
from tests.runs import draw


def test_statistics_are_those_of_the_other(tiny_sd: ModelBundle) -> None:
    generator = torch.Generator().manual_seed(0)
    own, other = torch.randn(2, 3, 7, 4, generator=generator), 5 + 3 * torch.randn(1, 3, 9, 4, generator=generator)
    aligned = align_statistics(own, other)
    for image in range(2):
        for head in range(3):
            for channel in range(4):
                mine, theirs = own[image, head, :, channel], other[0, head, :, channel]
                slow = (mine - mine.mean()) / (mine.var(correction=0) + 1e-5) ** 0.5
                slow = slow * (theirs.var(correction=0) + 1e-5) ** 0.5 + theirs.mean()
                assert torch.allclose(aligned[image, head, :, channel], slow, atol=1e-4)
    assert torch.allclose(align_statistics(own, own[:1])[0], own[0], atol=1e-4)


def test_weight_and_statistics_each_move_the_picture(tiny_model: ModelBundle) -> None:
    source = make_source(tiny_model, make_ramp(64))
    plain = draw(tiny_model, "a red boat").latents
    moved = {
        options: float((draw(tiny_model, "a red boat", StyleAligned((source,), *options)).latents - plain).abs().mean())
        for options in ((1.0, 0.0), (0.0, 1.0), (4.0, 0.0), (0.0, 0.0))
    }
    assert moved[0.0, 0.0] == 0
    assert 0 < moved[1.0, 0.0] < moved[4.0, 0.0] and moved[0.0, 1.0] > 0


def test_a_second_style_picture_is_not_used_silently(tiny_sd: ModelBundle) -> None:
    sources = tuple(make_source(tiny_sd, picture) for picture in (make_ramp(64), make_ramp(64).rotate(90)))
    drawn = draw(tiny_sd, "a red boat", StyleAligned(sources))
    assert any("takes one style picture" in note for note in drawn.notes)
    assert torch.equal(drawn.latents, draw(tiny_sd, "a red boat", StyleAligned(sources[:1])).latents)
    assert any("no style picture" in note for note in draw(tiny_sd, "a red boat", StyleAligned()).notes)
