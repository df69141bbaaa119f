"""How near models made of one picture come to unseen solids: views at angles that nobody is given, outline, surface.

Each solid is seen once from the front, by itself on nothing; every method makes a model of that picture, and the world
knows what the model should look like.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from benchmarks.figures import Figure, RunSettings, make_figure
from benchmarks.progress import count
from benchmarks.sheets import save_sheet
from pipelines import ModelStore
from pipelines.mesh import Mesh, draw_mesh, extract_surface, find_grid
from pipelines.preview_3d import preview_3d_stream
from pipelines.preview_records import Preview3dRequest, Preview3dResult
from pipelines.turntable_camera import HELD_OUT
from training.world.scene import FIRST_HELD_OUT_SEED
from training.world.solid_views import frame, render_views
from training.world.solids import Body, make_body, sample_solid

FIRST_SEED = FIRST_HELD_OUT_SEED + 1_200_000_000
PICTURE_PX, VIEW_PX = 256, 64
TRUTH_VOXELS = 96
NUM_POINTS = 5000
NUM_SHOWN = 8
# The two arms of the curriculum differ in nothing else.
METHODS: dict[str, dict[str, Any]] = {
    "inflate": {"method": "inflate"},
    "views": {"method": "views"},
    "falling": {"method": "polish", "curriculum": "falling"},
    "uniform": {"method": "polish", "curriculum": "uniform"},
}
MAIN = "falling"
# Only of objects whose back differs from their mirrored front can a model be wrong about it.
MAX_LIKENESS_DB = 25.0


@dataclass(frozen=True, eq=False)
class Truth:
    """Hold what a solid looks like. Shapes: rgb (v, H, H, 3), mask (v, H, H) at HELD_OUT; points (NUM_POINTS, 3)."""

    picture: Image.Image
    rgb: np.ndarray
    mask: np.ndarray
    points: np.ndarray
    front: np.ndarray
    back: np.ndarray


def make_truth(seed: int) -> Truth:
    """Draw an unseen solid from the front and from everywhere else."""
    body = frame(make_body(sample_solid(seed, split="all")))
    front = render_views(body, [(0.0, 0.0)], PICTURE_PX)
    views = render_views(body, (*HELD_OUT, (0.0, 0.0), (180.0, 0.0)), VIEW_PX)
    levels = np.concatenate([front.rgb[0], front.mask[0][..., None]], -1) * 255
    return Truth(
        picture=Image.fromarray(np.rint(levels).astype(np.uint8), "RGBA"),
        rgb=views.rgb[:-2],
        mask=views.mask[:-2],
        points=sample_surface(make_surface(body), NUM_POINTS),
        front=views.rgb[-2],
        back=views.rgb[-1],
    )


def make_surface(body: Body) -> Mesh:
    """Take the exact surface of a solid on a fine grid."""
    place = find_grid(TRUTH_VOXELS, 1.25)
    grid = np.meshgrid(place, place, place, indexing="ij")
    volume = -body.measure(part.reshape(-1) for part in grid).reshape((TRUTH_VOXELS,) * 3)
    return extract_surface(volume, (1.25,) * 3, max_faces=10**6)


def sample_surface(mesh: Mesh, num_points: int) -> np.ndarray:
    """Draw points (num_points, 3) evenly over a surface, always the same ones."""
    rng = np.random.default_rng(0)
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(areas), num_points, p=areas / areas.sum())
    root, along = np.sqrt(rng.random((num_points, 1))), rng.random((num_points, 1))
    return a[chosen] * (1 - root) + b[chosen] * root * (1 - along) + c[chosen] * root * along


def measure_chamfer(points: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean distance to the nearest point of the other surface, averaged over both directions."""
    there, back = cKDTree(truth).query(points)[0], cKDTree(points).query(truth)[0]
    return float((there.mean() + back.mean()) / 2)


