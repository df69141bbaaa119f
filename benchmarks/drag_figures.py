"""The figures of dragging: what each arm of drag.py left of the way, kept and spoiled, and what a pull costs.

An arm's features are the values of COLUMNS, one row an edit; NaN is what could not be judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.drag_measures import GHOST_FRAC, correlate, to_psnr_db
from benchmarks.drag_pairs import SORTS, Edit
from benchmarks.figures import Figure, bootstrap, make_figure
from benchmarks.studio import Arm
from benchmarks.style_pairs import compare_ratio

INSTANT, DIFFUSION, NOISE = "fast_drag", "drag_diffusion", "drag_noise"
METHODS = (INSTANT, DIFFUSION, NOISE)
OPTIMISING = (NOISE, DIFFUSION)
UNTOUCHED, PASTED, DRAWN = "no_edit", "copy_paste", "drawn"
ARM_TITLES = {
    UNTOUCHED: "nothing done",
    PASTED: "the thing cut out and pasted, nothing removed",
    INSTANT: "Instant (FastDrag)",
    DIFFUSION: "DragDiffusion",
    NOISE: "DragNoise",
    DRAWN: "drawn, not dragged: what a perfect answer has",
}
# Columns of an arm: distances by the three rulers, what was kept, what else changed, what was not done.
COLUMNS = (
    "distance",
    "path_distance",
    "feature_distance",
    "kept",
    "slip",
    "outside_mse",
    "inside_mse",
    "inside_ssim",
    "ghost",
    "declined",
)
RULERS = COLUMNS[:3]  # the parser, drawings along the way, features
# Shares of a method's own number of rounds at which its distance is followed.
BUDGETS = (0.25, 0.5, 1.0)


def take(arm: Arm, column: str) -> np.ndarray:
    """Return one column of an arm. Shapes: returns (n,)."""
    return arm.features[:, COLUMNS.index(column)]


def make_pooled_psnr(mse: np.ndarray) -> Figure:
    """Return the PSNR of the mean squared difference of all pictures: single untouched ones have none of their own."""
    pooled = bootstrap([mse], lambda groups: to_psnr_db(float(groups[0].mean())))
    return Figure(to_psnr_db(float(mse.mean())), ci95=pooled, unit="dB")


def describe_arm(name: str, arm: Arm, untouched: Arm, sorts: np.ndarray) -> dict[str, Figure]:
    """Give all numbers of one arm; a ratio is to doing nothing."""
    outside, inside = take(arm, "outside_mse"), take(arm, "inside_mse")
    start_db = float(np.mean([to_psnr_db(mse) for mse in take(untouched, "inside_mse")]))
    start_ssim = float(take(untouched, "inside_ssim").mean())
    figures = {
        "kept_rate": make_figure(drop_nan(take(arm, "kept")).tolist()),
        "outside_psnr_db": make_pooled_psnr(drop_nan(outside)),
        "inside_psnr_db": make_figure([to_psnr_db(mse) for mse in inside], unit="dB", baseline=start_db),
        "inside_ssim": make_figure(take(arm, "inside_ssim").tolist(), baseline=start_ssim),
        "declined_rate": make_figure(take(arm, "declined").tolist()),
    }
    for ruler in RULERS:
        start, left = (take(one, ruler) for one in (untouched, arm))
        is_judged = ~np.isnan(start)
        baseline = float(start[is_judged].mean())
        figures[f"{ruler}_px"] = make_figure(left[is_judged].tolist(), unit="px", baseline=baseline)
        figures[f"{ruler}_ratio"] = compare_ratio(start[is_judged], left[is_judged], 1.0)
        for sort in SORTS if ruler != "feature_distance" else ():
            chosen = is_judged & (sorts == sort)
            if chosen.any():
                figures[f"{ruler}_ratio_{sort}"] = compare_ratio(start[chosen], left[chosen], 1.0)
    ghost, slip = drop_nan(take(arm, "ghost")), drop_nan(take(arm, "slip"))
    if len(ghost):
        figures["ghost_rate"] = make_figure((ghost > GHOST_FRAC).astype(float).tolist())
    if len(slip):
        figures["slip_px"] = make_figure(slip.tolist(), unit="px")
    return {f"{name}_{part}": figure for part, figure in figures.items()}


def drop_nan(values: np.ndarray) -> np.ndarray:
    """Leave out what could not be judged."""
    return values[~np.isnan(values)]


def summarise(edits: Sequence[Edit], arms: Mapping[str, Arm]) -> dict[str, Figure]:
    """Give the headline figures: the best method by the parser's distance, Instant, and all rows."""
    sorts = np.array([edit.sort for edit in edits])
    untouched = arms[UNTOUCHED]
    rows: dict[str, Figure] = {}
    for name, arm in arms.items():
        rows |= describe_arm(name, arm, untouched, sorts)
    best = min(METHODS, key=lambda name: rows[f"{name}_distance_px"].value)
    figures = {
        "distance_ratio_best": rows[f"{best}_distance_ratio"],
        "distance_ratio_instant": rows[f"{INSTANT}_distance_ratio"],
        "outside_psnr_db": rows[f"{best}_outside_psnr_db"],
        "kept_rate": rows[f"{best}_kept_rate"],
    }
    parser, path, features = (np.concatenate([take(arms[name], ruler) for name in METHODS]) for ruler in RULERS)
    is_judged = ~np.isnan(parser)
    rows["ruler_correlation_path"] = Figure(correlate(parser[is_judged], path[is_judged]))
    rows["ruler_correlation_features"] = Figure(correlate(path, features))
    return figures | rows


