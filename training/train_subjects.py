"""Learn the page's prepared subjects, so that they can be drawn before anybody has pressed Learn.

`python -m training.train_subjects` learns each with the settings that the page starts with and writes its adapter
beside its pictures. To be repeated whenever the shipped model or those settings change.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load

from pipelines.adapters import Adapter, read_adapter
from pipelines.cache import ModelStore
from pipelines.lora_files import save_tensors
from pipelines.lora_header import read_about
from pipelines.runtime import RunOptions
from pipelines.subject_learning import learn_stream
from pipelines.subject_types import LearnRequest, LearnResult
from pipelines.text_to_image import ModelProvider

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "examples" / "subject"


def learn(request: LearnRequest, models: ModelProvider) -> LearnResult:
    """Learn a subject to the end.

    Raises: UserError as `learn_stream`.
    """
    *_, result = learn_stream(request, models)
    assert isinstance(result, LearnResult)
    return result


def halve(adapter: Adapter) -> Adapter:
    """Write an adapter's numbers in 16 bits: half the size, and no difference that can be seen."""
    tensors = {name: tensor.to(torch.float16) for name, tensor in load(adapter.data).items()}
    return read_adapter(save_tensors(tensors, read_about(adapter.data)))


def learn_all(folder: Path, models: ModelProvider, names: Sequence[str] = (), *, num_steps: int | None = None) -> None:
    """Learn the subjects that a folder lists, or some of them, and write their adapters into it.

    Units: num_steps of learning, None for the page's own.
    """
    for row in json.loads((folder / "subjects.json").read_text("utf-8"))["subjects"]:
        if names and row["name"] not in names:
            continue
        pictures = []
        for file in row["files"]:
            with Image.open(folder / file) as picture:
                pictures.append(picture.convert("RGB"))
        request = LearnRequest(tuple(pictures), row["word"], row["phrase"], sample_prompt=row["word"])
        result = learn(request if num_steps is None else replace(request, num_steps=num_steps), models)
        adapter = halve(result.adapter)
        (folder / f"{row['name']}.safetensors").write_bytes(adapter.data)
        print(f"{row['name']}: {len(adapter.data) / 2**20:.2f} MB in {result.seconds:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and learn."""
    parser = argparse.ArgumentParser(description="Learn the page's prepared subjects.")
    parser.add_argument("names", nargs="*", help="which ones; default all")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    options = parser.parse_args(arguments)
    learn_all(FOLDER, ModelStore(RunOptions(device=options.device, offline=True)), options.names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
