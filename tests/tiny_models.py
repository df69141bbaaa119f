"""Tiny pipelines of the real classes with random weights, saved in the plain diffusers layout.

Three layouts: storybook (whole-word tokenizer, 8 latent channels), sd (one text encoder), sdxl (two, pooled, time ids).
Channels are few and grids small, so that a step takes milliseconds; no class is replaced by a stand-in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipelines import curve_net, restorer, sr_lite
from pipelines.curve_net import CurveNet, CurveNetConfig
from pipelines.restorer import Restorer, RestorerConfig
from pipelines.sr_lite import SrLite, SrLiteConfig

# One word per blank; a string reads better than fifty quoted words.
_TEXT = """a an the and of in on at red blue green yellow white black pink purple orange boat moon house cat star fish
tree robot car night sky sea meadow city watercolor neon flat left right above below two three next to , ."""
WORDS = _TEXT.split()
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
MAX_TOKENS = 16
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def make_scheduler_config(prediction: str) -> dict[str, Any]:
    """Return the scheduler config of an eps model (as SD 1.5 ships it) or of a zero-SNR v model (as storybook does)."""
    if prediction == "eps":
        return {"_class_name": "PNDMScheduler", **BETAS, "steps_offset": 1, "set_alpha_to_one": False}
    own = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return {"_class_name": "DDIMScheduler", **BETAS, **own, "clip_sample": False, "set_alpha_to_one": True}


def save_tiny(folder: Path, layout: str, prediction: str) -> Path:
    """Build and save one tiny pipeline; layout is storybook, sd or sdxl, prediction eps or v."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        sides = _make_sides(layout)
        width = sum(encoder.config.hidden_size for _, encoder in sides)
        parts: dict[str, Any] = {"unet": _make_unet(layout, width), "vae": _make_vae(layout)}
    for index, (tokenizer, encoder) in enumerate(sides):
        suffix = f"_{index + 1}" if index else ""
        parts[f"tokenizer{suffix}"], parts[f"text_encoder{suffix}"] = tokenizer, encoder
    listing: dict[str, Any] = {}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        library = "diffusers" if name in ("unet", "vae") else "transformers"
        listing[name] = [library, type(part).__name__]
    config = make_scheduler_config(prediction)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    listing["scheduler"] = ["diffusers", config["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps({**_make_index(layout), **listing}))
    return folder


def save_tiny_networks(folder: Path) -> Path:
    """Build and save the networks for photographs, with few channels and random weights, as the recipes do."""
    small, tiny = SrLiteConfig(8, 1, 8), RestorerConfig(fine=8, middle=8, coarse=8, num_blocks=1, num_coarse_blocks=1)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        curves = CurveNetConfig(width=4)
        networks: dict[str, tuple[torch.nn.Module, dict[str, object]]] = {
            "sr_lite": (SrLite(small), sr_lite.config_to_json(small)),
            "restorer": (Restorer(tiny), restorer.config_to_json(tiny)),
            "curve_net": (CurveNet(curves), curve_net.config_to_json(curves)),
        }
        # The last layers start at zero, and would hide what the others do.
        for name, last in (("sr_lite", "colour.weight"), ("restorer", "out.weight")):
            torch.nn.init.normal_(networks[name][0].get_parameter(last), std=0.02)
    for name, (network, about) in networks.items():
        (folder / name).mkdir(parents=True)
        weights = {key: value.half() for key, value in network.state_dict().items()}
        save_file(weights, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(about))
    return folder


def _make_index(layout: str) -> dict[str, Any]:
    if layout == "sdxl":
        return {
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": True,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
        }
    return {
        "_class_name": "StableDiffusionPipeline",
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }


def _make_vae(layout: str) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=8 if layout == "storybook" else 4,
        sample_size=64,
        scaling_factor={"storybook": 1.0, "sd": 0.18215, "sdxl": 0.13025}[layout],
        mid_block_add_attention=layout != "storybook",
    )


def _make_unet(layout: str, text_width: int) -> Any:
    from diffusers import UNet2DConditionModel

    added: dict[str, Any] = {}
    if layout == "sdxl":
        added = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 16 + 6 * 4,
            "use_linear_projection": True,
        }
    channels = 8 if layout == "storybook" else 4
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=text_width,
        **added,
    )


def _make_sides(layout: str) -> list[tuple[Any, Any]]:
    if layout == "storybook":
        tokenizer = make_word_tokenizer()
        return [(tokenizer, _make_encoder(len(tokenizer), MAX_TOKENS, tokenizer.eos_token_id))]
    tokenizer = make_piece_tokenizer()
    first = _make_encoder(len(tokenizer), MAX_TOKENS, tokenizer.eos_token_id)
    if layout == "sd":
        return [(tokenizer, first)]
    second = _make_encoder(len(tokenizer), MAX_TOKENS, tokenizer.eos_token_id, is_projected=True)
    return [(tokenizer, first), (make_piece_tokenizer(), second)]


def _make_encoder(num_words: int, max_tokens: int, eos_token_id: int, *, is_projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=num_words,
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_tokens,
        eos_token_id=eos_token_id,
        bos_token_id=1,
        pad_token_id=0,
    )
    return (CLIPTextModelWithProjection if is_projected else CLIPTextModel)(config)


def make_word_tokenizer() -> Any:
    """Make a tokenizer whose tokens are whole lower-case words, in the form that storybook ships."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: index for index, word in enumerate((*SPECIALS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def make_piece_tokenizer() -> Any:
    """Make CLIP's byte-pair tokenizer with single letters as its only pieces."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=MAX_TOKENS
    )
