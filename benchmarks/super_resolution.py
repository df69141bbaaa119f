"""How near enlarged photographs come to the originals, how well they agree with what was enlarged, and what it costs.

Every photograph is reduced by each scale, cleanly and as a camera would, and enlarged again by each method.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.esrgan_slim import FOLDER, EsrganSlim
from benchmarks.explore_trials import measure_explore
from benchmarks.figures import Figure, RunSettings, make_figure
from benchmarks.kept_parts import keep_part
from benchmarks.photographs import SCALES, Pair, enlarge_photo, load_photographs, make_pair
from benchmarks.progress import count
from benchmarks.sheets import save_sheet
from pipelines import ModelStore
from pipelines.backprojection import Axis, Reduction, make_blur, make_reduction
from pipelines.detailing import TILE_PX, add_detail
from pipelines.enlarging import make_exact
from pipelines.images import to_images, to_tensor
from pipelines.photo_measures import measure_psnr, measure_sharpness
from pipelines.residual_shift import NUM_STEPS
from pipelines.restorer import SIDE_UNIT_PX
from pipelines.seeding import make_generators
from pipelines.sr_lite import enlarge
from pipelines.tiling import split_axis

MAIN_SCALE = 4.0
CROP_PX = 160
SEAM_PX = 256  # of a photograph: enlarged, it takes four tiles, and memory still holds it in one
# The damages of the guided mode, with and without lost pixels, whose black holes would be easy to beat alone.
BLUR_PX, NOISE_LEVELS = 1.5, 8.0
LOST_FRACS = {"known_blur_gain_db": 0.0, "known_lost_gain_db": 0.3}
GUIDED_PX = 256


def compare(picture: Image.Image, truth: Image.Image, border_px: int) -> float:
    """Return the PSNR in dB of a picture without its border."""
    box = (border_px, border_px, truth.width - border_px, truth.height - border_px)
    one, other = (to_tensor([image.crop(box)])[0] for image in (picture, truth))
    return measure_psnr(one, other)


def measure_ssim(picture: Image.Image, truth: Image.Image) -> float:
    """Return the structural similarity of the brightness of two pictures.

    Source: Wang et al. 2004, IEEE TIP 13(4): 11 x 11 Gaussian window of deviation 1.5.
    """
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    x, y = (((to_tensor([image])[0] + 1) * (255 / 2) * weights).sum(0)[None, None] for image in (picture, truth))
    taps = torch.exp(-0.5 * (torch.arange(-5, 6) / 1.5) ** 2)
    kernel = (taps[:, None] * taps / taps.sum() ** 2)[None, None]
    mean_x, mean_y, xx, yy, xy = (torch.nn.functional.conv2d(part, kernel) for part in (x, y, x * x, y * y, x * y))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2)
    return float((top / bottom).mean())


def back_project(pair: Pair) -> Image.Image:
    """Enlarge with bicubic interpolation and exact back-projection, without a network."""
    small = to_tensor([pair.small])[0]
    size = (pair.truth.height, pair.truth.width)
    stream = make_exact(
        enlarge(small[None], size)[0], small, make_reduction(size, (pair.small.height, pair.small.width))
    )
    return to_images(finish(stream)[None])[0]


def finish(stream: Generator[Any, None, torch.Tensor]) -> torch.Tensor:
    """Run a stream to its end, and take the picture that it returns."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def list_methods(models: ModelStore) -> dict[str, Callable[[Pair], Image.Image]]:
    """List the ways of enlarging: two of Pillow's, back-projection, and the page's modes."""

    def faithful(pair: Pair) -> Image.Image:
        source = "camera" if pair.is_camera else "clean"
        return enlarge_photo(pair.small, models, scale=pair.scale, source=source).image

    return {
        "bicubic": lambda pair: pair.small.resize(pair.truth.size, Image.Resampling.BICUBIC),
        "lanczos": lambda pair: pair.small.resize(pair.truth.size, Image.Resampling.LANCZOS),
        "backprojection": back_project,
        "faithful": faithful,
    }


