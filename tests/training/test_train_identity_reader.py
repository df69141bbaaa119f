"""The identity reader and its recipe: subjects, families, exact resume, files that load, what the shipped one can."""

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
from training.identity_data import NUM_SIBLINGS, FamilyBank, draw_family
from training.identity_reader import CROP_PX, IdentityConfig, IdentityModel, cut_out, load_identity_reader
from training.train_identity_reader import (
    CHECK_SEED,
    DEFAULTS,
    FIRST_SEED,
    MEASURED_SEED,
    NUM_FAMILIES,
    IdentityObjective,
    contrast,
    export_identity,
    measure_identity,
)
from training.trainer import Trainer, TrainerConfig
from training.world.render import render
from training.world.scene import FIRST_HELD_OUT_SEED, Identity, Scene, SceneObject, is_held_out_pair, sample_scene
from training.world.subject import place_subject, sample_subject

TINY = IdentityConfig((4, 4, 8, 8), 8)
SHIPPED = PROJECT_DIR / "assets/identity_reader"


def config_for(folder: Path) -> TrainerConfig:
    """A run of four steps of two families."""
    return replace(DEFAULTS, run_dir=str(folder), total_steps=4, batch_size=16, log_every=1)


def test_sampled_scenes_never_have_a_second_colour() -> None:
    scene = sample_scene(5)
    assert all(not thing.identity.mark_colour for thing in scene.objects)
    assert "mark_colour" not in repr(scene), "records look in print as they did"


def test_a_second_colour_shows_in_the_marking_alone() -> None:
    def draw(who: Identity) -> np.ndarray:
        return render(Scene((SceneObject("robot", "green", 128, 128, 160, identity=who),), "plain", "day", "flat")).rgb

    own, second, none = (
        draw(Identity(marking="band", mark_colour=colour)) if colour is not None else draw(Identity())
        for colour in ("", "orange", None)
    )
    marked = (own != none).any(-1)
    assert 0 < marked.mean() < 0.2 and ((second != none).any(-1) == marked).mean() > 0.999
    assert (second != own).any(-1)[marked].mean() > 0.9


def test_subjects_keep_to_their_side_of_the_rule() -> None:
    first = sample_subject(700_000_001, held_out=False)
    assert first == sample_subject(700_000_001, held_out=False)
    assert not is_held_out_pair(first.kind, first.colour) and first.identity.mark_colour not in ("", first.colour)
    assert sample_subject(FIRST_HELD_OUT_SEED + 1, held_out=True) != first
    for seed, held_out in ((1, True), (FIRST_HELD_OUT_SEED, False)):
        with pytest.raises(ValueError, match="held out"):
            sample_subject(seed, held_out=held_out)


def test_siblings_share_kind_and_colour_and_differ_in_the_rest() -> None:
    family = draw_family(FIRST_SEED)
    again = draw_family(FIRST_SEED)
    assert torch.equal(family.crops, again.crops) and family.crops.shape[3:] == (CROP_PX, CROP_PX)
    assert len({tuple(row[:2].tolist()) for row in family.names}) == 1
    assert len({tuple(row[2:].tolist()) for row in family.names}) >= 3
    assert FIRST_SEED + NUM_FAMILIES < CHECK_SEED < FIRST_HELD_OUT_SEED <= MEASURED_SEED


def test_contrast_is_the_formula() -> None:
    rows = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    first, second = rows[:3], rows[3:]
    slow = 0.0
    for index in range(6):
        likeness = [float(rows[index] @ rows[other]) / 0.1 for other in range(6) if other != index]
        own = float(rows[index] @ rows[(index + 3) % 6]) / 0.1
        slow += (np.log(np.exp(likeness).sum()) - own) / 6
    assert float(contrast(first, second)) == pytest.approx(slow, rel=1e-4)


def test_a_stopped_run_goes_on_exactly_and_ends_in_files_that_load(tmp_path: Path) -> None:
    def make() -> IdentityObjective:
        return IdentityObjective(TINY, num_families=3, num_checked=2)

    straight = Trainer(make(), config_for(tmp_path / "a"))
    logs = [straight.train_step() for _ in range(4)]
    stopped = Trainer(make(), config_for(tmp_path / "b"))
    for _ in range(2):
        stopped.train_step()
    stopped.save()
    resumed = Trainer(make(), config_for(tmp_path / "b"))
    resumed.resume()
    assert [resumed.train_step() for _ in range(2)] == logs[2:]
    assert all(torch.equal(value, resumed.ema[name]) for name, value in straight.ema.items())
    folder = tmp_path / "reader"
    with pytest.raises(UserError, match="below 2"):
        export_identity(straight, make(), folder, 2, min_accuracy=2)
    assert not folder.exists()
    figures = export_identity(straight, make(), folder, 2, min_accuracy=0)
    assert json.loads((folder / "config.json").read_text())["held_out"] == figures
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    for name, row in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == row["sha256"]
    picture = Image.fromarray(render(sample_scene(1)).rgb)
    embedded = load_identity_reader(folder).embed([cut_out(picture, (-20, 30, 90, 120))])
    assert embedded.shape == (1, 8) and np.linalg.norm(embedded) == pytest.approx(1)
    with pytest.raises(BackendUnavailable, match="make train-identity-reader"):
        load_identity_reader(tmp_path)


def test_the_shipped_reader_tells_siblings_apart_and_knows_its_subject_in_any_style() -> None:
    reader = load_identity_reader(SHIPPED)
    assert measure_identity(reader.model, FamilyBank(CHECK_SEED + 500, 6), 6)["accuracy"] > 0.8
    subject = sample_subject(700_000_005, held_out=False)
    plain = replace(subject, identity=replace(subject.identity, marking="none"))
    rng = np.random.default_rng(3)
    crops = []
    for who, style in ((subject, "flat"), (subject, "watercolor"), (subject, "clay"), (plain, "flat")):
        drawn = render(place_subject(who, rng, style=style, background="beach", light="day"))
        crops.append(cut_out(Image.fromarray(drawn.rgb), drawn.boxes_px[0]))
    likeness = reader.compare(crops[1:], crops[:1])
    assert min(likeness[:2]) > likeness[2] + 0.1
    assert sum(value.numel() for value in IdentityModel(IdentityConfig()).parameters()) < 700_000
    assert NUM_SIBLINGS == 4
