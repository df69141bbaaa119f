"""Preparing subjects: what is learned stands beside its pictures, in 16 bits, and draws as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from pipelines.adapters import read_adapter
from pipelines.lora_files import read_lora
from pipelines.model import ModelBundle
from tests.pictures import make_ramp
from training.train_subjects import learn_all


def test_each_listed_subject_gets_its_file(
    tiny_storybook: ModelBundle, provide: Callable[[ModelBundle], Any], tmp_path: Path
) -> None:
    rows = [
        {"name": name, "word": f"my {name}", "phrase": f"red {name}", "files": [f"{name}.png"]}
        for name in ("boat", "cat")
    ]
    for row in rows:
        make_ramp(64).save(tmp_path / row["files"][0])
    (tmp_path / "subjects.json").write_text(json.dumps({"subjects": rows}), "utf-8")
    learn_all(tmp_path, provide(tiny_storybook), ["cat"], num_steps=2)
    assert not (tmp_path / "boat.safetensors").exists(), "only the one that was asked for"
    adapter = read_adapter((tmp_path / "cat.safetensors").read_bytes())
    assert (adapter.word, adapter.phrase, adapter.objective, adapter.num_steps) == ("my cat", "red cat", "dco", 2)
    assert {tensor.dtype for tensor in load(adapter.data).values()} == {torch.float16}
    lora, notes = read_lora(adapter.data, tiny_storybook)
    assert lora.paths and not notes and adapter.thumbnail is not None
