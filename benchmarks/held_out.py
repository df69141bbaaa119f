"""What every measurement shares: the shipped model, scenes that training never saw, and pictures drawn in batches.

All seeds lie in the range that the hold-out rule keeps from training; each use has a range of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from PIL import Image

from benchmarks.progress import count
from pipelines.backends import DEFAULT_BACKEND
from pipelines.cache import ModelStore
from pipelines.denoise import DenoiseSettings, denoise
from pipelines.images import decode, encode, to_tensor
from pipelines.model import ModelBundle, TextCond
from pipelines.runtime import RunOptions
from pipelines.text_side import encode_prompt
from pipelines.types import TextToImageRequest
from training.world.render import Rendered, render
from training.world.scene import FIRST_HELD_OUT_SEED, Scene, sample_scene

PARSER_SEEDS = FIRST_HELD_OUT_SEED + 50_000
AUTOENCODER_SEEDS = FIRST_HELD_OUT_SEED + 100_000
PICTURE_SEEDS = FIRST_HELD_OUT_SEED + 200_000
NUM_STEPS = 20
PICTURES_PER_BATCH = 32
# Nearly twice as fast as the page's one by one on a CPU; a picture then differs from the page's by rounding only.
PICTURES_PER_CALL = 8


def load_storybook(device: str | None = None, dtype: str = "auto") -> ModelBundle:
    """Load the shipped model as the page does.

    Units: device None is what the page would choose; speed is measured in the page's number format ("auto"), quality
           in a fixed one, so that it does not depend on the machine: fp32, or bf16 where hours are at stake.
    """
    return ModelStore(RunOptions(device=device or "auto", dtype=dtype, offline=True)).get(DEFAULT_BACKEND)


def draw_scenes(first_seed: int, num_scenes: int) -> Iterator[tuple[Scene, Rendered]]:
    """Draw held-out scenes of the whole world, held-out combinations included."""
    for seed in range(first_seed, first_seed + num_scenes):
        scene = sample_scene(seed, split="all")
        yield scene, render(scene)


def draw_training_scenes(num_scenes: int) -> Iterator[tuple[Scene, Rendered]]:
    """Draw scenes as training sees them, for what a comparison has to be fitted on."""
    for seed in range(num_scenes):
        scene = sample_scene(seed, split="train")
        yield scene, render(scene)


@torch.no_grad()
def round_trip(model: ModelBundle, images: Sequence[Image.Image]) -> list[Image.Image]:
    """Encode pictures and decode them again."""
    return decode(model, encode(model, to_tensor(images)))


def encode_prompts(model: ModelBundle, prompts: Sequence[str]) -> TextCond:
    """Encode different prompts for one batch. Shapes: hidden_cond (b, m, e); the empty half stays (1, m, e)."""
    size_px = (model.spec.image_px, model.spec.image_px)
    conds = [encode_prompt(model, prompt, size_px=size_px) for prompt in prompts]
    first = conds[0]
    return TextCond(
        first.hidden_uncond,
        torch.cat([cond.hidden_cond for cond in conds]),
        first.pooled_uncond,
        torch.cat([cond.pooled_cond for cond in conds]),
        first.time_ids,
    )


@torch.no_grad()
def draw_pictures(model: ModelBundle, prompts: Sequence[str], first_seed: int, label: str) -> list[Image.Image]:
    """Draw one picture per prompt with the page's own settings.

    Units:   picture k uses seed first_seed + k, whatever the batch size.
    Returns: the pictures in the order of the prompts.
    """
    default = TextToImageRequest("")
    model = replace(model, plan=replace(model.plan, images_per_call=PICTURES_PER_CALL))
    images: list[Image.Image] = []
    for start in count(range(0, len(prompts), PICTURES_PER_BATCH), label):
        batch = prompts[start : start + PICTURES_PER_BATCH]
        settings = DenoiseSettings(
            seed=first_seed + start,
            num_images=len(batch),
            num_steps=NUM_STEPS,
            guidance_scale=default.guidance_scale,
            sampler=default.sampler,
            width_px=model.spec.image_px,
            height_px=model.spec.image_px,
            preview_every=0,
        )
        stream = denoise(model, encode_prompts(model, batch), settings, (), [])
        while True:
            try:
                next(stream)
            except StopIteration as end:
                images += decode(model, end.value)
                break
    return images
