"""How much of the prompt is in the pictures, and how near their things are to the subject: the numbers of the tab."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipelines.model import ModelBundle
from pipelines.style_measures import compare_colours
from pipelines.types import Measure


def measure_subject(
    model: ModelBundle, prompt: str, shown: Image.Image | None, images: Sequence[Image.Image]
) -> tuple[Measure, ...]:
    """Measure pictures against the subject and the prompt; a number's `off` is set by who compares.

    Units:   prompt is the one that the plain model reads; shown is a cut-out of the subject.
    Returns: only what this model can measure; nothing without a parser of its world.
    """
    judge = model.judge
    if judge is None:
        return ()
    found: list[tuple[str, str, float]] = []
    wanted = judge.read(prompt)
    if shown is not None and wanted is not None:
        distances = []
        for image, scene in zip(images, judge.parser.parse(list(images))):
            own = next((thing for thing in scene.objects if thing.kind == wanted.kind), None)
            # A picture without the subject is as far away as can be.
            distances.append(_compare(shown, image, own.box_px) if own else 1.0)
        found.append(("subject_distance", "Colours away from the subject", float(np.mean(distances))))
    agreement = judge.score(prompt, images)
    if agreement is not None:
        found.append(("prompt_agreement", "Named things found", agreement))
    return tuple(Measure(name, label, value, value, "share") for name, label, value in found)


def _compare(shown: Image.Image, image: Image.Image, box_px: tuple[float, float, float, float]) -> float:
    """Compare the colours of a cut-out with those in a box."""
    edges = tuple(round(side) for side in box_px)
    return compare_colours(shown, image.crop(edges))  # type: ignore[arg-type]
