"""How near models made of one picture come to unseen solids: views at angles that nobody is given, outline, surface.

Each solid is seen once from the front, by itself on nothing; every method makes a model of that picture, and the world
knows what the model should look like. Parallax makes no model that could be turned to those angles: its time is taken.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from benchmarks.figures import Figure, RunSettings, make_figure
from benchmarks.progress import count
from benchmarks.sheets import save_sheet
from pipelines import ModelStore
from pipelines.backends import PROJECT_DIR
from pipelines.distillation import PolishSettings
from pipelines.field_fit import FieldSettings
from pipelines.mesh import Mesh, draw_mesh, extract_surface, find_grid
from pipelines.preview_3d import preview_3d_stream
from pipelines.preview_records import CURRICULA, Preview3dProgress, Preview3dRequest, Preview3dResult
from pipelines.turntable_camera import HELD_OUT
from training.world.scene import FIRST_HELD_OUT_SEED
from training.world.solid_views import frame, render_views
from training.world.solids import Body, make_body, sample_solid

FIRST_SEED = FIRST_HELD_OUT_SEED + 1_200_000_000
PICTURE_PX, VIEW_PX = 256, 64
TRUTH_VOXELS = 96
NUM_POINTS = 5000
NUM_SHOWN = 8
METHODS = ("inflate", "views", "falling", "uniform")
# What a polished run calls the stages whose model another method ends with.
NOTES = {"first shape": "inflate", "model taken from the fit": "views"}
MEASURES = {"psnr": "dB", "iou": "", "chamfer": ""}
TIMES = ("total_s", "first_shape_s", "views_s", "parallax_s")
KEPT = "preview_3d_rows.json"
NUM_RUNS = 3
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


def measure_model(mesh: Mesh, truth: Truth) -> dict[str, float]:
    """Compare a model with the solid that it should be."""
    rgb, mask = draw_mesh(mesh, HELD_OUT, VIEW_PX)
    (back,), _ = draw_mesh(mesh, [(180.0, 0.0)], VIEW_PX)
    overlap = np.minimum(mask, truth.mask).sum((1, 2)) / np.maximum(mask, truth.mask).sum((1, 2))
    mirrored = truth.front[:, ::-1]
    row = {
        "psnr": to_db(rgb, truth.rgb),
        "iou": float(overlap.mean()),
        "chamfer": measure_chamfer(sample_surface(mesh, NUM_POINTS), truth.points),
    }
    if to_db(mirrored[None], truth.back[None]) < MAX_LIKENESS_DB:
        row["confused"] = float(to_db(back[None], mirrored[None]) > to_db(back[None], truth.back[None]))
    return row


def make_models(picture: Image.Image, models: ModelStore, *, seed: int) -> dict[str, Mesh]:
    """Make a model with every method, by the stream that the page uses; all methods start from the same seed.

    Differs: a polished run passes through what the simpler methods end with, so that they are not run by themselves.
    """
    meshes = {}
    for curriculum in CURRICULA:
        request = Preview3dRequest(picture, method="polish", curriculum=curriculum, seed=seed)
        for item in preview_3d_stream(request, models):
            if isinstance(item, Preview3dResult):
                assert item.mesh is not None
                meshes[curriculum] = item.mesh
            elif isinstance(item, Preview3dProgress) and item.mesh is not None:
                meshes[NOTES.get(item.note, curriculum)] = item.mesh
    return meshes


def measure_solids(
    seeds: Sequence[int], models: ModelStore, settings: RunSettings
) -> dict[str, list[dict[str, float]]]:
    """Make models of every solid and compare them; solids that are kept from a stopped measurement are not repeated.

    Returns: per method one row of measures for each solid.
    """
    kept = load_rows(settings.keep)
    shown: list[tuple[str, Image.Image]] = []
    for seed in count(list(seeds), "solids modelled"):
        if str(seed) in kept and settings.sheet is None:
            continue
        truth = make_truth(seed)
        # Another seed for each: with one for all, the luck of one draw of noise levels would count as many times.
        meshes = make_models(truth.picture, models, seed=seed - FIRST_SEED)
        kept[str(seed)] = {name: measure_model(meshes[name], truth) for name in METHODS}
        if len(shown) < NUM_SHOWN * (len(METHODS) + 1):
            shown.append((f"{seed % 1000}, truth", _strip(truth.rgb[::2])))
            shown += [
                (f"{name} {kept[str(seed)][name]['psnr']:.1f} dB", _strip(draw_mesh(mesh, HELD_OUT[::2], VIEW_PX)[0]))
                for name, mesh in ((name, meshes[name]) for name in METHODS)
            ]
        save_rows(settings.keep, kept)
    if settings.sheet is not None:
        titles, images = zip(*shown)
        save_sheet(settings.sheet / "preview_3d.png", images, columns=len(METHODS) + 1, titles=titles)
    return {name: [kept[str(seed)][name] for seed in seeds] for name in METHODS}


def find_weights() -> str:
    """Name the weights that draw views and the settings they are used with: rows of other ones do not count."""
    manifest = (PROJECT_DIR / "assets" / "turntable" / "MANIFEST.json").read_bytes()
    asked = [Preview3dRequest(method="polish", curriculum=name) for name in CURRICULA]
    settings = repr((asked, FieldSettings(), PolishSettings(), "a seed for each solid"))
    return hashlib.sha256(manifest + settings.encode()).hexdigest()


def load_rows(folder: Path | None) -> dict[str, dict[str, dict[str, float]]]:
    """Read the rows that an earlier measurement of the same weights kept: by seed, then by method."""
    path = folder and folder / KEPT
    if not path or not path.is_file():
        return {}
    values = json.loads(path.read_text("utf-8"))
    return dict(values["rows"]) if values["weights"] == find_weights() else {}


def save_rows(folder: Path | None, rows: dict[str, dict[str, dict[str, float]]]) -> None:
    """Keep the rows measured so far."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{KEPT}.part"
    part.write_text(json.dumps({"weights": find_weights(), "rows": rows}, indent=1) + "\n", "utf-8")
    part.replace(folder / KEPT)


