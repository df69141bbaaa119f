"""The style reader and its recipe: what it learns from, exact resume, its distances, and what it refuses."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.backends import PROJECT_DIR
from pipelines.errors import BackendUnavailable, UserError
from training.style_data import SPARED, CodedBank, StyleBatch, draw_coded, draw_fresh
from training.style_reader import (
    MIN_TRUST,
    NUM_OUTPUTS,
    PARAMETERS,
    ReaderConfig,
    StyleReader,
    StyleReaderModel,
    encode_look,
    find_gaps,
    load_reader,
    make_true_reading,
    measure_gram_distance,
)
from training.train_style_reader import (
    CHECK_SEED,
    CODED_SEED,
    DEFAULTS,
    MEASURED_SEED,
    StyleReaderObjective,
    compare,
    draw_step,
    export_reader,
)
from training.trainer import Trainer, TrainerConfig
from training.wear import DAMAGES, wear
from training.world.render import render
from training.world.scene import FIRST_HELD_OUT_SEED, STYLES, Look, sample_look, sample_scene

TINY = ReaderConfig(widths=(4, 4, 8, 8), hidden_width=8)
SHIPPED = PROJECT_DIR / "assets/storybook"
SHAPE = (len(STYLES), len(PARAMETERS))


def make_objective() -> StyleReaderObjective:
    """The recipe with few channels and a bank of three."""
    return StyleReaderObjective(SHIPPED, TINY, num_coded=3, num_renewed=1, num_checked=2, is_ahead=False)


def config_for(folder: Path) -> TrainerConfig:
    """A run of four steps of four pictures."""
    return replace(DEFAULTS, run_dir=str(folder), total_steps=4, batch_size=4, log_every=1)


def make_reader(trust: float = 0.9) -> StyleReader:
    """A reader with random weights that trusts all parameters alike."""
    torch.manual_seed(0)
    return StyleReader(StyleReaderModel(TINY), np.full(SHAPE, trust), np.full(SHAPE, 0.5))


def draw_images(*seeds: int) -> list[Image.Image]:
    """Drawn scenes as pictures."""
    return [Image.fromarray(render(sample_scene(seed)).rgb) for seed in seeds]


def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    straight = Trainer(make_objective(), config_for(tmp_path / "a"))
    logs = [straight.train_step() for _ in range(4)]
    stopped = Trainer(make_objective(), config_for(tmp_path / "b"))
    for _ in range(2):
        stopped.train_step()
    stopped.save()
    resumed = Trainer(make_objective(), config_for(tmp_path / "b"))
    resumed.resume()
    assert resumed.step == 2
    assert [resumed.train_step() for _ in range(2)] == logs[2:]
    for name, value in straight.objective.modules.state_dict().items():
        assert torch.equal(value, resumed.objective.modules.state_dict()[name]), name
    assert all(torch.equal(value, resumed.ema[name]) for name, value in straight.ema.items())


def test_a_run_ends_in_files_that_load(tmp_path: Path) -> None:
    objective, folder = make_objective(), tmp_path / "reader"
    trainer = Trainer(objective, replace(config_for(tmp_path / "run"), total_steps=2))
    trainer.run(minutes=5)
    assert "palette_shift" in (tmp_path / "run" / "log.jsonl").read_text()
    with pytest.raises(UserError, match="below the gate 2"):
        export_reader(trainer, objective, folder, 2, min_accuracy=2)
    assert not folder.exists()
    figures = export_reader(trainer, objective, folder, 4, min_accuracy=0)
    about = json.loads((folder / "config.json").read_text())
    assert about["held_out"] == figures and about["recipe"]["scenes_seen"] == 8 and about["gates"]
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    for name, row in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == row["sha256"]
    reader = load_reader(folder)
    reading = reader.read([*draw_images(1), draw_images(2)[0].resize((128, 192))])
    assert reading.probs.sum(1) == pytest.approx([1, 1]) and reading.hidden.shape == (2, len(STYLES), NUM_OUTPUTS)
    assert reader.trust.shape == reader.spread.shape == SHAPE


def test_the_shipped_size_is_small() -> None:
    assert sum(value.numel() for value in StyleReaderModel(ReaderConfig()).parameters()) < 500_000


def test_seeds_are_for_training_and_gates_are_held_out() -> None:
    drawn = draw_step(5, 4, num_coded=3, num_renewed=0, shipped=SHIPPED)
    assert len(drawn.fresh) == 2 and drawn.coded is None
    again = draw_step(5, 4, num_coded=3, num_renewed=0, shipped=SHIPPED).fresh
    assert all(torch.equal(a, b) for a, b in zip(vars(drawn.fresh).values(), vars(again).values()))
    assert CHECK_SEED + 1_000_000 < FIRST_HELD_OUT_SEED <= MEASURED_SEED
    with pytest.raises(ValueError, match="kept from training"):
        draw_step((CODED_SEED - 1_000_000_000) // 2, 4, num_coded=3, num_renewed=1, shipped=SHIPPED)


def test_a_bank_holds_the_same_scenes_however_it_was_reached() -> None:
    def pick(bank: CodedBank, step: int) -> StyleBatch:
        return bank.pick(step, 6, draw_coded(bank.list_new(step), SHIPPED))

    walked, jumped = (CodedBank(CODED_SEED, size=3, renewed=2, shipped=SHIPPED) for _ in range(2))
    seen = [pick(walked, step) for step in range(3)]
    for step in (2, 0):
        found = jumped.pick(step, 6)
        assert all(torch.equal(a, b) for a, b in zip(vars(found).values(), vars(seen[step]).values()))
    assert list(walked.list_new(2)) == [CODED_SEED + 5, CODED_SEED + 6]


def test_coded_scenes_are_blurred_and_keep_their_truth() -> None:
    coded, noisy = (draw_coded([7, 8], SHIPPED, level) for level in (0.0, 0.5))
    fresh = draw_fresh(7, 2, worn_frac=0.0)
    assert torch.equal(coded.style, fresh.style) and torch.equal(coded.hidden, noisy.hidden)
    errors = [(one.pictures.float() - fresh.pictures.float()).abs().mean() for one in (coded, noisy)]
    assert 0 < errors[0] < errors[1] < 20


def test_spared_damages_are_never_done() -> None:
    picture = torch.full((3, 16, 16), 0.5)
    everything = tuple(damage for _, damage in DAMAGES)
    for seed in range(20):
        assert torch.equal(wear(picture, torch.Generator().manual_seed(seed), spared=everything), picture)
    assert all(damage in everything for damage in SPARED)


def test_parameters_have_one_scale_and_angles_repeat_after_half_a_turn() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([encode_look(sample_look(rng)) for _ in range(4000)])
    assert values.mean(0) == pytest.approx(0, abs=0.06) and values.std(0) == pytest.approx(1, abs=0.04)
    assert encode_look(Look(angle_deg=10)) == pytest.approx(encode_look(Look(angle_deg=190)))
    looks = [encode_look(Look(angle_deg=angle)) for angle in (0, 20, 90, 160)]
    gaps = [find_gaps(looks[0], look)[PARAMETERS.index("angle")] for look in looks]
    assert gaps[0] == 0 and gaps[1] == pytest.approx(gaps[3]) and max(gaps) == gaps[2] == pytest.approx(2 * 2**0.5)


def test_distance_is_zero_to_itself_and_counts_trusted_parameters_alone() -> None:
    reader = make_reader()
    reading = reader.read(draw_images(1, 2))
    assert (reader.distance(reading, reading, ["clay", "flat"]) == 0).all()
    look = Look()
    styles, looks = ["clay", "neon", "flat"], [look, look, replace(look, stroke=look.stroke + 0.25)]
    truth, told = make_true_reading(["clay"] * 3, [look] * 3), make_true_reading(styles, looks)
    stroke = find_gaps(encode_look(looks[0]), encode_look(looks[2]))[0]
    expected = [0, 0.5, 0.5 + stroke / 0.5 / len(PARAMETERS) / 2]
    assert reader.distance(told, truth, ["clay"] * 3) == pytest.approx(expected)
    assert make_reader(MIN_TRUST - 0.01).distance(told, truth, ["clay"] * 3) == pytest.approx([0, 1, 1])
    for name, gap in (("stroke", stroke / 0.5), ("grain", 0)):
        reader.trust[:] = [[MIN_TRUST * (parameter == name) for parameter in PARAMETERS]]
        assert reader.distance(told, truth, ["clay"] * 3) == pytest.approx([0, 0.5, (1 + gap) / 2])


def test_figures_are_perfect_for_the_truth_and_nothing_for_the_mean() -> None:
    batch = draw_fresh(1, 64, worn_frac=0.0)
    logits = torch.nn.functional.one_hot(batch.style, len(STYLES)).float()
    figures = compare(logits, batch.hidden[:, None].expand(-1, len(STYLES), -1), batch)
    assert figures.accuracy == 1 and figures.trust == pytest.approx(1)
    first = batch.hidden[batch.style == 0].double().numpy()
    slow = [find_gaps(a, b) for i, a in enumerate(first) for j, b in enumerate(first) if i != j]
    assert figures.spread[0] == pytest.approx(np.mean(slow, 0))
    means = torch.stack([batch.hidden[batch.style == index].mean(0) for index in range(len(STYLES))])
    blind = compare(logits.roll(1, 1), means.expand(len(batch), -1, -1), batch)
    assert blind.accuracy == 0 and blind.trust == pytest.approx(0, abs=1e-6) and blind.spread == pytest.approx(0)


def make_slow_gram(layer: np.ndarray) -> np.ndarray:
    """The Gram matrix of one grid (c, h, w), number by number."""
    channels, height, width = layer.shape
    gram = np.zeros((channels, channels))
    for a in range(channels):
        for b in range(channels):
            gram[a, b] = (layer[a] * layer[b]).sum() / (channels * height * width)
    return gram


def test_gram_distance_is_that_of_the_slow_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 4, 5), (2, 5, 2, 2))
    grids, others = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    for row, found in enumerate(measure_gram_distance(grids, others)):
        total = 0.0
        for grid, other in zip(grids, others):
            own, wanted = make_slow_gram(grid[row].numpy()), make_slow_gram(other[row].numpy())
            total += ((own - wanted) ** 2).sum() / (wanted**2).sum()
        assert found == pytest.approx(total, rel=1e-5)
    images, reader = draw_images(1, 2), make_reader()
    assert (reader.gram_distance(images, images) == 0).all()
    assert (reader.gram_distance(images, images[::-1]) > 0).all()


def test_the_shipped_reader_names_the_style_and_tells_looks_apart() -> None:
    reader = load_reader(PROJECT_DIR / "assets/style_reader")
    about = json.loads((PROJECT_DIR / "assets/style_reader/config.json").read_text())
    assert about["held_out"]["style_accuracy"] >= 0.95
    assert all(about["trust"][style][name] > MIN_TRUST for style, name in (("crayon", "angle"), ("neon", "stroke")))
    scenes = [sample_scene(seed, split="all") for seed in range(MEASURED_SEED, MEASURED_SEED + 8)]
    read = reader.read([Image.fromarray(render(scene).rgb) for scene in scenes])
    truth = make_true_reading([scene.style for scene in scenes], [scene.look for scene in scenes])
    assert (read.probs.argmax(1) == truth.probs.argmax(1)).all()


def test_missing_and_foreign_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="holds no style reader"):
        load_reader(tmp_path)
    (tmp_path / "config.json").write_text('{"widths": [4, 4, 8, 8]}')
    with pytest.raises(BackendUnavailable, match="make train-style-reader"):
        load_reader(tmp_path)
