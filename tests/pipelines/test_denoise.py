"""The loop: points in order, nothing left behind at any stop, pictures apart from neighbours, equal to diffusers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from pipelines import CompositionError, Progress
from pipelines.attention import AttentionRecorder, list_layers, patched
from pipelines.denoise import DenoiseSettings, denoise
from pipelines.model import ModelBundle
from pipelines.schedules import make_scheduler
from pipelines.techniques.base import POINTS, Halves, Hooks, Technique, Turn, UNetCall
from pipelines.techniques.cfg_rescale import CfgRescale
from pipelines.text_side import encode_prompt
from pipelines.types import RunInfo, StepContext
from tests import runs

SETTINGS = DenoiseSettings(
    seed=3, num_images=1, num_steps=3, guidance_scale=4.0, sampler="dpmpp_2m", width_px=64, height_px=64
)


def start(model: ModelBundle, techniques: Sequence[Technique] = (), **changes: Any) -> Any:
    """Make the loop's generator for the standard prompt."""
    settings = dataclasses.replace(SETTINGS, **changes)
    with torch.no_grad():
        text = encode_prompt(model, "a red boat", size_px=(settings.width_px, settings.height_px))
    return denoise(model, text, settings, techniques, [])


def finish(stream: Any) -> tuple[list[Progress], torch.Tensor]:
    """Run a generator to its end; returns what was reported, and the latents."""
    seen: list[Progress] = []
    latents = runs.finish(stream, seen.append)
    return seen, latents


@dataclass(frozen=True)
class Spy:
    """Use every point that may be shared, write down what it sees, change nothing but what `edit` says."""

    name: ClassVar[str] = "spy"
    title: ClassVar[str] = "Spy"
    source: ClassVar[str] = "tests"
    points: ClassVar[tuple[str, ...]] = tuple(point for point in POINTS if point not in ("predict", "combine"))
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False
    log: list[Any] = dataclasses.field(default_factory=list)
    edit: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor
    fail_at: int = -1

    @classmethod
    def neutral(cls) -> Spy:
        return cls()

    @contextlib.contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        self.log.append("open")
        try:
            yield SpyHooks(self)
        finally:
            self.log.append("close")


