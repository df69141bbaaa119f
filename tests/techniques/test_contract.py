"""What every technique promises: neutral is nothing, nothing is left behind, and results stay finite in company."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from pipelines.attention import list_layers
from pipelines.denoise import DenoiseSettings, denoise
from pipelines.errors import CompositionError
from pipelines.images import to_tensor
from pipelines.model import ModelBundle
from pipelines.params import validate
from pipelines.style_reference import make_source
from pipelines.subject_source import make_subject_source
from pipelines.techniques import DRAG_TECHNIQUES, PICTURE_TECHNIQUES, SUBJECT_TECHNIQUES, TECHNIQUES
from pipelines.techniques.base import POINTS, Hooks, Technique, check_compatible
from pipelines.techniques.cfg_rescale import CfgRescale
from pipelines.techniques.multi_diffusion import MultiDiffusion
from pipelines.techniques.picture_agreement import PictureAgreement
from pipelines.techniques.s_cfg import SCfg
from pipelines.text_side import encode_prompt
from pipelines.types import RunInfo, StepContext
from tests.drags import make_task
from tests.loras import make_loud_lora
from tests.pictures import make_ramp
from tests.runs import describe_run, finish

NUM_STEPS = 2
TRAINED_PX = 256
HEIGHT_PX = 64  # low, to be quick; and wider than the trained size, where every technique has something to do
ALL = (*TECHNIQUES, *PICTURE_TECHNIQUES, *DRAG_TECHNIQUES, *SUBJECT_TECHNIQUES)
# Rounds of an optimisation, which a contract needs few of.
FEW = {"drag_noise": {"num_rounds": 2}, "drag_diffusion": {"num_rounds": 2}}
each_technique = pytest.mark.parametrize("technique", ALL, ids=lambda cls: cls.__name__)


@pytest.fixture(params=["tiny_sd", "tiny_sd_v", "tiny_sdxl", "storybook"])
def model(request: pytest.FixtureRequest) -> ModelBundle:
    """Both families, both predictions, and the shipped weights."""
    return request.getfixturevalue(request.param)


@dataclass(frozen=True)
class Soften:
    """A second technique to run beside: pulls every clean estimate a little towards zero."""

    name: ClassVar[str] = "soften"
    title: ClassVar[str] = "Soften"
    source: ClassVar[str] = "tests"
    points: ClassVar[tuple[str, ...]] = ("edit_x0", "after_step")
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False
    fail_at: int = -1

    @classmethod
    def neutral(cls) -> Soften:
        return cls()

    @contextlib.contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        yield SoftenHooks(self.fail_at)


class SoftenHooks(Hooks):
    """Scale the clean estimate; fail where asked."""

    def __init__(self, fail_at: int) -> None:
        self.fail_at = fail_at

    def edit_x0(self, x0: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        return x0 * 0.98

    def after_step(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        if ctx.step == self.fail_at:
            raise RuntimeError("the neighbour failed")
        return latents


def make(technique: type[Technique], model: ModelBundle) -> Technique:
    """Make a working record: the defaults, with a picture for those that need one."""
    if technique in DRAG_TECHNIQUES:
        task = make_task(model, model.spec.image_px * 5 // 4, HEIGHT_PX)
        return technique(task=task, **FEW.get(technique.name, {}))  # type: ignore[call-arg]
    if technique in SUBJECT_TECHNIQUES:
        return technique(**make_subject(technique, model))
    if technique not in PICTURE_TECHNIQUES:
        return technique()
    if technique is PictureAgreement:
        return technique(small=to_tensor([make_ramp(model.spec.image_px * 5 // 16, HEIGHT_PX // 4)])[0])
    source = make_source(model, make_ramp(model.spec.image_px, HEIGHT_PX))
    return technique(references=(source,))  # type: ignore[call-arg]


def make_subject(technique: type[Technique], model: ModelBundle) -> dict[str, Any]:
    """Give a technique its subject: an adapter with something to say, or a picture with a thing in its middle."""
    if "lora" in {field.name for field in dataclasses.fields(technique)}:  # type: ignore[arg-type]
        return {"lora": make_loud_lora(model)}
    cells = (model.spec.image_px // model.spec.px_per_cell, HEIGHT_PX // model.spec.px_per_cell)
    mask = torch.zeros(1, 1, cells[1], cells[0])
    mask[..., 2:6, 2:6] = 1
    picture = make_ramp(model.spec.image_px, HEIGHT_PX)
    return {"references": (make_subject_source(model, picture, mask),), "words": (3,), "from_frac": 0.0}


def start(model: ModelBundle, techniques: Sequence[Technique], *, beside: Sequence[type[Technique]] = ()) -> Any:
    """Start a run with a sampler that all the given techniques, and those of the run to compare with, accept."""
    used = (*techniques, *beside)
    sampler = "ddim" if any(technique.needs_first_order for technique in used) else "dpmpp_2m"
    # Which has nothing to do where a sampler begins with pure noise.
    sampler = "ddim_short" if any(technique.name == "sing_diffusion" for technique in used) else sampler
    width_px = model.spec.image_px * 5 // 4
    settings = DenoiseSettings(
        seed=1,
        num_images=1,
        num_steps=NUM_STEPS,
        guidance_scale=4.0,
        sampler=sampler,
        width_px=width_px,
        height_px=HEIGHT_PX,
        preview_every=0,
    )
    with torch.no_grad():
        text = encode_prompt(model, "a red boat and a blue star", size_px=(width_px, HEIGHT_PX))
    return denoise(model, text, settings, techniques, [])


def snapshot(model: ModelBundle) -> tuple[Any, ...]:
    """Note processors by identity, weights by sum and storage, scheduler, global randomness, lock."""
    parameters = list(model.unet.named_parameters())
    return (
        [id(module.processor) for _, module in list_layers(model.unet)],
        [(name, parameter.data_ptr()) for name, parameter in parameters],
        sum(float(parameter.double().sum()) for _, parameter in parameters),
        [name for name, _ in model.unet.named_modules()],
        dict(model.scheduler_config),
        torch.get_rng_state().tolist(),
        model.lock.locked(),
    )


def fits(technique: Technique, other: Technique) -> bool:
    """Tell whether two techniques may run together."""
    try:
        check_compatible([technique, other], sampler="ddim", is_first_order=True)
    except CompositionError:
        return False
    return True


@each_technique
def test_the_class_describes_itself(technique: type[Technique], tiny_sd: ModelBundle) -> None:
    record = technique()
    assert dataclasses.is_dataclass(record) and technique.title and technique.source
    assert set(technique.points) <= set(POINTS) and technique.points
    validate(record)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.name = "other"  # type: ignore[misc]
    hooks = type(open_hooks(record, tiny_sd))
    overridden = {point for point in POINTS if getattr(hooks, point) is not getattr(Hooks, point)}
    assert overridden == set(technique.points)


def open_hooks(technique: Technique, model: ModelBundle) -> Hooks:
    """Open a technique for an imagined run and return its hooks."""
    run, _ = describe_run(model, "a red boat", size_cells=(8, 8))
    with technique.open(model, run) as hooks:
        return hooks


def test_names_are_unique() -> None:
    assert len({technique.name for technique in ALL}) == len(ALL)


@each_technique
def test_neutral_equals_the_run_without_it(technique: type[Technique], model: ModelBundle) -> None:
    without = finish(start(model, [], beside=[technique]))
    neutral = finish(start(model, [technique.neutral()]))
    assert torch.equal(without, neutral)


@each_technique
def test_nothing_is_left_behind_after_end_stop_or_error(technique: type[Technique], model: ModelBundle) -> None:
    before, record = snapshot(model), make(technique, model)
    expected = finish(start(model, [record]))
    assert snapshot(model) == before
    for stop_after in range(NUM_STEPS + 1):
        stream = start(model, [record])
        for _ in range(stop_after):
            next(stream)
        stream.close()
        assert snapshot(model) == before, f"closed after {stop_after} steps"
    with pytest.raises(RuntimeError, match="the neighbour failed"):
        finish(start(model, [record, Soften(fail_at=1)]))
    assert snapshot(model) == before
    assert torch.equal(expected, finish(start(model, [record]))), "an earlier stop changed a later run"


@each_technique
def test_it_changes_the_result_and_stays_finite_in_company(technique: type[Technique], model: ModelBundle) -> None:
    alone, plain = finish(start(model, [make(technique, model)])), finish(start(model, [], beside=[technique]))
    assert not torch.equal(alone, plain)
    # Each pair once, and on the small models: what two techniques do to each other does not depend on the weights.
    later = ALL[ALL.index(technique) + 1 :] if model.spec.image_px < TRAINED_PX else ()
    partners = [Soften(), *(make(other, model) for other in later if fits(technique(), other()))]
    for partner in partners:
        together = finish(start(model, [make(technique, model), partner]))
        assert together.isfinite().all() and together.std() < 10 * plain.std()


def test_two_that_collide_are_both_named() -> None:
    with pytest.raises(CompositionError, match="S-CFG needs to see the whole picture, which MultiDiffusion cuts"):
        check_compatible([MultiDiffusion(), SCfg()], sampler="ddim", is_first_order=True)
    with pytest.raises(CompositionError, match="Guidance rescale and S-CFG cannot run together"):
        check_compatible([CfgRescale(), SCfg()], sampler="ddim", is_first_order=True)
