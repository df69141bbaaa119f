"""Build a bundle from weight files: fetch, load each part with the right class and format, probe, fit the preview.

Knows no backend names and decides nothing about hardware: `backends` says what to load, `runtime` says how.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch

from pipelines.agreement import Judge
from pipelines.attention import set_kernel
from pipelines.backends import BackendSpec
from pipelines.images import fit_preview
from pipelines.initial_mean import InitialMean
from pipelines.model import ModelBundle, Residence, StepTimer
from pipelines.runtime import RunPlan, probe_once
from pipelines.text_side import TextSide, list_known_words

# A larger UNet would make the probe take longer than it can save at the first picture.
MAX_PROBE_PARAMETERS = 200_000_000
_HUB_TIMEOUT_S = 5.0


def prefer_cached(source: Path | str, plan: RunPlan) -> RunPlan:
    """Ask the hub once whether it is there; if not, load from its cache instead of retrying for half a minute.

    Returns: the plan, offline and with the reason where the hub does not answer.
    """
    if isinstance(source, Path) or plan.offline or _hub_answers():
        return plan
    return dataclasses.replace(
        plan, offline=True, reasons=(*plan.reasons, "The hub did not answer: cached files only.")
    )


def _hub_answers() -> bool:
    """Tell whether the hub answers one short request; an error page is an answer."""
    from huggingface_hub.constants import ENDPOINT

    try:
        with urlopen(Request(ENDPOINT, method="HEAD"), timeout=_HUB_TIMEOUT_S):
            return True
    except HTTPError:
        return True
    except (OSError, HTTPException):
        return False


def fetch(source: Path | str, name: str, plan: RunPlan) -> Path:
    """Return the local path of one small file of a pipeline, from its folder or from the hub's cache or network."""
    if isinstance(source, Path):
        return source / name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, name, local_files_only=plan.offline, etag_timeout=_HUB_TIMEOUT_S))


def load_network(part: str, source: Path | str, plan: RunPlan, *, variant: str | None) -> Any:
    """Load the UNet or the autoencoder from safetensors, in evaluation mode, without gradients."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    network_class = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
    network = network_class.from_pretrained(
        source,
        subfolder=part,
        variant=variant,
        torch_dtype=plan.dtype if part == "unet" else plan.vae_dtype,
        use_safetensors=True,
        local_files_only=plan.offline,
    )
    return network.eval().requires_grad_(False)


def load_text_side(
    names: tuple[str, str], tokenizer_class: str, source: Path | str, plan: RunPlan, *, variant: str | None
) -> TextSide:
    """Load a tokenizer of the given class and its CLIP encoder, the projected kind for a second encoder."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    places = {"local_files_only": plan.offline}
    tokenizer = getattr(transformers, tokenizer_class).from_pretrained(source, subfolder=names[0], **places)
    is_second = names[1].endswith("_2")
    encoder_class = transformers.CLIPTextModelWithProjection if is_second else transformers.CLIPTextModel
    encoder = encoder_class.from_pretrained(
        source, subfolder=names[1], variant=variant, dtype=plan.dtype, use_safetensors=True, **places
    )
    max_tokens = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    return TextSide(tokenizer, encoder.eval().requires_grad_(False), max_tokens, list_known_words(tokenizer))


@torch.no_grad()
def assemble(
    spec: BackendSpec,
    plan: RunPlan,
    unet: Any,
    vae: Any,
    sides: tuple[TextSide, ...],
    *,
    scheduler_config: dict[str, Any],
    judge_folder: Path | None = None,
    mean_folder: Path | None = None,
) -> ModelBundle:
    """Put loaded parts together: spec from their configs, kernel, probe, preview map, device.

    Raises: ValueError if the scheduler asks for a prediction that is neither eps nor v.
    """
    spec = _complete_spec(spec, unet, vae, sides, scheduler_config)
    set_kernel(unet, plan.kernel)
    if plan.needs_probe:
        plan = _probe(plan, spec, unet)
    if unet.dtype is not plan.dtype:
        # The plain Module.to: the library's own warns about layers to be kept in float32, of which a UNet has none.
        torch.nn.Module.to(unet, dtype=plan.dtype)
    if plan.channels_last:
        unet.to(memory_format=torch.channels_last)
    if plan.vae_channels_last:
        vae.to(memory_format=torch.channels_last)
    parts = {"text": [side.encoder for side in sides], "unet": [unet], "vae": [vae]}
    for module in [] if plan.offload else [module for modules in parts.values() for module in modules]:
        module.to(plan.device)
    residence = Residence(parts, plan.device, plan.offload)
    residence.place("vae")
    weight, bias = fit_preview(vae, spec.latent_scale, spec.px_per_cell)
    return ModelBundle(
        spec=spec,
        plan=plan,
        unet=unet,
        vae=vae,
        sides=sides,
        scheduler_config=scheduler_config,
        residence=residence,
        preview_weight=weight.to(plan.device),
        preview_bias=bias.to(plan.device),
        timer=StepTimer(plan.seconds_per_step),
        judge=Judge(judge_folder) if judge_folder else None,
        mean=InitialMean(mean_folder) if mean_folder else None,
    )


