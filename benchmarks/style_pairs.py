"""What style prompting is tried on: pairs of a reference picture and a prompt for something else; and its figures.

Plain data and judgements; style.py draws the pictures. No pair here was used to choose a technique's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.figures import Figure, bootstrap, make_figure, make_median_figure
from benchmarks.geneval import Ask, Wanted, find
from benchmarks.prompts import BACKGROUND_PHRASES
from benchmarks.studio import Arm
from benchmarks.trials import is_right
from training.world.caption import object_phrase
from training.world.scene import (
    BACKGROUNDS,
    COLOURS,
    FIRST_HELD_OUT_SEED,
    KINDS,
    STYLES,
    Scene,
    is_drawable,
    sample_scene,
)

SEED = 47_110
# Held-out seeds that nothing else draws from: of the references, and of what a perfect answer could look like.
REFERENCE_SEEDS = FIRST_HELD_OUT_SEED + 1_200_000_000
ANSWER_SEEDS = FIRST_HELD_OUT_SEED + 1_300_000_000
# Columns of an arm's features: distances to the reference as it is read, to its true parameters, and of Gram matrices.
READ, TRUE, GRAM = range(3)
TINY = 1e-9  # of a distance, so that it has a logarithm
WORDS, ALIGNED, VISUAL, NAMED, DRAWN = "words", "style_aligned", "visual_style", "named", "drawn"
ARM_TITLES = {
    WORDS: "words alone",
    ALIGNED: "StyleAligned",
    VISUAL: "Visual Style Prompting",
    NAMED: "the style named in the prompt",
    DRAWN: "drawn, not generated: what a perfect answer has",
}


@dataclass(frozen=True)
class Pair:
    """A picture to take the style from, and what is to be drawn in it.

    `ask` is another kind in another colour, half of the time before another background, and names no style; what
    counts is kind and colour. `answer` is a scene of the prompt in the reference's style with its hidden parameters.
    """

    reference: Scene
    ask: Ask
    answer: Scene

    @property
    def named(self) -> str:
        """The prompt with the name of the reference's style."""
        return f"{self.ask.prompt}, {self.reference.style}"


def make_pairs(n: int) -> list[Pair]:
    """Make n pairs, the same ones every time, every style in turn."""
    rng = np.random.default_rng(SEED)
    pairs, reference_seed, answer_seed = [], REFERENCE_SEEDS, ANSWER_SEEDS
    for index in range(n):
        reference = _find_single(reference_seed, STYLES[index % len(STYLES)])
        shown = reference.objects[0]
        kind = _choose(rng, [kind for kind in KINDS if kind != shown.kind])
        colour = _choose(rng, [c for c in COLOURS if c != shown.colour and is_drawable(c, reference.style)])
        background = _choose(rng, [name for name in BACKGROUNDS if name != reference.background])
        is_told = rng.random() < 0.5
        prompt = object_phrase(kind, colour) + (f" {BACKGROUND_PHRASES[background]}" if is_told else "")
        answer = _find_single(answer_seed, reference.style)
        answer_seed, reference_seed = answer.seed + 1, reference.seed + 1
        thing = replace(answer.objects[0], kind=kind, colour=colour)
        place = background if is_told else answer.background
        answer = replace(answer, objects=(thing,), background=place, look=reference.look)
        pairs.append(Pair(reference, Ask(prompt, (Wanted(kind, colour),)), answer))
    return pairs


