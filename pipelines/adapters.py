"""What is learned of a subject: side paths as bytes, with the words that call it and a small picture.

One safetensors file holds it all, so that saving it is one step and a download brings its words along. Plain diffusers
loads the same file.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from pipelines.errors import UserError
from pipelines.lora_header import read_about

if TYPE_CHECKING:
    from pipelines.lora import Lora

FORMAT = "limelight-adapter-1"
THUMBNAIL_PX = 96
MAX_NAME_CHARS = 60
_MAX_THUMBNAIL_CHARS = 200_000
_TEXTS = ("name", "word", "phrase", "backend", "objective", "num_steps")


@dataclass(frozen=True)
class Adapter:
    """Hold what was learned of one subject.

    Units: data is a safetensors file; word calls the subject in a prompt ("my robot"), phrase is what anybody would
           call it ("pink robot"); objective is how it was learned, "" for a file from elsewhere; name is that of a
           saved one, "" before.
    """

    data: bytes
    word: str = ""
    phrase: str = ""
    backend: str = ""
    objective: str = ""
    num_steps: int = 0
    name: str = ""
    thumbnail: Image.Image | None = None


def pack_adapter(lora: Lora, about: Adapter) -> Adapter:
    """Write side paths and everything that is said about them into one file; the file says all but its own bytes."""
    from pipelines.lora_files import write_lora

    texts = {f"limelight.{key}": str(getattr(about, key)) for key in _TEXTS}
    if about.thumbnail is not None:
        texts["limelight.thumbnail"] = _write_thumbnail(about.thumbnail)
    data = write_lora(lora, {"limelight.format": FORMAT, **texts})
    return read_adapter(data)


def rename_adapter(adapter: Adapter, name: str) -> Adapter:
    """Write another name into a file; the weights stay, bit for bit."""
    from safetensors.torch import load

    from pipelines.lora_files import save_tensors

    about = {**read_about(adapter.data), "limelight.format": FORMAT}
    about |= {f"limelight.{key}": str(getattr(adapter, key)) for key in _TEXTS}
    if adapter.thumbnail is not None and "limelight.thumbnail" not in about:
        about["limelight.thumbnail"] = _write_thumbnail(adapter.thumbnail)
    return read_adapter(save_tensors(load(adapter.data), {**about, "limelight.name": check_name(name)}))


def read_adapter(data: bytes) -> Adapter:
    """Read what a LoRA file says about itself; one from elsewhere says nothing.

    Raises: UserError with one sentence if the bytes are no safetensors file.
    """
    about = read_about(data)
    texts = {key: about.get(f"limelight.{key}", "")[: 10 * MAX_NAME_CHARS] for key in _TEXTS}
    num_steps = texts.pop("num_steps")
    thumbnail = _read_thumbnail(about.get("limelight.thumbnail", ""))
    return Adapter(data, **texts, num_steps=int(num_steps) if num_steps.isdigit() else 0, thumbnail=thumbnail)


def check_name(name: str) -> str:
    """Return a name without blanks around it.

    Raises: UserError if it is empty, too long, or holds signs that no file name should show.
    """
    plain = " ".join(str(name).split())
    if not plain:
        raise UserError('The name is empty; give one, for example "my robot".')
    if len(plain) > MAX_NAME_CHARS:
        raise UserError(f"The name has {len(plain)} characters; shorten it to at most {MAX_NAME_CHARS}.")
    if not plain.isprintable() or set(plain) & set('/\\<>:"|?*'):
        raise UserError('The name holds one of the signs / \\ < > : " | ? *; leave them out.')
    return plain


def _write_thumbnail(picture: Image.Image) -> str:
    """Write a small picture as text."""
    small = picture.convert("RGB").copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _read_thumbnail(text: str) -> Image.Image | None:
    """Read a small picture; None where there is none or it cannot be read, which harms nothing but the list."""
    if not text or len(text) > _MAX_THUMBNAIL_CHARS:
        return None
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as picture:
            is_small = max(picture.size) <= THUMBNAIL_PX
            return picture.convert("RGB") if is_small else None
    # A thumbnail is decoration: a file from elsewhere may hold anything there, and is still a good adapter.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