def compare_foreign(pairs: Sequence[Pair], rows: Sequence[dict[str, float]]) -> dict[str, Figure]:
    """Compare Faithful with a foreign network at the main scale, if that is here."""
    if not FOLDER.exists():
        print(f"no foreign upscaler in {FOLDER}; it is left out", file=sys.stderr)
        return {}
    network, gains, own = EsrganSlim(int(MAIN_SCALE)), [], []
    for pair, row in zip(pairs, rows):
        levels = (to_tensor([pair.small]) + 1) * (255 / 2)
        theirs = to_images(network(levels) / (255 / 2) - 1)[0]
        own.append(compare(theirs, pair.truth, math.ceil(pair.scale)))
        gains.append(row["psnr"] - own[-1])
    return {
        "x4_gain_over_esrgan_slim_db": make_figure(gains, unit="dB"),
        "esrgan_slim_clean_x4_psnr": make_figure(own, unit="dB"),
    }


def measure_agreement(picture: Image.Image, small: Image.Image) -> float:
    """Return how well a picture agrees with what was enlarged, as PSNR in dB."""
    reduction = make_reduction((picture.height, picture.width), (small.height, small.width))
    return measure_psnr(reduction.reduce(to_tensor([picture])[0]), to_tensor([small])[0])


def measure_faithful(pairs: Sequence[Pair], models: ModelStore) -> tuple[dict[str, list[dict[str, float]]], list[Any]]:
    """Enlarge every pair with every method.

    Returns: per method one row of psnr, ssim, sharpness ratio and agreement for each pair; and pictures to look at.
    """
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in list_methods(models)}
    shown = []
    for pair in count(pairs, "photographs enlarged"):
        for name, method in list_methods(models).items():
            picture = method(pair)
            sharp, true_sharp = (measure_sharpness(to_tensor([image])[0]) for image in (picture, pair.truth))
            rows[name].append(
                {
                    "psnr": compare(picture, pair.truth, math.ceil(pair.scale)),
                    "ssim": measure_ssim(picture, pair.truth),
                    "sharpness": sharp / true_sharp,
                    "agreement": measure_agreement(picture, pair.small),
                }
            )
            if pair.scale == MAIN_SCALE and name in ("bicubic", "faithful"):
                shown.append((f"{pair.name}, {name}", crop(picture)))
        if pair.scale == MAIN_SCALE:
            shown.append((pair.name, crop(pair.truth)))
    return rows, shown


def crop(picture: Image.Image, side_px: int = CROP_PX) -> Image.Image:
    """Cut the middle out."""
    left, top = (picture.width - side_px) // 2, (picture.height - side_px) // 2
    return picture.crop((left, top, left + side_px, top + side_px))


