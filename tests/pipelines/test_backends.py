"""Loading real folders of every layout, and one sentence for each way in which loading fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines import BackendUnavailable
from pipelines.backends import BACKEND_NAMES, DEFAULT_BACKEND, PROJECT_DIR, SPECS, find_spec, load_backend
from pipelines.model import ModelBundle
from pipelines.runtime import RunOptions, make_plan
from pipelines.text_side import encode_prompt

Folder = Callable[[str, str], Path]
Load = Callable[..., ModelBundle]


@pytest.fixture
def copy_of(tiny_folder: Folder, tmp_path: Path) -> Callable[[str, str], Path]:
    """Copy a tiny folder, so that a test may break it."""

    def copy(layout: str, prediction: str) -> Path:
        return Path(shutil.copytree(tiny_folder(layout, prediction), tmp_path / layout))

    return copy


def test_rows_are_complete_and_names_are_unique() -> None:
    assert BACKEND_NAMES == ("storybook", "sd15", "sdxl") and DEFAULT_BACKEND == "storybook"
    assert {spec.family for spec in SPECS} == {"sd", "sdxl"}
    assert [spec.name for spec in SPECS if spec.is_shipped] == ["storybook"]
    for spec in SPECS:
        assert find_spec(spec.name) is spec
        assert spec.image_px % spec.px_per_cell == 0 and spec.prediction in ("eps", "v")
        assert spec.source and spec.title and spec.latent_scale > 0 and spec.max_image_px >= spec.image_px
        assert (PROJECT_DIR / spec.parser_source).is_dir()


def test_the_spec_is_completed_from_the_weights(tiny_storybook: ModelBundle, tiny_sdxl: ModelBundle) -> None:
    spec = tiny_storybook.spec
    assert (spec.prediction, spec.latent_channels, spec.image_px, spec.max_tokens) == ("v", 8, 64, 16)
    assert (spec.coarse_cells, spec.coarsest_cells, spec.zeros_for_empty) == (8, 4, False)
    assert tiny_sdxl.spec.zeros_for_empty and tiny_sdxl.spec.prediction == "eps"
    assert len(tiny_sdxl.sides) == 2


def test_weights_are_frozen_in_the_planned_format(tiny_model: ModelBundle) -> None:
    for module in (tiny_model.unet, tiny_model.vae, *(side.encoder for side in tiny_model.sides)):
        assert not module.training
        assert all(not parameter.requires_grad for parameter in module.parameters())
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert tiny_model.size_mb > 0


def test_bf16_loads_and_runs(tiny_folder: Folder, load_tiny_as: Load) -> None:
    model = load_tiny_as(tiny_folder("sdxl", "eps"), "sdxl", dtype="bf16")
    assert model.unet.dtype is torch.bfloat16
    with torch.no_grad():
        assert encode_prompt(model, "a boat", size_px=(64, 64)).hidden_cond.isfinite().all()


def test_half_size_files_are_found_and_loaded(copy_of: Folder, load_tiny_as: Load) -> None:
    folder = copy_of("sd", "eps")
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (folder / part / f"{name}.safetensors").rename(folder / part / f"{name}.fp16.safetensors")
    assert load_tiny_as(folder, "sd15").spec.name == "sd15"


def fail(folder: Path | str, backend: str) -> str:
    """Load a broken folder and return the sentence."""
    options = RunOptions(device="cpu", dtype="fp32", model_path=str(folder))
    with pytest.raises(BackendUnavailable) as caught:
        load_backend(backend, make_plan(options))
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 420 and sentence.endswith(".")
    return sentence


def test_missing_weights_are_one_sentence(copy_of: Folder, tmp_path: Path) -> None:
    assert "there is no folder" in fail(tmp_path / "nowhere", "storybook")
    assert "no model_index.json" in fail(tmp_path, "storybook")
    folder = copy_of("storybook", "v")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "is incomplete for storybook" in fail(folder, "storybook")


def test_a_pickled_weight_file_is_not_read(copy_of: Folder) -> None:
    folder = copy_of("sd", "eps")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    assert "it needs safetensors files" in fail(folder, "sd15")


def test_a_damaged_weight_file_is_one_sentence(copy_of: Folder) -> None:
    folder = copy_of("sd", "eps")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert "is damaged" in fail(folder, "sd15") or "is incomplete" in fail(folder, "sd15")


def test_a_folder_of_another_family_is_named(tiny_folder: Folder) -> None:
    assert "has 2 text encoders but sd15 needs 1" in fail(tiny_folder("sdxl", "eps"), "sd15")
    assert "has 1 text encoders but sdxl needs 2" in fail(tiny_folder("sd", "eps"), "sdxl")


def test_a_tokenizer_class_from_elsewhere_is_refused(copy_of: Folder) -> None:
    folder = copy_of("sd", "eps")
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "AutoModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "The tokenizer class AutoModel is not supported" in fail(folder, "sd15")


@pytest.mark.parametrize("backend", ["sd15", "sdxl"])
@pytest.mark.parametrize("offline", [False, True])
def test_no_network_is_one_sentence(backend: str, offline: bool) -> None:
    plan = make_plan(RunOptions(device="cpu", dtype="fp32", offline=offline))
    with pytest.raises(BackendUnavailable, match=f"{backend} needs its weights from the Hugging Face hub"):
        load_backend(backend, plan)


def test_a_model_path_belongs_to_the_backend_it_was_given_for(tiny_folder: Folder) -> None:
    options = RunOptions(
        device="cpu", dtype="fp32", offline=True, model_path=str(tiny_folder("sd", "eps")), model_path_for="sd15"
    )
    assert load_backend("sd15", make_plan(options)).spec.image_px == 64
    with pytest.raises(BackendUnavailable, match="sdxl needs its weights"):
        load_backend("sdxl", make_plan(options))
