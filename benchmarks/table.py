"""The measured table of README.md, written from the committed results so that a number exists once.

Nothing is measured here; a scenario without a committed result is named as such.
"""

from pathlib import Path
from typing import Any

from benchmarks.figures import load_results
from benchmarks.scenarios import SCENARIOS, FigureSpec

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- measured: written by `python -m benchmarks table` -->"
HEAD = "| figure | measured | 95 % interval | compared with | aim |\n|---|---|---|---|---|"
END = "<!-- end of measured -->"


def write_number(value: float | None, unit: str) -> str:
    """Write a figure with as many digits as it deserves; a missing one as a dash."""
    if value is None:
        return "–"
    digits = 0 if unit == "MB" else 3 if unit == "" else 2
    return f"{value:.{digits}f}" + (f" {unit}" if unit else "")


def write_row(spec: FigureSpec, figure: dict[str, Any]) -> str:
    """Write one line of the table."""
    unit = figure["unit"]
    value, baseline = write_number(figure["value"], unit), write_number(figure["baseline"], unit)
    spread = " to ".join(write_number(end, unit) for end in figure["ci95"]) if figure["ci95"] else "–"
    aim = f"{'at most' if spec.is_lower_better else 'at least'} {spec.aim:g}"
    return f"| {' | '.join((spec.label, f'**{value}**', spread, baseline, aim))} |"


def write_machine(result: dict[str, Any]) -> str:
    """Write where and with what a scenario was measured."""
    machine, versions = result["machine"], result["versions"]
    parts = [f"{machine['cores']} cores ({machine['cpu']})", f"{machine['ram_gb']:.0f} GB"]
    if "gpu" in machine:
        parts.insert(0, machine["gpu"])
    parts += [f"torch {versions['torch']}", f"diffusers {versions['diffusers']}", f"n = {result['n']}"]
    return ", ".join(parts)


def make_technique_table(figures: dict[str, Any]) -> str:
    """Write one line for each technique that was tried: its own metric, the quality of the pictures, and the cost."""
    from benchmarks.trials import TRIALS  # needs torch, which the other tables do not

    lines = [
        "| technique | its own metric | without | with | effect (95 %) | farther from scenes | passes | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for trial in TRIALS:
        if f"{trial.name}_effect" not in figures:
            continue
        effect, distance, passes, seconds = (
            figures[f"{trial.name}_{part}"] for part in ("effect", "distance", "passes", "picture_seconds")
        )
        off = effect["baseline"]
        on = off - effect["value"] if trial.is_lower_better or trial.is_quality else off + effect["value"]
        low, high = effect["ci95"]
        cells = (
            trial.name,
            trial.label,
            f"{off:.3f}",
            f"**{on:.3f}**",
            f"{effect['value']:+.3f} ({low:+.3f} to {high:+.3f})",
            f"{distance['value']:+.2f} ({distance['ci95'][0]:+.2f} to {distance['ci95'][1]:+.2f})",
            f"x {passes['value']:.1f}",
            f"{seconds['value']:.1f} ({seconds['baseline']:.1f})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def make_style_table(figures: dict[str, Any]) -> str:
    """Write one line for each way to a picture in a style; distances as shares of those with words alone."""
    from benchmarks.style_pairs import ARM_TITLES  # needs torch, which the other tables do not

    lines = [
        "| way | distance to the style | Gram distance | kind and colour as asked | the reference's thing appears |",
        "|---|---|---|---|---|",
    ]
    for name, title in ARM_TITLES.items():
        cells = [title]
        for part in ("distance_ratio", "gram_ratio", "content", "leaks"):
            figure = figures[f"{name}_{part}"]
            low, high = figure["ci95"]
            spread = f" ({low:.3f} to {high:.3f})" if low < high else ""
            cells.append(f"{figure['value']:.3f}{spread}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def make_drag_table(figures: dict[str, Any]) -> str:
    """Write one line for each way of dragging; distances as shares of the way, by the parser and by drawings."""
    from benchmarks.drag_figures import ARM_TITLES  # needs torch, which the other tables do not

    lines = [
        "| way | distance left | by drawings along the way | kept | inside like the answer | something left behind |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in ARM_TITLES.items():
        cells = [title]
        for part in ("distance_ratio", "path_distance_ratio", "kept_rate", "inside_psnr_db", "ghost_rate"):
            figure = figures[f"{name}_{part}"]
            digits = 1 if figure["unit"] == "dB" else 3
            low, high = figure["ci95"]
            spread = f" ({low:.{digits}f} to {high:.{digits}f})" if low < high else ""
            cells.append(f"{figure['value']:.{digits}f}{' dB' if figure['unit'] else ''}{spread}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def make_subject_table(figures: dict[str, Any]) -> str:
    """Write one line for each way of drawing a subject; shares of clean renders' identity, of the plain fidelity."""
    from benchmarks.subject_rows import TITLES  # needs torch, which the other tables do not

    lines = ["| way | identity | prompt fidelity |", "|---|---|---|"]
    for label, title in TITLES.items():
        cells = [title]
        for part in ("identity_fraction", "prompt_fidelity_fraction"):
            figure = figures[f"{label}{part}"]
            low, high = figure["ci95"]
            spread = f" ({low:.3f} to {high:.3f})" if low < high else ""
            cells.append(f"{figure['value']:.3f}{spread}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def make_table(results: dict[str, dict[str, Any]]) -> str:
    """Write the whole section between the markers."""
    blocks = []
    for scenario in SCENARIOS:
        if scenario.name not in results:
            continue
        result = results[scenario.name]
        rows = [write_row(spec, result["figures"][spec.name]) for spec in scenario.figures]
        head = f"**{scenario.title}** (`{scenario.name}`; {write_machine(result)} {scenario.counts})"
        lines = [
            head,
            "",
            "| figure | measured | 95 % interval | compared with | aim |",
            "|---|---|---|---|---|",
            *rows,
        ]
        blocks.append("\n".join(lines))
        if scenario.name == "t2i_techniques":
            blocks.append(make_technique_table(result["figures"]))
        if scenario.name == "style":
            blocks.append(make_style_table(result["figures"]))
        if scenario.name == "drag":
            blocks.append(make_drag_table(result["figures"]))
        if scenario.name == "personalization":
            blocks.append(make_subject_table(result["figures"]))
    return "\n\n".join(blocks)


def insert_table(readme: str, table: str) -> str:
    """Replace what stands between the markers.

    Raises: ValueError if the markers are missing.
    """
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}")
    before, rest = readme.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def update_readme() -> bool:
    """Write the table into README.md and say whether that changed it."""
    old = README.read_text("utf-8")
    new = insert_table(old, make_table(load_results()))
    README.write_text(new, "utf-8")
    return new != old
