"""Settings inside the PNG: written with every download, read back when a picture is dropped in.

Two text chunks are written: `limelight` (our request as JSON, read back exactly; pictures are not part of it, but the
mask of a drag is) and `parameters` (the line format that other tools read). Reading walks the chunk headers itself and
never loads more than MAX_SETTINGS_BYTES of text.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from PIL import PngImagePlugin

from pipelines.backends import BACKEND_NAMES
from pipelines.errors import UserError
from pipelines.low_light_types import LowLightRequest, LowLightResult
from pipelines.params import validate
from pipelines.subject_types import SubjectRequest, SubjectResult
from pipelines.types import (
    DragRequest,
    DragResult,
    ImageResult,
    StyleRequest,
    StyleResult,
    SuperResolutionRequest,
    SuperResolutionResult,
    TextToImageRequest,
)
from pipelines.uploads import read_mask, write_mask

KEY = "limelight"
OTHER_KEY = "parameters"
FORMAT_VERSION = 1
MAX_SETTINGS_BYTES = 64 * 1024
MAX_CHUNKS = 10_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLER_TITLES = {"dpmpp_2m": "DPM++ 2M", "ddim": "DDIM", "unipc": "UniPC", "ddim_short": "DDIM short"}
# Which tab wrote the settings; what names none is the oldest.
_TABS: dict[type, str] = {
    TextToImageRequest: "Text to image",
    StyleRequest: "Style prompting",
    DragRequest: "Drag editing",
    SubjectRequest: "Personalization",
    SuperResolutionRequest: "Super-resolution",
    LowLightRequest: "Low light",
}
# What stands in files of its own: pictures, and what was learned.
PICTURES = ("reference", "second", "picture", "mask", "burst", "truth")
_FILES = (*PICTURES, "adapters")
_FORGED = "The settings inside this PNG were not written by Limelight; set them by hand."

Request = TextToImageRequest | StyleRequest | DragRequest | SubjectRequest | SuperResolutionRequest | LowLightRequest
Result = ImageResult | StyleResult | DragResult | SubjectResult | SuperResolutionResult | LowLightResult
_Asked = TypeVar(
    "_Asked", TextToImageRequest, StyleRequest, DragRequest, SubjectRequest, SuperResolutionRequest, LowLightRequest
)


def _single_request(result: Result, index: int) -> Request:
    """Make the request that draws picture `index` of a result on its own."""
    if isinstance(result, DragResult):
        return dataclasses.replace(result.request, seed=result.seed_used)
    if isinstance(result, LowLightResult):
        method = result.arms[index].method
        return dataclasses.replace(result.request, seed=result.seed_used, method=method, compare=False)
    if isinstance(result, SuperResolutionResult):
        if len(result.images) == 1:
            return dataclasses.replace(result.request, seed=result.seed_used)
        return dataclasses.replace(result.request, seed=result.seed_used + index, num_images=1)
    return dataclasses.replace(result.request, seed=result.seed_used + index, num_images=1, compare=False)


def list_fields(request_cls: type[Request]) -> list[str]:
    """List the fields of a request that are plain values."""
    return [field.name for field in dataclasses.fields(request_cls) if field.name not in _FILES]


def settings_to_pnginfo(result: Result, index: int = 0) -> PngImagePlugin.PngInfo:
    """Write the settings of picture `index` as PNG text chunks, to be passed to `image.save(pnginfo=...)`.

    Returns: chunks `limelight` (JSON) and `parameters` (one readable block).
    Raises:  ValueError if there is no such picture.
    """
    if not 0 <= index < len(result.images):
        raise ValueError(f"picture {index} of {len(result.images)} does not exist")
    request = _single_request(result, index)
    info = PngImagePlugin.PngInfo()
    fields = {name: getattr(request, name) for name in list_fields(type(request))}
    document = {"version": FORMAT_VERSION, "tab": _TABS[type(request)], "request": fields}
    if isinstance(request, DragRequest):
        fields["pairs"] = [dataclasses.asdict(pair) for pair in request.pairs]
        document["mask"] = None if request.mask is None else write_mask(request.mask)
        document["is_drawn"] = request.picture is None
    info.add_text(KEY, json.dumps(document, ensure_ascii=True))
    info.add_text(OTHER_KEY, _to_parameters(request, result.images[index].size))
    return info


def _to_parameters(request: Request, size_px: tuple[int, int]) -> str:
    """Write the settings in the line format that other tools read."""
    lines = [request.prompt]
    settings: dict[str, Any] = {} if isinstance(request, LowLightRequest) else {"Steps": request.num_steps}
    if isinstance(request, TextToImageRequest | StyleRequest):
        if request.negative_prompt:
            lines.append(f"Negative prompt: {request.negative_prompt}")
        settings["Sampler"] = _SAMPLER_TITLES[request.sampler]
        settings["CFG scale"] = f"{request.guidance_scale:g}"
    settings |= {"Seed": request.seed, "Size": f"{size_px[0]}x{size_px[1]}", "Model": request.backend}
    if isinstance(request, SuperResolutionRequest):
        settings |= {"Upscale by": f"{request.scale:g}", "Mode": request.mode}
    elif isinstance(request, LowLightRequest):
        settings |= {"Method": request.method, "Brightness": f"{request.brightness:g}"}
    elif request.techniques:
        # Other tools read up to the next comma, so the options stay in our own key.
        settings["Techniques"] = " + ".join(request.techniques)
    lines.append(", ".join(f"{key}: {value}" for key, value in settings.items()))
    return "\n".join(lines)


def read_settings(path: str | Path) -> TextToImageRequest:
    """Read the request back from a PNG that was saved with settings.

    Returns: a validated request; from `limelight` if present, else from a `parameters` text.
    Raises:  UserError if the file is no PNG, holds no settings, those of another tab, or damaged, oversized or forged
             ones.
    """
    texts = _read_texts(Path(path))
    if KEY in texts:
        return _from_json(texts[KEY], TextToImageRequest)
    if OTHER_KEY in texts:
        return _from_parameters(texts[OTHER_KEY])
    raise UserError("This picture holds no settings; choose a PNG that was downloaded from Limelight.")


def read_style_settings(path: str | Path) -> StyleRequest:
    """Read the request of the style tab back from its PNG, without the style pictures, which are not in it.

    Returns: a validated request.
    Raises:  UserError as `read_settings`.
    """
    texts = _read_texts(Path(path))
    if KEY not in texts:
        raise UserError("This picture holds no style settings; choose a PNG from the tab Style prompting.")
    return _from_json(texts[KEY], StyleRequest)


def read_drag_settings(path: str | Path) -> tuple[DragRequest, bool]:
    """Read the request of the drag tab back from its PNG, with its mask but without its picture.

    Returns: a validated request, and whether its picture was drawn from its words and seed, so that it can be again.
    Raises:  UserError as `read_settings`.
    """
    texts = _read_texts(Path(path))
    if KEY not in texts:
        raise UserError("This picture holds no drag settings; choose a PNG from the tab Drag editing.")
    request = _from_json(texts[KEY], DragRequest)
    document = json.loads(texts[KEY])
    mask = document.get("mask")
    return dataclasses.replace(request, mask=None if mask is None else read_mask(mask)), bool(document.get("is_drawn"))


def read_subject_settings(path: str | Path) -> SubjectRequest:
    """Read the request of the personalization tab back from its PNG, without the subject, which is not in it.

    Returns: a validated request.
    Raises:  UserError as `read_settings`.
    """
    texts = _read_texts(Path(path))
    if KEY not in texts:
        raise UserError("This picture holds no settings of a subject; choose a PNG from the tab Personalization.")
    return _from_json(texts[KEY], SubjectRequest)


def read_super_resolution_settings(path: str | Path) -> SuperResolutionRequest:
    """Read the request of the super-resolution tab back from its PNG, without its picture.

    Returns: a validated request.
    Raises:  UserError as `read_settings`.
    """
    texts = _read_texts(Path(path))
    if KEY not in texts:
        raise UserError("This picture holds no such settings; choose a PNG from the tab Super-resolution.")
    return _from_json(texts[KEY], SuperResolutionRequest)


def read_low_light_settings(path: str | Path) -> LowLightRequest:
    """Read the request of the low-light tab back from its PNG, without its picture.

    Returns: a validated request.
    Raises:  UserError as `read_settings`.
    """
    texts = _read_texts(Path(path))
    if KEY not in texts:
        raise UserError("This picture holds no such settings; choose a PNG from the tab Low light.")
    return _from_json(texts[KEY], LowLightRequest)


def _read_texts(path: Path) -> dict[str, str]:
    """Collect the two text chunks we know, looking at chunk headers only for all others."""
    texts: dict[str, str] = {}
    with path.open("rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise UserError("This file is not a PNG picture; choose a PNG that was downloaded from Limelight.")
        for _ in range(MAX_CHUNKS):
            header = file.read(8)
            if len(header) < 8:
                break
            length, kind = struct.unpack(">I4s", header)
            if kind == b"IEND":
                break
            if kind in (b"tEXt", b"iTXt", b"zTXt"):
                key, value = _read_text_chunk(file, length, kind)
                if key in (KEY, OTHER_KEY):
                    texts.setdefault(key, value)
            else:
                file.seek(length + 4, 1)
    return texts


def _read_text_chunk(file: BinaryIO, length: int, kind: bytes) -> tuple[str, str]:
    """Read one text chunk of bounded size; compressed ones are named but never unpacked."""
    if length > MAX_SETTINGS_BYTES:
        raise UserError(
            f"The text inside this PNG is too large ({length // 1024} KB); settings have at most "
            f"{MAX_SETTINGS_BYTES // 1024} KB, so choose a PNG that was downloaded from Limelight."
        )
    data, checksum = file.read(length), file.read(4)
    if len(data) < length or checksum != struct.pack(">I", zlib.crc32(kind + data)):
        raise UserError("The settings inside this PNG are damaged; download the picture again.")
    key, _, rest = data.partition(b"\0")
    name = key.decode("latin-1")
    if kind == b"tEXt":
        return name, rest.decode("latin-1")
    is_compressed = kind == b"zTXt" or rest[:1] != b"\0"
    if is_compressed:
        return "", ""
    # iTXt after the keyword: compression flag, method, language, 0, translated keyword, 0, UTF-8 text.
    parts = rest[2:].split(b"\0", 2)
    return name, parts[2].decode("utf-8", errors="replace") if len(parts) == 3 else ""


def _from_json(source: str, asked: type[_Asked]) -> _Asked:
    """Parse our own JSON key into a validated request of the tab that asks."""
    try:
        document = json.loads(source)
    # RecursionError: thousands of opening brackets; both mean that somebody else wrote this text.
    except (ValueError, RecursionError) as error:
        raise UserError(_FORGED) from error
    fields = document.get("request") if isinstance(document, dict) else None
    if not isinstance(fields, dict) or document.get("version") != FORMAT_VERSION:
        raise UserError(_FORGED)
    tab = document.get("tab", _TABS[TextToImageRequest])
    if tab not in _TABS.values():
        raise UserError(_FORGED)
    if tab != _TABS[asked]:
        raise UserError(f"This picture was drawn in the tab {tab}; drop it into the settings there.")
    return _to_request(fields, _FORGED, asked)


def _to_request(fields: dict[str, Any], forged: str, asked: type[_Asked]) -> _Asked:
    """Build and validate a request from named values; unknown or missing names are refused."""
    known = list_fields(asked)
    if not set(fields) <= set(known) or ("prompt" in known and "prompt" not in fields):
        raise UserError(forged)
    return validate(asked(**fields))


def _from_parameters(source: str) -> TextToImageRequest:
    """Parse the readable line format; a key that is missing keeps its default."""
    body, _, last = source.rpartition("\n")
    prompt, _, negative = body.partition("\nNegative prompt:")
    found = dict(re.findall(r"([A-Za-z][A-Za-z ]{0,30}): *([^,\n]{1,200})", last))
    if "Steps" not in found or "Seed" not in found:
        raise UserError("The settings inside this PNG are in an unknown form; set them by hand.")
    fields: dict[str, Any] = {"prompt": prompt.strip(), "negative_prompt": negative.strip()}
    for key, name in (("Steps", "num_steps"), ("Seed", "seed"), ("CFG scale", "guidance_scale")):
        if key in found:
            fields[name] = _to_number(key, found[key])
    titles = {title: name for name, title in _SAMPLER_TITLES.items()}
    if found.get("Sampler", "").strip() in titles:
        fields["sampler"] = titles[found["Sampler"].strip()]
    if "CFG rescale" in found:
        fields["techniques"] = {"cfg_rescale": {"strength": _to_number("CFG rescale", found["CFG rescale"])}}
    elif names := found.get("Techniques", "").strip():
        fields["techniques"] = {name: {} for name in names.split(" + ")}
    if found.get("Model", "").strip() in BACKEND_NAMES:
        fields["backend"] = found["Model"].strip()
    unknown = "The settings inside this PNG are in an unknown form; set them by hand."
    return _to_request(fields, unknown, TextToImageRequest)


def _to_number(key: str, value: str) -> float | int:
    """Turn a number in a settings line into int or float."""
    try:
        return int(value) if re.fullmatch(r" *-?\d{1,30} *", value) else float(value)
    except ValueError as error:
        raise UserError(f"{key} {value.strip()!r} inside this PNG is not a number; set it by hand.") from error
