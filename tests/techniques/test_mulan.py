"""MuLan: stages equal runs of their own, what was drawn stays, wrong things are drawn again, and it says so."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch

from pipelines.agreement import Mention, find_placed
from pipelines.attention_maps import measure_inside, observe
from pipelines.denoise import DenoiseSettings, Sketches, denoise
from pipelines.errors import CompositionError, UserError
from pipelines.images import decode
from pipelines.layout import Box, make_masks, propose_boxes
from pipelines.model import ModelBundle
from pipelines.prompt_plan import plan_prompt
from pipelines.techniques.base import Hooks
from pipelines.techniques.mulan import MuLan, _Painter, _Picture, _Try
from pipelines.text_side import encode_prompt
from pipelines.types import Progress, RunInfo, StepContext
from tests import runs
from tests.runs import describe_run

# Draws in turn and does nothing else, so that a stage can be compared with a plain run.
BARE = MuLan(pull_frac=0.0, kept_frac=1.0, max_retries=0)
PROMPT = "a red boat left of a blue star"

draw = partial(runs.draw, negative_prompt="a cat", seed=5_100_000, num_steps=3)


@dataclass(frozen=True)
class Watch:
    """Keep the latents of every step."""

    name: ClassVar[str] = "watch"
    title: ClassVar[str] = "Watch"
    source: ClassVar[str] = "tests"
    points: ClassVar[tuple[str, ...]] = ("after_step",)
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False
    seen: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def neutral(cls) -> Watch:
        return cls()

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        yield WatchHooks(self.seen)


class WatchHooks(Hooks):
    """Append to the list."""

    def __init__(self, seen: list[torch.Tensor]) -> None:
        self.seen = seen

    def after_step(self, latents: torch.Tensor, ctx: StepContext) -> torch.Tensor:
        self.seen.append(latents)
        return latents


def test_the_share_inside_equals_the_slow_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, 2, num_cells, 5, generator=generator) for num_cells in (24, 6)]
    found = measure_inside(
        maps, (1, 3), lambda height, width: (torch.arange(width) < width // 2).repeat(height, 1), (4, 6)
    )
    for share, layer_map, (height, width) in zip(found, maps, ((4, 6), (2, 3))):
        inside = total = 0.0
        for row in range(height):
            for column in range(width):
                value = sum(float(layer_map[0, head, row * width + column, word]) for head in (0, 1) for word in (1, 3))
                total += value
                inside += value if column < width // 2 else 0.0
        assert share == pytest.approx(inside / total, rel=1e-5)


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sd_v", "tiny_sdxl"])
def test_at_every_step_the_first_thing_is_that_of_a_run_of_its_own(name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    alone, both = Watch(), Watch()
    draw(model, "a red boat, night", alone, num_images=2, size_cells=(8, 12))
    draw(model, "a red boat left of a blue star, night", BARE, both, num_images=2, size_cells=(8, 12))
    for first, second in zip(alone.seen, both.seen, strict=True):
        assert torch.allclose(first[..., :6], second[..., :6], atol=1e-4)
        assert not torch.allclose(first[..., 6:], second[..., 6:], atol=1e-2)


def test_earlier_things_are_kept_only_as_long_as_asked(tiny_sd: ModelBundle) -> None:
    alone, both = Watch(), Watch()
    draw(tiny_sd, "a red boat", alone)
    draw(tiny_sd, PROMPT, replace(BARE, kept_frac=0.7), both)
    kept = [torch.allclose(a[..., :4], b[..., :4], atol=1e-4) for a, b in zip(alone.seen, both.seen)]
    assert kept == [True, True, False]


def test_each_later_stage_keeps_all_before_it(tiny_sd: ModelBundle) -> None:
    two, three = draw(tiny_sd, PROMPT.replace(" left of", " and"), BARE)[0], Watch()
    draw(tiny_sd, "two red boats, a blue star", BARE, three, size_cells=(8, 12))
    alone = draw(tiny_sd, "a red boat", size_cells=(8, 12))[0]
    assert torch.allclose(three.seen[-1][..., :4], alone[..., :4], atol=1e-4)
    assert not torch.allclose(three.seen[-1][..., 4:8], alone[..., 4:8], atol=1e-2)
    assert two.isfinite().all()


@pytest.mark.parametrize("name", ["storybook", "tiny_sdxl"])
def test_the_pull_gathers_the_attention_in_the_box(name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    run, ctx = describe_run(model, "a cat, a car", num_steps=20)
    ctx = replace(ctx, step=1, fraction=0.05, timestep=950)
    gained = 0
    with MuLan(pull_frac=0.02).open(model, run) as hooks, torch.no_grad():
        assert isinstance(hooks, _Painter)
        stage = hooks.stages[-1]
        for seed in range(2):
            shape = (1, model.spec.latent_channels, run.height_cells, run.width_cells)
            latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            before, after = (inside(hooks, each, ctx) for each in (latents, hooks.pull(latents, stage, _Try(), ctx)))
            gained += after > before
        late = replace(ctx, fraction=0.2)
        assert torch.equal(hooks.pull(latents, stage, _Try(), late), latents)
    assert gained == 2


def inside(hooks: _Painter, latents: torch.Tensor, ctx: StepContext) -> float:
    """Measure the share of the last thing's attention in its box."""
    stage = hooks.stages[-1]
    maps = observe(ctx.model, latents, ctx.timestep, ctx.text, hooks.layers)
    size = (latents.shape[2], latents.shape[3])
    return float(measure_inside(maps.values(), stage.words, lambda h, w: make_masks([stage.box], h, w)[0], size).mean())


