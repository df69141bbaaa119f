"""The recipe of the scene parser: targets, wear, losses, a short run with exact resume, export."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.scene_parser import BOX_UNIT_PX, STRIDE_PX, ParsedObject, ParsedScene, ParserConfig, load_parser
from training.parser_data import crowd, draw_batch, make_targets
from training.parser_figures import compare
from training.train_parser import (
    CHECK_SEED,
    DEFAULTS,
    FIRST_SEED,
    ParserObjective,
    SceneObjective,
    draw_step,
    export_parser,
    make_config,
    object_losses,
)
from training.trainer import Trainer, TrainerConfig
from training.wear import DAMAGES, drop_detail, wear
from training.world.render import render
from training.world.scene import COLOURS, FIRST_HELD_OUT_SEED, KINDS, Scene, SceneObject, sample_scene

TINY: ParserConfig = replace(make_config(), widths=(4, 8, 8, 8))


def one_boat() -> Scene:
    """A single red boat at a known place."""
    return Scene((SceneObject("boat", "red", 100.0, 120.0, 100.0),), "sea", "day", "flat", seed=1)


def config_for(folder: Path) -> TrainerConfig:
    """A run of four steps of two pictures."""
    return replace(DEFAULTS, run_dir=str(folder), total_steps=4, batch_size=2, log_every=1)


def test_targets_say_where_the_object_is() -> None:
    scene = one_boat()
    box_px = render(scene).boxes_px[0]
    hill, kind, colour, box, weight = make_targets(scene, (box_px,))
    row, column = divmod(int(hill.argmax()), hill.shape[1])
    x, y = (column + 0.5) * STRIDE_PX, (row + 0.5) * STRIDE_PX
    assert float(hill.max()) == 1.0
    assert (
        abs(x - (box_px[0] + box_px[2]) / 2) <= STRIDE_PX / 2 and abs(y - (box_px[1] + box_px[3]) / 2) <= STRIDE_PX / 2
    )
    edges = box[:, row, column] * BOX_UNIT_PX
    assert torch.allclose(
        torch.tensor([x, y, x, y]) + edges * torch.tensor([-1, -1, 1, 1]), torch.tensor(box_px).float()
    )
    answers = weight > 0
    assert set(kind[answers].tolist()) == {KINDS.index("boat")} and set(colour[answers].tolist()) == {
        COLOURS.index("red")
    }
    assert float(weight.sum()) == pytest.approx(1.0)


def test_every_object_of_a_crowd_has_a_centre_of_its_own() -> None:
    for seed in range(12):
        scene = crowd(sample_scene(seed, split="all"), np.random.default_rng(seed))
        hill, _, _, _, weight = make_targets(scene, render(scene).boxes_px)
        assert 3 <= len(scene.objects) <= 9
        assert int((hill >= 1).sum()) >= len(scene.objects)  # a centre on the edge of two cells is in both
        assert float(weight.sum()) == pytest.approx(len(scene.objects), abs=1e-4)


def test_perfect_answers_cost_nothing() -> None:
    batch = draw_batch(FIRST_SEED, 2, crowd_frac=1.0, worn_frac=0.0)
    objective = ParserObjective(TINY, is_ahead=False)
    with torch.no_grad():
        output = objective.model(batch.pictures.float() / 128 - 1)
    perfect = output._replace(
        score=torch.where(batch.hill >= 1, 20.0, -20.0),
        kind=40 * torch.nn.functional.one_hot(batch.kind, len(KINDS)).movedim(-1, 1).float(),
        colour=40 * torch.nn.functional.one_hot(batch.colour, len(COLOURS)).movedim(-1, 1).float(),
        box=batch.box,
    )
    assert all(float(part) < 1e-5 for part in object_losses(perfect, batch).values())
    assert all(float(part) > 0.05 for part in object_losses(output, batch).values())


def test_wear_is_seeded_and_every_damage_stays_mild() -> None:
    picture = torch.from_numpy(render(sample_scene(3)).rgb).permute(2, 0, 1) / 255
    worn = [wear(picture, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(worn[0], worn[1]) and not torch.equal(worn[0], worn[2])
    assert all(torch.equal(result, result.clamp(0, 1)) for result in worn)
    for _, damage in DAMAGES:
        result = damage(picture, torch.Generator().manual_seed(2))
        assert result.shape == picture.shape and not torch.equal(result, picture)
        assert float((result - picture).square().mean().sqrt()) < 0.15, damage.__name__


def test_dropped_detail_keeps_the_mean_of_each_block() -> None:
    picture = torch.rand((3, 16, 16), generator=torch.Generator().manual_seed(0))
    result = drop_detail(picture, torch.Generator().manual_seed(0))
    means = [x.reshape(3, 2, 8, 2, 8).mean((2, 4)) for x in (picture, result)]
    assert torch.allclose(*means, atol=0.005)
    assert float(result.diff(dim=-1).abs().mean()) < float(picture.diff(dim=-1).abs().mean())


def test_batches_are_a_function_of_the_step_and_never_held_out() -> None:
    first, second = draw_step(5, 3), draw_step(5, 3)
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(second).values()))
    assert not torch.equal(first.pictures, draw_step(6, 3).pictures)
    assert CHECK_SEED < FIRST_HELD_OUT_SEED
    with pytest.raises(ValueError, match="kept from training"):
        draw_step(20_000_000, 16)


def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    straight = Trainer(ParserObjective(TINY, is_ahead=False), config_for(tmp_path / "a"))
    logs = [straight.train_step() for _ in range(4)]
    stopped = Trainer(ParserObjective(TINY, is_ahead=False), config_for(tmp_path / "b"))
    for _ in range(2):
        stopped.train_step()
    stopped.save()
    resumed = Trainer(ParserObjective(TINY, is_ahead=False), config_for(tmp_path / "b"))
    resumed.resume()
    assert resumed.step == 2
    again = [resumed.train_step() for _ in range(2)]
    assert again == logs[2:]
    for name, value in straight.objective.modules.state_dict().items():
        assert torch.equal(value, resumed.objective.modules.state_dict()[name]), name
    assert all(torch.equal(value, resumed.ema[name]) for name, value in straight.ema.items())


def test_a_run_ends_in_files_that_load(tmp_path: Path) -> None:
    objective = ParserObjective(TINY, is_ahead=False)
    trainer = Trainer(objective, replace(config_for(tmp_path / "run"), total_steps=2))
    trainer.run(minutes=5)
    assert trainer.step == 2 and (tmp_path / "run" / "log.jsonl").read_text().count("worn_object") == 1
    figures = export_parser(trainer, objective, tmp_path / "parser", num_measured=2)
    assert set(figures["clean"]) == set(figures["worn"]) >= {"object", "kind", "colour", "count", "scene", "style"}
    parser = load_parser(tmp_path / "parser")
    assert len(parser.parse([Image.fromarray(render(one_boat()).rgb)])) == 1
    about = json.loads((tmp_path / "parser" / "config.json").read_text())
    assert about["recipe"]["scenes_seen"] == 4 and about["held_out_accuracy"]["first_seed"] == FIRST_HELD_OUT_SEED
    manifest = json.loads((tmp_path / "parser" / "MANIFEST.json").read_text())
    for name, row in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "parser" / name).read_bytes()).hexdigest() == row["sha256"]


def test_the_second_stage_moves_texture_and_scene_head_alone(tmp_path: Path) -> None:
    first = Trainer(ParserObjective(TINY, is_ahead=False), config_for(tmp_path / "first"))
    first.train_step()
    first.save()
    second = SceneObjective(TINY, is_ahead=False)
    assert second.load(tmp_path / "first")["step"] == 1
    trainer = Trainer(second, config_for(tmp_path / "second"))
    for _ in range(2):
        assert all(np.isfinite(value) for value in trainer.train_step().values())
    for name, value in second.modules.state_dict().items():
        is_kept = torch.equal(value, first.ema[name]) and torch.equal(trainer.ema[name], value)
        assert is_kept is not name.startswith(("parser.texture", "parser.scene_head")), name
    folder = tmp_path / "parser"
    export_parser(trainer, second, folder, num_measured=2, first_stage={"scenes_seen": 2})
    third = SceneObjective(TINY, is_ahead=False)
    assert third.load(folder)["first_stage"] == {"scenes_seen": 2}
    assert torch.allclose(third.model.stem[0].conv.weight, second.model.stem[0].conv.weight, atol=1e-3)


def test_drawing_ahead_gives_the_same_batches() -> None:
    ahead, plain = ParserObjective(TINY), ParserObjective(TINY, is_ahead=False)
    try:
        for step in (0, 1):
            pairs = zip(vars(ahead.make_batch(step, 2)).values(), vars(plain.make_batch(step, 2)).values())
            assert all(torch.equal(a, b) for a, b in pairs)
    finally:
        ahead.close()


def test_figures_count_what_is_wrong() -> None:
    scene = one_boat()
    box = render(scene).boxes_px[0]
    right = ParsedObject("boat", "red", tuple(float(edge) for edge in box), 0.9)

    def judge(*objects: ParsedObject, style: str = "flat") -> tuple[dict[str, float], list[str]]:
        return compare(scene, [box], ParsedScene(objects, "sea", "day", style))

    figures, reasons = judge(right)
    assert not reasons and all(value == 1.0 for value in figures.values())
    figures, reasons = judge(replace(right, colour="blue"))
    assert figures["kind"] == 1 and figures["colour"] == figures["object"] == figures["scene"] == 0
    assert reasons == ["red boat > blue boat"]
    figures, _ = judge(right, replace(right, box_px=(200.0, 200.0, 250.0, 250.0)))
    assert figures["object"] == 1 and figures["count"] == figures["scene"] == 0
    figures, reasons = judge(style="clay")
    assert figures["found"] == figures["style"] == 0 and reasons == ["red boat > nothing", "flat > clay"]
