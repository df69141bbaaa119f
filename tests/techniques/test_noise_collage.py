"""NoiseCollage: weights and routes against slow formulas, passes that leave other boxes alone, and exchanged places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from pipelines.attention import list_layers
from pipelines.errors import CompositionError, UserError
from pipelines.images import decode, to_tensor
from pipelines.layout import Box
from pipelines.model import ModelBundle, TextCond, run_unet
from pipelines.techniques.base import Halves, Technique, check_compatible
from pipelines.techniques.multi_diffusion import MultiDiffusion
from pipelines.techniques.noise_collage import (
    CAPTION,
    NOTHING,
    PROMPT,
    NoiseCollage,
    _Collage,
    choose_routes,
    follow,
    weigh,
)
from pipelines.techniques.regional_attention import RegionalAttention
from pipelines.text_side import encode_prompt
from tests import runs
from tests.runs import describe_run

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
draw = partial(runs.draw, sampler="dpmpp_2m")  # which remembers the step before
both_families = pytest.mark.parametrize("name", ["tiny_sd", "tiny_sdxl"])


def run_halves(model: ModelBundle, latents: torch.Tensor, text: TextCond) -> Halves:
    """Call the UNet for one picture, as the loop does."""
    added = {}
    if text.pooled_cond.shape[-1]:
        pooled = torch.cat([text.pooled_uncond, text.pooled_cond])
        added = {"text_embeds": pooled, "time_ids": text.time_ids.expand(2, -1)}
    hidden = torch.cat([text.hidden_uncond, text.hidden_cond])
    uncond, cond = run_unet(model, torch.cat([latents, latents]), 999, hidden, added).chunk(2)
    return uncond, cond


@pytest.mark.parametrize("background_weight", [0.0, 0.1, 2.0])
def test_weights_equal_the_slow_formula(background_weight: float) -> None:
    cells = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    cells[:, 0] = False
    weights = weigh(cells, background_weight)
    for row in range(4):
        for column in range(5):
            inside = cells[:, row, column].tolist()
            total = background_weight + sum(inside)
            shares = [weight / total for weight in (background_weight, *inside)] if any(inside) else [1, 0, 0, 0]
            assert weights[:, row, column].tolist() == pytest.approx(shares)


def test_every_cell_listens_to_exactly_one_context() -> None:
    inside = torch.zeros(4, 6, dtype=torch.bool)
    inside[1:3, 2:4] = True
    assert torch.equal(choose_routes(inside, None).view(4, 6), torch.where(inside, CAPTION, PROMPT))
    is_dropped = torch.rand(8, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    routes = choose_routes(inside, is_dropped).view(4, 6)
    for row in range(4):
        for column in range(6):
            outside = NOTHING if is_dropped[2 * row, 2 * column] else PROMPT
            assert routes[row, column] == (CAPTION if inside[row, column] else outside)


def test_cells_take_the_attention_to_their_own_context() -> None:
    outs = torch.rand(3, 2, 5, 4, generator=torch.Generator().manual_seed(2))
    routes = torch.tensor([CAPTION, NOTHING, PROMPT, PROMPT, CAPTION])
    followed = follow(outs, routes)
    for cell, route in enumerate(routes.tolist()):
        assert torch.equal(followed[:, cell], outs[route, :, cell])


@both_families
def test_a_layer_attends_inside_to_the_caption_and_outside_to_the_prompt(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    run, ctx = describe_run(model, "a red boat, sea", size_cells=(8, 8))
    layer = next(module for layer, module in list_layers(model.unet) if layer.kind == "cross" and layer.cells == 8)
    hidden = torch.randn(2, 64, layer.to_q.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), NoiseCollage((Box("a blue star", *LEFT),)).open(model, run) as hooks:
        caption = encode_prompt(model, "a blue star, sea", size_px=(64, 64)).hidden_cond
        halves = [torch.cat([run.text.hidden_uncond, cond]) for cond in (caption, run.text.hidden_cond)]
        inside, outside = (layer.processor(layer, hidden, half).view(2, 8, 8, -1) for half in halves)
        seen: list[torch.Tensor] = []

        def call(latents: torch.Tensor, text: TextCond) -> Halves:
            seen.append(layer(hidden, torch.cat([text.hidden_uncond, text.hidden_cond])).view(2, 8, 8, -1))
            return latents, latents

        with hooks.patch(model):
            hooks.predict(torch.zeros(1, 4, 8, 8), ctx, call)
    whole, routed = seen
    assert torch.allclose(whole, outside, atol=1e-6)
    assert torch.allclose(routed[:, :, :4], inside[:, :, :4], atol=1e-6)
    assert torch.allclose(routed[:, :, 4:], outside[:, :, 4:], atol=1e-6)
    assert torch.allclose(routed[0], outside[0], atol=1e-6)
    assert not torch.allclose(routed[1, :, :4], outside[1, :, :4], atol=1e-3)


def test_each_pass_is_told_the_pooled_text_of_its_caption(tiny_sdxl: ModelBundle) -> None:
    run, ctx = describe_run(tiny_sdxl, "a red boat", size_cells=(8, 8))
    told: list[TextCond] = []

    def call(latents: torch.Tensor, text: TextCond) -> Halves:
        told.append(text)
        return latents, latents

    with torch.no_grad(), NoiseCollage((Box("a blue star", *LEFT),)).open(tiny_sdxl, run) as hooks:
        hooks.predict(torch.zeros(1, 4, 8, 8), ctx, call)
        caption = encode_prompt(tiny_sdxl, "a blue star", size_px=(64, 64))
    whole, region = told
    assert whole is ctx.text and torch.equal(region.pooled_cond, caption.pooled_cond)
    assert torch.equal(region.pooled_uncond, run.text.pooled_uncond) and torch.equal(region.time_ids, run.text.time_ids)


@both_families
def test_captions_equal_to_the_prompt_give_the_plain_picture(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    boxes = (Box("a red boat", 0.1, 0.1, 0.5, 0.9), Box("a red boat", 0.4, 0.2, 0.9, 0.9))
    plain = draw(model, "a red boat")[0]
    assert torch.allclose(draw(model, "a red boat", NoiseCollage(boxes))[0], plain, atol=1e-4)
    other = (Box("a blue star", 0.1, 0.1, 0.5, 0.9), boxes[1])
    assert not torch.allclose(draw(model, "a red boat", NoiseCollage(other))[0], plain, atol=1e-2)


@both_families
@pytest.mark.parametrize("drop_frac", [0.0, 0.75])
def test_pictures_of_a_batch_equal_those_drawn_alone(
    name: str, drop_frac: float, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    model = replace(model, plan=replace(model.plan, images_per_call=None))
    technique = NoiseCollage((Box("a blue star", *LEFT),), drop_frac=drop_frac)
    batch = draw(model, "a red boat", technique, num_images=3)[0]
    for index in range(3):
        alone = draw(model, "a red boat", technique, seed=3 + index)[0]
        assert torch.allclose(batch[index : index + 1], alone, atol=1e-4)


def test_dropping_draws_anew_each_step_and_leaves_the_streams_of_the_run_alone(tiny_sd: ModelBundle) -> None:
    run, ctx = describe_run(tiny_sd, "a red boat", size_cells=(8, 8), num_images=2)
    before = [generator.get_state() for generator in run.generators]
    routes: list[torch.Tensor] = []
    with torch.no_grad(), NoiseCollage((Box("a blue star", *LEFT),), drop_frac=0.5).open(tiny_sd, run) as hooks:
        assert isinstance(hooks, _Collage)

        def call(latents: torch.Tensor, text: TextCond) -> Halves:
            routes.extend([hooks.routes(64)] if hooks.routes else [])
            return latents, latents

        for _ in range(2):
            hooks.predict(torch.zeros(2, 4, 8, 8), ctx, call)
    assert all(torch.equal(generator.get_state(), state) for generator, state in zip(run.generators, before))
    assert len({tuple(route.tolist()) for route in routes}) == len(routes) == 4
    shares = [float((route.view(8, 8)[:, 4:] == NOTHING).float().mean()) for route in routes]
    assert 0.35 < sum(shares) / 4 < 0.65
    assert all((route.view(8, 8)[:, :4] == CAPTION).all() for route in routes)


def test_boxes_act_on_pictures_that_are_not_square(tiny_sd: ModelBundle) -> None:
    technique = NoiseCollage((Box("a blue star", *LEFT),), drop_frac=0.5)
    wide = draw(tiny_sd, "a red boat", technique, size_cells=(6, 14))[0]
    assert wide.shape[-2:] == (6, 14) and wide.isfinite().all()


def test_nothing_to_place_is_said_and_bad_boxes_are_refused(tiny_sd: ModelBundle) -> None:
    latents, notes, _ = draw(tiny_sd, ", ,", NoiseCollage())
    assert torch.equal(latents, draw(tiny_sd, ", ,")[0])
    assert any("found nothing to place" in note for note in notes)
    with pytest.raises(UserError, match="outside the picture"):
        draw(tiny_sd, "a boat", NoiseCollage((Box("a boat", -1, 0, 1, 1),)))


@pytest.mark.parametrize("other", [MultiDiffusion, RegionalAttention])
def test_what_predicts_in_parts_or_knows_places_is_refused(other: Callable[[], Technique]) -> None:
    with pytest.raises(CompositionError, match="NoiseCollage"):
        check_compatible([NoiseCollage(), other()], sampler="ddim", is_first_order=True)


@both_families
def test_a_caption_changes_the_prediction_in_its_own_box_only(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    run, ctx = describe_run(model, "a cat and a boat", size_cells=(8, 8))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    preds = []
    for caption in ("a red cat", "a blue star"):
        boxes = (Box(caption, *LEFT), Box("a boat", *RIGHT))
        with torch.no_grad(), NoiseCollage(boxes).open(model, run) as hooks, hooks.patch(model):
            preds.append(hooks.predict(latents, ctx, lambda part, text: run_halves(model, part, text)))
    (uncond, cond), (other_uncond, other_cond) = preds
    assert torch.equal(uncond, other_uncond) and torch.equal(cond[..., 4:], other_cond[..., 4:])
    assert ((cond - other_cond)[..., :4] != 0).all()


def test_exchanged_captions_exchange_the_colours_of_the_boxes(storybook: ModelBundle) -> None:
    left, right = (0.05, 0.28, 0.47, 0.72), (0.53, 0.28, 0.95, 0.72)
    prompt, cells = "a red balloon and a blue cat on a plain background", (32, 32)
    redness = []
    for first, second in ((left, right), (right, left)):
        boxes = (Box("a red balloon", *first), Box("a blue cat", *second))
        technique = NoiseCollage(boxes, until_frac=0.5)
        latents = draw(storybook, prompt, technique, seed=5_000_000, num_images=2, num_steps=4, size_cells=cells)[0]
        with torch.no_grad():
            pixels = to_tensor(decode(storybook, latents))
        red_over_blue = (pixels[:, 0] - pixels[:, 2])[:, 72:184]
        redness.append(red_over_blue[..., 13:120].mean((1, 2)) - red_over_blue[..., 136:243].mean((1, 2)))
    assert (redness[0] > redness[1] + 0.1).all()