def test_what_is_never_right_is_drawn_again_with_other_noise_and_the_first_of_equals_is_kept(
    tiny_storybook: ModelBundle,
) -> None:
    technique = MuLan(max_retries=2)
    latents, notes, shown = draw(tiny_storybook, PROMPT, technique)
    never = "2 times, still not right"
    assert notes == [f"MuLan, things drawn again: a red boat {never}; a blue star {never}."]
    # Three full stages, three rehearsals of half the steps, and the run itself.
    assert [one.step for one in shown] == [0] * (3 * 3 + 3 * 2) + [1, 2, 3]
    assert shown[0].note == "thing 1 of 2, a red boat: step 1/3"
    assert shown[14].note == "thing 2 of 2, a blue star, try 3: step 2/2"
    firsts = [torch.tensor(list(one.preview.tobytes())) for one in shown[:15] if one.preview and "step 1/" in one.note]
    assert len(firsts) == 6 and all((a != b).any() for a, b in zip(firsts, firsts[1:]))
    assert torch.equal(latents, draw(tiny_storybook, PROMPT, replace(technique, max_retries=0))[0])


class Scripted(_Picture):
    """Grade by a list instead of drawing, and note the grade of each stage's best try."""

    script: list[float]
    kept: list[float]

    def _draw_best(self, *given: Any) -> Generator[Progress, None, _Try]:
        best = yield from super()._draw_best(*given)
        self.kept.append(best.grade)
        return best

    def _draw(self, latents: torch.Tensor, *_: int) -> Generator[Progress, None, Any]:
        yield Progress(0, 1)
        return [latents], latents

    def _look(self, *_: Any) -> tuple[float, tuple[Box, ...]]:
        return self.script.pop(0), ()


@pytest.mark.parametrize(
    ("script", "kept", "says"),
    [
        ([1.0, 2.0], [1.0, 2.0], "a red boat not once; a blue star not once"),
        ([0.5, 1.0, 2.0], [1.0, 2.0], "a red boat once; a blue star not once"),
        # The boat has the wrong colour; that is no reason to draw the star again.
        ([0.5, 0.5, 0.5, 1.5], [0.5, 1.5], "a red boat 2 times, still not right; a blue star not once"),
        # A star that damages the boat is drawn again, and the lesser damage is kept.
        ([1.0, 0.5, 1.5, 1.0], [1.0, 1.5], "a red boat not once; a blue star 2 times, still not right"),
    ],
)
def test_a_thing_is_drawn_again_until_it_is_right_and_the_others_are_as_before(
    tiny_storybook: ModelBundle, script: list[float], kept: list[float], says: str
) -> None:
    notes: list[str] = []
    run, ctx = describe_run(tiny_storybook, PROMPT, notes=notes)
    with MuLan(max_retries=2).open(tiny_storybook, run) as hooks:
        assert isinstance(hooks, _Painter)
        picture = Scripted(hooks, 0, ctx, lambda: tiny_storybook.lock)
    picture.script, picture.kept = list(script), []
    assert len(list(picture.paint(torch.zeros(1, 8, 8, 8)))) == len(script) and not picture.script
    assert picture.kept == kept
    assert notes == [f"MuLan, things drawn again: {says}."]


