"""What each technique changes: the same prompts and seeds without and with it, judged by the scene parser.

studio.py draws the pictures, trials.py says what is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.fidelity import PARSER_FOLDER
from benchmarks.figures import Figure, RunSettings, bootstrap, make_figure
from benchmarks.held_out import load_storybook
from benchmarks.quality import compare
from benchmarks.studio import Arm, Score, Studio
from benchmarks.trials import TRIALS, Trial, fill_boxes, is_found, is_right, overlap_boxes
from pipelines.scene_parser import load_parser


def compare_pairs(off: np.ndarray, on: np.ndarray, *, is_lower_better: bool = False) -> Figure:
    """Return what a technique adds to its own metric, with the interval over pairs; the baseline is the other arm."""
    gain = (off - on) if is_lower_better else (on - off)
    return Figure(float(gain.mean()), float(off.mean()), bootstrap([gain]))


def measure_trial(studio: Studio, trial: Trial) -> tuple[dict[str, Figure], Arm, Arm]:
    """Measure one technique: its effect, what it does to the pictures, and what it costs."""
    off, on = studio.draw_pair(trial)
    times = studio.time_pair(trial)
    distance, interval = compare(studio.reference, off.features, on.features)
    lost = np.array([not seen.parsed.objects for seen in on.seen], dtype=float)
    lost -= np.array([not seen.parsed.objects for seen in off.seen], dtype=float)
    before = studio.reference.measure(off.features)
    score = compare_pairs(off.score(trial.score), on.score(trial.score), is_lower_better=trial.is_lower_better)
    own = {"effect": score}
    if trial.is_quality:
        own = {"effect": Figure(-distance, before, (-interval[1], -interval[0])), "score": score}
    figures = own | {
        "distance": Figure(distance, before, interval),
        "unreadable": make_figure(lost.tolist()),
        "passes": Figure(sum(on.rows) / sum(off.rows), 1.0),
        "picture_seconds": Figure(float(np.median(times.on)), float(np.median(times.off)), unit="s"),
    }
    return {f"{trial.name}_{name}": figure for name, figure in figures.items()}, off, on


def has_effect(figures: dict[str, Figure], name: str, *, is_erasing: bool = False) -> bool:
    """Say whether a technique does what it promises: interval above 0, and pictures not significantly worse.

    Differs: where a thing is to be missing, an empty picture is no loss; where quality is the metric, a score that
             falls significantly is one.
    """
    score = figures.get(f"{name}_score")
    if score and score.ci95 and score.ci95[1] < 0:
        return False
    effect, distance, unreadable = (figures[f"{name}_{part}"].ci95 for part in ("effect", "distance", "unreadable"))
    assert effect and distance and unreadable
    return effect[0] > 0 and (is_erasing or (distance[0] <= 0 and unreadable[0] <= 0))


def measure_erasure(studio: Studio, trial: Trial, off: Arm, on: Arm) -> dict[str, Figure]:
    """Measure how often the erased thing is still found, what others lose, and the seconds before the first step."""
    kept = Trial("rece", "others are found", "kept", is_found, trial.techniques)
    kept_off, kept_on = studio.draw_pair(kept)
    times = studio.time_pair(trial)
    extra = np.array(times.first_on) - np.array(times.first_off)
    return {
        "rece_erased_rate": make_figure(on.score(is_found).tolist(), baseline=float(off.score(is_found).mean())),
        "rece_kept_loss": compare_pairs(kept_off.score(is_found), kept_on.score(is_found), is_lower_better=True),
        "rece_seconds": Figure(float(np.median(extra)), unit="s"),
    }


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Try every technique on its own metric, then the best of them on attribution, position and layouts."""
    # A quarter less time than fp32 where it was measured, of hours; both arms of a pair are drawn in it.
    model = load_storybook(settings.device, "bf16")
    studio = Studio(model, load_parser(PARSER_FOLDER, device=model.plan.device), settings)
    figures: dict[str, Figure] = {}
    arms: dict[str, tuple[Arm, Arm]] = {}
    for trial in TRIALS:
        found, off, on = measure_trial(studio, trial)
        figures |= found
        arms[trial.name] = (off, on)
        if trial.name == "rece":
            figures |= measure_erasure(studio, trial, off, on)
    figures |= summarise(studio, arms)
    erasing = {trial.name for trial in TRIALS if trial.task == "erased"}
    proven = [trial.name for trial in TRIALS if has_effect(figures, trial.name, is_erasing=trial.name in erasing)]
    return {"techniques_with_effect": Figure(float(len(proven)))} | figures


def summarise(studio: Studio, arms: dict[str, tuple[Arm, Arm]]) -> dict[str, Figure]:
    """Take the best technique on colour attribution, on positions and on layouts, next to plain guidance."""
    position = Trial("regional_attention", "position", "position", is_right, ("regional_attention",))
    attribution = Trial("s_cfg", "attribution", "attribution", is_right, ("s_cfg",))
    tried = {
        "best_attribution": [studio.draw_pair(attribution)],
        "best_position": [studio.draw_pair(position)],
    }
    figures = {name: _take_best(pairs, is_right) for name, pairs in tried.items()}
    layouts = [(arms[trial.name], trial) for trial in TRIALS if trial.task == "layout"]
    together = ("regional_attention", "draft_collage")
    joined = Trial(" and ".join(together), "boxes filled", "layout", fill_boxes, together, sampler="ddim")
    layouts.append((studio.draw_pair(joined), joined))
    (off, on), best = max(layouts, key=lambda layout: layout[0][1].score(layout[1].score).mean())
    for name, score in (("layout_instance_success", best.score), ("layout_miou", overlap_boxes)):
        figures[name] = make_figure(on.score(score).tolist(), baseline=float(off.score(score).mean()))
    return figures


def _take_best(pairs: Sequence[tuple[Arm, Arm]], score: Score) -> Figure:
    """Return the highest mean score among arms, plain ones included, next to the first plain one."""
    arms = [pairs[0][0], *(on for _, on in pairs)]
    best = max(arms, key=lambda arm: arm.score(score).mean())
    return make_figure(best.score(score).tolist(), baseline=float(arms[0].score(score).mean()))
