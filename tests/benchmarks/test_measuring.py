"""The measurements on tiny parts: the same pictures as the page's, and a figure for everything that is promised."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import fidelity
from benchmarks.__main__ import main
from benchmarks.fidelity import Studio, measure_gap, measure_parser
from benchmarks.held_out import NUM_STEPS, draw_pictures, draw_scenes
from benchmarks.memory import PROMPT, OneModel, draw_one
from benchmarks.prompts import make_asks
from benchmarks.scenarios import SCENARIOS, find_scenario
from benchmarks.speed import make_plain, measure_stop
from benchmarks.table import BEGIN, END, insert_table, make_table, write_number
from pipelines import TextToImageRequest, text_to_image_stream
from pipelines.model import ModelBundle
from pipelines.scene_parser import ParserConfig, ParserModel, SceneParser
from training.world.scene import BACKGROUNDS, COLOURS, FIRST_HELD_OUT_SEED, KINDS, LIGHTS, STYLES


@pytest.fixture(scope="module")
def parser() -> SceneParser:
    """A scene parser with random weights."""
    return SceneParser(ParserModel(ParserConfig(KINDS, COLOURS, STYLES, BACKGROUNDS, LIGHTS, widths=(8, 8, 8, 8))))


def test_measured_pictures_are_those_of_the_page(tiny_storybook: ModelBundle) -> None:
    other = "a star"
    measured = draw_pictures(tiny_storybook, [other, PROMPT], 5, "pictures")[1]
    *_, result = text_to_image_stream(TextToImageRequest(PROMPT, seed=6), OneModel(tiny_storybook))
    assert result.request.num_steps == NUM_STEPS  # type: ignore[union-attr]
    assert np.array_equal(np.asarray(measured), np.asarray(result.images[0]))  # type: ignore[union-attr]


def test_scenes_are_held_out() -> None:
    assert all(scene.seed >= FIRST_HELD_OUT_SEED for scene, _ in draw_scenes(FIRST_HELD_OUT_SEED, 3))


def test_scores_are_shares_and_a_sheet_can_be_looked_at(
    tiny_storybook: ModelBundle, parser: SceneParser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.held_out.NUM_STEPS", 1)
    studio = Studio(tiny_storybook, parser, tmp_path / "sheet")
    shares = studio.score("geneval_single", make_asks("geneval_single", 3), per_prompt=2)
    assert shares.shape == (3,) and set(shares * 2) <= {0, 1, 2}
    assert (tmp_path / "sheet" / "geneval_single.png").exists()
    assert studio.next_seed > FIRST_HELD_OUT_SEED + 200_000
    gap = measure_gap(studio, 2)
    assert -1 <= gap.value <= 1 and gap.ci95 is not None


def test_parser_figures_have_both_names(tiny_storybook: ModelBundle, parser: SceneParser) -> None:
    figures = measure_parser(tiny_storybook, parser, 2)
    assert list(figures) == ["parser_clean_acc", "parser_roundtrip_acc"]
    assert fidelity.NUM_SCENES == 2000


def test_plain_diffusers_draws_the_same_picture(tiny_storybook: ModelBundle) -> None:
    plain, ours = make_plain(tiny_storybook)(3), draw_one(tiny_storybook, 3).images[0]
    assert np.abs(np.asarray(plain, dtype=int) - np.asarray(ours, dtype=int)).max() <= 2


def test_stop_leaves_the_model_free(tiny_storybook: ModelBundle) -> None:
    assert measure_stop(tiny_storybook, 0.01) >= 0
    assert tiny_storybook.lock.acquire(blocking=False)
    tiny_storybook.lock.release()
    assert draw_one(tiny_storybook).images


def test_list_names_every_scenario_and_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(scenario.name in listed for scenario in SCENARIOS)
    assert all(figure.name in listed for scenario in SCENARIOS for figure in scenario.figures)


def test_wrong_input_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "startup", "--n", "0"]) == 2
    assert "choose 1 or more" in capsys.readouterr().err
    with pytest.raises(ValueError, match="choose one of t2i_fidelity"):
        find_scenario("nothing")
    with pytest.raises(ValueError, match="needs the lines"):
        insert_table("no markers", "table")


def test_table_is_written_between_the_markers_and_only_there() -> None:
    figure = {"value": 31.234, "baseline": 28.0, "ci95": [31.1, 31.4], "unit": "dB"}
    machine = {"cpu": "a processor", "cores": 2, "ram_gb": 8.0}
    versions = {"torch": "2.13", "diffusers": "0.42"}
    result = {"machine": machine, "versions": versions, "n": 500, "figures": {"autoencoder_psnr_db": figure}}
    written = insert_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", make_table({"autoencoder": result}))
    assert written.startswith(f"before\n{BEGIN}\n") and written.endswith(f"\n{END}\nafter\n") and "old" not in written
    assert "| **31.23 dB** | 31.10 dB to 31.40 dB | 28.00 dB | at least 30 |" in written
    assert write_number(None, "s") == "–" and write_number(1999.6, "MB") == "2000 MB"
