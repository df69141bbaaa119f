"""What the networks for photographs learn from, and their recipes: like photographs, repeatable, resumed exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.darkening import blur
from pipelines.errors import UserError
from pipelines.images import compress, round_levels
from pipelines.residual_shift import LAST_ETA_ROOT
from pipelines.restorer import TASKS, RestorerConfig, load_restorer, make_level
from pipelines.sr_lite import SrLite, SrLiteConfig, load_sr_lite
from training import train_restorer, train_sr_lite
from training.degradations import (
    CameraDamage,
    add_noise,
    photograph,
    reduce_cleanly,
    sample_camera,
)
from training.leaves import PICTURE_PX, draw_leaves, draw_palette, lab_to_rgb
from training.reliefs import draw_relief, load_reliefs, shade_relief
from training.restoration_data import cut, draw_texture, make_enlarge_batch, sample_scale, soften
from training.restoration_pictures import draw_letters, draw_lines, draw_picture, draw_sky, load_pictures
from training.restorer_data import damage, make_restorer_batch
from training.train_restorer import RestorerObjective, export_restorer
from training.train_sr_lite import SrLiteObjective, check, export_sr_lite
from training.trainer import Trainer

TINY = SrLiteConfig(width=8, num_pairs=1, decoder_width=8)
TINY_RESTORER = RestorerConfig(fine=8, middle=8, coarse=8, num_blocks=1, num_coarse_blocks=1)
CLEAN_CAMERA = CameraDamage(blur_px=0.0, noise_levels=0.0, shot_frac=0.0, jpeg_quality=0)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """A few pictures of leaves."""
    return np.stack([draw_leaves(seed) for seed in range(4)])


def measure_slope(pictures: np.ndarray) -> float:
    """Return p of a spectrum whose power falls as 1 / f^p, over the middle frequencies."""
    grey = pictures.mean(-1)
    window = np.hanning(PICTURE_PX)[:, None] * np.hanning(PICTURE_PX)
    power = (np.abs(np.fft.fft2((grey - grey.mean((1, 2), keepdims=True)) * window)) ** 2).mean(0)
    frequency = np.hypot(np.fft.fftfreq(PICTURE_PX)[:, None], np.fft.fftfreq(PICTURE_PX))
    inside = (frequency > 0.02) & (frequency < 0.3)
    return -np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]


def test_leaves_fill_the_canvas(pictures: np.ndarray) -> None:
    assert pictures.dtype == np.uint8 and pictures.shape == (4, PICTURE_PX, PICTURE_PX, 3)
    assert (pictures.max((1, 2, 3)).astype(int) - pictures.min((1, 2, 3)) > 100).all()


def test_crops_get_the_fine_texture_that_leaves_lack(pictures: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    textures = np.stack([draw_texture(PICTURE_PX, rng).permute(1, 2, 0).numpy() for _ in range(12)])
    assert measure_slope(textures) < 2 < 2.5 < measure_slope(pictures)
    assert 0.01 < textures.std() < 0.3


def test_leaves_have_rare_strong_edges(pictures: np.ndarray) -> None:
    step = np.diff(pictures.astype(float).mean(-1), axis=2)
    assert (step**4).mean() / (step**2).mean() ** 2 > 10


def test_a_seed_gives_one_picture(pictures: np.ndarray) -> None:
    assert np.array_equal(draw_leaves(2), pictures[2]) and not np.array_equal(pictures[2], pictures[3])
    assert np.array_equal(draw_picture(7), draw_picture(7))


@pytest.mark.parametrize("draw", [draw_letters, draw_lines, draw_sky])
def test_every_family_is_drawn(draw: Callable[[np.random.Generator], np.ndarray]) -> None:
    picture = draw(np.random.default_rng(1))
    assert picture.shape == (PICTURE_PX, PICTURE_PX, 3) and picture.dtype == np.uint8 and picture.std() > 1


def test_palettes_are_colours_of_a_screen() -> None:
    for seed in range(20):
        palette = draw_palette(np.random.default_rng(seed))
        assert 4 <= len(palette) <= 8 and palette.min() >= 0 and palette.max() <= 255
    rgb = lab_to_rgb(np.array([[0.0, 0, 0], [100.0, 0, 0], [53.24, 80.09, 67.2]]))
    assert np.abs(rgb - [[0, 0, 0], [255, 255, 255], [255, 0, 0]]).max() < 1.5


def test_a_file_of_pictures_grows_and_keeps_what_it_has(tmp_path: Path) -> None:
    first = load_pictures(tmp_path, 2, 50)
    assert np.array_equal(load_pictures(tmp_path, 3, 50)[:2], first)
    assert np.array_equal(load_pictures(tmp_path, 1, 50), first[:1])
    assert [file.name.endswith("_50.npy") for file in tmp_path.iterdir()] == [True]


def test_noise_has_the_asked_strength() -> None:
    camera = replace(CLEAN_CAMERA, noise_levels=12.0)
    grey = torch.zeros(3, 200, 200)
    noisy = add_noise(grey, camera, np.random.default_rng(1))
    assert float(noisy.std()) * 255 / 2 == pytest.approx(12, rel=0.05)
    shot = add_noise(grey + 0.8, replace(camera, shot_frac=1.0, noise_levels=5.0), np.random.default_rng(1))
    assert float(shot.std()) * 255 / 2 == pytest.approx(5 * 1.8**0.5, rel=0.05)


def test_a_blur_keeps_brightness_and_spreads_a_point() -> None:
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1.0
    spread = blur(point, 2.0, 2.0)
    place = torch.arange(41.0) - 20
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float((spread[0].sum(0) * place**2).sum()) == pytest.approx(4.0, rel=0.05)
    assert torch.equal(blur(point, 0.0, 0.0), point)


def test_a_camera_that_does_nothing_reduces_cleanly() -> None:
    large = round_levels(torch.rand(3, 48, 64) * 2 - 1)
    seen = photograph(large, (20, 30), CLEAN_CAMERA, np.random.default_rng(0))
    assert torch.equal(seen, reduce_cleanly(large[None], (20, 30))[0])
    assert torch.equal(round_levels(seen), seen)


def test_a_file_of_low_quality_loses_more() -> None:
    picture = torch.from_numpy(draw_leaves(1)).permute(2, 0, 1) / 127.5 - 1
    errors = [float((compress(picture, quality) - picture).square().mean()) for quality in (95, 60, 15)]
    assert errors == sorted(errors) and errors[0] > 0


def test_cameras_and_scales_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        camera = sample_camera(rng)
        assert 0 <= camera.noise_levels <= 10 and camera.jpeg_quality in (0, *range(60, 96))
        assert 1 <= sample_scale(rng) <= 8


def test_a_lens_and_a_sensor_leave_whole_levels_and_some_pictures_sharp() -> None:
    edge = torch.full((3, 32, 32), -0.5)
    edge[:, :, 16:] = 0.5
    steps, noises = [], []
    for seed in range(40):
        seen = soften(edge, np.random.default_rng(seed))
        levels = (seen + 1) * (255 / 2)
        assert torch.allclose(levels, levels.round(), atol=1e-3) and seen.abs().max() <= 1
        steps.append(float(seen.mean((0, 1)).diff().max()))
        noises.append(float(seen[..., :8].std()))
    assert max(steps) > 0.95 and min(steps) < 0.5
    assert min(noises) < 0.001 and 0.01 < max(noises) < 0.03


def test_batches_are_pairs_of_one_scale(pictures: np.ndarray) -> None:
    for seed in range(4):
        batch = make_enlarge_batch(pictures, 6, np.random.default_rng(seed))
        assert batch.small.shape[0] == batch.large.shape[0] == 6
        assert batch.small.shape[-1] <= batch.large.shape[-1] <= PICTURE_PX
        clean = batch.damage == 0
        again = reduce_cleanly(batch.large, (batch.small.shape[-2], batch.small.shape[-1]))
        assert torch.equal(again[clean], batch.small[clean])
    assert cut(pictures[0], 100, np.random.default_rng(0)).shape == (3, 100, 100)


def test_every_task_of_the_restorer_is_met(pictures: np.ndarray) -> None:
    batch = make_restorer_batch(pictures, SrLite(TINY), 160, np.random.default_rng(1))
    met = {TASKS[index] for index in batch.task.index.tolist()}
    assert met == set(TASKS)
    is_prior = batch.task.index == TASKS.index("prior")
    assert batch.damaged[is_prior].abs().max() == 0 and batch.share[is_prior].max() == 0
    gap = batch.noisy - batch.clean - batch.share[:, None, None, None] * (batch.damaged - batch.clean)
    spread = gap.flatten(1).std(1)
    is_light = batch.task.index == TASKS.index("light")
    is_still = (batch.noisy == batch.damaged).flatten(1).all(1)
    assert torch.allclose(spread[~is_still], batch.sigma[~is_still], rtol=0.05, atol=1e-3)
    assert int(is_still.sum()) > 5 and float(batch.share[is_still].min()) == pytest.approx(LAST_ETA_ROOT**2)
    # Nothing of the clean picture shows through without noise, and the page does not know how noisy it is.
    assert bool((is_light | ~is_still).all())
    assert 0 < float(batch.task.is_told[is_light, 0].mean()) < float(batch.task.is_told[is_light, 3].mean())
    with pytest.raises(ValueError, match="no damage of its own"):
        damage(batch.clean[0], "detail", np.random.default_rng(0))


def test_a_part_of_the_dark_pictures_is_relief(pictures: np.ndarray) -> None:
    white = np.full_like(pictures, 255)
    rng = np.random.default_rng(1)
    batch = make_restorer_batch(white * 0, SrLite(TINY), 40, rng, reliefs=white, only="light")
    bright = float((batch.clean.mean((1, 2, 3)) > 0.2).float().mean())
    assert 0.2 < bright < 0.6


def test_reliefs_are_repeatable_fine_and_of_one_colour_s_light_and_shade(tmp_path: Path) -> None:
    drawn = load_reliefs(tmp_path, 8, 90)
    assert drawn.dtype == np.uint8 and drawn.shape == (8, PICTURE_PX, PICTURE_PX, 3)
    assert np.array_equal(drawn[3], draw_relief(93)) and np.array_equal(load_reliefs(tmp_path, 8, 90), drawn)
    assert np.median(np.abs(np.diff(drawn.mean(-1), axis=1)).mean((1, 2))) > 2
    level = np.full((9, 9), 4.0)
    assert np.allclose(shade_relief(level, 0.5, np.random.default_rng(0)), 1)


@torch.no_grad()
def test_dark_pictures_of_little_noise_weigh_as_much_in_decibels(pictures: np.ndarray) -> None:
    objective = RestorerObjective(SrLite(TINY), TINY_RESTORER, pictures=pictures, checked=pictures[:1])
    batch = make_restorer_batch(pictures, SrLite(TINY), 2, np.random.default_rng(1), only="light")
    losses = []
    for error in (0.05, 0.5):
        near = replace(batch, noisy=batch.clean, damaged=batch.clean + error)
        level = make_level(near.sigma, near.share, near.task)
        distance = ((near.clean - level.first_guess(near.noisy, near.damaged)) / level.out_scale).abs().mean()
        losses.append((float(objective.compute_loss(near, 0)[0]), float(distance)))
    (low, near_by), (high, far) = losses
    assert far == pytest.approx(10 * near_by, rel=1e-3) and high < 4 * low


def make_sr(pictures: np.ndarray) -> SrLiteObjective:
    return SrLiteObjective(TINY, pictures=pictures, checked=pictures[:1])


@torch.no_grad()
def test_the_end_of_the_enlarger_s_training_squares_its_errors(pictures: np.ndarray) -> None:
    objective = SrLiteObjective(TINY, pictures=pictures, checked=pictures[:1], squared_from=8)
    batch = objective.make_batch(0, 2)
    absolute, squared = (objective.compute_loss(batch, step)[1]["loss"] for step in (7, 8))
    # Errors of a few levels: below the narrow width nothing, above it their size; their square is far smaller.
    assert squared < 0.3 * absolute


def make_restorer(pictures: np.ndarray) -> RestorerObjective:
    torch.manual_seed(1)
    return RestorerObjective(SrLite(TINY), TINY_RESTORER, pictures=pictures, checked=pictures[:1])


@pytest.mark.parametrize(
    ("make", "defaults"),
    [(make_sr, train_sr_lite.DEFAULTS), (make_restorer, train_restorer.DEFAULTS)],
    ids=["sr_lite", "restorer"],
)
def test_a_stopped_run_goes_on_exactly(
    make: Callable[[np.ndarray], object], defaults: object, pictures: np.ndarray, tmp_path: Path
) -> None:
    def start(name: str) -> Trainer:
        config = replace(defaults, run_dir=str(tmp_path / name), total_steps=4, batch_size=4)  # type: ignore[type-var]
        return Trainer(make(pictures), config)  # type: ignore[arg-type]

    straight = start("a")
    logs = [straight.train_step() for _ in range(4)]
    stopped = start("b")
    for _ in range(2):
        stopped.train_step()
    stopped.save()
    resumed = start("b")
    resumed.resume()
    assert [resumed.train_step() for _ in range(2)] == logs[2:]
    assert all(torch.equal(value, resumed.ema[name]) for name, value in straight.ema.items())


def test_the_figures_start_at_bicubic(pictures: np.ndarray) -> None:
    figures, _ = check(SrLite(TINY), pictures[:1])
    for scale in ("x2", "x3.3", "x4", "x8"):
        assert figures[f"{scale}_net"] == figures[f"{scale}_bicubic"]
        assert figures[f"{scale}_faithful"] == figures[f"{scale}_projected"] > figures[f"{scale}_bicubic"]


def test_weights_below_the_gate_are_not_written(pictures: np.ndarray, tmp_path: Path) -> None:
    objective = make_sr(pictures)
    trainer = Trainer(objective, replace(train_sr_lite.DEFAULTS, run_dir=str(tmp_path / "run")))
    with pytest.raises(UserError, match="below the gate 0.3; train on"):
        export_sr_lite(trainer, objective, tmp_path / "out", pictures[:1])
    restorer = make_restorer(pictures)
    trainer = Trainer(restorer, replace(train_restorer.DEFAULTS, run_dir=str(tmp_path / "run2")))
    with pytest.raises(UserError, match="below the gate"):
        export_restorer(trainer, restorer, tmp_path / "out", pictures[:1])
    assert not (tmp_path / "out").exists()


def test_runs_end_in_files_that_load(pictures: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_sr_lite, "MIN_GAIN_DB", -9.0)
    monkeypatch.setattr(train_restorer, "MIN_DENOISE_DB", 0.0)
    monkeypatch.setattr(train_restorer, "MIN_LIT_GAIN_DB", {})
    objective = make_sr(pictures)
    config = replace(train_sr_lite.DEFAULTS, run_dir=str(tmp_path / "run"), total_steps=1, batch_size=2, log_every=1)
    trainer = Trainer(objective, config)
    trainer.run(minutes=5)
    figures = export_sr_lite(trainer, objective, tmp_path / "sr", pictures[:1])
    about = json.loads((tmp_path / "sr" / "config.json").read_text())
    assert about["held_out_db"] == figures and load_sr_lite(tmp_path / "sr").config == TINY
    restorer = make_restorer(pictures)
    trainer = Trainer(restorer, replace(config, run_dir=str(tmp_path / "run2")))
    trainer.run(minutes=5)
    export_restorer(trainer, restorer, tmp_path / "restorer", pictures[:1])
    assert load_restorer(tmp_path / "restorer").config == TINY_RESTORER
    assert len(list((tmp_path / "run2" / "sheets").iterdir())) == 1
