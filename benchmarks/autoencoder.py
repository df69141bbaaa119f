"""How well the autoencoder keeps held-out scenes, next to a linear code with as many numbers per cell.

Pictures are compared as the page would show them: rounded to 8 bits.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.figures import Figure, RunSettings, make_figure
from benchmarks.held_out import AUTOENCODER_SEEDS, draw_scenes, draw_training_scenes, load_storybook, round_trip
from benchmarks.progress import count
from benchmarks.sheets import save_sheet
from pipelines.model import ModelBundle

PATCH_PX = 8
NUM_FIT_SCENES = 300
BATCH = 8
NUM_SHEET_PAIRS = 8


def measure_psnr_db(picture: np.ndarray, truth: np.ndarray) -> float:
    """Give the peak signal-to-noise ratio of one picture. Shapes: (H, W, 3) uint8. Units: dB."""
    error = np.mean((picture.astype(np.float64) - truth.astype(np.float64)) ** 2)
    return float(10 * np.log10(255.0**2 / max(float(error), 1e-6)))


def to_patches(picture: np.ndarray) -> np.ndarray:
    """Cut a picture into cells. Shapes: (H, W, 3) -> (H/8 * W/8, 192) float64."""
    rows, columns = picture.shape[0] // PATCH_PX, picture.shape[1] // PATCH_PX
    cells = picture.reshape(rows, PATCH_PX, columns, PATCH_PX, 3).swapaxes(1, 2)
    return cells.reshape(rows * columns, -1).astype(np.float64)


def from_patches(patches: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Put cells back together, rounded to 8 bits; the inverse of to_patches."""
    rows, columns = shape[0] // PATCH_PX, shape[1] // PATCH_PX
    cells = patches.reshape(rows, columns, PATCH_PX, PATCH_PX, 3).swapaxes(1, 2)
    return np.clip(np.rint(cells.reshape(shape)), 0, 255).astype(np.uint8)


def fit_pca(pictures: list[np.ndarray], num_numbers: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit the best linear code of cells. Returns: mean (192,) and orthonormal rows (num_numbers, 192)."""
    cells = np.concatenate([to_patches(picture) for picture in pictures])
    centre = cells.mean(0)
    _, vectors = np.linalg.eigh(np.cov(cells - centre, rowvar=False))
    return centre, vectors[:, ::-1][:, :num_numbers].T


def round_trip_pca(picture: np.ndarray, centre: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Code a picture with the linear code and decode it again."""
    numbers = (to_patches(picture) - centre) @ basis.T
    return from_patches(numbers @ basis + centre, picture.shape)


def save_pairs(folder: Path, truths: list[np.ndarray], model: ModelBundle) -> None:
    """Write a sheet with pictures above what the autoencoder makes of them."""
    images = [Image.fromarray(truth) for truth in truths]
    save_sheet(folder / "autoencoder.png", [*images, *round_trip(model, images)], columns=len(images))


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Measure the mean PSNR over n held-out scenes; the baseline is the linear code on the same scenes."""
    model = load_storybook(settings.device, "fp32")
    fit = [rendered.rgb for _, rendered in draw_training_scenes(NUM_FIT_SCENES)]
    centre, basis = fit_pca(fit, model.spec.latent_channels)
    ours: list[float] = []
    linear: list[float] = []
    truths = [rendered.rgb for _, rendered in draw_scenes(AUTOENCODER_SEEDS, settings.n)]
    for start in count(range(0, len(truths), BATCH), "scenes through the autoencoder"):
        batch = truths[start : start + BATCH]
        decoded = round_trip(model, [Image.fromarray(truth) for truth in batch])
        ours += [measure_psnr_db(np.asarray(image), truth) for image, truth in zip(decoded, batch, strict=True)]
        linear += [measure_psnr_db(round_trip_pca(truth, centre, basis), truth) for truth in batch]
    if settings.sheet:
        save_pairs(settings.sheet, truths[:NUM_SHEET_PAIRS], model)
    return {"autoencoder_psnr_db": make_figure(ours, unit="dB", baseline=float(np.mean(linear)))}
