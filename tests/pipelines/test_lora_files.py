"""LoRA files: written and read back, every common form of keys, plain diffusers, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load, save

from pipelines.cfg_batch import run_cond
from pipelines.errors import UserError
from pipelines.lora import Lora, adapt
from pipelines.lora_files import read_lora, write_lora
from pipelines.lora_header import read_about
from pipelines.model import ModelBundle
from pipelines.schedules import make_scheduler
from pipelines.text_side import encode_prompt
from tests.loras import make_loud_lora
from tests.pipelines.test_lora import predict


@pytest.mark.parametrize("reach", ["attention", "all"])
def test_what_is_written_is_read_back(tiny_model: ModelBundle, reach: str) -> None:
    lora = make_loud_lora(tiny_model, reach)
    again, notes = read_lora(write_lora(lora, {"word": "my boat"}), tiny_model)
    assert not notes and again.paths.keys() == lora.paths.keys()
    assert torch.equal(predict(adapt(tiny_model, again)), predict(adapt(tiny_model, lora)))
    assert not torch.allclose(predict(tiny_model), predict(adapt(tiny_model, lora)))


def test_the_header_says_what_it_is_and_a_scale_is_multiplied_in(tiny_sd: ModelBundle) -> None:
    lora = make_loud_lora(tiny_sd)
    data = write_lora(Lora(lora.paths, scale=0.5), {"word": "my boat"})
    assert read_about(data)["word"] == "my boat"
    name, (_, up) = next(iter(lora.paths.items()))
    assert torch.equal(read_lora(data, tiny_sd)[0].paths[name][1], 0.5 * up)


def test_the_keys_of_other_trainers_are_understood(tiny_sd: ModelBundle) -> None:
    lora = make_loud_lora(tiny_sd)
    forms = {
        "old diffusers": ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight"),
        "peft": ("base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight"),
        "bare": ("{}.lora_A.weight", "{}.lora_B.weight"),
    }
    for down_key, up_key in forms.values():
        tensors = {}
        for name, (down, up) in lora.paths.items():
            tensors |= {down_key.format(name): down, up_key.format(name): up}
        again, _ = read_lora(save(tensors), tiny_sd)
        assert torch.equal(predict(adapt(tiny_sd, again)), predict(adapt(tiny_sd, lora)))
    kohya, processors = {}, {}
    for name, (down, up) in lora.paths.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        kohya |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(1.0)}
        block, target = name.removesuffix(".0").rsplit(".", 1)
        processors |= {f"{block}.processor.{target}_lora.down.weight": down}
        processors |= {f"{block}.processor.{target}_lora.up.weight": up}
    again, _ = read_lora(save(processors), tiny_sd)
    assert torch.equal(predict(adapt(tiny_sd, again)), predict(adapt(tiny_sd, lora)))
    halved, _ = read_lora(save(kohya), tiny_sd)
    assert torch.allclose(predict(adapt(tiny_sd, halved)), predict(adapt(tiny_sd, Lora(lora.paths, 0.5))), atol=1e-6)


def test_what_belongs_to_something_else_is_left_out_and_said(tiny_sd: ModelBundle) -> None:
    tensors = load(write_lora(make_loud_lora(tiny_sd), {}))
    tensors["text_encoder.text_model.layers.0.q_proj.lora_A.weight"] = torch.zeros(2, 16)
    _, notes = read_lora(save(tensors), tiny_sd)
    assert notes == ["1 parts of the LoRA file are for something else than the UNet and were left out."]


def test_bad_files_are_one_sentence_each(tiny_sd: ModelBundle, tiny_sdxl: ModelBundle) -> None:
    good = write_lora(make_loud_lora(tiny_sd), {})
    zipped = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, zipped)
    wide = {key: torch.cat([part, part], 1) for key, part in load(good).items()}
    broken = {key: part / 0 for key, part in load(good).items()}
    for data, words in (
        (b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00}\x94", "pickle, which can run programs"),
        (zipped.getvalue(), "pickle, which can run programs"),
        (b"", "damaged or no safetensors"),
        (b"hello, this is text", "damaged or no safetensors"),
        (good[:-100], "damaged or no safetensors"),
        (save({"decoder.weight": torch.zeros(2, 2)}), "no part that fits sd15"),
        (save(wide), "made for another model"),
        (save(broken), "not finite"),
    ):
        with pytest.raises(UserError, match=words):
            read_lora(data, tiny_sd)
    other = make_loud_lora(tiny_sdxl)
    with pytest.raises(UserError, match="another model|no part that fits"):
        read_lora(write_lora(other, {}), tiny_sd)


@pytest.mark.parametrize("layout", ["storybook", "sd", "sdxl"])
@pytest.mark.parametrize("reach", ["attention", "all"])
@torch.no_grad()
def test_plain_diffusers_draws_the_same(
    layout: str, reach: str, tiny_folder: Callable[[str, str], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: ModelBundle = request.getfixturevalue(f"tiny_{layout}")
    lora = make_loud_lora(model, reach)
    (tmp_path / "subject.safetensors").write_bytes(write_lora(lora, {"word": "my boat"}))
    pipeline = DiffusionPipeline.from_pretrained(
        tiny_folder(layout, "v" if layout == "storybook" else "eps"), local_files_only=True
    )
    pipeline.scheduler = make_scheduler("ddim", model.scheduler_config)
    pipeline.load_lora_weights(tmp_path, weight_name="subject.safetensors")
    latents = torch.randn(1, model.spec.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    named = {"prompt": "a red boat", "latents": latents.clone(), "num_inference_steps": 2, "height": 64, "width": 64}
    theirs = pipeline(**named, guidance_scale=1.0, output_type="latent").images
    text = encode_prompt(model, "a red boat", size_px=(64, 64))
    scheduler = make_scheduler("ddim", model.scheduler_config)
    scheduler.set_timesteps(2)
    drawn = {}
    for name, bundle in (("plain", model), ("adapted", adapt(model, lora))):
        own = latents
        for timestep in scheduler.timesteps:
            own = scheduler.step(run_cond(bundle, own, int(timestep), text), timestep, own, return_dict=False)[0]
        drawn[name] = own
    assert torch.allclose(drawn["adapted"], theirs, atol=1e-4)
    assert not torch.allclose(drawn["plain"], theirs, atol=1e-3)


def test_a_header_length_that_looks_like_a_pickle_is_read(tiny_sd: ModelBundle) -> None:
    lora = make_loud_lora(tiny_sd)
    for filler in range(0, 512, 8):
        data = write_lora(lora, {"word": "my boat", "filler": "x" * filler})
        if data[0] == 0x80:
            break
    assert data[0] == 0x80 and read_about(data)["word"] == "my boat"
    assert read_lora(data, tiny_sd)[0].paths.keys() == lora.paths.keys()
