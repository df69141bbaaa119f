"""Figures with their uncertainty, the machine they were measured on, and the JSON form of a result.

A figure is one number: value, what it is compared with (or None), its 95 % interval (or None) and its unit.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "diffusers", "transformers", "gradio", "numpy", "pillow")
NUM_RESAMPLES = 2000
Statistic = Callable[[Sequence[np.ndarray]], float]


@dataclass(frozen=True)
class Figure:
    """Hold one measured number. Units: fractions 0..1 have the empty unit; ci95 is (low, high)."""

    value: float
    baseline: float | None = None
    ci95: tuple[float, float] | None = None
    unit: str = ""


@dataclass(frozen=True)
class RunSettings:
    """Say how large a measurement is.

    Units: n counts prompts a task, scenes or repeats, as the scenario says; sheet is a folder for pictures to look at,
           keep one for finished parts, from which an interrupted measurement goes on.
    """

    n: int
    device: str | None = None
    sheet: Path | None = None
    keep: Path | None = None


def mean_of_groups(groups: Sequence[np.ndarray]) -> float:
    """Average the groups' means, so that every group counts the same whatever its size."""
    return float(np.mean([group.mean() for group in groups]))


def bootstrap(groups: Sequence[np.ndarray], statistic: Statistic = mean_of_groups) -> tuple[float, float]:
    """Give the 95 % interval of a statistic by drawing each group's members anew.

    Shapes:  groups: one array (n,) of independent measurements each, resampled within itself.
    Returns: the 2.5 % and 97.5 % points over 2,000 draws with a fixed seed.
    Source:  Efron 1979, The Annals of Statistics 7(1), percentile interval.
    """
    rng = np.random.default_rng(0)
    draws = [statistic([rng.choice(group, len(group)) for group in groups]) for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def make_figure(values: Sequence[float], *, unit: str = "", baseline: float | None = None) -> Figure:
    """Average independent measurements into a figure with its interval."""
    group = np.asarray(values, dtype=float)
    return Figure(float(group.mean()), baseline, bootstrap([group]), unit)


def make_median_figure(values: Sequence[float], *, unit: str = "", baseline: float | None = None) -> Figure:
    """Take the median of repeated timings, which one slow repeat does not move."""
    group = np.asarray(values, dtype=float)
    interval = bootstrap([group], lambda groups: float(np.median(groups[0])))
    return Figure(float(np.median(group)), baseline, interval, unit)


def describe_machine(device: str | None) -> dict[str, Any]:
    """Name processor, cores and memory, and the accelerator when one was used; nothing that identifies a host."""
    machine: dict[str, Any] = {
        "cpu": read_proc("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ram_gb": round(int((read_proc("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 2**20, 1),
        "system": platform.system(),
    }
    if device and device.startswith("cuda"):
        import torch

        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def read_proc(path: str, key: str) -> str:
    """Read one `key: value` line of a Linux status file; empty elsewhere."""
    if not Path(path).exists():
        return ""
    lines = Path(path).read_text("utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def describe_versions() -> dict[str, str]:
    """Name the versions of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def save_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON with sorted-in-place figures, one line each value, so that diffs are readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")


def make_result(scenario: str, settings: RunSettings, figures: dict[str, Figure]) -> dict[str, Any]:
    """Put a scenario's figures together with the machine and the versions they were measured with."""
    return {
        "scenario": scenario,
        "machine": describe_machine(settings.device),
        "versions": describe_versions(),
        "n": settings.n,
        "figures": {name: asdict(figure) for name, figure in figures.items()},
    }


def load_results() -> dict[str, dict[str, Any]]:
    """Read the committed results, by scenario name."""
    loaded = (json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json")))
    return {result["scenario"]: result for result in loaded}
