"""Command line: `python -m benchmarks list | run NAME [--n N] [--json FILE] | table`."""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.figures import Figure, RunSettings, make_result, save_result
from benchmarks.scenarios import SCENARIOS, Scenario, find_scenario
from benchmarks.table import update_readme, write_number


def make_parser() -> argparse.ArgumentParser:
    """Describe the three commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what README.md quotes.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the scenarios")
    commands.add_parser("table", help="rewrite the measured table of README.md from the committed results")
    run = commands.add_parser("run", help="measure one scenario")
    run.add_argument("name", choices=[scenario.name for scenario in SCENARIOS])
    run.add_argument("--n", type=int, help="size of the measurement; smaller is quicker and less certain")
    run.add_argument("--json", type=Path, help="write the result to this file")
    run.add_argument("--sheet", type=Path, help="also write pictures into this folder, to look at")
    run.add_argument(
        "--keep", type=Path, help="t2i_techniques, style, drag, low_light: go on from the finished parts in this folder"
    )
    run.add_argument("--device", help="cpu, cuda or mps; without it the same choice as the page's")
    return parser


def print_list() -> None:
    """Print each scenario with its size and its figures."""
    for scenario in SCENARIOS:
        print(f"{scenario.name:<14} {scenario.title} (--n {scenario.default_n} {scenario.counts})")
        for figure in scenario.figures:
            print(f"{'':<14}   {figure.name:<22} {figure.label}")


def print_figures(scenario: Scenario, figures: dict[str, Figure]) -> None:
    """Print the measured figures as a table."""
    print(f"\n{'figure':<22} {'measured':>12} {'95 % interval':>20} {'compared with':>14}")
    for spec in scenario.figures:
        figure = figures[spec.name]
        spread = f"{figure.ci95[0]:.3f} to {figure.ci95[1]:.3f}" if figure.ci95 else "–"
        value, baseline = write_number(figure.value, figure.unit), write_number(figure.baseline, figure.unit)
        print(f"{spec.name:<22} {value:>12} {spread:>20} {baseline:>14}")


def run_scenario(scenario: Scenario, settings: RunSettings, json_path: Path | None) -> None:
    """Measure one scenario, print its figures and its JSON, and write the JSON where asked."""
    figures = import_module(scenario.module).measure(settings)
    result = make_result(scenario.name, settings, figures)
    print_figures(scenario, figures)
    if json_path is None:
        print("\n" + json.dumps(result, ensure_ascii=False))
    else:
        save_result(json_path, result)
        print(f"\nwritten: {json_path}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = make_parser().parse_args(arguments)
    if options.command == "list":
        print_list()
    elif options.command == "table":
        print("README.md changed" if update_readme() else "README.md was up to date")
    else:
        scenario = find_scenario(options.name)
        size = scenario.default_n if options.n is None else options.n
        if size < 1:
            print(f"--n {size} is too low; choose 1 or more.", file=sys.stderr)
            return 2
        run_scenario(scenario, RunSettings(size, options.device, options.sheet, options.keep), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