def _complete_spec(
    spec: BackendSpec, unet: Any, vae: Any, sides: tuple[TextSide, ...], scheduler_config: dict[str, Any]
) -> BackendSpec:
    """Take from the weights' configs what they state, so that a fine-tuned model of the family is read rightly."""
    kinds = {"epsilon": "eps", "v_prediction": "v"}
    kind = scheduler_config.get("prediction_type", "epsilon")
    if kind not in kinds:
        raise ValueError(f"prediction_type {kind!r} is not one of {tuple(kinds)}")
    px_per_cell = 2 ** (len(vae.config.block_out_channels) - 1)
    sample = unet.config.sample_size
    grids = sorted({sample // 2**level for level in _attention_levels(unet)})
    return dataclasses.replace(
        spec,
        prediction=kinds[kind],
        latent_channels=unet.config.in_channels,
        latent_scale=float(vae.config.scaling_factor),
        px_per_cell=px_per_cell,
        image_px=sample * px_per_cell,
        max_image_px=max(spec.max_image_px, sample * px_per_cell),
        max_tokens=sides[0].max_tokens,
        coarsest_cells=grids[0],
        coarse_cells=grids[min(1, len(grids) - 1)],
    )


def _attention_levels(unet: Any) -> list[int]:
    """List the resolution levels (0 = full grid) that hold attention; the middle block always does."""
    kinds = unet.config.down_block_types
    return [level for level, kind in enumerate(kinds) if "CrossAttn" in kind] + [len(kinds) - 1]


def _probe(plan: RunPlan, spec: BackendSpec, unet: Any) -> RunPlan:
    """Let the runtime compare number formats on one guided pass of this UNet."""
    parameters = sum(p.numel() for p in unet.parameters())
    if parameters > MAX_PROBE_PARAMETERS:
        reason = "fp32 on this CPU without a probe, because one pass takes seconds; --dtype bf16 may be faster."
        return dataclasses.replace(plan, needs_probe=False, reasons=(*plan.reasons, reason))
    generator = torch.Generator("cpu").manual_seed(0)
    cells = spec.image_px // spec.px_per_cell
    latents = torch.randn(2, spec.latent_channels, cells, cells, generator=generator)
    text = torch.randn(2, spec.max_tokens, unet.config.cross_attention_dim, generator=generator)
    added = _added_zeros(unet)

    def prepare(dtype: torch.dtype, channels_last: bool) -> Callable[[], torch.Tensor]:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        copied = unet
        if channels_last:
            copied = copy.deepcopy(unet).to(memory_format=layout)
        elif dtype is not torch.float32:
            copied = torch.nn.Module.to(copy.deepcopy(unet), dtype=dtype)
        sample, hidden = latents.to(dtype=dtype, memory_format=layout), text.to(dtype)
        conditions = {key: value.to(dtype) for key, value in added.items()}
        return torch.no_grad()(lambda: copied(sample, 500, hidden, added_cond_kwargs=conditions, return_dict=False)[0])

    return probe_once(plan, f"{parameters} parameters on {cells} x {cells} cells", prepare)


def _added_zeros(unet: Any) -> dict[str, torch.Tensor]:
    """Make neutral added conditions for a UNet that needs them."""
    if unet.config.addition_embed_type != "text_time":
        return {}
    width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    return {"text_embeds": torch.zeros(2, width), "time_ids": torch.zeros(2, 6)}
