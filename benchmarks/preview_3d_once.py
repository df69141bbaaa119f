"""A fresh process that makes one polished model of a drawn picture and prints its times and peak memory as JSON.

Inflate is its first shape, Views are there before it is polished; Parallax, which makes no model, comes afterwards.

Run by the scenario of the 3D preview as `python -m benchmarks.preview_3d_once`.
"""

import json
import resource
import sys
import time

from PIL import Image, ImageDraw

from pipelines import ModelStore
from pipelines.preview_3d import preview_3d_stream
from pipelines.preview_records import Preview3dProgress, Preview3dRequest


def main() -> None:
    """Make a model, and print what it took; loading the weights counts."""
    picture = Image.new("RGB", (512, 512), "white")
    ImageDraw.Draw(picture).ellipse([120, 60, 400, 460], fill="orange")
    start = time.perf_counter()
    times: dict[str, float] = {}
    for item in preview_3d_stream(Preview3dRequest(picture, method="polish"), ModelStore()):
        times.setdefault("first_shape_s", time.perf_counter() - start)
        if isinstance(item, Preview3dProgress) and item.note == "model taken from the fit":
            times["views_s"] = time.perf_counter() - start
    times["total_s"] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    list(preview_3d_stream(Preview3dRequest(picture, method="parallax"), ModelStore()))
    times["parallax_s"] = time.perf_counter() - start
    print(json.dumps({**times, "peak_mb": peak / (2**20 if sys.platform == "darwin" else 2**10)}))


if __name__ == "__main__":
    main()