def to_db(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean PSNR in dB of pictures (v, H, H, 3) in 0..1."""
    return float(-10 * np.log10(np.maximum(((a - b) ** 2).reshape(len(a), -1).mean(1), 1e-10)).mean())


def measure_model(result: Preview3dResult, truth: Truth) -> dict[str, float]:
    """Compare a model with the solid that it should be."""
    if result.mesh is None:
        raise ValueError("this method makes no model")
    rgb, mask = draw_mesh(result.mesh, HELD_OUT, VIEW_PX)
    (back,), _ = draw_mesh(result.mesh, [(180.0, 0.0)], VIEW_PX)
    overlap = np.minimum(mask, truth.mask).sum((1, 2)) / np.maximum(mask, truth.mask).sum((1, 2))
    mirrored = truth.front[:, ::-1]
    row = {
        "psnr": to_db(rgb, truth.rgb),
        "iou": float(overlap.mean()),
        "chamfer": measure_chamfer(sample_surface(result.mesh, NUM_POINTS), truth.points),
        "seconds": result.seconds,
        "first_s": result.first_shape_s,
    }
    if to_db(mirrored[None], truth.back[None]) < MAX_LIKENESS_DB:
        row["confused"] = float(to_db(back[None], mirrored[None]) > to_db(back[None], truth.back[None]))
    return row


def make_model(picture: Image.Image, models: ModelStore, **fields: Any) -> Preview3dResult:
    """Run the stream that the page uses to its end."""
    *_, result = preview_3d_stream(Preview3dRequest(picture, **fields), models)
    if not isinstance(result, Preview3dResult):
        raise TypeError(f"the stream ended with {type(result).__name__} instead of a result")
    return result


def measure_methods(
    seeds: Sequence[int], models: ModelStore, methods: Sequence[str]
) -> tuple[dict[str, list[dict[str, float]]], list[Any]]:
    """Make a model of every solid with every method; returns rows per method, and pictures to look at."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    shown: list[Any] = []
    for seed in count(list(seeds), "solids modelled"):
        truth = make_truth(seed)
        for name in methods:
            result = make_model(truth.picture, models, **METHODS[name])
            rows[name].append(measure_model(result, truth))
            if len(shown) < NUM_SHOWN * (len(methods) + 1) and result.mesh is not None:
                shown.append((f"{seed % 1000}, {name}", _strip(draw_mesh(result.mesh, HELD_OUT[::2], VIEW_PX)[0])))
        if len(shown) < NUM_SHOWN * (len(methods) + 1):
            shown.append((f"{seed % 1000}", _strip(truth.rgb[::2])))
    return rows, shown


def _strip(views: np.ndarray) -> Image.Image:
    """Lay views beside each other."""
    return Image.fromarray(np.clip(np.rint(np.concatenate(list(views), 1) * 255), 0, 255).astype(np.uint8))


def summarise(rows: dict[str, list[dict[str, float]]]) -> dict[str, Figure]:
    """Turn rows into the figures of the scenario, each method's own ones among them."""
    main, base = rows[MAIN], rows["inflate"]
    column = {
        name: {key: [row[key] for row in part] for key in part[0] if key != "confused"} for name, part in rows.items()
    }
    figures = {
        "view_psnr_db": make_figure(
            column[MAIN]["psnr"], unit="dB", baseline=float(np.mean(column["inflate"]["psnr"]))
        ),
        "view_gain_over_inflate_db": make_figure([a["psnr"] - b["psnr"] for a, b in zip(main, base)], unit="dB"),
        "silhouette_iou": make_figure(column[MAIN]["iou"], baseline=float(np.mean(column["inflate"]["iou"]))),
        "chamfer": make_figure(column[MAIN]["chamfer"], baseline=float(np.mean(column["inflate"]["chamfer"]))),
        "curriculum_gain": make_figure(
            [a["psnr"] - b["psnr"] for a, b in zip(rows["falling"], rows["uniform"])], unit="dB"
        ),
        "total_s": make_figure(column[MAIN]["seconds"], unit="s"),
        "first_shape_s": make_figure(column[MAIN]["first_s"], unit="s"),
    }
    for name in rows:
        for key, unit in (("psnr", "dB"), ("iou", ""), ("chamfer", ""), ("seconds", "s")):
            figures[f"{name}_{key}"] = make_figure(column[name][key], unit=unit)
        confused = [row["confused"] for row in rows[name] if "confused" in row]
        if confused:
            figures[f"{name}_back_confused"] = make_figure(confused)
    return figures


def measure_peak() -> Figure:
    """Run the largest method once in a process of its own; returns its peak memory."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.preview_3d_once"], capture_output=True, text=True, check=True
    )
    return Figure(json.loads(run.stdout.splitlines()[-1])["peak_mb"], unit="MB")


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Measure the scenario."""
    seeds = range(FIRST_SEED, FIRST_SEED + settings.n)
    rows, shown = measure_methods(seeds, ModelStore(), list(METHODS))
    if settings.sheet is not None:
        titles, images = zip(*shown)
        save_sheet(settings.sheet / "preview_3d.png", images, columns=len(METHODS) + 1, titles=titles)
    return summarise(rows) | {"peak_mb": measure_peak()}
