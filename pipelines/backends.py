"""The models Limelight can run, as rows of data, and one loader per family; the only file that knows their names.

Loads from a local folder or, for the rows that allow it, from the Hugging Face hub; safetensors only.
Importing this file loads no torch: the page lists the rows before any model code is there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import BackendUnavailable

if TYPE_CHECKING:
    from pipelines.model import ModelBundle, TextSide
    from pipelines.runtime import RunPlan

PROJECT_DIR = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class BackendSpec:
    """Describe one model; numbers that the weights' own config files state are read from there when loading.

    Units: image_px and max_image_px are sides in px; px_per_cell px of the picture belong to one latent cell;
           coarse_cells and coarsest_cells are the two smallest grids with attention at image_px;
           prediction is eps or v; parser_source is the folder of the scene parser that knows this model's world.
    """

    name: str
    title: str
    family: str
    source: str
    pipeline_class: str
    is_shipped: bool
    variant: str | None
    image_px: int
    max_image_px: int
    latent_channels: int
    px_per_cell: int
    latent_scale: float
    prediction: str
    max_tokens: int
    coarse_cells: int
    coarsest_cells: int
    vae_fp16_safe: bool = True
    zeros_for_empty: bool = False
    parser_source: str = ""
    mean_source: str = ""


SPECS: tuple[BackendSpec, ...] = (
    BackendSpec(
        name="storybook", title="Storybook (shipped, 256 px)", family="sd", source="assets/storybook",
        pipeline_class="StableDiffusionPipeline", is_shipped=True, variant=None, image_px=256, max_image_px=768,
        latent_channels=8, px_per_cell=8, latent_scale=1.0, prediction="v", max_tokens=32,
        coarse_cells=16, coarsest_cells=8, parser_source="assets/parser", mean_source="assets/initial_mean",
    ),
    BackendSpec(
        name="sd15", title="Stable Diffusion 1.5 (512 px)", family="sd",
        source="stable-diffusion-v1-5/stable-diffusion-v1-5", pipeline_class="StableDiffusionPipeline",
        is_shipped=False, variant="fp16", image_px=512, max_image_px=1024,
        latent_channels=4, px_per_cell=8, latent_scale=0.18215, prediction="eps", max_tokens=77,
        coarse_cells=16, coarsest_cells=8,
    ),
    BackendSpec(
        name="sdxl", title="Stable Diffusion XL (1024 px)", family="sdxl",
        source="stabilityai/stable-diffusion-xl-base-1.0", pipeline_class="StableDiffusionXLPipeline",
        is_shipped=False, variant="fp16", image_px=1024, max_image_px=1536,
        latent_channels=4, px_per_cell=8, latent_scale=0.13025, prediction="eps", max_tokens=77,
        coarse_cells=64, coarsest_cells=32, vae_fp16_safe=False, zeros_for_empty=True,
    ),
)  # fmt: skip

DEFAULT_BACKEND = SPECS[0].name
BACKEND_NAMES = tuple(spec.name for spec in SPECS)

# Folder names of (tokenizer, text encoder) per family, in the order in which their outputs are joined.
_TEXT_PARTS = {
    "sd": (("tokenizer", "text_encoder"),),
    "sdxl": (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")),
}
# Classes that a model_index.json may name for its text side; anything else is refused, nothing is imported by name.
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")


def find_spec(name: str) -> BackendSpec:
    """Return the row of a backend.

    Raises: UserError (BackendUnavailable) naming the known ones.
    """
    for spec in SPECS:
        if spec.name == name:
            return spec
    raise BackendUnavailable(f"Backend {str(name)[:40]!r} is not known; choose one of {', '.join(BACKEND_NAMES)}.")


def load_backend(name: str, plan: RunPlan) -> ModelBundle:
    """Load a backend from plan.model_path, its own folder, or the hub.

    Raises: BackendUnavailable with one sentence: no such folder, a part missing, no network, a damaged file.
    """
    spec = find_spec(name)
    source = plan.model_path if plan.model_path and plan.model_path_for in ("", name) else spec.source
    folder = _find_folder(spec, source)
    return _guard_loading(spec, str(folder or source), lambda: _load_parts(spec, folder or source, plan))


def _find_folder(spec: BackendSpec, source: str) -> Path | None:
    """Return the local folder of the weights, or None if `source` is a hub name."""
    for folder in (Path(source).expanduser(), PROJECT_DIR / source):
        if folder.is_dir():
            if not (folder / "model_index.json").is_file():
                raise BackendUnavailable(
                    f"The folder {source} is no diffusers pipeline (it has no model_index.json); "
                    f"point --model-path at one that has it."
                )
            return folder
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") != 1
    if spec.is_shipped or looks_like_path:
        advice = "get the complete repository, weights included" if spec.is_shipped else "correct --model-path"
        raise BackendUnavailable(f"The weights of {spec.name} are missing: there is no folder {source}; {advice}.")
    return None


def _guard_loading(spec: BackendSpec, source: str, load: Callable[[], ModelBundle]) -> ModelBundle:
    """Turn the ways in which loading fails into one sentence each; programming errors pass through."""
    from huggingface_hub.errors import HFValidationError
    from safetensors import SafetensorError

    try:
        return load()
    except SafetensorError as error:
        raise BackendUnavailable(f"A weight file of {spec.name} in {source} is damaged; fetch it again.") from error
    except HFValidationError as error:
        raise BackendUnavailable(f"{source} is neither a folder nor a hub name; correct --model-path.") from error
    # OSError: what diffusers and transformers raise for a missing file and for a hub that does not answer.
    except OSError as error:
        if Path(source).is_dir():
            part = str(error).splitlines()[0][:160] if str(error) else "a file"
            raise BackendUnavailable(
                f"The folder {source} is incomplete for {spec.name} ({part}); it needs safetensors files."
            ) from error
        raise BackendUnavailable(
            f"{spec.name} needs its weights from the Hugging Face hub ({source}), which cannot be reached or has no "
            f"such model; connect once, or give a folder with --model-path, or choose {DEFAULT_BACKEND}."
        ) from error


def _load_parts(spec: BackendSpec, source: Path | str, plan: RunPlan) -> ModelBundle:
    """Load every component and put the bundle together."""
    from pipelines.assembly import assemble, fetch, load_network, prefer_cached

    plan = prefer_cached(source, plan)
    index = json.loads(fetch(source, "model_index.json", plan).read_text(encoding="utf-8"))
    variant = _pick_variant(spec, source)
    unet = load_network("unet", source, plan, variant=variant)
    vae = load_network("vae", source, plan, variant=variant)
    sides = tuple(_load_text_side(index, names, source, plan, variant) for names in _text_parts(spec, index))
    scheduler = json.loads(fetch(source, "scheduler/scheduler_config.json", plan).read_text(encoding="utf-8"))
    spec = dataclasses.replace(spec, zeros_for_empty=bool(index.get("force_zeros_for_empty_prompt", False)))
    judge, mean = (PROJECT_DIR / folder if folder else None for folder in (spec.parser_source, spec.mean_source))
    return assemble(spec, plan, unet, vae, sides, scheduler_config=scheduler, judge_folder=judge, mean_folder=mean)


def _pick_variant(spec: BackendSpec, source: Path | str) -> str | None:
    """Choose the half-size files where they exist: on the hub by the row, in a folder by looking."""
    if isinstance(source, str):
        return spec.variant
    return "fp16" if list(source.glob("unet/*.fp16.safetensors")) else None


def _text_parts(spec: BackendSpec, index: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """List the text folders of a pipeline and refuse a folder of another family."""
    parts = _TEXT_PARTS[spec.family]
    found = sum(1 for name in ("text_encoder", "text_encoder_2") if index.get(name, [None])[0] is not None)
    if found != len(parts):
        raise BackendUnavailable(
            f"This pipeline has {found} text encoders but {spec.name} needs {len(parts)}; "
            f"choose the backend that fits the weights."
        )
    return parts


def _load_text_side(
    index: dict[str, Any], names: tuple[str, str], source: Path | str, plan: RunPlan, variant: str | None
) -> TextSide:
    """Load one tokenizer and its encoder, both of classes we know."""
    from pipelines.assembly import load_text_side

    tokenizer_class = index[names[0]][1]
    if tokenizer_class not in _TOKENIZERS:
        raise BackendUnavailable(f"The tokenizer class {tokenizer_class} is not supported; use a CLIP pipeline.")
    return load_text_side(names, tokenizer_class, source, plan, variant=variant)
