"""The numbers that techniques are supposed to move, without them and with them, from the pictures alone.

What is measured follows from what the run used: contrast where guidance was changed, places where there was a layout,
absence where something was to be forgotten, seams where there were windows; and always how much of the prompt is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from PIL import Image

from pipelines.denoise import Sketches
from pipelines.images import measure_contrast
from pipelines.model import ModelBundle
from pipelines.seams import measure_seams
from pipelines.techniques.base import Technique
from pipelines.types import Measure
from pipelines.windows import Window

Pictures = Sequence[Image.Image]


def measure(
    model: ModelBundle, prompt: str, techniques: Sequence[Technique], arms: Sequence[Pictures], sketches: Sketches
) -> tuple[Measure, ...]:
    """Measure the pictures of both arms, without and with the techniques.

    Returns: only what this model can measure; where no parser knows its world, what pixels alone tell.
    """
    found: list[Measure | None] = []
    if any("combine" in technique.points for technique in techniques):
        (clipped_off, contrast_off), (clipped_on, contrast_on) = (measure_contrast(pictures) for pictures in arms)
        found.append(Measure("clipped_frac", "Pixels at black or white", clipped_off, clipped_on, "share"))
        found.append(Measure("rms_contrast", "RMS contrast", contrast_off, contrast_on, "share"))
    if sketches.windows:
        found.append(_pair_seams(sketches.windows, model.spec.px_per_cell, arms))
    if judge := model.judge:
        boxes = sketches.boxes
        if boxes:
            found.append(_pair("instance_success", "Boxes filled", arms, lambda p: judge.place(boxes, p)[0]))
            found.append(_pair("layout_miou", "Mean IoU", arms, lambda p: judge.place(boxes, p)[1]))
        for noun in sketches.watched:
            found.append(_pair("found_frac", f"Pictures with {noun}", arms, partial(judge.find, noun)))
        found.append(_pair("prompt_agreement", "Named things found", arms, partial(judge.score, prompt)))
    return tuple(measure for measure in found if measure)


def _pair_seams(windows: Sequence[Window], px_per_cell: int, arms: Sequence[Pictures]) -> Measure | None:
    """Measure the seams of both arms at the same places; None where the windows stand too close to tell."""
    try:
        off, on = (measure_seams(pictures, windows, px_per_cell) for pictures in arms)
    except ValueError:
        return None
    return Measure("seam_ratio", "Change across window borders (1 = as beside)", off, on)


def _pair(name: str, label: str, arms: Sequence[Pictures], score: Callable[[Pictures], float | None]) -> Measure | None:
    """Score both arms; None if there is nothing to score."""
    off, on = (score(pictures) for pictures in arms)
    return None if off is None or on is None else Measure(name, label, off, on, "share")
