"""A fresh process that enlarges one drawn square four times and prints seconds and peak memory as JSON.

Run by the super-resolution scenario as `python -m benchmarks.enlarge_once MODE SIDE`.
"""

import json
import resource
import sys

from PIL import Image

from pipelines import ModelStore, SuperResolutionRequest, SuperResolutionResult, super_resolution_stream


def main(mode: str, side_px: str) -> None:
    """Enlarge, and print what it took; loading the weights counts."""
    side = Image.linear_gradient("L").resize((int(side_px),) * 2)
    picture = Image.merge("RGB", (side, side.rotate(90), side.rotate(180)))
    *_, result = super_resolution_stream(SuperResolutionRequest(picture, mode=mode), ModelStore())
    if not isinstance(result, SuperResolutionResult):
        raise TypeError(f"the stream ended with {type(result).__name__} instead of a result")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": result.seconds, "peak_mb": peak / (2**20 if sys.platform == "darwin" else 2**10)}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