def test_every_try_of_the_first_picture_is_shown_with_its_box(
    tiny_storybook: ModelBundle, tiny_sd: ModelBundle
) -> None:
    seen, blind = Sketches(), Sketches()
    asked = {"num_images": 2, "num_steps": 2, "size_cells": (8, 12)}
    _, notes, shown = draw(tiny_storybook, PROMPT, MuLan(), sketches=seen, **asked)
    boat, star = propose_boxes(plan_prompt(PROMPT))
    assert seen.boxes == [boat, star]
    starts = [caption.split(":")[0] for caption in seen.pictures]
    assert starts == [f"Thing {n}, {box.phrase}, try {k}" for n, box in ((1, boat), (2, star)) for k in (1, 2)]
    assert {caption.split(": ")[1] for caption in seen.pictures} <= {"not found", "wrong colour or place"}
    assert [boxes for _, boxes in seen.pictures.values()] == [(boat,), (boat,), (star,), (star,)]
    assert all(picture.size == (96, 64) for picture, _ in seen.pictures.values())
    assert "things drawn again of picture 2: a red boat once, still not right" in notes[1] and len(notes) == 2
    assert any(one.note.startswith("picture 2 of 2, thing 2 of 2, a blue star, try 2: step 1/1") for one in shown)
    # Without a parser there is one try of all but the last, as its preview.
    draw(tiny_sd, PROMPT, MuLan(), sketches=blind)
    assert list(blind.pictures) == ["Thing 1, a red boat, try 1"]


def test_every_stop_before_the_first_step_leaves_the_lock_free(tiny_sd: ModelBundle) -> None:
    with torch.no_grad():
        text = encode_prompt(tiny_sd, PROMPT, size_px=(64, 64))
    state = torch.get_rng_state()
    for stop_after in range(4):
        settings = DenoiseSettings(1, 1, 3, 4.0, "ddim", 64, 64, preview_every=0)
        stream = denoise(tiny_sd, text, settings, [MuLan()], [])
        assert [next(stream).step for _ in range(stop_after)] == [0] * min(stop_after, 3)
        stream.close()
        assert not tiny_sd.lock.locked() and torch.equal(torch.get_rng_state(), state)


def test_things_stand_where_the_prompt_wants_them(storybook: ModelBundle) -> None:
    asked = {"seed": 5_100_001, "num_steps": 6, "size_cells": (32, 32)}
    latents, notes, _ = draw(storybook, "a purple robot right of a yellow cat", MuLan(), **asked)
    with torch.no_grad():
        image = decode(storybook, latents)[0]
    assert storybook.judge is not None
    scene = storybook.judge.parser.parse([image])[0]
    halves = {"left": Box("", 0, 0, 0.5, 1), "right": Box("", 0.5, 0, 1, 1)}
    assert find_placed(Mention("robot", "purple"), halves["right"], scene, image.size)[0] == 1.0
    assert find_placed(Mention("cat", "yellow"), halves["left"], scene, image.size)[0] == 1.0
    assert "not right" not in notes[0]


def test_what_does_not_apply_is_said(tiny_sd: ModelBundle, tiny_storybook: ModelBundle) -> None:
    latents, notes, _ = draw(tiny_sd, "a red boat", MuLan())
    assert torch.equal(latents, draw(tiny_sd, "a red boat")[0])
    assert len(notes) == 1 and "names two to 4 things" in notes[0]
    assert "there is no scene parser for sd15" in draw(tiny_sd, PROMPT, MuLan())[1][0]
    notes = draw(tiny_storybook, "a red dragon and a blue star", MuLan(max_retries=0))[1]
    assert notes[0] == "MuLan could not look for a red dragon: the scene parser does not know it."
    with pytest.raises(UserError, match="at most 4 things, but the prompt names 5; name fewer"):
        draw(tiny_sd, "four red boats and a moon", MuLan())
    with pytest.raises(CompositionError, match="MuLan does not work with the sampler unipc; choose ddim"):
        draw(tiny_sd, PROMPT, MuLan(), sampler="unipc")
