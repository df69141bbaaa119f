"""Dragging's edits and rulers: exact pairs, known pictures judged as they must be, a run with a tiny model."""

from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import figures
from benchmarks.drag import DragStudio, follow
from benchmarks.drag_figures import (
    ARM_TITLES,
    BUDGETS,
    COLUMNS,
    DIFFUSION,
    DRAWN,
    INSTANT,
    METHODS,
    NOISE,
    PASTED,
    UNTOUCHED,
    compare_pulls,
    find_equal_times,
    make_pooled_psnr,
    summarise,
    take,
)
from benchmarks.drag_measures import (
    FeatureRuler,
    correlate,
    draw_path,
    find_thing,
    measure_distance,
    measure_ghost,
    measure_mse,
    measure_path,
    measure_slip,
    measure_ssim,
    paste,
    to_psnr_db,
)
from benchmarks.drag_pairs import (
    BORDER_PX,
    EDIT_SEEDS,
    MOVE_PX,
    SORTS,
    Edit,
    Truth,
    find_edits,
    grow,
    measure_truth,
    place_along,
)
from benchmarks.fidelity import PARSER_FOLDER
from benchmarks.figures import RunSettings
from benchmarks.studio import Arm
from benchmarks.table import make_drag_table
from pipelines.model import ModelBundle
from pipelines.scene_parser import ParsedObject, ParsedScene, SceneParser, load_parser
from training.world.render import render
from training.world.scene import CANVAS_PX, FIRST_HELD_OUT_SEED, is_held_out

NUM_EDITS = 9
FEW_ROUNDS = {NOISE: {"num_rounds": 2}, DIFFUSION: {"num_rounds": 2}}
CEILING_DB = to_psnr_db(0.0)


@pytest.fixture(scope="module")
def edits() -> tuple[Edit, ...]:
    """Edits of the tuning seeds, three of each sort."""
    return find_edits(NUM_EDITS).edits


@pytest.fixture(scope="module")
def truths(edits: tuple[Edit, ...]) -> list[Truth]:
    """What is known of them."""
    return [measure_truth(edit) for edit in edits]


@pytest.fixture(scope="module")
def parser() -> SceneParser:
    """The shipped parser."""
    return load_parser(PARSER_FOLDER)


