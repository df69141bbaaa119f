"""AccDiffusion: the base picture is the plain one, predictions mix as the formula says, and things do not repeat."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from pipelines.attention import list_layers
from pipelines.attention_maps import average_layers, observe
from pipelines.backends import PROJECT_DIR
from pipelines.dilation import blur, draw_exchange, exchange, split_dilated
from pipelines.images import decode
from pipelines.model import ModelBundle, TextCond
from pipelines.scene_parser import load_parser
from pipelines.schedules import add_noise, pred_to_x0, x0_to_pred
from pipelines.seeding import fork_generators, make_generators
from pipelines.techniques.acc_diffusion import EXCHANGE_OFFSET, AccDiffusion, _Enlarging, assign_things, shrink
from pipelines.techniques.multi_diffusion import MultiDiffusion
from pipelines.text_side import encode_prompt
from pipelines.types import StepContext
from pipelines.windows import place_windows
from tests.runs import describe_run, draw, finish

NUM_STEPS = 3


def open_run(
    model: ModelBundle,
    prompt: str,
    size_cells: tuple[int, int],
    *,
    num_images: int = 1,
    num_steps: int = NUM_STEPS,
    notes: list[str] | None = None,
) -> tuple[_Enlarging, StepContext]:
    """Open the technique for an imagined run and describe the first step of it."""
    run, ctx = describe_run(
        model, prompt, size_cells=size_cells, seed=5, num_images=num_images, num_steps=num_steps, notes=notes
    )
    ctx = replace(ctx, timestep=899, alpha_bar=0.05, sigma=math.sqrt(0.95))
    with AccDiffusion().open(model, run) as hooks:
        assert isinstance(hooks, _Enlarging)
        return hooks, ctx


def start(hooks: _Enlarging, ctx: StepContext, noise: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return finish(hooks.init(noise, ctx, lambda: nullcontext()))


@pytest.mark.parametrize(
    ("size", "side", "unit", "expected"),
    [
        ((64, 64), 32, 4, ((32, 32), 2)),
        ((32, 96), 32, 4, ((16, 48), 2)),
        ((96, 96), 64, 8, ((64, 64), 2)),
        ((128, 128), 64, 8, ((64, 64), 2)),
        ((96, 96), 32, 4, ((32, 32), 3)),
        ((8, 12), 8, 2, ((6, 8), 2)),
    ],
)
def test_the_base_has_the_trained_area_and_the_shape_of_the_target(
    size: tuple[int, int], side: int, unit: int, expected: tuple[tuple[int, int], int]
) -> None:
    assert shrink(size, side, unit) == expected


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sd_v", "tiny_sdxl"])
def test_the_base_picture_is_the_plain_picture_of_the_same_seed(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    hooks, ctx = open_run(model, "a red boat and a blue star", (8, 16), num_images=2)
    noise = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(1))
    large = start(hooks, ctx, noise)
    plain = draw(
        model, "a red boat and a blue star", size_cells=hooks.base_cells, seed=5, num_images=2, num_steps=NUM_STEPS
    ).latents
    assert torch.allclose(hooks.base, plain, atol=1e-4)  # recorded layers use the explicit kernel
    enlarged = torch.nn.functional.interpolate(plain, size=(8, 16), mode="bicubic", align_corners=False)
    assert torch.allclose(large, math.sqrt(0.05) * enlarged + math.sqrt(0.95) * noise, atol=1e-4)
    assert len(hooks.texts) == len(hooks.windows) == 3


def test_attention_is_that_of_the_conditional_half(tiny_sdxl: ModelBundle) -> None:
    hooks, ctx = open_run(tiny_sdxl, "a red boat", (8, 16))
    latents = torch.randn(1, 4, *hooks.base_cells, generator=torch.Generator().manual_seed(6))
    layers = [layer for layer, _ in list_layers(tiny_sdxl.unet)]
    layers = [layer for layer in layers if layer.kind == "cross" and layer.cells == tiny_sdxl.spec.coarse_cells]
    with torch.no_grad():
        _, found = hooks._look(latents, 899, hooks.base_text, ctx)
        maps = observe(tiny_sdxl, latents, 899, hooks.base_text, layers)
    assert torch.allclose(found, average_layers(maps, layers)[0], atol=1e-5)


def test_a_size_conditioned_model_is_told_what_it_sees(tiny_sdxl: ModelBundle) -> None:
    hooks, _ = open_run(tiny_sdxl, "a red boat", (8, 16))
    assert hooks.base_text.time_ids.tolist() == [[48, 80, 0, 0, 48, 80]]
    assert hooks.window_text.time_ids.tolist() == [[64, 64, 0, 0, 64, 64]]


def test_a_window_shows_what_fills_it_or_what_it_holds() -> None:
    masks = torch.zeros(3, 4, 8, dtype=torch.bool)
    masks[0, :, :2], masks[0, :, 6:] = True, True  # fills both windows by half
    masks[1, 1, 7] = True  # small, but wholly inside the right window
    masks[2, 1, 3:5] = True  # small, and split between windows
    windows = place_windows((8, 16), 8, 0.0)
    assert assign_things(masks, (8, 16), windows, 0.3) == [[0], [0, 1]]
    assert assign_things(masks, (8, 16), windows, 0.6) == [[], [1]]
    assert assign_things(masks, (8, 16), windows, 0.05) == [[0, 2], [0, 1, 2]]


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sd_v"])
def test_windows_and_views_are_mixed_as_the_formula_says(name: str, request: pytest.FixtureRequest) -> None:
    model: ModelBundle = request.getfixturevalue(name)
    kind, cells = model.spec.prediction, (8, 12)
    hooks, ctx = open_run(model, "a red boat", cells)
    latents = torch.randn(1, 4, *cells, generator=torch.Generator().manual_seed(2))
    start(hooks, ctx, latents)
    heard: list[TextCond] = []

    def call(part: torch.Tensor, text: TextCond) -> tuple[torch.Tensor, torch.Tensor]:
        heard.append(text)
        return part * part.mean(), part + part.mean()

    uncond, cond = hooks.predict(latents, ctx, call)
    c = 0.5 * (1 + math.cos(math.pi * (1000 - 899) / 1000))
    left, right = latents[..., :8], latents[..., 4:]
    local = torch.zeros_like(latents)
    local[..., :4], local[..., 8:] = left[..., :4] + left.mean(), right[..., 4:] + right.mean()
    for column, share in zip(range(4, 8), (0.125, 0.375, 0.625, 0.875)):
        local[..., column] = latents[..., column] + (1 - share) * left.mean() + share * right.mean()
    soft = blur(latents, 1, 0.8 * (0.99 * c + 0.01))
    order = draw_exchange(fork_generators(make_generators(5, 1), EXCHANGE_OFFSET), (4, 4, 6), "cpu")
    mixed = exchange(split_dilated(soft, 2), order)
    x0 = torch.zeros_like(latents)
    for view in range(4):
        clean = pred_to_x0(mixed[view] + mixed[view].mean(), mixed[view], ctx.alpha_bar, kind)
        for y in range(4):
            for x in range(6):
                source = int(order[view, 0, 0, y, x])
                x0[:, :, 2 * y + source // 2, 2 * x + source % 2] = clean[:, :, y, x]
    expected = (1 - c) * local + c * x0_to_pred(x0, latents, ctx.alpha_bar, kind)
    assert torch.allclose(cond, expected, atol=1e-4) and not torch.allclose(uncond, cond)
    assert heard[:2] == hooks.texts and all(text is hooks.base_text for text in heard[2:]) and len(heard) == 6


def test_the_run_is_held_to_the_base_and_gets_its_contrast(tiny_sd: ModelBundle) -> None:
    hooks, ctx = open_run(tiny_sd, "a red boat", (8, 12))
    noise, latents = torch.randn(2, 1, 4, 8, 12, generator=torch.Generator().manual_seed(4))
    start(hooks, ctx, noise)
    weight = (0.5 * (1 + math.cos(math.pi * 0.101))) ** 3
    held = hooks.before_unet(latents, ctx)
    assert torch.allclose(held, (1 - weight) * latents + weight * add_noise(hooks.clean, noise, 0.05), atol=1e-5)
    assert torch.equal(hooks.after_step(latents, ctx), latents)
    last = replace(ctx, step=2, fraction=0.67, timestep=1, alpha_bar=0.99, sigma=0.1)
    done = hooks.after_step(latents, last)
    assert torch.allclose(done.std(), hooks.base.std()) and torch.allclose(done.mean(), hooks.base.mean(), atol=1e-6)
    assert torch.allclose(hooks.before_unet(latents, last), latents, atol=1e-3)


def test_a_picture_of_a_batch_is_the_picture_of_its_own_seed(tiny_model: ModelBundle) -> None:
    prompt, technique = "a red boat and a blue star", AccDiffusion()
    asked = {"size_cells": (16, 12), "num_steps": NUM_STEPS}
    both = draw(tiny_model, prompt, technique, seed=5, num_images=2, **asked).latents
    second = draw(tiny_model, prompt, technique, seed=6, **asked).latents
    assert torch.allclose(both[1:], second, atol=1e-3)


def test_what_does_not_apply_is_said(tiny_sd: ModelBundle) -> None:
    notes: list[str] = []
    hooks, ctx = open_run(tiny_sd, "a red boat", (8, 8), notes=notes)
    latents = torch.randn(1, 4, 8, 8)
    assert hooks.before_unet(latents, ctx) is latents and hooks.after_step(latents, ctx) is latents
    assert len(notes) == 1 and "nothing to enlarge" in notes[0]
    hooks, ctx = open_run(tiny_sd, ", ,", (8, 16), notes=notes)
    start(hooks, ctx, torch.randn(1, 4, 8, 16))
    assert "found no thing" in notes[1] and hooks.texts == [hooks.window_text] * 3


def test_windows_are_told_only_of_what_they_show(storybook: ModelBundle) -> None:
    parser = load_parser(PROJECT_DIR / storybook.spec.parser_source)
    hooks, ctx = open_run(storybook, "a red boat on the sea", (64, 64), num_steps=6)
    start(hooks, ctx, torch.randn(1, 8, 64, 64, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        (scene,) = parser.parse(decode(storybook, hooks.base))
    x0, y0, x1, y1 = scene.objects[0].box_px
    box = [side / 256 * 64 for side in (y0, y1, x0, x1)]
    prompts = [text.prompt for text in hooks.texts]
    assert set(prompts) == {"a red boat on the sea", "on the sea"}
    for text in hooks.texts:
        with torch.no_grad():
            read = encode_prompt(storybook, text.prompt, size_px=(256, 256))
        assert torch.equal(text.hidden_cond, read.hidden_cond)
    for prompt, (down, across) in zip(prompts, hooks.windows):
        height = max(0.0, min(box[1], down.stop) - max(box[0], down.start))
        width = max(0.0, min(box[3], across.stop) - max(box[2], across.start))
        shown = height * width / ((box[1] - box[0]) * (box[3] - box[2]))
        assert prompt == "a red boat on the sea" if shown > 0.8 else shown > 0 or prompt == "on the sea"


def test_one_thing_is_drawn_once_where_windows_alone_repeat_it(storybook: ModelBundle) -> None:
    parser = load_parser(PROJECT_DIR / storybook.spec.parser_source)
    found, asked = [], {"size_cells": (32, 64), "num_steps": 5, "seed": 5_000_300}
    for technique in (MultiDiffusion(), AccDiffusion()):
        with torch.no_grad():
            latents = draw(storybook, "a green cactus in the desert", technique, **asked).latents
            (scene,) = parser.parse(decode(storybook, latents))
        found.append(len(scene.objects))
    assert found[0] > found[1] == 1
