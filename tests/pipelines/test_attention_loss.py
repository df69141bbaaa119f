"""Losses on attention maps against slow formulas, places by hand, and the one look that feeds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.attention import list_layers
from pipelines.attention_loss import (
    Verdict,
    find_place,
    find_things,
    find_threshold,
    list_decoder_layers,
    make_watch,
    move,
    neglect,
    overlap,
    see,
    stray,
    walk_down,
)
from pipelines.attention_maps import observe, smooth
from pipelines.model import ModelBundle
from pipelines.text_side import encode_prompt
from pipelines.types import StepContext


def make_context(model: ModelBundle, prompt: str) -> StepContext:
    """Describe the first of 20 steps."""
    with torch.no_grad():
        text = encode_prompt(model, prompt, size_px=(model.spec.image_px, model.spec.image_px))
    return StepContext(0, 20, 0.0, 999, 0.01, 0.99, 4.0, model, text, (torch.Generator(),))


def test_neglect_is_that_of_the_most_neglected_word() -> None:
    maps = torch.zeros(3, 4, 4)
    maps[0, 1, 1], maps[1, 2, 2], maps[2, 3, 3] = 0.9, 0.4, 0.7
    assert neglect(maps) == pytest.approx(0.6)


def test_overlap_equals_the_slow_formula() -> None:
    spots = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    rows, shares = spots.numpy(), []
    for first in range(3):
        for second in range(first + 1, 3):
            least = sum(min(rows[first][cell], rows[second][cell]) for cell in np.ndindex(4, 5))
            shares.append(least / (rows[first].sum() + rows[second].sum()))
    assert overlap(spots) == pytest.approx(np.mean(shares), rel=1e-5)
    assert overlap(torch.stack([spots[0], spots[0]])) == pytest.approx(0.5)
    assert overlap(torch.eye(2)[:, None]) == 0 and overlap(spots[:1]) == 0


def test_the_threshold_parts_the_values_as_well_as_any() -> None:
    generator = torch.Generator().manual_seed(1)
    word = torch.cat(
        [0.2 + 0.05 * torch.randn(40, generator=generator), 0.7 + 0.1 * torch.randn(24, generator=generator)]
    )
    word = word.clamp(0, 1).reshape(8, 8)
    values, found = word.flatten().numpy(), {}
    for level in range(1, 256):
        low, high = values[values < level / 256], values[values >= level / 256]
        if len(low) and len(high):
            found[level / 256] = len(low) * len(high) * (high.mean() - low.mean()) ** 2
    # The slow formula uses the values, not the middles of the grey levels.
    assert found[find_threshold(word)] == pytest.approx(max(found.values()), rel=0.01)
    assert find_threshold(torch.full((3, 3), 0.4)) == 0.0


def test_a_place_is_what_hangs_together_with_the_peak_and_the_rest_is_stray() -> None:
    word = torch.full((5, 5), 0.1)
    word[0, 0], word[0, 1], word[1, 0] = 0.9, 0.8, 0.7
    word[1, 2] = 0.75  # touches the place at a corner only
    word[4, 4] = 0.85
    place = find_place(word)
    assert place.nonzero().tolist() == [[0, 0], [0, 1], [1, 0]]
    assert stray(word[None]) == pytest.approx(0.85)
    word[1, 2] = word[4, 4] = 0.1
    assert stray(word[None]) == 0, "weaker than all of the place: not stray"
    assert stray(word[None][:0]) == 0


def test_a_move_has_the_asked_length() -> None:
    latents, gradient = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    assert move(latents, gradient, 0.05).norm() == pytest.approx(0.05 * float(latents.norm()), rel=1e-5)
    assert move(latents, torch.zeros_like(gradient), 0.05).abs().max() == 0


def test_walking_down_lowers_the_loss_and_stops_where_it_is_good() -> None:
    seen: list[float] = []

    def judge(leaf: torch.Tensor) -> Verdict:
        seen.append(float(leaf.detach().mean()))
        return Verdict(leaf.mean(), seen[-1] < 0.9)

    end = walk_down(torch.ones(1, 1, 2, 2), judge, 0.1, 20)
    assert seen[0] == 1.0 and seen[-2] >= 0.9 > seen[-1] > float(end.mean()) and len(seen) < 20
    assert not end.requires_grad


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sdxl"])
def test_spots_are_the_rows_of_self_attention_at_the_peaks(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    prompt = "a cat, a red boat"
    ctx = make_context(model, prompt)
    words = [tokens for _, tokens in find_things(model, prompt)]
    cross, own = list_decoder_layers(model, "cross"), list_decoder_layers(model, "self", least_cells=16)
    assert {layer.cells for layer in cross} == {4} and {layer.cells for layer in own} == {8}
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sight = see(make_watch(model, prompt, words, [*cross, *own], sharpness=20.0), latents, 0, ctx)
        maps = observe(model, latents, 999, ctx.text, own)
    expected = torch.stack([maps[layer.name].mean(1)[0] for layer in own]).mean(0)
    assert sight.maps.shape == (2, 4, 6) and sight.spots.shape == (2, 8, 12)
    for word, spot in zip(sight.maps, sight.spots):
        y, x = divmod(int(word.argmax()), 6)
        row = expected[(2 * y + 1) * 12 + 2 * x + 1].reshape(8, 12)
        assert torch.allclose(spot, smooth(row[None])[0], atol=1e-5)


def test_looking_leaves_no_processor_behind(tiny_sd: ModelBundle) -> None:
    before = [id(module.processor) for _, module in list_layers(tiny_sd.unet)]
    layers = [layer for layer, _ in list_layers(tiny_sd.unet) if layer.cells == 4]
    watch = make_watch(tiny_sd, "a boat", [(2,)], layers, sharpness=20.0)
    see(watch, torch.zeros(1, 4, 8, 8), 0, make_context(tiny_sd, "a boat"))
    assert [id(module.processor) for _, module in list_layers(tiny_sd.unet)] == before