@pytest.fixture(scope="module")
def tiny(tiny_storybook: ModelBundle) -> ModelBundle:
    """The tiny model, said to draw pictures as large as the world's."""
    return replace(tiny_storybook, spec=replace(tiny_storybook.spec, image_px=CANVAS_PX))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not what is tested here, and there are hundreds of them."""
    monkeypatch.setattr(figures, "NUM_RESAMPLES", 20)


def see(*things: tuple[str, str, tuple[float, ...]]) -> ParsedScene:
    """A parsed picture of these kinds, colours and boxes."""
    objects = tuple(ParsedObject(kind, colour, box, 0.9) for kind, colour, box in things)  # type: ignore[arg-type]
    return ParsedScene(objects, "plain", "day", "flat")


def see_exactly(edit: Edit, truth: Truth, box: tuple[int, ...]) -> ParsedScene:
    """A parsed picture with the thing in a box, and all others where they are."""
    others = [thing for number, thing in enumerate(edit.before.objects) if number != edit.index]
    rest = [(thing.kind, thing.colour, found) for thing, found in zip(others, truth.others_px, strict=True)]
    return see(*rest, (edit.thing.kind, edit.thing.colour, box))


def warp(edit: Edit, mask: np.ndarray) -> np.ndarray:
    """Take a mask along with the thing, pixel by pixel."""
    y, x = np.indices(mask.shape)
    matrix, shift = np.linalg.inv(np.array(edit.matrix)), np.array(edit.shift_px)
    source = (np.stack([x, y], -1) + 0.5 - shift) @ matrix.T - 0.5
    column, row = (np.rint(part).astype(int) for part in (source[..., 0], source[..., 1]))
    is_inside = (column >= 0) & (column < CANVAS_PX) & (row >= 0) & (row < CANVAS_PX)
    return is_inside & mask[row.clip(0, CANVAS_PX - 1), column.clip(0, CANVAS_PX - 1)]


def test_edits_are_the_same_every_time_and_take_the_sorts_in_turn(edits: tuple[Edit, ...]) -> None:
    assert find_edits(2).edits == edits[:2]
    assert [edit.sort for edit in edits] == list(SORTS) * (NUM_EDITS // 3)
    assert not any(is_held_out(edit.before) for edit in edits)
    assert all(edit.before.seed >= EDIT_SEEDS > FIRST_HELD_OUT_SEED for edit in find_edits(1, EDIT_SEEDS).edits)


def test_handles_lie_on_the_thing_and_go_where_it_goes(edits: tuple[Edit, ...], truths: list[Truth]) -> None:
    for edit, truth in zip(edits, truths):
        assert len(edit.handles) == (4 if edit.sort == "scaled" else 1)
        for handle in edit.handles:
            assert truth.thing_before[int(handle.y), int(handle.x)]
            assert grow(truth.thing_after, 2)[round(handle.target_y), round(handle.target_x)]
            assert truth.mask[int(handle.y), int(handle.x)] and handle.length_px > 2


def test_the_true_change_takes_the_outline_to_the_outline_after(edits: tuple[Edit, ...], truths: list[Truth]) -> None:
    for edit, truth in zip(edits, truths):
        moved = warp(edit, truth.thing_before)
        share = (moved & truth.thing_after).sum() / (moved | truth.thing_after).sum()
        assert share > 0.96 if edit.sort != "moved" else (moved == truth.thing_after).all(), edit.sort
        if edit.sort == "moved":
            assert MOVE_PX[0] - 1 <= edit.length_px <= MOVE_PX[1] + 1


def test_only_the_mask_changes_and_the_thing_stays_clear_of_all_else(
    edits: tuple[Edit, ...], truths: list[Truth]
) -> None:
    for edit, truth in zip(edits, truths):
        assert (truth.before[~truth.mask] == truth.after[~truth.mask]).all()
        assert (truth.before != truth.after).any() and 0 < truth.mask.mean() < 0.8
        assert truth.mask[truth.thing_before | truth.thing_after].all()
        for box in (truth.box_before, truth.box_after):
            assert min(box) >= BORDER_PX - 3 and max(box) <= CANVAS_PX
        x0, y0, x1, y1 = truth.box_after
        assert all(u1 <= x0 or u0 >= x1 or v1 <= y0 or v0 >= y1 for u0, v0, u1, v1 in truth.others_px)
        others = [thing for number, thing in enumerate(edit.before.objects) if number != edit.index]
        assert others == [thing for number, thing in enumerate(edit.after.objects) if number != edit.index]
        assert edit.thing.colour in edit.prompt and edit.before.style in edit.prompt


def test_a_stretched_thing_keeps_its_other_side(edits: tuple[Edit, ...], truths: list[Truth]) -> None:
    for edit, truth in zip(edits, truths):
        if edit.sort == "stretched":
            side = edit.handles[0].side
            assert side is not None
            assert abs(truth.box_after[side] - truth.box_before[side]) > 10
            assert measure_slip(edit, truth.box_before, truth.box_after) < 4


def test_refusals_are_counted_with_their_reason() -> None:
    answers = iter(["no", "no", None])
    found = find_edits(1, accept=lambda edit, truth: next(answers))
    assert found.refused["no"] == 2 and len(found.edits) == 1
    assert found.refused_frac == found.refused.total() / (found.refused.total() + 1)
    assert replace(found, refused=Counter()).refused_frac == 0


def test_doing_nothing_leaves_the_way_and_the_answer_leaves_none(edits: tuple[Edit, ...], truths: list[Truth]) -> None:
    for edit, truth in zip(edits, truths):
        untouched, _ = find_thing(edit, truth, see_exactly(edit, truth, truth.box_before))
        exact, is_kept = find_thing(edit, truth, see_exactly(edit, truth, truth.box_after))
        assert untouched is not None and exact is not None and is_kept
        start = measure_distance(edit, untouched.box_px, truth.box_after)
        assert start == pytest.approx(edit.length_px, abs=0.2 * edit.length_px)
        assert measure_distance(edit, exact.box_px, truth.box_after) == 0
        assert measure_mse(truth.after, truth.after, truth.mask) == 0
        assert measure_ssim(truth.after, truth.after, truth.mask) == pytest.approx(1)
        assert measure_ssim(truth.before, truth.after, truth.mask) < 0.97
        assert measure_mse(truth.before, truth.before, ~truth.mask) == 0
        if edit.sort == "moved":
            assert (measure_ghost(truth, truth.before), measure_ghost(truth, truth.after)) == (1, 0)


def test_a_pasted_thing_arrives_and_leaves_a_ghost(edits: tuple[Edit, ...], truths: list[Truth]) -> None:
    nearer = 0
    for edit, truth in zip(edits, truths):
        picture, inside = np.asarray(paste(edit, truth)), truth.thing_after
        nearer += measure_mse(picture, truth.after, inside) < measure_mse(truth.before, truth.after, inside)
        assert (picture[~truth.mask] == truth.before[~truth.mask]).all()
        if edit.sort == "moved":
            assert measure_ghost(truth, picture) > 0.9
            # Whole pixels: what was cut out is laid down as it was.
            y, x = np.nonzero(truth.thing_before)
            dx, dy = (int(part) for part in edit.shift_px)
            assert (picture[y + dy, x + dx] == truth.before[y, x]).all()
    assert nearer >= NUM_EDITS - 1  # hatching does not stretch with a thing


def test_the_thing_is_looked_for_among_what_does_not_stay(edits: tuple[Edit, ...], truths: list[Truth]) -> None:
    edit, truth = edits[0], truths[0]
    kind, colour = edit.thing.kind, edit.thing.colour
    far, near = truth.box_before, truth.box_after
    other = "cup" if kind != "cup" else "bell"
    found, is_kept = find_thing(edit, truth, see((kind, colour, far), (kind, colour, near)))
    assert found is not None and found.box_px == near and is_kept
    found, is_kept = find_thing(edit, truth, see((other, colour, near), (kind, "teal", far)))
    assert found is not None and found.kind == kind and not is_kept
    found, is_kept = find_thing(edit, truth, see((other, colour, near)))
    assert found is not None and not is_kept
    assert find_thing(edit, truth, see()) == (None, False)
    crowded = next((pair for pair in zip(edits, truths) if pair[1].others_px), None)
    assert crowded is not None
    one, known = crowded
    alone = see_exactly(one, known, known.box_after)
    without = replace(alone, objects=alone.objects[:-1])
    assert find_thing(one, known, without) == (None, False)


def test_similarity_is_that_of_a_slow_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(2))
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    luma_a, luma_b = (one[2:13, 3:14].astype(float) @ (0.299, 0.587, 0.114) for one in (a, b))
    mean_a, mean_b = (window * luma_a).sum(), (window * luma_b).sum()
    var_a, var_b = (window * (luma_a - mean_a) ** 2).sum(), (window * (luma_b - mean_b) ** 2).sum()
    shared = (window * (luma_a - mean_a) * (luma_b - mean_b)).sum()
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mean_a * mean_b + c1) * (2 * shared + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    where = np.zeros((16, 16), bool)
    where[7, 8] = True
    assert measure_ssim(a, b, where) == pytest.approx(expected)


def test_rank_correlation_knows_ties() -> None:
    assert correlate([1, 2, 3, 4], [10, 20, 30, 300]) == pytest.approx(1)
    assert correlate([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert correlate([0, 0, 1, 1], [0, 0, 5, 5]) == pytest.approx(1)
    assert correlate([1, 1, 1], [1, 2, 3]) == 0


def test_drawings_along_the_way_tell_how_far_a_thing_is(edits: tuple[Edit, ...], truths: list[Truth]) -> None:
    for edit, truth in zip(edits[:3], truths):
        path = draw_path(edit, truth.mask)
        assert measure_path(path, truth.before, truth.mask) == pytest.approx(1, abs=0.04)
        assert measure_path(path, truth.after, truth.mask) == pytest.approx(0, abs=0.04)
        half = render(place_along(edit, 0.5)).rgb
        assert measure_path(path, half, truth.mask) == pytest.approx(0.5, abs=0.04)
        assert (render(place_along(edit, 0.0)).rgb == truth.before).all()
        assert (render(place_along(edit, 1.0)).rgb == truth.after).mean() > 0.99  # rounding at edges


def test_features_find_a_handle_where_it_is(tiny: ModelBundle, edits: tuple[Edit, ...], truths: list[Truth]) -> None:
    ruler = FeatureRuler(tiny)
    assert ruler.alpha_bar / (1 - ruler.alpha_bar) == pytest.approx(2, rel=0.02)
    for edit, truth in zip(edits[:3], truths):
        features = ruler.read(truth.picture, edit.prompt)
        assert features.shape[1:] == (CANVAS_PX, CANVAS_PX)
        assert torch.allclose(features.norm(dim=0), torch.ones(CANVAS_PX, CANVAS_PX), atol=1e-4)
        wanted = ruler.pick(edit, features)
        assert ruler.measure(edit, wanted, features) == pytest.approx(edit.length_px, abs=1.5)
        dx, dy = (
            round(edit.handles[0].target_x - edit.handles[0].x),
            round(edit.handles[0].target_y - edit.handles[0].y),
        )
        if edit.sort == "moved":
            assert ruler.measure(edit, wanted, features.roll((dy, dx), (1, 2))) < 2


def test_equal_distance_is_what_both_methods_reach() -> None:
    quick, slow = [(0.0, 40.0), (1.0, 30.0), (3.0, 10.0)], [(0.0, 40.0), (4.0, 20.0), (6.0, 24.0)]
    assert find_equal_times(quick, slow) == pytest.approx((2.0, 4.0))  # 20 px lies half way between 30 and 10
    assert find_equal_times(slow, [(0.0, 40.0), (1.0, 25.0)]) == pytest.approx((3.0, 1.0))


def test_the_time_to_equal_distance_is_that_of_the_rounds_it_takes() -> None:
    starts = np.full(6, 40.0)
    noise = np.tile([30.0, 20.0, 10.0], (6, 1))
    diffusion = np.tile([30.0, 20.0, 4.0], (6, 1))
    seconds = {NOISE: [1.0, 1.5, 2.0], DIFFUSION: [2.0, 4.0, 8.0]}
    measured = compare_pulls(starts, {NOISE: noise, DIFFUSION: diffusion}, seconds)
    # DragDiffusion passes 10 px where it has gone 10 of the last 16 px.
    assert measured["dragnoise_time_ratio"].value == pytest.approx(2 / (4 + 4 * 10 / 16))
    assert measured[f"{DIFFUSION}_{BUDGETS[1]:g}_rounds_px"].value == 20
    stuck = np.full((6, 3), 40.0)
    measured = compare_pulls(starts, {NOISE: stuck, DIFFUSION: diffusion}, seconds)
    assert measured["dragnoise_time_ratio"].value == pytest.approx(0.25)


def make_arm(edits: tuple[Edit, ...], ratio: float, *, is_ghostly: bool = False) -> Arm:
    """An arm whose things are left at a share of their way."""
    arm = Arm([])
    lengths = np.array([edit.length_px for edit in edits])
    row = {"kept": 1.0, "inside_mse": 4.0, "inside_ssim": 0.9, "ghost": float(is_ghostly)}
    arm.features = np.array([[row.get(name, 0.0) for name in COLUMNS] for _ in edits])
    arm.features[:, :3] = (ratio * lengths)[:, None]
    arm.features[[edit.sort != "stretched" for edit in edits], COLUMNS.index("slip")] = np.nan
    return arm


def test_the_summary_takes_the_best_method_and_doing_nothing_has_ratio_one(edits: tuple[Edit, ...]) -> None:
    arms = {UNTOUCHED: make_arm(edits, 1.0, is_ghostly=True), PASTED: make_arm(edits, 0.0, is_ghostly=True)}
    arms |= {INSTANT: make_arm(edits, 0.4), NOISE: make_arm(edits, 0.2), DIFFUSION: make_arm(edits, 0.25)}
    arms[NOISE].features[0, COLUMNS.index("kept")] = 0
    measured = summarise(edits, arms)
    assert measured["distance_ratio_best"].value == pytest.approx(0.2)
    assert measured["distance_ratio_instant"].value == pytest.approx(0.4)
    assert measured["kept_rate"].value == pytest.approx(1 - 1 / len(edits))
    assert measured["outside_psnr_db"].value == pytest.approx(CEILING_DB) and CEILING_DB > 58
    assert measured[f"{UNTOUCHED}_distance_ratio"].value == 1 == measured[f"{UNTOUCHED}_distance_ratio_moved"].value
    assert measured[f"{PASTED}_distance_ratio"].value == 0 and measured[f"{PASTED}_ghost_rate"].value == 1
    assert measured["ruler_correlation_path"].value == pytest.approx(1)
    assert measured["distance_ratio_best"].ci95 == pytest.approx((0.2, 0.2))


def test_outside_the_mask_the_error_of_all_pictures_is_pooled() -> None:
    mse = np.array([0.0, 2.0])
    assert make_pooled_psnr(mse).value == pytest.approx(10 * np.log10(255**2 / (1 + 1 / 12)))


@pytest.fixture(scope="module")
def studio(tiny: ModelBundle, parser: SceneParser, tmp_path_factory: pytest.TempPathFactory) -> DragStudio:
    """The scenario with a tiny model and two edits, pictures and finished parts kept."""
    folder = tmp_path_factory.mktemp("drag")
    return DragStudio(tiny, parser, RunSettings(2, sheet=folder / "sheet", keep=folder / "keep"), num_steps=4)


def test_a_tiny_model_goes_through_the_whole_scenario(studio: DragStudio) -> None:
    assert [edit.sort for edit in studio.edits] == list(SORTS[:2])
    arms = {UNTOUCHED: studio.leave(), PASTED: studio.paste(), DRAWN: studio.draw()}
    arms |= {name: studio.drag(name, {name: FEW_ROUNDS.get(name, {})}) for name in METHODS}
    kept, goals = take(arms[UNTOUCHED], "kept"), studio.goals
    assert [value == 1 for value in kept] == [goal is not None for goal in goals] and any(goals)
    assert take(arms[UNTOUCHED], "outside_mse").tolist() == [0, 0]
    measured = summarise(studio.edits, arms)
    assert all(np.isfinite(figure.value) for figure in measured.values())
    length_px = np.mean([edit.length_px for edit in studio.edits])
    assert measured[f"{UNTOUCHED}_feature_distance_px"].value == pytest.approx(length_px, abs=1.5)
    # The tiny decoder draws noise inside the mask and must not reach beyond it.
    assert measured[f"{INSTANT}_outside_psnr_db"].value > 35
    table = make_drag_table({name: asdict(figure) for name, figure in measured.items()}).splitlines()
    assert len(table) == 2 + len(ARM_TITLES) and table[2].startswith("| nothing done | 1.000 | 1.000 | 1.000 |")
    assert studio.sheet is not None
    studio.save_sheets(studio.sheet, arms)
    with Image.open(studio.sheet / "drag_0.png") as sheet:
        assert sheet.width > (2 + 1 + len(METHODS)) * CANVAS_PX
    studio.images.clear()
    studio.sheet = None
    again = studio.drag(NOISE, {NOISE: FEW_ROUNDS[NOISE]})
    assert np.array_equal(again.features, arms[NOISE].features, equal_nan=True) and not studio.images


def test_a_followed_drag_tells_its_seconds_those_of_the_pull_and_the_longest_wait(studio: DragStudio) -> None:
    followed = follow(studio.model, studio.ask(0, {DIFFUSION: FEW_ROUNDS[DIFFUSION]}))
    assert 0 < followed.pull < followed.total
    assert 0 < followed.longest_wait < followed.total
