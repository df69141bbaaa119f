"""How near lit photographs come to what they were in full light, what is left of the noise, and what a parser sees.

Every photograph is taken again with three amounts of light and two of noise by a camera that no training knows, and lit
by each method. The wanted brightness is the true one for all but CLAHE, which has none; the page's own is measured too.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.dark_photographs import LIGHTS, SHOTS, DarkPair, make_dark_pair
from benchmarks.fidelity import PARSER_FOLDER, is_read_right
from benchmarks.figures import Figure, RunSettings, make_figure
from benchmarks.held_out import draw_scenes
from benchmarks.photographs import load_photographs
from benchmarks.progress import count
from benchmarks.sheets import save_sheet
from benchmarks.super_resolution import compare, crop, measure_ssim
from pipelines import LowLightRequest, LowLightResult, ModelStore, low_light_stream
from pipelines.brightening import measure_brightness, measure_noise
from pipelines.images import to_tensor
from pipelines.scene_parser import SceneParser, load_parser
from training.world.scene import FIRST_HELD_OUT_SEED

MAIN_LIGHT = "dark01"
BORDER_PX = 4
METHODS = ("lime", "curve", "diffusion")
SCENE_SEEDS = FIRST_HELD_OUT_SEED + 1_700_000_000
NUM_SCENES = 120
FULL_N = 12
CLAHE_CLIP = 0.01  # scikit-image's own
NUM_RUNS = 3


def light_photo(picture: Image.Image, models: ModelStore, **fields: Any) -> LowLightResult:
    """Run the stream that the page uses to its end, also for a picture that it would not call dark."""
    *_, result = low_light_stream(LowLightRequest(picture, force=True, **fields), models)
    if not isinstance(result, LowLightResult):
        raise TypeError(f"the stream ended with {type(result).__name__} instead of a result")
    return result


def equalise(picture: Image.Image) -> Image.Image:
    """Equalise the histogram in tiles with limited contrast, in brightness alone, as scikit-image does."""
    from skimage.exposure import equalize_adapthist

    values = equalize_adapthist(np.asarray(picture), clip_limit=CLAHE_CLIP)
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def find_brightness(picture: Image.Image) -> float:
    """Return the mean of all channels, 0..1."""
    return measure_brightness(to_tensor([picture])[0])


def list_methods(models: ModelStore) -> dict[str, Callable[[DarkPair], Image.Image]]:
    """List the ways of lighting: two that know more or less than the page's, and the page's."""

    def run(method: str) -> Callable[[DarkPair], Image.Image]:
        return lambda pair: (
            light_photo(
                pair.dark, models, method=method, brightness=min(0.8, max(0.02, find_brightness(pair.truth)))
            ).image
        )

    return {
        "oracle": lambda pair: pair.oracle,
        "clahe": lambda pair: equalise(pair.dark),
        **{method: run(method) for method in METHODS},
        "blind": lambda pair: light_photo(pair.dark, models).image,
    }


def match_mean(picture: Image.Image, truth: Image.Image) -> Image.Image:
    """Multiply a picture so that its mean is the truth's, as many publications do before they measure."""
    share = np.asarray(truth, dtype=np.float64).mean() / max(1e-9, np.asarray(picture, dtype=np.float64).mean())
    return Image.fromarray(np.clip(np.rint(np.asarray(picture) * share), 0, 255).astype(np.uint8))


def measure_colour_error(picture: Image.Image, truth: Image.Image) -> float:
    """Return the mean distance of colours, without lightness, in CIELAB."""
    from skimage.color import rgb2lab

    one, other = (rgb2lab(np.asarray(image))[..., 1:] for image in (picture, truth))
    return float(np.sqrt(((one - other) ** 2).sum(-1)).mean())


def measure_pair(picture: Image.Image, pair: DarkPair) -> dict[str, float]:
    """Measure what a method made of a photograph; noise and colour at the truth's mean brightness."""
    matched = match_mean(picture, pair.truth)
    return {
        "psnr": compare(picture, pair.truth, BORDER_PX),
        "matched_psnr": compare(matched, pair.truth, BORDER_PX),
        "ssim": measure_ssim(picture, pair.truth),
        "noise_left": measure_noise(to_tensor([matched])[0]),
        "colour_error": measure_colour_error(matched, pair.truth),
    }


