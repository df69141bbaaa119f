"""A fresh process that makes one polished model of a drawn picture and prints seconds and peak memory as JSON.

Run by the scenario of the 3D preview as `python -m benchmarks.preview_3d_once`.
"""

import json
import resource
import sys

from PIL import Image, ImageDraw

from pipelines import ModelStore
from pipelines.preview_3d import preview_3d_stream
from pipelines.preview_records import Preview3dRequest, Preview3dResult


def main() -> None:
    """Make a model, and print what it took; loading the weights counts."""
    picture = Image.new("RGB", (512, 512), "white")
    ImageDraw.Draw(picture).ellipse([120, 60, 400, 460], fill="orange")
    *_, result = preview_3d_stream(Preview3dRequest(picture, method="polish"), ModelStore())
    if not isinstance(result, Preview3dResult):
        raise TypeError(f"the stream ended with {type(result).__name__} instead of a result")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": result.seconds, "peak_mb": peak / (2**20 if sys.platform == "darwin" else 2**10)}))


if __name__ == "__main__":
    main()
