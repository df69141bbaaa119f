"""What was measured of each subject, kept between runs, and the points, curves and figures that follow from it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, bootstrap
from benchmarks.studio import KEPT_DIGITS, identify_weights
from benchmarks.subject_trials import measure_hypervolume

# The curves: what is swept of each way of drawing; the default comes first and is the point that is reported.
LIKENESSES = (0.6, 0.3, 0.8)
WEIGHTS = (1.0, 1.3, 1.6)
PLAIN, LORA, DCO, GUIDED, INSTANT = "plain", "dreambooth", "dco", "guided", "instant"
# The same guidance without the subject's picture: what does that bring, and what the adapter alone?
UNSHOWN = "guided_unshown"
Key = tuple[str, float]
# What the ways that are told of in the README begin with in the figures, and what they are called.
TITLES = {
    "plain_": "plain model, told its kind and colour",
    f"{LORA}_": "DreamBooth-LoRA",
    f"{DCO}_": "DCO, adapter alone",
    f"{UNSHOWN}_": "DCO + reward guidance, without the subject's picture",
    "": "DCO + reward guidance, the subject's picture put in",
    f"{INSTANT}_": "Instant, from one picture",
}


@dataclass(eq=False)
class SubjectRows:
    """Hold what was measured of one subject.

    Shapes: identity, fidelity[key], clean and unmarked (prompts,), the last two how alike clean renders of the subject
            are, and those without its marks.
    Units:  asked says how each key's pictures came about; a row that was asked for otherwise is not taken.
    """

    clean: np.ndarray
    unmarked: np.ndarray
    identity: dict[Key, np.ndarray] = field(default_factory=dict)
    fidelity: dict[Key, np.ndarray] = field(default_factory=dict)
    asked: dict[Key, str] = field(default_factory=dict)

    def add(self, key: Key, asked: str, identity: np.ndarray, fidelity: np.ndarray) -> None:
        """Add one way of drawing."""
        self.identity[key], self.fidelity[key] = identity.round(KEPT_DIGITS), fidelity.round(KEPT_DIGITS)
        self.asked[key] = asked

    def save(self, path: Path) -> None:
        """Keep what is there so far."""
        values = {
            "weights": identify_weights([], ("identity_reader",)),
            "rows": [
                [*key, asked, self.identity[key].tolist(), self.fidelity[key].tolist()]
                for key, asked in self.asked.items()
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(gzip.compress(json.dumps(values, separators=(",", ":")).encode(), mtime=0))
        part.replace(path)

    def load(self, path: Path, wanted: dict[Key, str]) -> None:
        """Take what was kept, as far as it was asked for as now and of the same weights."""
        if not path.is_file():
            return
        values = json.loads(gzip.decompress(path.read_bytes()))
        if values["weights"] != identify_weights([], ("identity_reader",)):
            return
        for name, value, asked, identity, fidelity in values["rows"]:
            if wanted.get((name, value)) == asked:
                self.add((name, value), asked, np.array(identity), np.array(fidelity))


class Means:
    """Average the prompts of each subject once, for many draws of subjects."""

    def __init__(self, subjects: Sequence[SubjectRows]) -> None:
        self.keys = [key for key in subjects[0].asked if all(key in rows.asked for rows in subjects)]
        self.identity = {key: np.array([rows.identity[key].mean() for rows in subjects]) for key in self.keys}
        self.fidelity = {key: np.array([rows.fidelity[key].mean() for rows in subjects]) for key in self.keys}
        self.clean = np.array([rows.clean.mean() for rows in subjects])

    def point(self, key: Key, chosen: np.ndarray | slice = slice(None)) -> tuple[float, float]:
        """Return identity as a share of clean renders', and fidelity as a share of the plain model's."""
        identity = self.identity[key][chosen].mean() / self.clean[chosen].mean()
        return float(identity), float(self.fidelity[key][chosen].mean() / self.fidelity[(PLAIN, 0.0)][chosen].mean())

    def curve(self, name: str, chosen: np.ndarray | slice = slice(None)) -> float:
        """Return the hypervolume of one way's points, the plain model's included."""
        return measure_hypervolume([self.point(key, chosen) for key in self.keys if key[0] in (name, PLAIN)])


def make_figures(subjects: Sequence[SubjectRows]) -> dict[str, Figure]:
    """Put identity, fidelity and the gain in hypervolume together; intervals draw the subjects anew."""
    means = Means(subjects)
    groups = [np.arange(len(subjects))]
    plain = (PLAIN, 0.0)

    figures = {}
    for label, name in (("", GUIDED), (f"{UNSHOWN}_", UNSHOWN)):

        def gain(chosen: Sequence[np.ndarray], name: str = name) -> float:
            return means.curve(name, chosen[0]) - means.curve(LORA, chosen[0])

        figures[f"{label}hypervolume_gain"] = Figure(gain(groups), 0.0, bootstrap(groups, gain))
    for key in means.keys:
        label = (
            "" if key == (GUIDED, LIKENESSES[0]) else f"{key[0]}_{key[1]}_" if key in _list_swept() else f"{key[0]}_"
        )
        for index, name in enumerate(("identity_fraction", "prompt_fidelity_fraction")):

            def share(chosen: Sequence[np.ndarray], key: Key = key, index: int = index) -> float:
                return means.point(key, chosen[0])[index]

            value = means.point(key)[index]
            figures[f"{label}{name}"] = Figure(value, means.point(plain)[index], bootstrap(groups, share))
    for name in (GUIDED, LORA):
        figures[f"{name}_hypervolume"] = Figure(means.curve(name))
    unmarked = np.mean([rows.unmarked.mean() for rows in subjects]) / means.clean.mean()
    return figures | {"unmarked_identity_fraction": Figure(float(unmarked))}


def _list_swept() -> list[Key]:
    """List the points of the curves whose name needs their value."""
    guided = [(name, value) for name in (GUIDED, UNSHOWN) for value in LIKENESSES[1:]]
    return [*guided, *((LORA, value) for value in WEIGHTS[1:])]