def _choose(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def _find_single(seed: int, style: str) -> Scene:
    """Draw held-out scenes from a seed on until one shows one thing in this style."""
    while len((scene := sample_scene(seed, split="all")).objects) != 1 or scene.style != style:
        seed += 1
    return scene


def find_leaks(pairs: Sequence[Pair], arm: Arm) -> np.ndarray:
    """Say where the reference's thing appears although another one was asked for. Shapes: returns (n,) of 0 and 1."""
    shown = (Wanted(pair.reference.objects[0].kind) for pair in pairs)
    return np.array([bool(find(seen.parsed, wanted)) for seen, wanted in zip(arm.seen, shown)], dtype=float)


def compare_ratio(off: np.ndarray, on: np.ndarray, baseline: float | None = None) -> Figure:
    """Return the mean of one arm as a share of the other's; pairs are resampled together."""

    def divide(groups: Sequence[np.ndarray]) -> float:
        return float(groups[0][:, 1].mean() / groups[0][:, 0].mean())

    both = np.stack([off, on], 1)
    return Figure(divide([both]), baseline, bootstrap([both], divide))


def compare_shares(off: np.ndarray, on: np.ndarray, baseline: float | None = None) -> Figure:
    """Return the geometric mean of each pair's own ratio.

    For Gram distances, which have no upper end: a bright picture beside a dark reference is a hundred times as far as
    others, and a few such pairs would decide a ratio of means.
    """
    logs = np.log(np.maximum(on, TINY)) - np.log(np.maximum(off, TINY))

    def average(groups: Sequence[np.ndarray]) -> float:
        return float(np.exp(groups[0].mean()))

    return Figure(average([logs]), baseline, bootstrap([logs], average))


def compare_difference(off: np.ndarray, on: np.ndarray, baseline: float | None = None) -> Figure:
    """Return how much higher the second arm is; pairs are resampled together."""
    return Figure(float((on - off).mean()), baseline, bootstrap([on - off]))


def summarise(pairs: Sequence[Pair], arms: Mapping[str, Arm]) -> dict[str, Figure]:
    """Compare Visual Style Prompting: its distances with StyleAligned's, what it shows with words alone."""
    words, aligned, visual = (arms[name] for name in (WORDS, ALIGNED, VISUAL))
    figures = {}
    for name, column, compare in (("style", READ, compare_ratio), ("gram", GRAM, compare_shares)):
        figures[f"{name}_distance_ratio"] = compare(aligned.features[:, column], visual.features[:, column], 1.0)
    off, other, on = (arm.score(is_right) for arm in (words, aligned, visual))
    figures["content_accuracy_gap"] = compare_difference(on, off, float((off - other).mean()))
    off, other, on = (find_leaks(pairs, arm) for arm in (words, aligned, visual))
    figures["leakage"] = compare_difference(off, on, float((other - off).mean()))
    return figures


def describe_arms(pairs: Sequence[Pair], arms: Mapping[str, Arm]) -> dict[str, Figure]:
    """Give every arm's own numbers, and its distances as shares of those with words alone.

    The arm `drawn` is what the reader makes of a perfect answer: no technique can be expected below it.
    """
    figures = {}
    words = arms[WORDS]
    for name, arm in arms.items():
        figures[f"{name}_content"] = make_figure(arm.score(is_right).tolist())
        figures[f"{name}_leaks"] = make_figure(find_leaks(pairs, arm).tolist())
        for label, column in (("distance", READ), ("true_distance", TRUE)):
            off, on = words.features[:, column], arm.features[:, column]
            figures[f"{name}_{label}"] = make_figure(on.tolist())
            figures[f"{name}_{label}_ratio"] = compare_ratio(off, on)
        figures[f"{name}_gram"] = make_median_figure(arm.features[:, GRAM].tolist())
        figures[f"{name}_gram_ratio"] = compare_shares(words.features[:, GRAM], arm.features[:, GRAM])
    return figures


def describe_point(name: str, words: Arm, arm: Arm) -> dict[str, Figure]:
    """Give one point of the curve of style against content; the baselines are words alone on the same pairs."""
    count = len(arm.seen)
    distance, content = words.features[:count, READ], words.score(is_right)[:count]
    return {
        f"pareto_{name}_distance": make_figure(arm.features[:, READ].tolist(), baseline=float(distance.mean())),
        f"pareto_{name}_content": make_figure(arm.score(is_right).tolist(), baseline=float(content.mean())),
    }


def compare_curves(rivals: Sequence[Arm], arms: Sequence[Arm]) -> Figure:
    """Say how one curve of style against content lies to another one: below 1, it is better at every strength.

    Shapes:  all arms drew the same pairs, which are resampled together.
    Returns: the highest ratio, over the rival's points, of the shortest distance that shows no less of the content to
             the rival's distance; 1 where no point shows as much.
    """
    # (pairs, arms, distance and content), the rivals first.
    table = np.stack([np.stack([arm.features[:, READ], arm.score(is_right)], 1) for arm in (*rivals, *arms)], 1)

    def find_worst(groups: Sequence[np.ndarray]) -> float:
        means = groups[0].mean(0)
        ratios = []
        for distance, content in means[: len(rivals)]:
            shown = means[len(rivals) :]
            shown = shown[shown[:, 1] >= content, 0]
            ratios.append(float(shown.min() / distance) if len(shown) else 1.0)
        return max(ratios)

    return Figure(find_worst([table]), 1.0, bootstrap([table], find_worst))
