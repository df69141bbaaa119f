"""Parts of a measurement that are kept: what takes long and has no times in it need not be measured in one go."""

import json
from collections.abc import Callable
from dataclasses import asdict

from benchmarks.figures import Figure, RunSettings


def keep_part(settings: RunSettings, name: str, make: Callable[[], dict[str, Figure]]) -> dict[str, Figure]:
    """Take a finished part of the measurement from the folder of kept parts, or make it and keep it there."""
    path = settings.keep and settings.keep / f"{name}.json"
    if path and path.exists():
        return {key: Figure(**value) for key, value in json.loads(path.read_text("utf-8")).items()}
    figures = make()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({key: asdict(value) for key, value in figures.items()}, indent=1), "utf-8")
    return figures
