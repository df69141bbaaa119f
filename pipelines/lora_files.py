"""LoRA files: safetensors with the keys that diffusers and peft write, read and written as bytes.

Pickles are never opened. What a file holds beyond the layers of the UNet, such as paths of a text encoder, is left out
and said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from pipelines.errors import UserError
from pipelines.lora import Lora
from pipelines.lora_header import DAMAGED, refuse_others
from pipelines.model import ModelBundle

_PREFIXES = ("base_model.model.", "unet.")
# What follows the layer's name in the files of peft, diffusers and kohya's trainers.
_ENDINGS = (
    (re.compile(r"(.+)\.lora_A(?:\.\w+)?\.weight$"), "down"),
    (re.compile(r"(.+)\.lora_B(?:\.\w+)?\.weight$"), "up"),
    (re.compile(r"(.+)\.lora[._]down\.weight$"), "down"),
    (re.compile(r"(.+)\.lora[._]up\.weight$"), "up"),
    (re.compile(r"(.+)_lora\.down\.weight$"), "down"),
    (re.compile(r"(.+)_lora\.up\.weight$"), "up"),
    (re.compile(r"(.+)\.alpha$"), "alpha"),
)
_KOHYA = "lora_unet_"
Parts = dict[str, dict[str, torch.Tensor]]


def write_lora(lora: Lora, about: Mapping[str, str]) -> bytes:
    """Write side paths as a file that plain diffusers loads with `load_lora_weights`.

    Units: about are texts that say what the file is; a scale other than 1 is multiplied in.
    """
    tensors = {}
    for name, (down, up) in lora.paths.items():
        tensors[f"unet.{name}.lora_A.weight"] = down.detach().float().cpu().contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = (up.detach().float() * lora.scale).cpu().contiguous()
    return save_tensors(tensors, about)


def save_tensors(tensors: dict[str, torch.Tensor], about: Mapping[str, str]) -> bytes:
    """Write tensors and texts as a safetensors file.

    Differs: the library writes the texts in any order; here the same content gives the same bytes.
    """
    data = save(tensors, {"format": "pt", **about})
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def read_lora(data: bytes, model: ModelBundle) -> tuple[Lora, list[str]]:
    """Read side paths that fit a model.

    Returns: the side paths on the model's device, and sentences about what was left out.
    Raises:  UserError with one sentence if the bytes are no safetensors file, or hold nothing that fits the model.
    """
    refuse_others(data)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(DAMAGED) from error
    parts, num_left = _sort(tensors, model.unet)
    paths, device = {}, model.plan.device
    for name, found in parts.items():
        if "down" not in found or "up" not in found:
            num_left += len(found)
            continue
        paths[name] = _fit(name, found, model, device)
    if not paths:
        raise UserError(
            f"This LoRA file has no part that fits {model.spec.name}; choose one that was made for this model."
        )
    notes = [f"{num_left} parts of the LoRA file are for something else than the UNet and were left out."]
    return Lora(paths), notes if num_left else []


def _sort(tensors: Mapping[str, torch.Tensor], unet: Any) -> tuple[Parts, int]:
    """Sort the tensors of a file by the UNet's layers; returns them and the number of those that belong nowhere."""
    known = {name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    flat = {name.replace(".", "_"): name for name in known}
    parts: Parts = {}
    num_left = 0
    for key, tensor in tensors.items():
        layer, kind = _split_key(key, flat)
        if layer in known:
            parts.setdefault(layer, {})[kind] = tensor
        else:
            num_left += 1
    return parts, num_left


def _split_key(key: str, flat: Mapping[str, str]) -> tuple[str, str]:
    """Split a key into the UNet's layer and what it holds of it; the layer is "" for a key of an unknown form."""
    for pattern, kind in _ENDINGS:
        if match := pattern.match(key):
            layer = match[1]
            for prefix in _PREFIXES:
                layer = layer.removeprefix(prefix)
            if layer.startswith(_KOHYA):
                return flat.get(layer.removeprefix(_KOHYA), ""), kind
            # The processors of older diffusers: attn1.processor.to_out_lora stands for attn1.to_out.0.
            layer = layer.replace(".processor.", ".")
            return (f"{layer}.0" if layer.endswith(".to_out") else layer), kind
    return "", ""


def _fit(
    name: str, found: Mapping[str, torch.Tensor], model: ModelBundle, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check one layer's path against the layer; returns (down, up) float32."""
    down, up = found["down"].float(), found["up"].float()
    weight = model.unet.get_submodule(name).weight
    if weight.ndim == 2 and down.ndim == 4:  # 1 x 1 convolutions and linear layers hold the same numbers
        down, up = down.flatten(1), up.flatten(1)
    if weight.ndim == 4 and down.ndim == 2:
        down, up = down[..., None, None], up[..., None, None]
    rank = down.shape[0]
    if down.shape[1:] != weight.shape[1:] or up.shape != (weight.shape[0], rank, *(1,) * (weight.ndim - 2)):
        raise UserError(
            f"This LoRA file was made for another model: {model.spec.name} has layers of another size; choose the "
            "backend that it belongs to."
        )
    if not (down.isfinite().all() and up.isfinite().all()):
        raise UserError("This LoRA file holds numbers that are not finite; choose another one.")
    factor = float(found["alpha"]) / rank if "alpha" in found else 1.0
    return down.to(device), (up * factor).to(device)
