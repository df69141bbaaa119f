"""Several runs that are shown as one: the arms of a comparison."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from typing import TypeVar

from pipelines.types import Progress

Drawn = TypeVar("Drawn")


def count_on(
    stream: Generator[Progress, None, Drawn], label: str, arm: int, num_arms: int
) -> Generator[Progress, None, Drawn]:
    """Number the steps of one arm within all arms and add the arms to come to the time left.

    Units:   arm counts from 0; label goes before each note.
    Returns: a generator of Progress with the stream's own return value.
    """
    start = time.perf_counter()
    while True:
        try:
            progress = next(stream)
        except StopIteration as end:
            return end.value
        if progress.step == 0:
            start = time.perf_counter()
        step = arm * progress.num_steps + progress.step
        num_steps = num_arms * progress.num_steps
        yield replace(
            progress,
            step=step,
            num_steps=num_steps,
            note=f"{label}{progress.note}",
            # Before the first step of an arm nothing is known of how long one takes.
            seconds_left=(time.perf_counter() - start) / progress.step * (num_steps - step) if progress.step else 0.0,
        )
