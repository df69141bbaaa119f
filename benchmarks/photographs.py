"""Photographs that no network here was trained on, and what reduced or damaged them.

They come with scikit-image, whose notes name a licence that allows it for each of these. Pictures without one, as the
moon, a scanned page and the motorcycles of a stereo benchmark, are left out, and so are drawings. Only their files are
read; none is copied into this repository.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines import ModelStore, SuperResolutionRequest, SuperResolutionResult, super_resolution_stream
from training.degradations import CameraDamage, photograph

# File and licence as the package's notes state it.
PHOTOGRAPHS = (
    ("astronaut.png", "public domain, NASA"),
    ("chelsea.png", "CC0"),
    ("coffee.png", "CC0"),
    ("rocket.jpg", "public domain, SpaceX"),
    ("hubble_deep_field.jpg", "public domain, NASA"),
    ("retina.jpg", "CC0"),
    ("ihc.png", "no known restrictions"),
    ("camera.png", "CC0"),
    ("brick.png", "CC0"),
    ("grass.png", "CC0"),
    ("gravel.png", "CC0"),
    ("coins.png", "no known restrictions"),
    ("cell.png", "CC0"),
    ("clock_motion.png", "public domain"),
    ("microaneurysms.png", "CC0"),
    ("text.png", "public domain"),
)
SCALES = (2.0, 3.3, 4.0, 8.0)
MAX_SIDE_PX = 512
# An everyday telephone: a lens that is a little soft, a few levels of noise, a file of usual quality.
CAMERA = CameraDamage(blur_px=0.4, noise_levels=4.0, shot_frac=0.5, jpeg_quality=80)


@dataclass(frozen=True)
class Pair:
    """Hold a photograph and the small picture that was made of it; size says what the small one is enlarged to."""

    name: str
    truth: Image.Image
    small: Image.Image
    scale: float
    is_camera: bool


def find_folder() -> Path:
    """Find the photographs.

    Raises: FileNotFoundError if scikit-image is not installed.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("scikit-image is not installed; `pip install -r requirements-dev.txt` brings it.")
    return Path(spec.origin).parent / "data"


def load_photographs(count: int | None = None, max_side_px: int = MAX_SIDE_PX) -> dict[str, Image.Image]:
    """Load the middle of each photograph, in RGB."""
    folder, found = find_folder(), {}
    for name, _ in PHOTOGRAPHS[:count]:
        with Image.open(folder / name) as file:
            picture = file.convert("RGB")
        width, height = (min(max_side_px, side) for side in picture.size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        found[name.split(".")[0]] = picture.crop((left, top, left + width, top + height))
    return found


def make_pair(name: str, picture: Image.Image, scale: float, *, is_camera: bool) -> Pair:
    """Reduce a photograph, cut so that the small picture times the scale has its size again."""
    small = (int(picture.width / scale), int(picture.height / scale))
    truth = picture.crop((0, 0, round(small[0] * scale), round(small[1] * scale)))
    if not is_camera:
        return Pair(name, truth, truth.resize(small, Image.Resampling.BICUBIC), scale, False)
    pixels = torch.from_numpy(np.asarray(truth, dtype=np.float32)).permute(2, 0, 1) / (255 / 2) - 1
    rng = np.random.default_rng([len(name), round(10 * scale)])
    taken = photograph(pixels, (small[1], small[0]), CAMERA, rng)
    levels = ((taken + 1) * (255 / 2)).round().clamp(0, 255).to(torch.uint8)
    return Pair(name, truth, Image.fromarray(levels.permute(1, 2, 0).numpy()), scale, True)


def enlarge_photo(picture: Image.Image, models: ModelStore, **fields: Any) -> SuperResolutionResult:
    """Run the stream that the page uses to its end."""
    *_, result = super_resolution_stream(SuperResolutionRequest(picture, **fields), models)
    if not isinstance(result, SuperResolutionResult):
        raise TypeError(f"the stream ended with {type(result).__name__} instead of a result")
    return result
