"""A fresh process that lights one dark square as the page does and prints seconds and peak memory as JSON.

Run by the low-light scenario as `python -m benchmarks.light_once SIDE`. A small picture is lit first, because a page
that somebody looks at has its networks in memory.
"""

import json
import resource
import sys
import time

import torch
from PIL import Image

from pipelines import LowLightRequest, LowLightResult, ModelStore, low_light_stream
from pipelines.darkening import Darkness, darken
from pipelines.images import to_images, to_tensor


def draw_dark(side_px: int) -> Image.Image:
    """Draw smooth colours and take them in a tenth of the light, with the noise of a telephone."""
    grey = Image.linear_gradient("L").resize((side_px, side_px))
    bright = to_tensor([Image.merge("RGB", (grey, grey.rotate(90), grey.rotate(180)))])[0]
    dark = darken(bright, Darkness(0.1, shot=0.002), torch.Generator().manual_seed(0))
    return to_images(dark[None])[0]


def light(side_px: int, models: ModelStore) -> dict[str, float]:
    """Light one picture; returns the seconds to the first lit view, to the result, and of a pass."""
    picture = draw_dark(side_px)
    start = time.perf_counter()
    first_s, result = 0.0, None
    for item in low_light_stream(LowLightRequest(picture), models):
        if isinstance(item, LowLightResult):
            result = item
        elif not first_s and item.preview is not None:
            first_s = time.perf_counter() - start
    if result is None or not result.is_dark:
        raise TypeError("the stream did not light the picture")
    whole_s = time.perf_counter() - start
    passes = next(note for note in result.notes if note.startswith("Brightness after each pass")).count(",") + 1
    return {
        "first_view_s": first_s,
        "diffusion_1024_s": whole_s,
        "diffusion_1024_pass_s": (whole_s - first_s) / passes,
    }


def main(side_px: str) -> None:
    """Light a small picture to load what is needed, then the one that counts."""
    models = ModelStore()
    light(64, models)
    found = light(int(side_px), models)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(found | {"peak_mb": peak / (2**20 if sys.platform == "darwin" else 2**10)}))


if __name__ == "__main__":
    main(sys.argv[1])
