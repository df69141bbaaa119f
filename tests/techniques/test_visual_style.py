"""Visual Style Prompting: how attention is shared out, what is heard when, and what a style picture moves."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.attention import list_layers
from pipelines.denoise import Sketches
from pipelines.model import ModelBundle
from pipelines.style_reference import StyleSource, choose_layers, make_source
from pipelines.techniques.visual_style import VisualStyle, share_out
from tests.pictures import make_ramp
from tests.runs import draw


@pytest.fixture
def source(tiny_model: ModelBundle) -> StyleSource:
    """A style picture of the tiny models' size."""
    return make_source(tiny_model, make_ramp(64))


def test_shares_are_the_columns_of_a_table() -> None:
    own, first, second = share_out(0.8, 0.25, 6, 2, 0)
    assert [round(float(share), 6) for share in (own, first, second)] == [0.2, 0.6, 0.2]
    own, first, second = share_out(1.0, 0.5, 8, 2, 4)
    assert own == 0 and second.tolist() == [0.125, 0.375, 0.625, 0.875] * 2
    assert torch.equal(first + second, torch.ones(8))
    assert share_out(1.0, 0.0, 8, 2, 4)[2].max() == 0 and share_out(1.0, 1.0, 8, 2, 4)[1].max() == 0
    assert [float(share) for share in share_out(0.75, 0.5, 8, 1, 4)] == [0.25, 0.75]


def test_depth_takes_in_one_place_after_the_other(tiny_model: ModelBundle) -> None:
    layers = {layer.name: layer for layer, _ in list_layers(tiny_model.unet) if layer.kind == "self"}
    places = [{(layers[name].place, layers[name].cells) for name in choose_layers(tiny_model, k)} for k in (1, 2, 3, 4)]
    finest = max(layer.cells for layer in layers.values() if layer.place == "up")
    assert places[0] == {("up", finest)}
    assert {place for place, _ in places[1]} == {"up"} and len(places[1]) == 2
    assert {place for place, _ in places[2]} == {"up", "mid"}
    assert len(choose_layers(tiny_model, 4)) == len(layers)
    assert layers[choose_layers(tiny_model, 4)[-1]].cells == finest


def test_its_own_picture_as_the_style_is_plain_attention_where_all_is_shared(tiny_sd: ModelBundle) -> None:
    """Doubling every key and value changes no softmax: the style of exactly what is being drawn is no style."""
    plain = draw(tiny_sd, "a red boat", num_steps=1)
    seen: dict[str, torch.Tensor] = {}
    source = make_source(tiny_sd, make_ramp(64))
    style = VisualStyle(references=(source,), strength=0.5, contrast=0.0, until_frac=1.0)
    from pipelines.techniques import visual_style

    with pytest.MonkeyPatch.context() as patch:

        def listen_to_itself(own: object, others: object, shares: object) -> object:
            key, value = own  # type: ignore[misc]
            seen["key"] = key
            pair = (torch.cat([key, key], 2), torch.cat([value, value], 2))
            return (*pair, torch.full((1, 2 * key.shape[2]), math.log(0.5)))

        patch.setattr(visual_style, "join_keys", listen_to_itself)
        same = draw(tiny_sd, "a red boat", style, num_steps=1)
    assert seen and torch.allclose(same.latents, plain.latents, atol=1e-4)


def test_a_style_moves_the_picture_and_is_heard_only_in_its_steps(tiny_model: ModelBundle, source: StyleSource) -> None:
    plain = draw(tiny_model, "a red boat", num_steps=4).latents

    def move(**options: float) -> float:
        style = VisualStyle(references=(source,), **options)  # type: ignore[arg-type]
        return float((draw(tiny_model, "a red boat", style, num_steps=4).latents - plain).abs().mean())

    assert move(until_frac=0.0) == 0.0 and move(from_frac=1.0) == 0.0
    assert 0 < move(strength=0.2, until_frac=1.0) < move(strength=0.9, until_frac=1.0)
    assert move(depth=1) > 0
    assert move(negative_query=1.0) != move(negative_query=0.0)


def test_other_seeds_and_more_pictures_read_nothing_again(tiny_sd: ModelBundle) -> None:
    tiny_sd.style_memory.clear()
    style = VisualStyle(references=(make_source(tiny_sd, make_ramp(64)),))
    first = draw(tiny_sd, "a red boat", style, num_steps=4, num_images=2)
    assert sum("reading the style picture" in progress.note for progress in first.seen) == 1
    later = draw(tiny_sd, "a blue star", style, num_steps=4, seed=9)
    assert [progress.step for progress in later.seen] == [1, 2, 3, 4]
    alone = draw(tiny_sd, "a red boat", style, num_steps=4, seed=4)
    assert torch.allclose(alone.latents, first.latents[1:], atol=1e-5)


def test_where_the_patches_looked_is_shown(tiny_sd: ModelBundle) -> None:
    sketches = Sketches()
    sources = tuple(make_source(tiny_sd, picture) for picture in (make_ramp(64), make_ramp(64).rotate(180)))
    draw(tiny_sd, "a boat", VisualStyle(references=sources, blend=0.5), size_cells=(8, 12), sketches=sketches)
    assert sketches.sources is not None
    looks, width = sketches.sources
    assert width == 12 and looks.shape == (8 * 12, 2 * 64)
    assert bool((looks >= 0).all()) and float(looks.sum(1).max()) <= 1 + 1e-5


def test_no_style_picture_is_said(tiny_sd: ModelBundle) -> None:
    drawn = draw(tiny_sd, "a red boat", VisualStyle())
    assert any("no style picture" in note for note in drawn.notes)
    assert torch.equal(drawn.latents, draw(tiny_sd, "a red boat").latents)
