"""What is measured of a lit picture, and how pictures of one scene are laid on each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.burst import find_shift, measure_likeness, merge_burst, move
from pipelines.darkening import Darkness, darken, from_linear, to_linear
from pipelines.errors import UserError
from pipelines.images import to_tensor
from pipelines.light_measures import draw_added, explain, is_dark, make_baseline, make_histogram, measure_lit
from tests.pictures import make_ramp


def make_scene(side_px: int = 120, seed: int = 0) -> torch.Tensor:
    """Draw blocks of all sizes, (3, side, side) in -1..1."""
    rng = np.random.default_rng(seed)
    picture = np.full((3, side_px, side_px), 0.2)
    for _ in range(60):
        y, x = rng.integers(0, side_px, 2)
        tall, wide = rng.integers(4, side_px // 3, 2)
        picture[:, y : y + tall, x : x + wide] = rng.uniform(-0.9, 0.9, (3, 1, 1))
    return torch.from_numpy(picture.astype(np.float32))


def test_any_brightening_is_explained_and_a_new_thing_is_not() -> None:
    scene = make_scene()
    dark = (scene + 1) * 0.2 - 1
    # A curve, a shade that changes slowly, and more contrast: nothing was added.
    shade = torch.linspace(1, 1.5, scene.shape[2])
    for lit in (dark * 0.5, ((dark + 1) / 2) ** 0.6 * 2 - 1, (dark + 1) * shade - 1):
        assert explain(lit, dark).share > 0.97
    new = scene.clone()
    new[:, 50:60, 50:60] = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = explain(new, dark)
    assert found.added[0, 52:58, 52:58].mean() > 10 * found.added[0, :30, :30].mean()
    assert found.share < 0.97


def test_noise_that_is_taken_away_does_not_count_as_added() -> None:
    flat = torch.zeros(3, 60, 60)
    noisy = flat + 0.05 * torch.randn(3, 60, 60, generator=torch.Generator().manual_seed(0))
    assert explain(flat, noisy).share == 1.0 and float(explain(flat, noisy).added.max()) < 0.1
    # Noise that is put on top is new.
    assert explain(noisy, flat).share < 0.2


def test_bands_of_a_large_picture_change_nothing() -> None:
    tall = torch.rand(3, 1100, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    other = torch.rand(3, 1100, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole, part = explain(tall, other), explain(tall[:, 450:620], other[:, 450:620])
    assert torch.allclose(whole.added[:, 480:590], part.added[:, 30:140], atol=1e-3)


def test_the_map_is_lime_where_much_was_added_and_dim_elsewhere() -> None:
    added = torch.zeros(1, 4, 4)
    added[:, 0] = 100.0
    drawn = draw_added(torch.ones(3, 4, 4), added)
    assert drawn.getpixel((0, 0)) == (213, 240, 106) and max(drawn.getpixel((0, 3))) < 100


def test_dark_is_told_from_bright() -> None:
    bright = make_scene()
    generator = torch.Generator().manual_seed(0)
    assert not is_dark(bright) and not is_dark(torch.ones(3, 2, 2))
    misty = 0.1 * bright
    assert not is_dark(misty) and is_dark(misty - 0.3)
    assert is_dark(darken(bright, Darkness(0.1), generator)) and is_dark(torch.full((3, 2, 2), -1.0))


def test_a_histogram_holds_every_pixel() -> None:
    shares = make_histogram(to_tensor([make_ramp(64)])[0])
    assert sum(shares) == pytest.approx(1) and len(shares) == 64
    assert make_histogram(torch.full((3, 5, 5), -1.0))[0] == 1.0


def test_the_baseline_is_as_bright_and_nearness_does_not_depend_on_brightness() -> None:
    truth = make_scene()
    dark = darken(truth, Darkness(0.1, jpeg_quality=0), torch.Generator().manual_seed(0))
    lit = [make_baseline(dark, brightness) for brightness in (0.3, 0.4)]
    found = [measure_lit(one, dark, one, explain(one, one), truth=truth)[0] for one in lit]
    assert [measure.name for measure in found] == ["truth_db"] * 2
    assert found[0].on == pytest.approx(found[1].on, abs=3) and found[0].on > 15


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-11, 8)])
def test_a_shift_is_found_in_noise(shift: tuple[int, int]) -> None:
    scene, (down, right) = make_scene(150), shift
    generator = torch.Generator().manual_seed(0)
    shots = [
        darken(part, Darkness(0.1, shot=0.001), generator)
        for part in (scene[:, 15:135, 15:135], scene[:, 15 + down : 135 + down, 15 + right : 135 + right])
    ]
    found = find_shift(*shots)
    assert found == pytest.approx(shift, abs=0.5)
    moved, seen = move(shots[1], found)
    assert measure_likeness(shots[0], moved, seen) > 0.5
    other = darken(make_scene(120, seed=9), Darkness(0.1, shot=0.003), generator)
    moved, seen = move(other, find_shift(shots[0], other))
    assert measure_likeness(shots[0], moved, seen) < 0.25


def test_merging_averages_in_linear_light() -> None:
    values = torch.linspace(-1, 1, 101)
    assert torch.allclose(from_linear(to_linear(values)), values, atol=1e-5)
    flat = [torch.full((3, 20, 20), level) for level in (-0.6, -0.5)]
    stream = merge_burst(flat)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(StopIteration) as end:
        next(stream)
    merged, moves = end.value.value
    # The second one is brought to the light of the first before both are averaged.
    assert float(merged.mean()) == pytest.approx(-0.6, abs=1e-3) and moves == [0.0, 0.0]


def test_a_large_shift_is_found_small_and_refined() -> None:
    scene = torch.nn.functional.interpolate(make_scene(240, seed=3)[None], scale_factor=4)[0]
    first, other = scene[:, 60:860, 60:860], scene[:, 83:883, 41:841]
    assert find_shift(first, other) == pytest.approx((23, -19), abs=0.3)


def test_another_scene_is_refused() -> None:
    stream = merge_burst([make_scene(seed=1), make_scene(seed=2)])
    next(stream)
    with pytest.raises(UserError, match="Picture 2 does not show the scene of the first one"):
        next(stream)
