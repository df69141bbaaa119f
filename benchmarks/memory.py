"""A fresh process that imports what the page imports, loads the model, draws one picture, and prints its peak memory.

Run by the speed scenario as `python -m benchmarks.memory [device]`, because a peak cannot be taken back.
"""

import resource
import sys

import gradio  # noqa: F401  (the page's process holds it too)

from benchmarks.held_out import NUM_STEPS, load_storybook
from pipelines import ImageResult, TextToImageRequest, text_to_image_stream
from pipelines.model import ModelBundle

PROMPT = "a red boat left of a white moon"


class OneModel:
    """Provide one loaded model under every name."""

    def __init__(self, model: ModelBundle) -> None:
        self.model = model

    def get(self, name: str) -> ModelBundle:
        """Return the model."""
        return self.model


def draw_one(model: ModelBundle, seed: int = 0) -> ImageResult:
    """Draw one picture through the stream that the page uses, previews included."""
    request = TextToImageRequest(PROMPT, seed=seed, num_steps=NUM_STEPS)
    *_, result = text_to_image_stream(request, OneModel(model))
    if not isinstance(result, ImageResult):
        raise TypeError(f"the stream ended with {type(result).__name__} instead of ImageResult")
    return result


def main(device: str | None = None) -> None:
    """Load, draw, and print the peak resident memory in MB."""
    draw_one(load_storybook(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10))


if __name__ == "__main__":
    main(*sys.argv[1:2])