def _strip(views: np.ndarray) -> Image.Image:
    """Lay views beside each other."""
    return Image.fromarray(np.clip(np.rint(np.concatenate(list(views), 1) * 255), 0, 255).astype(np.uint8))


def summarise(rows: dict[str, list[dict[str, float]]]) -> dict[str, Figure]:
    """Turn rows into the figures of the scenario, each method's own ones among them."""
    column = {name: {key: [row[key] for row in part] for key in MEASURES} for name, part in rows.items()}
    base = {key: float(np.mean(column["inflate"][key])) for key in MEASURES}
    gain = np.subtract(column[MAIN]["psnr"], column["inflate"]["psnr"]).tolist()
    curriculum = np.subtract(column["falling"]["psnr"], column["uniform"]["psnr"]).tolist()
    figures = {
        "view_psnr_db": make_figure(column[MAIN]["psnr"], unit="dB", baseline=base["psnr"]),
        "view_gain_over_inflate_db": make_figure(gain, unit="dB"),
        "silhouette_iou": make_figure(column[MAIN]["iou"], baseline=base["iou"]),
        "chamfer": make_figure(column[MAIN]["chamfer"], baseline=base["chamfer"]),
        "curriculum_gain": make_figure(curriculum, unit="dB"),
    }
    for name, part in rows.items():
        for key, unit in MEASURES.items():
            figures[f"{name}_{key}"] = make_figure(column[name][key], unit=unit)
        confused = [row["confused"] for row in part if "confused" in row]
        if confused:
            figures[f"{name}_back_confused"] = make_figure(confused)
    return figures


def measure_cost() -> dict[str, Figure]:
    """Time the largest method in processes of its own and take the median; memory is the largest."""
    command = [sys.executable, "-m", "benchmarks.preview_3d_once"]
    runs = []
    for _ in count(range(NUM_RUNS), "timed runs"):
        out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT_DIR).stdout
        runs.append(json.loads(out.splitlines()[-1]))
    figures = {name: Figure(float(np.median([run[name] for run in runs])), unit="s") for name in TIMES}
    return figures | {"peak_mb": Figure(max(run["peak_mb"] for run in runs), unit="MB")}


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Measure the scenario; times are taken anew even where rows were kept."""
    seeds = range(FIRST_SEED, FIRST_SEED + settings.n)
    return summarise(measure_solids(seeds, ModelStore(), settings)) | measure_cost()
