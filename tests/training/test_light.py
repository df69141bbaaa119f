"""What the light task learns from, and the two terms of its loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.brightening import MAX_GAIN, measure_brightness
from pipelines.restorer import RestorerConfig
from pipelines.scene_parser import ParserConfig, ParserModel, load_parser
from pipelines.sr_lite import SrLite, SrLiteConfig
from training import train_restorer
from training.leaves import draw_leaves
from training.light_data import CONTEXT_PX, MAX_TOLD, lose_light, sample_darkness
from training.perception import NUM_BINS, WINDOWS_PX, recognition, texture_distance
from training.train_restorer import RestorerObjective, Terms, expose_dark
from training.trainer import Trainer
from training.world.render import render
from training.world.scene import sample_scene

TINY = RestorerConfig(fine=8, middle=8, coarse=8, num_blocks=1, num_coarse_blocks=1)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """A few pictures of leaves."""
    return np.stack([draw_leaves(seed) for seed in range(3)])


def to_numbers(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1


def make_parser() -> ParserModel:
    torch.manual_seed(0)
    names = ("a", "b", "c")
    return (
        ParserModel(ParserConfig(names, names, names, names, names, widths=(8, 8, 8, 8))).eval().requires_grad_(False)
    )


def test_dark_pictures_are_of_many_kinds() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_darkness(rng) for _ in range(300)]
    assert min(item.light_frac for item in drawn) < 0.03 and max(item.light_frac for item in drawn) == 1
    assert {item.sensor for item in drawn} == {0, 1, 2, 3} and {item.jpeg_quality for item in drawn} >= {0, 80}
    assert min(item.tone_frac for item in drawn) == 0 and max(item.tone_frac for item in drawn) == 1


def test_crops_are_exposed_to_their_brightness_and_say_how(pictures: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    told = []
    for index in range(24):
        wide = to_numbers(pictures[index % 3][:CONTEXT_PX, :CONTEXT_PX])
        clean, lit, strengths = lose_light(wide, 72, rng)
        assert clean.shape == lit.shape == (3, 72, 72)
        assert abs(measure_brightness(lit) - measure_brightness(clean)) < 0.15
        assert 0 <= strengths[0] <= MAX_TOLD and 0 <= strengths[3] <= np.log2(MAX_GAIN) / 4
        told.append((float(strengths[0]), float((lit - clean).std())))
    assert np.corrcoef(np.array(told).T)[0, 1] > 0.5


def test_the_noise_that_is_told_is_the_noise(pictures: np.ndarray) -> None:
    clean = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    low, high = ((expose_dark(clean, shot) - clean).square().mean() for shot in (0.0005, 0.003))
    assert low < high / 2


def count_slowly(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Count pairs of a value and the mean beside it, one by one: (NUM_BINS, NUM_BINS)."""
    reach, table = kernel.shape[0] // 2, np.zeros((NUM_BINS, NUM_BINS))
    levels = (picture * 0.5 + 0.5) * (NUM_BINS - 1)

    def weigh(value: float) -> np.ndarray:
        share = 1 / (1 + np.exp(-(np.arange(NUM_BINS) - value) / 0.5))
        return share * (1 - share)

    for y in range(reach, levels.shape[0] - reach):
        for x in range(reach, levels.shape[1] - reach):
            window = levels[y - reach : y + reach + 1, x - reach : x + reach + 1]
            table += np.outer(weigh(levels[y, x]), weigh(float((window * kernel).sum())))
    return (table + 1e-6) / (table + 1e-6).sum()


def test_texture_statistics_match_a_slow_count() -> None:
    pair = torch.rand(2, 1, 3, 12, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = texture_distance(pair[0], pair[1], torch.Generator().manual_seed(5))
    draws, expected = torch.Generator().manual_seed(5), 0.0
    for side in WINDOWS_PX:
        weights = torch.rand((1, 1, side, side), generator=draws)
        weights[0, 0, side // 2, side // 2] = 0
        kernel = (weights / weights.sum())[0, 0].numpy()
        for channel in range(3):
            one, other = (count_slowly(picture[0, channel].numpy(), kernel) for picture in pair)
            expected += float(((np.sqrt(one) - np.sqrt(other)) ** 2).sum()) / 2 / 3 / len(WINDOWS_PX)
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_equal_textures_have_no_distance_and_smooth_ones_have(pictures: np.ndarray) -> None:
    truth = to_numbers(pictures[0][:64, :64])[None]
    shifted, smooth = truth.roll(7, 3), torch.nn.functional.avg_pool2d(truth, 5, 1, 2)
    distances = [float(texture_distance(p, truth, torch.Generator().manual_seed(0))) for p in (truth, shifted, smooth)]
    assert distances[0] == 0 and distances[1] < distances[2] / 2


def test_a_parser_recognises_the_true_picture_best() -> None:
    scene = render(sample_scene(3)).rgb
    truth = to_numbers(scene[64:160, 64:160])[None]
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    parser = load_parser("assets/parser").model
    same, spoilt = (float(recognition(parser, p, truth)) for p in (truth, truth + 2 * noise))
    assert 0 < spoilt < same - 0.1 <= 1


def make_objective(pictures: np.ndarray, terms: Terms) -> RestorerObjective:
    enlarger = SrLite(SrLiteConfig(width=8, num_pairs=1, decoder_width=8))
    return RestorerObjective(enlarger, TINY, pictures=pictures, checked=pictures[:1], terms=terms)


def test_both_terms_reach_the_gradients(pictures: np.ndarray) -> None:
    gradients = []
    for terms in (Terms(only="light"), Terms(texture=0.5, only="light"), Terms(0.0, 1.0, make_parser(), "light")):
        objective = make_objective(pictures, terms)
        torch.nn.init.normal_(objective.model.out.weight, std=0.01, generator=torch.Generator().manual_seed(0))
        batch = objective.make_batch(0, 4)
        assert set(batch.task.index.tolist()) == {4}
        objective.compute_loss(batch, 0)[0].backward()
        assert objective.model.out.weight.grad is not None
        gradients.append(objective.model.out.weight.grad.clone())
    assert not torch.equal(gradients[0], gradients[1]) and not torch.allclose(gradients[0], gradients[2])


def test_a_run_with_both_terms_goes_on_exactly(pictures: np.ndarray, tmp_path: Path) -> None:
    def start(name: str) -> Trainer:
        config = replace(train_restorer.DEFAULTS, run_dir=str(tmp_path / name), total_steps=2, batch_size=3)
        return Trainer(make_objective(pictures, Terms(0.1, 1.0, make_parser(), "light")), config)

    straight, stopped = start("a"), start("b")
    logs = [straight.train_step() for _ in range(2)]
    stopped.train_step()
    stopped.save()
    resumed = start("b")
    resumed.resume()
    assert resumed.train_step() == logs[1]