def compare_pulls(
    starts: np.ndarray, left: Mapping[str, np.ndarray], seconds: Mapping[str, Sequence[float]]
) -> dict[str, Figure]:
    """Compare how long DragNoise and DragDiffusion pull until things are equally far, by finished pictures.

    Shapes: starts (n,): distances before; left: for both methods (n, budgets): distances after fewer rounds.
    Units:  seconds that each method pulls for BUDGETS of its rounds.
    """

    def divide(groups: Sequence[np.ndarray]) -> float:
        means = groups[0].mean(0)
        curves = {}
        for number, name in enumerate(OPTIMISING):
            after = means[1 + number * len(BUDGETS) : 1 + (number + 1) * len(BUDGETS)]
            curves[name] = list(zip([0.0, *seconds[name]], [float(means[0]), *after.tolist()]))
        noise_s, diffusion_s = find_equal_times(curves[NOISE], curves[DIFFUSION])
        # Where one of them comes no nearer at all, there is no way to share: all rounds are compared.
        return noise_s / diffusion_s if min(noise_s, diffusion_s) > 0 else seconds[NOISE][-1] / seconds[DIFFUSION][-1]

    table = np.column_stack([starts, *(left[name] for name in OPTIMISING)])
    figures = {"dragnoise_time_ratio": Figure(divide([table]), 1.0, bootstrap([table], divide))}
    for name in OPTIMISING:
        for column, budget in enumerate(BUDGETS):
            after = make_figure(left[name][:, column].tolist(), unit="px", baseline=float(starts.mean()))
            figures[f"{name}_{budget:g}_rounds_px"] = after
    return figures


def find_equal_times(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return when each of two curves (seconds, px left) first came as near as the less successful one ever came.

    Between two points of a curve the way goes in a line.
    """
    level = max(min(left for _, left in curve) for curve in (one, other))

    def find(curve: Sequence[tuple[float, float]]) -> float:
        last_s, last = curve[0]
        for seconds, left in curve:
            if left <= level:
                share = (last - level) / (last - left) if last > left else 1.0
                return last_s + share * (seconds - last_s)
            last_s, last = seconds, left
        raise AssertionError("a curve reaches its own lowest point")

    return find(one), find(other)