def measure_detail(pairs: Sequence[Pair], models: ModelStore) -> dict[str, Figure]:
    """Compare Detail with Faithful at the main scale: agreement, PSNR, and how near the sharpness comes."""
    rows: dict[str, list[float]] = {}
    for pair in count(pairs, "photographs with detail"):
        faithful = enlarge_photo(pair.small, models, scale=pair.scale).image
        detail = enlarge_photo(pair.small, models, scale=pair.scale, mode="detail").image
        sharp = [measure_sharpness(to_tensor([image])[0]) for image in (faithful, detail, pair.truth)]
        found = {
            "agreement": measure_agreement(detail, pair.small),
            "loss": compare(faithful, pair.truth, 4) - compare(detail, pair.truth, 4),
            "sharp_off": abs(1 - sharp[0] / sharp[2]),
            "sharp_on": abs(1 - sharp[1] / sharp[2]),
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    nearer = [off - on for off, on in zip(rows["sharp_off"], rows["sharp_on"])]
    return {
        "detail_consistency_db": make_figure(rows["agreement"], unit="dB"),
        "detail_psnr_loss_db": make_figure(rows["loss"], unit="dB"),
        "detail_sharpness_gain": make_figure(nearer),
        "detail_sharpness_error": make_figure(rows["sharp_on"], baseline=float(np.mean(rows["sharp_off"]))),
    }


def measure_seams(photographs: dict[str, Image.Image], models: ModelStore) -> dict[str, Figure]:
    """Add detail to enlarged photographs in tiles and in one piece, from the same noise, and look where tiles meet.

    Returns: detail_seam_ratio, steps across tile borders against the same lines of the picture made in one piece; and
             these steps against those of the whole picture, whose baseline is again the picture made in one piece.
    """
    ratios, shares, whole_shares = [], [], []
    large = {name: crop(photo, SEAM_PX) for name, photo in photographs.items() if min(photo.size) >= SEAM_PX}
    for photo in count(list(large.values()), "photographs in several tiles and in one"):
        faithful = to_tensor([enlarge_photo(photo, models, scale=MAIN_SCALE).image])[0]
        tiled, whole = (
            measure_border_steps(detail_in_tiles(faithful, photo, models, tile_px))
            for tile_px in (TILE_PX, round(SEAM_PX * MAIN_SCALE))
        )
        ratios.append(tiled.at_borders / whole.at_borders)
        shares.append(tiled.at_borders / tiled.everywhere)
        whole_shares.append(whole.at_borders / whole.everywhere)
    return {
        "detail_seam_ratio": make_figure(ratios),
        "detail_border_to_all_steps": make_figure(shares, baseline=float(np.mean(whole_shares))),
    }


def detail_in_tiles(faithful: torch.Tensor, small: Image.Image, models: ModelStore, tile_px: int) -> torch.Tensor:
    """Add to (3, H, W) what Detail adds, in tiles of the given side."""
    restorer = models.networks().restorer
    generator = make_generators(0, 1)[0]
    detail = finish(add_detail(restorer, faithful, generator, noise=0.0, num_steps=NUM_STEPS, tile_px=tile_px))
    reduction = make_reduction((int(faithful.shape[1]), int(faithful.shape[2])), (small.height, small.width))
    return finish(make_exact(detail, to_tensor([small])[0], reduction))


@dataclass(frozen=True)
class BorderSteps:
    """Mean difference between neighbouring lines: across tile borders, and everywhere."""

    at_borders: float
    everywhere: float


def measure_border_steps(pixels: torch.Tensor, tile_px: int = TILE_PX) -> BorderSteps:
    """Measure what lies across the borders of tiles of (3, H, W).

    Tile borders fall between pixels of the small picture, where any enlarged picture steps more than inside of one: so
    only the same lines of the same picture without tiles tell whether there is a seam.
    """
    at, everywhere = [], []
    for axis in (1, 2):
        step, length = pixels.diff(dim=axis).abs().mean((0, 3 - axis)), pixels.shape[axis]
        everywhere.append(float(step.mean()))
        spans = split_axis(-(-length // SIDE_UNIT_PX), tile_px // SIDE_UNIT_PX, 0)[1:]
        at += [float(step[span.first * SIDE_UNIT_PX - 1]) for span in spans]
    if not at:
        raise ValueError(f"a picture of {tuple(pixels.shape[1:])} px has one tile and no border")
    return BorderSteps(float(np.mean(at)), float(np.mean(everywhere)))


def measure_known_damage(photographs: dict[str, Image.Image], models: ModelStore) -> dict[str, Figure]:
    """Blur and spoil the middle of each photograph, once with lost pixels; undo it by guidance; compare with Faithful.

    Returns: the gain for each damage, and as known_damage_gain_db the smaller one.
    """
    figures = {}
    for label, lost_frac in LOST_FRACS.items():
        gains = []
        for name, picture in count(list(photographs.items()), label):
            side = min(GUIDED_PX, *picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            truth = picture.crop((left, top, left + side, top + side))
            damaged = spoil(truth, len(name), lost_frac)
            fields = {"blur_px": BLUR_PX, "noise_levels": NOISE_LEVELS, "missing": "black" if lost_frac else "none"}
            undone = enlarge_photo(damaged, models, scale=1.0, mode="damage", **fields).image
            faithful = enlarge_photo(damaged, models, scale=1.0, source="camera").image
            gains.append(compare(undone, truth, 4) - compare(faithful, truth, 4))
        figures[label] = make_figure(gains, unit="dB")
    return {"known_damage_gain_db": min(figures.values(), key=lambda figure: figure.value)} | figures


def spoil(picture: Image.Image, seed: int, lost_frac: float) -> Image.Image:
    """Blur a picture, add noise, and paint a share of its pixels black; no other pixel is black."""
    rng = np.random.default_rng([seed, 61])
    axes = (Axis(make_blur(side, BLUR_PX)) for side in (picture.height, picture.width))
    blurred = Reduction(*axes).reduce(to_tensor([picture])[0]).numpy()
    noisy = (blurred + 1) * (255 / 2) + rng.normal(0, NOISE_LEVELS, blurred.shape)
    levels = np.clip(np.rint(noisy), 1, 255)
    levels[:, rng.random(levels.shape[1:]) < lost_frac] = 0
    return Image.fromarray(levels.astype(np.uint8).transpose(1, 2, 0))


def measure_cost() -> dict[str, Figure]:
    """Time the two large runs in processes of their own, and take the memory of the larger."""
    faithful, detail = (time_run(*arguments) for arguments in (("faithful", "1024"), ("detail", "512")))
    peak = max(faithful["peak_mb"], detail["peak_mb"])
    return {
        "faithful_4096_s": Figure(faithful["seconds"], unit="s"),
        "detail_2048_s": Figure(detail["seconds"], unit="s"),
        "peak_mb": Figure(peak, unit="MB"),
    }


def time_run(mode: str, side_px: str) -> dict[str, float]:
    """Enlarge a square four times in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.enlarge_once", mode, side_px]
    start = time.monotonic()
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]).stdout
    print(f"{mode}, {side_px} px: {time.monotonic() - start:.0f} s with loading", file=sys.stderr)
    return json.loads(out.splitlines()[-1])


@torch.no_grad()
def measure(settings: RunSettings) -> dict[str, Figure]:
    """Measure over the first n photographs; times are taken anew even where the rest was kept."""
    models, photographs = ModelStore(), load_photographs(settings.n)
    figures = keep_part(settings, "super_resolution", lambda: measure_pictures(settings, models, photographs))
    figures |= keep_part(settings, "super_resolution_seams", lambda: measure_seams(photographs, models))
    return figures | measure_cost()


def measure_pictures(
    settings: RunSettings, models: ModelStore, photographs: dict[str, Image.Image]
) -> dict[str, Figure]:
    """Measure every mode on the photographs; the baseline of a gain is what it is a gain over."""
    pairs = [
        make_pair(name, picture, scale, is_camera=is_camera)
        for is_camera in (False, True)
        for scale in SCALES
        for name, picture in photographs.items()
    ]
    rows, shown = measure_faithful(pairs, models)
    gains = {
        other: np.array([mine["psnr"] - theirs["psnr"] for mine, theirs in zip(rows["faithful"], rows[other])])
        for other in ("bicubic", "backprojection", "lanczos")
    }
    is_main = np.array([pair.scale == MAIN_SCALE and not pair.is_camera for pair in pairs])
    is_clean = np.array([not pair.is_camera for pair in pairs])
    mains = [pair for pair, main in zip(pairs, is_main) if main]
    figures = {
        f"x4_gain_over_{name}_db": make_figure(gains[name][is_main].tolist(), unit="dB")
        for name in ("backprojection", "bicubic", "lanczos")
    }
    agreement = np.array([row["agreement"] for row in rows["faithful"]])
    figures["worst_photo_gain_db"] = Figure(float(gains["bicubic"].min()), unit="dB")
    figures["consistency_db"] = Figure(float(agreement[is_clean].min()), unit="dB")
    for name, found in rows.items():
        figures |= describe_method(name, found, pairs)
    figures |= compare_foreign(mains, [row for row, main in zip(rows["faithful"], is_main) if main])
    figures |= measure_detail(mains, models)
    figures |= measure_known_damage(photographs, models)
    explored, answers = measure_explore(settings.n, models)
    figures |= explored
    if settings.sheet:
        for name, pictures in (("super_resolution", shown), ("explore", answers)):
            titles, images = zip(*pictures)
            save_sheet(settings.sheet / f"{name}.png", images, columns=6, titles=titles)
    return figures


def describe_method(name: str, rows: Sequence[dict[str, float]], pairs: Sequence[Pair]) -> dict[str, Figure]:
    """Give the mean of every measure of a method, for each scale and kind of damage."""
    figures = {}
    for is_camera, label in ((False, "clean"), (True, "camera")):
        for scale in SCALES:
            chosen = [row for row, pair in zip(rows, pairs) if pair.scale == scale and pair.is_camera == is_camera]
            for measure_name, unit in (("psnr", "dB"), ("ssim", ""), ("sharpness", "")):
                values = [row[measure_name] for row in chosen]
                figures[f"{name}_{label}_x{scale:g}_{measure_name}"] = make_figure(values, unit=unit)
    return figures