def measure_photographs(
    pairs: Sequence[DarkPair], models: ModelStore
) -> tuple[dict[str, list[dict[str, float]]], list[tuple[str, Image.Image]]]:
    """Light every pair by every method.

    Returns: per method one row of measures for each pair, and pictures to look at.
    """
    methods = list_methods(models)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    shown = []
    for pair in count(pairs, "photographs lit"):
        is_shown = pair.light == MAIN_LIGHT
        shown += [(f"{pair.name}, {pair.noise}", crop(pair.dark))] if is_shown else []
        for name, method in methods.items():
            start = time.perf_counter()
            picture = method(pair)
            rows[name].append({"seconds": time.perf_counter() - start, **measure_pair(picture, pair)})
            if is_shown and name != "blind":
                shown.append((f"{name} {rows[name][-1]['psnr']:.1f} dB", crop(picture)))
        shown += [("truth", crop(pair.truth))] if is_shown else []
    return rows, shown


def describe_rows(name: str, rows: Sequence[dict[str, float]], pairs: Sequence[DarkPair]) -> dict[str, Figure]:
    """Give the mean of every measure of a method, for each amount of light and noise."""
    units = {"psnr": "dB", "matched_psnr": "dB", "ssim": "", "noise_left": "of 255", "colour_error": "", "seconds": "s"}
    figures = {}
    for light in LIGHTS:
        for noise in SHOTS:
            chosen = [row for row, pair in zip(rows, pairs) if (pair.light, pair.noise) == (light, noise)]
            for measure_name, unit in units.items():
                values = [row[measure_name] for row in chosen]
                figures[f"{name}_{light}_{noise}_{measure_name}"] = make_figure(values, unit=unit)
    return figures


def find_worst_gain(mine: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]) -> tuple[float, int]:
    """Return the smallest gain in dB over another method, of all pairs and both ways of measuring, and whose it is."""
    keys = ("psnr", "matched_psnr")
    return min((one[key] - other[key], index) for index, (one, other) in enumerate(zip(mine, theirs)) for key in keys)


def measure_recovery(models: ModelStore, parser: SceneParser, num_scenes: int) -> dict[str, Figure]:
    """Let the parser read drawn scenes in full light, in a tenth of it, and lit again; both noises together.

    Returns: which part of what darkness cost is recovered with the true brightness, as for the photographs, with the
             accuracies behind it; and with the page's own brightness, which turns bright colours into darker ones.
    """
    methods = {name: method for name, method in list_methods(models).items() if name in (*METHODS, "blind")}
    right: dict[str, list[float]] = {name: [] for name in ("full", "dark", *methods)}
    for index, (scene, drawn) in enumerate(count(list(draw_scenes(SCENE_SEEDS, num_scenes)), "scenes for the parser")):
        noise = list(SHOTS)[index % 2]
        pair = make_dark_pair(f"scene {index}", Image.fromarray(drawn.rgb), MAIN_LIGHT, noise)
        images = {"full": pair.truth, "dark": pair.dark} | {name: method(pair) for name, method in methods.items()}
        for name, parsed in zip(images, parser.parse(list(images.values())), strict=True):
            right[name].append(float(is_read_right(scene, parsed)))
    figures = {f"parser_{name}_acc": make_figure(values) for name, values in right.items()}
    lost = figures["parser_full_acc"].value - figures["parser_dark_acc"].value
    for name in methods:
        gained = figures[f"parser_{name}_acc"].value - figures["parser_dark_acc"].value
        figures[f"parser_recovery_{name}"] = Figure(gained / lost if lost > 0 else math.nan)
    blind = figures["parser_recovery_blind"].value
    return {"parser_recovery": Figure(figures["parser_recovery_diffusion"].value, baseline=blind)} | figures