class SpyHooks(Hooks):
    """Log every point; patch all attention layers."""

    def __init__(self, spy: Spy) -> None:
        self.spy = spy

    def init(self, latents: torch.Tensor, ctx: StepContext, turn: Turn) -> Generator[Progress, None, torch.Tensor]:
        with turn():
            self.spy.log.append(("init", ctx.model.lock.locked()))
        yield Progress(0, ctx.num_steps, "looking at the noise")
        return latents

    def before_unet(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        self.spy.log.append(("before_unet", ctx.step))
        if ctx.step == self.spy.fail_at:
            raise RuntimeError("a technique failed")
        return latents

    def edit_x0(self, x0: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        self.spy.log.append(("edit_x0", ctx.step))
        return self.spy.edit(x0)

    def after_step(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        self.spy.log.append(("after_step", ctx.step))
        return latents

    def patch(self, model: ModelBundle) -> contextlib.AbstractContextManager[object]:
        return patched(model.unet, lambda layer: True, AttentionRecorder().make)


class Doubled(Spy):
    """Predict with two calls, each over the whole batch."""

    title: ClassVar[str] = "Doubled"
    points: ClassVar[tuple[str, ...]] = ("predict",)
    needs_first_order: ClassVar[bool] = True
    needs_whole_batch: ClassVar[bool] = True
    needs_whole_picture: ClassVar[bool] = False

    @contextlib.contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        yield DoubledHooks()


class DoubledHooks(Hooks):
    """Average the same prediction twice."""

    def predict(self, latents: torch.Tensor, ctx: StepContext, call: UNetCall) -> Halves:
        (u1, c1), (u2, c2) = call(latents, ctx.text), call(latents, ctx.text)
        return (u1 + u2) / 2, (c1 + c2) / 2


def snapshot(model: ModelBundle) -> dict[str, Any]:
    """Note everything that a run must leave as it was."""
    return {
        "processors": [id(module.processor) for _, module in list_layers(model.unet)],
        "weights": float(sum(parameter.double().sum() for parameter in model.unet.parameters())),
        "scheduler": dict(model.scheduler_config),
        "random": torch.get_rng_state().tolist(),
        "locked": model.lock.locked(),
        "grad": torch.is_grad_enabled(),
    }


def test_points_come_in_order_and_context_is_complete(tiny_model: ModelBundle) -> None:
    spy = Spy()
    seen, latents = finish(start(tiny_model, [spy], num_steps=2))
    per_step = [[("before_unet", step), ("edit_x0", step), ("after_step", step)] for step in (0, 1)]
    assert spy.log == ["open", ("init", True), *per_step[0], *per_step[1], "close"]
    assert [(item.step, item.num_steps) for item in seen] == [(0, 2), (1, 2), (2, 2)]
    assert latents.dtype == torch.float32
    assert latents.shape == (1, tiny_model.spec.latent_channels, 8, 8)
    assert latents.isfinite().all()
    assert all(item.preview is not None and item.preview.size == (32, 32) for item in seen[1:])
    assert seen[-1].seconds_left == 0.0


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddim", "unipc"])
def test_every_sampler_runs_and_editing_nothing_changes_nothing(tiny_model: ModelBundle, sampler: str) -> None:
    plain = finish(start(tiny_model, sampler=sampler))[1]
    edited = finish(start(tiny_model, [Spy()], sampler=sampler))[1]
    # x0 and back is a division in float32, not the identity bit for bit.
    assert torch.allclose(plain, edited, atol=1e-3, rtol=1e-3)
    assert plain.isfinite().all()


def test_an_edited_clean_estimate_reaches_the_result(tiny_model: ModelBundle) -> None:
    target = torch.full((1, tiny_model.spec.latent_channels, 8, 8), 0.25)
    result = finish(start(tiny_model, [Spy(edit=lambda x0: target)], sampler="ddim"))[1]
    # DDIM ends on the last clean estimate, up to the noise of the first training timestep.
    assert (result - target).abs().mean() < 0.1


def test_closing_at_any_step_leaves_nothing_behind(tiny_model: ModelBundle) -> None:
    before = snapshot(tiny_model)
    for stop_after in range(5):
        spy = Spy()
        stream = start(tiny_model, [spy])
        for _ in range(stop_after):
            next(stream)
            assert snapshot(tiny_model) == before, "nothing is changed even while the run is suspended"
        stream.close()
        assert snapshot(tiny_model) == before
        assert spy.log.count("open") == spy.log.count("close") == (1 if stop_after else 0)


@pytest.mark.parametrize("fail_at", [0, 2])
def test_an_error_in_a_technique_leaves_nothing_behind(tiny_model: ModelBundle, fail_at: int) -> None:
    before, spy = snapshot(tiny_model), Spy(fail_at=fail_at)
    with pytest.raises(RuntimeError, match="a technique failed"):
        finish(start(tiny_model, [spy]))
    assert snapshot(tiny_model) == before
    assert spy.log[-1] == "close"


def test_two_interleaved_runs_equal_one_after_the_other(tiny_model: ModelBundle) -> None:
    alone = [finish(start(tiny_model, [Spy()], seed=seed))[1] for seed in (11, 12)]
    streams = [start(tiny_model, [Spy()], seed=seed) for seed in (11, 12)]
    for _ in range(SETTINGS.num_steps):
        for stream in streams:
            next(stream)
    together = [finish(stream)[1] for stream in streams]
    assert all(torch.equal(one, other) for one, other in zip(alone, together))
    assert not torch.equal(*together)


def test_a_picture_does_not_depend_on_its_neighbours(tiny_model: ModelBundle) -> None:
    batch = finish(start(tiny_model, num_images=3))[1]
    for index in range(3):
        assert torch.equal(batch[index], finish(start(tiny_model, seed=SETTINGS.seed + index))[1][0])


def test_a_whole_batch_in_one_call_agrees_up_to_rounding(tiny_model: ModelBundle) -> None:
    split = finish(start(tiny_model, num_images=3, sampler="ddim"))[1]
    whole = finish(start(tiny_model, [Doubled()], num_images=3, sampler="ddim"))[1]
    assert torch.allclose(split, whole, atol=1e-3, rtol=1e-3)


def test_guidance_one_runs_only_the_prompt_half(tiny_model: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    handle = tiny_model.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        single = finish(start(tiny_model, guidance_scale=1.0))[1]
        both = finish(start(tiny_model, [CfgRescale.neutral()], guidance_scale=1.0))[1]
    finally:
        handle.remove()
    assert sizes == [1] * 3 + [2] * 3
    assert torch.allclose(single, both, atol=1e-3, rtol=1e-3)


def test_no_previews_when_none_are_wanted(tiny_sd: ModelBundle) -> None:
    assert [item.preview for item in finish(start(tiny_sd, preview_every=0))[0]] == [None] * 3
    every_second = [item.preview is not None for item in finish(start(tiny_sd, preview_every=2))[0]]
    assert every_second == [False, True, True]


def test_techniques_that_exclude_each_other_are_named(tiny_sd: ModelBundle) -> None:
    before = snapshot(tiny_sd)
    with pytest.raises(CompositionError, match="Guidance rescale and Guidance rescale cannot run together"):
        next(start(tiny_sd, [CfgRescale(), CfgRescale()]))
    with pytest.raises(CompositionError, match="Doubled and Doubled cannot run together"):
        next(start(tiny_sd, [Doubled(), Doubled()], sampler="ddim"))
    with pytest.raises(CompositionError, match="Doubled does not work with the sampler dpmpp_2m; choose ddim"):
        next(start(tiny_sd, [Doubled()]))
    assert snapshot(tiny_sd) == before


def load_plain(folder: Path, family: str) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    pipeline_class = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipe = pipeline_class.from_pretrained(folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("layout", "prediction"), [("storybook", "v"), ("sd", "eps"), ("sd", "v"), ("sdxl", "eps"), ("sdxl", "v")]
)
def test_latents_equal_the_plain_diffusers_pipeline(
    layout: str, prediction: str, tiny_folder: Callable[[str, str], Path], load_tiny_as: Callable[..., ModelBundle]
) -> None:
    folder = tiny_folder(layout, prediction)
    model = load_tiny_as(folder, {"storybook": "storybook", "sd": "sd15", "sdxl": "sdxl"}[layout])
    pipe = load_plain(folder, model.spec.family)
    for sampler in ("dpmpp_2m", "ddim", "unipc"):
        ours = finish(start(model, [CfgRescale(0.5)], sampler=sampler))[1]
        pipe.scheduler = make_scheduler(sampler, model.scheduler_config)
        theirs = pipe(
            "a red boat",
            num_inference_steps=3,
            guidance_scale=4.0,
            guidance_rescale=0.5,
            height=64,
            width=64,
            generator=[torch.Generator("cpu").manual_seed(3)],
            output_type="latent",
        ).images
        assert torch.allclose(ours, theirs, atol=2e-3, rtol=2e-3), sampler
