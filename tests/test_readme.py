"""README.md and CONTRIBUTING.md keep their word: commands exist, code runs, numbers and lists match the source."""

import dataclasses
import re
import runpy
import shlex
from pathlib import Path

import pytest

from benchmarks.__main__ import make_parser
from benchmarks.drag_figures import ARM_TITLES as DRAG_TITLES
from benchmarks.figures import load_results
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.style_pairs import ARM_TITLES
from benchmarks.table import insert_table, make_table
from benchmarks.trials import TRIALS
from pipelines.backends import BACKEND_NAMES
from training.trainer import TrainerConfig
from training.world.scene import BACKGROUNDS, COLOURS, KINDS, STYLES

ROOT = Path(__file__).resolve().parents[1]
# What the figures beyond those of the table begin with.
TOLD = {
    "t2i_techniques": tuple(f"{trial.name}_" for trial in TRIALS),
    "style": (*(f"{name}_" for name in ARM_TITLES), "pareto_"),
    "drag": (*(f"{name}_" for name in DRAG_TITLES), "ruler_", "refused_rate", "unread_rate"),
    "personalization": ("plain_", "dreambooth_", "dco_", "guided_", "instant_", "unmarked_identity_fraction"),
    "super_resolution": (
        *("bicubic_", "lanczos_", "backprojection_", "faithful_", "esrgan_slim_", "known_"),
        "explore_",
        *("x4_gain_over_lanczos_db", "x4_gain_over_esrgan_slim_db"),
        *("detail_sharpness_error", "detail_border_to_all_steps"),
    ),
    "low_light": (
        *("oracle_", "clahe_", "lime_", "curve_", "diffusion_", "blind_", "parser_"),
        *("bright_unchanged", "peak_mb"),
    ),
    "preview_3d": ("inflate_", "views_", "falling_", "uniform_", "parallax_"),
}
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def blocks(language: str) -> list[str]:
    """List the code blocks of README.md in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def section(title: str) -> str:
    """Cut one section out of README.md."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """List the first column of a table without its head."""
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]


def option_names(text: str) -> set[str]:
    """Collect the long options that a text names."""
    return set(re.findall(r"--[a-z][a-z-]+", text))


def recipe_options(words: list[str]) -> set[str]:
    """Collect the options that a make command passes on in ARGS."""
    return {option for word in words if word.startswith("ARGS=") for option in option_names(word)}


def known_options(target: str) -> set[str]:
    """Collect the options of the recipe behind a make target: its own, the trainer's, one per field of the record."""
    recipe = ROOT / "training" / f"{target.replace('-', '_')}.py"
    if not recipe.exists():
        return set()
    fields = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(TrainerConfig)}
    texts = (path.read_text("utf-8") for path in (recipe, ROOT / "training" / "trainer.py"))
    return fields | {option for text in texts for option in re.findall(r'add_argument\("(--[a-z-]+)"', text)}


COMMANDS = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        assert words[1] in TARGETS
        assert words[1] == "run" or recipe_options(words) <= known_options(words[1])
    else:
        assert words[:3] == ["python", "-m", "benchmarks"], f"no test knows how to check {command!r}"
        make_parser().parse_args(words[3:])


def test_make_targets_start_modules_that_exist() -> None:
    modules = set(re.findall(r"-m ((?:training|benchmarks)[\w.]*)", MAKEFILE))
    assert modules
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    measured = re.findall(r"benchmarks run (\w+) --json benchmarks/results/(\w+)\.json", MAKEFILE)
    assert measured and all(name == file for name, file in measured)
    assert {name for name, _ in measured} == {scenario.name for scenario in SCENARIOS}


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_every_python_block_runs(index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "block.py").write_text(blocks("python")[index], "utf-8")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("block.py")


def test_measured_table_is_what_the_committed_results_say() -> None:
    assert insert_table(README, make_table(load_results())) == README, "run: python -m benchmarks table"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_has_a_committed_result_with_all_its_figures(scenario: Scenario) -> None:
    result = load_results()[scenario.name]
    named = {figure.name for figure in scenario.figures}
    # Beyond those of the table only what is told of each thing that was tried, as NAME_effect and so on.
    assert named <= set(result["figures"])
    assert all(name in named or name.startswith(TOLD.get(scenario.name, ())) for name in result["figures"])
    for figure in result["figures"].values():
        assert set(figure) == {"value", "baseline", "ci95", "unit"}
        assert figure["ci95"] is None or figure["ci95"][0] <= figure["value"] <= figure["ci95"][1]


def test_every_file_that_is_named_exists() -> None:
    for name, text in (("README.md", README), ("CONTRIBUTING.md", CONTRIBUTING)):
        paths = re.findall(r"`([\w./]+/[\w.]*)`", text) + re.findall(r"(?:\]\(|src=\")([\w./-]+)", text)
        missing = [path for path in paths if not path.startswith("training_runs") and not (ROOT / path).exists()]
        assert not missing, f"{name} names {missing}"


def test_options_are_those_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    import app

    with pytest.raises(SystemExit):
        app.parse(["--help"])
    assert option_names(section("Options")) == option_names(capsys.readouterr().out) - {"--help"}


def test_backends_and_tabs_are_those_of_the_page() -> None:
    from tabs import TABS

    assert first_cells(section("Backends")) == [f"`{name}`" for name in BACKEND_NAMES]
    assert first_cells(section("The tabs")) == [tab.TITLE for tab in TABS]


def test_every_dependency_is_explained() -> None:
    lines = [
        line
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (ROOT / name).read_text("utf-8").splitlines()
    ]
    required = {match[1] for line in lines if (match := re.match(r"([a-z][\w-]*)", line))}
    explained = {name.strip() for cell in first_cells(section("What it depends on")) for name in cell.split(",")}
    assert explained == required


def test_the_world_is_as_large_as_the_text_says() -> None:
    words = (
        f"{len(KINDS)} kinds of things, {len(COLOURS)} colours, {len(BACKGROUNDS)} backgrounds, {len(STYLES)} styles"
    )
    assert words in README


def test_front_matter_fits_a_space() -> None:
    front = dict(line.split(": ", 1) for line in README.split("---\n")[1].splitlines() if ": " in line)
    assert front["sdk"] == "gradio" and (ROOT / front["app_file"]).exists()
    assert len(front["short_description"]) <= 60
    low, high = re.findall(r"gradio>=([\d.]+),<([\d.]+)", (ROOT / "requirements.txt").read_text("utf-8"))[0]

    def order(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split("."))

    assert order(low) <= order(front["sdk_version"]) < order(high)


def test_continuous_integration_runs_the_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run must be executable"
    assert "make --no-print-directory test\n" in script.read_text("utf-8")
