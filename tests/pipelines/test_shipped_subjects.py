"""Learned subjects on the shipped weights: the same pixels after a restart, as Python, and in plain diffusers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import Adapter, AdapterStore, ModelStore, SubjectRequest, make_owner, read_adapter, to_python
from pipelines.backends import PROJECT_DIR
from pipelines.lora_files import read_lora
from pipelines.model import ModelBundle
from pipelines.personalization import subject_stream
from pipelines.schedules import make_scheduler
from pipelines.subject_words import compile_prompt

FOLDER = PROJECT_DIR / "assets" / "examples" / "subject"
PROMPT = "my robot on the beach, watercolor"
STEPS, SEED = 4, 3


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    """What was learned of the prepared robot."""
    return read_adapter((FOLDER / "robot.safetensors").read_bytes())


def draw(models: Any, **settings: Any) -> Image.Image:
    """Draw one picture to its end."""
    *_, result = subject_stream(SubjectRequest(PROMPT, seed=SEED, num_steps=STEPS, **settings), models)
    return result.images[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["robot", "whale", "umbrella", "house"])
def test_every_prepared_subject_fits_the_shipped_model(storybook: ModelBundle, name: str) -> None:
    prepared = read_adapter((FOLDER / f"{name}.safetensors").read_bytes())
    lora, notes = read_lora(prepared.data, storybook)
    assert not notes and prepared.word == f"my {name}" and prepared.phrase.endswith(name)
    assert prepared.thumbnail is not None and all(up.abs().max() > 0 for _, up in lora.paths.values())


def test_a_saved_subject_draws_the_same_pixels_after_a_restart_and_as_copied_python(
    adapter: Adapter, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path / "adapters", make_owner())
    saved = store.save(adapter, "Robby")
    before = draw(ModelStore(), adapters=(saved,), draw_by="auto")
    again = AdapterStore(tmp_path / "adapters", "0" * 32)
    assert again.list() == (), "another key opens another shelf"
    (file,) = store.folder.iterdir()
    (tmp_path / "subject_1.safetensors").write_bytes(file.read_bytes())
    (tmp_path / "drawn.py").write_text(
        to_python(SubjectRequest(PROMPT, (saved,), seed=SEED, num_steps=STEPS)), encoding="utf-8"
    )
    # A process of its own is what is left of a restart when everything else is the same.
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_DIR), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "drawn.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / f"limelight_{SEED}.png") as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))


def test_plain_diffusers_draws_the_same_subject(
    storybook: ModelBundle, provide: Callable[[Any], Any], adapter: Adapter, tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline

    (tmp_path / "robot.safetensors").write_bytes(adapter.data)
    pipeline = DiffusionPipeline.from_pretrained(PROJECT_DIR / "assets" / "storybook", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("dpmpp_2m", storybook.scheduler_config)
    words = compile_prompt(PROMPT, adapter.word, adapter.phrase).subject

    def theirs() -> np.ndarray[Any, Any]:
        picture = pipeline(
            words,
            num_inference_steps=STEPS,
            guidance_scale=SubjectRequest("").guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(SEED)],
        ).images[0]
        return np.asarray(picture, dtype=np.float32)

    plain = theirs()
    pipeline.load_lora_weights(tmp_path, weight_name="robot.safetensors")
    adapted = theirs()
    ours = np.asarray(draw(provide(storybook), adapters=(adapter,), draw_by="subject_lora"), dtype=np.float32)
    assert np.abs(adapted - ours).max() <= 1, "rounding alone"
    assert np.abs(plain - ours).mean() > 2, "the adapter is heard"