def measure_bright(photographs: dict[str, Image.Image], models: ModelStore) -> dict[str, Figure]:
    """Give the page photographs in full light, and measure how many come back unchanged."""
    same = []
    for picture in count(list(photographs.values()), "bright photographs"):
        *_, result = low_light_stream(LowLightRequest(picture), models)
        assert isinstance(result, LowLightResult)
        same.append(float(np.array_equal(np.asarray(result.image), np.asarray(picture))))
    return {"bright_unchanged": make_figure(same)}


def measure_cost() -> dict[str, Figure]:
    """Time 1024 px in processes of their own and take the median; memory is the largest."""
    command = [sys.executable, "-m", "benchmarks.light_once", "1024"]
    runs = []
    for _ in count(range(NUM_RUNS), "timed runs"):
        out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]).stdout
        runs.append(json.loads(out.splitlines()[-1]))
    figures = {
        name: Figure(float(np.median([run[name] for run in runs])), unit="s")
        for name in ("first_view_s", "diffusion_1024_s", "diffusion_1024_pass_s")
    }
    return figures | {"peak_mb": Figure(max(run["peak_mb"] for run in runs), unit="MB")}


def measure_pairs(settings: RunSettings, models: ModelStore, photographs: dict[str, Image.Image]) -> dict[str, Figure]:
    """Measure every method on every pair; the baseline of the two main figures is oracle brightening."""
    pairs = [
        make_dark_pair(name, picture, light, noise)
        for light in LIGHTS
        for noise in SHOTS
        for name, picture in photographs.items()
    ]
    rows, shown = measure_photographs(pairs, models)
    if settings.sheet:
        titles, images = zip(*shown)
        save_sheet(settings.sheet / "low_light.png", images, columns=7, titles=titles)
    figures = {}
    for noise in SHOTS:
        chosen = [index for index, pair in enumerate(pairs) if (pair.light, pair.noise) == (MAIN_LIGHT, noise)]
        oracle = float(np.mean([rows["oracle"][index]["psnr"] for index in chosen]))
        values = [rows["diffusion"][index]["psnr"] for index in chosen]
        figures[f"{MAIN_LIGHT}_{noise}_db"] = make_figure(values, unit="dB", baseline=oracle)
    mains = [index for index, pair in enumerate(pairs) if pair.light == MAIN_LIGHT]
    for other in ("lime", "clahe"):
        mine, theirs = ([rows[name][index] for index in mains] for name in ("diffusion", other))
        worst, where = find_worst_gain(mine, theirs)
        figures[f"worst_gain_over_{other}_db"] = Figure(worst, unit="dB")
        pair = pairs[mains[where]]
        print(f"smallest gain over {other}: {worst:.2f} dB, {pair.name}, {pair.noise}", file=sys.stderr)
    for name, found in rows.items():
        figures |= describe_rows(name, found, pairs)
    return figures


def keep_part(settings: RunSettings, name: str, make: Callable[[], dict[str, Figure]]) -> dict[str, Figure]:
    """Take a finished part of the measurement from the folder of kept parts, or make it and keep it there."""
    path = settings.keep and settings.keep / f"low_light_{name}.json"
    if path and path.exists():
        return {key: Figure(**value) for key, value in json.loads(path.read_text("utf-8")).items()}
    figures = make()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({key: asdict(value) for key, value in figures.items()}, indent=1), "utf-8")
    return figures


@torch.no_grad()
def measure(settings: RunSettings) -> dict[str, Figure]:
    """Measure over the first n photographs; times are taken anew even where the other parts were kept."""
    models, photographs = ModelStore(), load_photographs(settings.n)
    num_scenes = max(2, NUM_SCENES * settings.n // FULL_N)
    figures = keep_part(settings, "photographs", lambda: measure_pairs(settings, models, photographs))
    figures |= keep_part(settings, "scenes", lambda: measure_recovery(models, load_parser(PARSER_FOLDER), num_scenes))
    figures |= keep_part(settings, "bright", lambda: measure_bright(photographs, models))
    return figures | measure_cost()
