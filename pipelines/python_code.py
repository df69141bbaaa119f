"""Settings as Python code: what a visitor saw, to be drawn again without the page ("copy as Python")."""

from __future__ import annotations

import dataclasses

from pipelines.backends import find_spec
from pipelines.low_light_types import LowLightRequest
from pipelines.png_settings import PICTURES, Request, list_fields
from pipelines.preview_records import Preview3dRequest
from pipelines.subject_types import SubjectRequest
from pipelines.technique_catalogue import catalogue
from pipelines.types import DragRequest, StyleRequest, SuperResolutionRequest, TextToImageRequest

_SCHEDULER_CLASSES = {
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "ddim": "DDIMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "ddim_short": "DPMSolverMultistepScheduler",
}


def to_python(request: Request | Preview3dRequest) -> str:
    """Write a request as code that draws the same picture, or makes the same model ("copy as Python").

    Returns: a runnable script that saves one PNG per picture in the current folder: with plain diffusers where it can
             do the same, else with Limelight's own pipelines; style pictures are named as files to be put beside it.
    """
    if isinstance(request, Preview3dRequest):
        return _to_model_python(request)
    if isinstance(request, StyleRequest):
        return _to_own_python(request, "style_stream")
    if isinstance(request, DragRequest):
        return _to_own_python(request, "drag_stream")
    if isinstance(request, SubjectRequest):
        return _to_own_python(request, "subject_stream")
    if isinstance(request, SuperResolutionRequest):
        return _to_own_python(request, "super_resolution_stream")
    if isinstance(request, LowLightRequest):
        return _to_own_python(request, "low_light_stream")
    if set(request.techniques) - {"cfg_rescale"}:
        return _to_own_python(request, "text_to_image_stream")
    options = request.techniques.get("cfg_rescale")
    rescale = 0.0 if options is None else options.get("strength", catalogue()["cfg_rescale"].specs["strength"].default)
    spec = find_spec(request.backend)
    pipeline, source = spec.pipeline_class, spec.source
    scheduler = _SCHEDULER_CLASSES[request.sampler]
    size = "".join(f"    {side}={value},\n" for side, value in _sizes(request))
    return (
        f"import torch\n"
        f"from diffusers import {', '.join(sorted((scheduler, pipeline)))}\n\n"
        f"pipe = {pipeline}.from_pretrained({source!r}, use_safetensors=True)\n"
        f"pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config)\n"
        f"seeds = range({request.seed}, {request.seed + request.num_images})\n"
        f"images = pipe(\n"
        f"    {request.prompt!r},\n"
        f"    negative_prompt={request.negative_prompt!r},\n"
        f"    num_inference_steps={request.num_steps},\n"
        f"    guidance_scale={request.guidance_scale!r},\n"
        f"    guidance_rescale={rescale!r},\n"
        f"{size}"
        f"    num_images_per_prompt={request.num_images},\n"
        f'    generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],\n'
        f").images\n"
        f"for seed, image in zip(seeds, images):\n"
        f'    image.save(f"limelight_{{seed}}.png")\n'
    )


def _sizes(request: TextToImageRequest) -> list[tuple[str, int]]:
    """List the sides that differ from the model's own size."""
    return [(side, value) for side, value in (("width", request.width_px), ("height", request.height_px)) if value]


def _to_own_python(request: Request, stream: str) -> str:
    """Write a request with techniques that plain diffusers does not have; run it in Limelight's folder."""
    record = type(request).__name__
    defaults = {field.name: field.default for field in dataclasses.fields(request)}
    values = {name: getattr(request, name) for name in list_fields(type(request))}
    lines = [f"{name}={value!r}," for name, value in values.items() if value != defaults[name] or name == "prompt"]
    pictures = [name for name in PICTURES if name != "burst" and getattr(request, name, None)]
    if isinstance(request, SuperResolutionRequest | LowLightRequest) and "picture" not in pictures:
        # What was shown keeps its settings without its picture, and would not run without one.
        pictures = ["picture", *pictures]
    lines += [f'{name}=Image.open("{name}.png"),  # put this picture of yours beside the script' for name in pictures]
    opener = "from PIL import Image\n\n" if pictures else ""
    read = ""
    if isinstance(request, SubjectRequest) and request.adapters:
        files = "".join(
            f'read_adapter(Path("subject_{index + 1}.safetensors").read_bytes()), '
            for index in range(len(request.adapters))
        )
        lines.append(f"adapters=({files.rstrip()}),  # the LoRA file that Download gives, put beside the script")
        opener, read = "from pathlib import Path\n\n", "read_adapter, "
    arguments = "".join(f"    {line}\n" for line in lines)
    pair = "DragPair, " if isinstance(request, DragRequest) else ""
    return (
        f"{opener}from pipelines import {pair}ModelStore, {record}, {read}{stream}\n\n"
        f"request = {record}(\n{arguments})\n"
        f"*steps, result = {stream}(request, ModelStore())\n"
        f"for index, image in enumerate(result.images):\n"
        f'    image.save(f"limelight_{{result.seed_used + index}}.png")\n'
    )


def _to_model_python(request: Preview3dRequest) -> str:
    """Write a request of the 3D preview; run it in Limelight's folder."""
    defaults = {field.name: field.default for field in dataclasses.fields(request)}
    plain = [name for name in defaults if name not in ("picture", "painted")]
    changed = [f"    {name}={getattr(request, name)!r}," for name in plain if getattr(request, name) != defaults[name]]
    given = ["picture"] if request.painted is None else ["picture", "painted"]
    pictures = [
        f'    {name}=Image.open("{name}.png"),  # put this picture of yours beside the script' for name in given
    ]
    arguments = "\n".join((*changed, *pictures))
    keep = (
        'result.turntable[0].save("limelight.webp", save_all=True, append_images=result.turntable[1:], loop=0)\n'
        if request.method == "parallax"
        else 'Path("limelight.glb").write_bytes(to_glb(result.mesh))\n'
    )
    opener = "" if request.method == "parallax" else "from pathlib import Path\n\n"
    writer = "" if request.method == "parallax" else ", to_glb"
    return (
        f"{opener}from PIL import Image\n\n"
        f"from pipelines import ModelStore, Preview3dRequest, preview_3d_stream{writer}\n\n"
        f"request = Preview3dRequest(\n{arguments}\n)\n"
        f"*steps, result = preview_3d_stream(request, ModelStore())\n{keep}"
    )
