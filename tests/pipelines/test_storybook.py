"""The shipped weights: they load here and in plain diffusers, draw the same pictures, and previews look like them."""

from __future__ import annotations

import hashlib
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import Progress, TextToImageRequest, badge, text_to_image_stream, to_python, unknown_words
from pipelines.backends import PROJECT_DIR
from pipelines.images import decode, encode, preview, to_tensor
from pipelines.model import ModelBundle

FOLDER = PROJECT_DIR / "assets" / "storybook"
MAX_BYTES = 60 * 2**20
PROMPT = "a red boat"


def draw(model: ModelBundle, provide: Callable[[ModelBundle], Any], **settings: Any) -> tuple[list[Any], Any]:
    *steps, result = text_to_image_stream(TextToImageRequest(**{"prompt": PROMPT, **settings}), provide(model))
    return steps, result


def mean_distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures in levels of 0..255."""
    return float(np.abs(np.asarray(one, dtype=np.float32) - np.asarray(other, dtype=np.float32)).mean())


def test_the_folder_is_what_the_manifest_says() -> None:
    manifest = json.loads((FOLDER / "MANIFEST.json").read_text(encoding="utf-8"))
    files = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}
    del files["MANIFEST.json"]
    assert sum(path.stat().st_size for path in files.values()) <= MAX_BYTES
    assert {path.suffix for path in files.values()} == {".json", ".safetensors"}
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert sums == manifest["sha256"]


def test_it_is_the_model_of_the_table(storybook: ModelBundle) -> None:
    spec = storybook.spec
    assert (spec.image_px, spec.px_per_cell, spec.prediction) == (256, 8, "v")
    assert storybook.scheduler_config["rescale_betas_zero_snr"]
    assert storybook.scheduler_config["timestep_spacing"] == "trailing"
    assert badge(storybook).startswith("storybook · cpu · fp32 · sdpa")


def test_it_knows_its_own_words_and_no_others(storybook: ModelBundle) -> None:
    assert unknown_words("a red boat left of a white moon, night sky, watercolor", storybook) == ()
    assert [word for word, _ in unknown_words("a red smartphone", storybook)] == ["smartphone"]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddim", "unipc"])
def test_plain_diffusers_draws_the_same_picture(
    storybook: ModelBundle, provide: Callable[[Any], Any], sampler: str, plain_pipeline: Any
) -> None:
    from pipelines.schedules import make_scheduler

    plain_pipeline.scheduler = make_scheduler(sampler, storybook.scheduler_config)
    theirs = plain_pipeline(
        PROMPT,
        num_inference_steps=4,
        guidance_scale=TextToImageRequest("").guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(3)],
    ).images[0]
    ours = draw(storybook, provide, seed=3, num_steps=4, sampler=sampler)[1].images[0]
    assert ours.size == theirs.size == (256, 256)
    assert mean_distance(ours, theirs) < 0.1


@pytest.fixture(scope="module")
def plain_pipeline() -> Any:
    """The shipped folder in plain diffusers, without any of our code."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_copied_python_draws_the_same_picture(
    storybook: ModelBundle, provide: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = TextToImageRequest(PROMPT, seed=8, num_steps=3, techniques={"cfg_rescale": {"strength": 0.5}})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(PROJECT_DIR / "assets")
    (tmp_path / "copied.py").write_text(to_python(request), encoding="utf-8")
    runpy.run_path(str(tmp_path / "copied.py"))
    ours = draw(storybook, provide, seed=8, num_steps=3, techniques={"cfg_rescale": {"strength": 0.5}})[1].images[0]
    assert mean_distance(ours, Image.open(tmp_path / "limelight_8.png")) < 0.5


def test_previews_come_closer_to_the_picture(storybook: ModelBundle, provide: Callable[[Any], Any]) -> None:
    steps, result = draw(storybook, provide, seed=2, num_steps=6)
    assert all(isinstance(step, Progress) and step.preview is not None for step in steps)
    small = result.images[0].resize(steps[0].preview.size, Image.Resampling.BOX)
    distances = [mean_distance(step.preview, small) for step in steps]
    assert distances[-1] < distances[0]
    # The linear map cannot draw fine lines, but the last preview must be recognisable as the picture.
    assert distances[-1] < 16


def test_the_autoencoder_and_the_preview_map_keep_a_drawn_picture(storybook: ModelBundle) -> None:
    card = np.full((256, 256, 3), 200, dtype=np.uint8)
    card[64:160, 96:224] = (220, 40, 30)
    image = Image.fromarray(card)
    with torch.no_grad():
        latents = encode(storybook, to_tensor([image]))
        (back,), small = decode(storybook, latents), preview(storybook, latents)
    assert mean_distance(image, back) < 8
    assert mean_distance(image.resize(small.size, Image.Resampling.BOX), small) < 16


def test_guidance_rescale_softens_what_strong_guidance_hardens(
    storybook: ModelBundle, provide: Callable[[Any], Any]
) -> None:
    offs, ons = [], []
    rescale = {"cfg_rescale": {"strength": 0.9}}
    for seed in range(3):
        settings = {"seed": seed, "num_steps": 6, "guidance_scale": 12.0, "techniques": rescale, "compare": True}
        measures = {measure.name: measure for measure in draw(storybook, provide, **settings)[1].measures}
        offs.append(measures["rms_contrast"].off)
        ons.append(measures["rms_contrast"].on)
    assert np.mean(ons) < np.mean(offs)
