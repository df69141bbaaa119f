"""Pictures on disk: the folder that one run of the app has for itself, and a result written into it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from pipelines import (
    DragResult,
    ImageResult,
    LowLightResult,
    StyleResult,
    SubjectResult,
    SuperResolutionResult,
    settings_to_pnginfo,
)

FOLDER_VARIABLE = "GRADIO_TEMP_DIR"
SWEEP_S = (600, 3600)  # how often temporary pictures are looked at, and how old one may become


@contextmanager
def own_folder() -> Iterator[Path]:
    """Keep this process's pictures apart from those of every other one until the block ends, then delete them.

    gradio names a file by its content and deletes its files when it stops. In the folder that all apps share, one
    that stops would take the same picture away from another that is just handing it out.
    """
    before = os.environ.get(FOLDER_VARIABLE)
    if before:
        Path(before).mkdir(parents=True, exist_ok=True)
    # Not in gradio's own default folder, which on a shared machine may belong to another user.
    with TemporaryDirectory(prefix="limelight-", dir=before, ignore_cleanup_errors=True) as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ[FOLDER_VARIABLE]
            else:
                os.environ[FOLDER_VARIABLE] = before


def save_png(
    result: ImageResult | StyleResult | DragResult | SubjectResult | SuperResolutionResult | LowLightResult,
    index: int = 0,
    **options: Any,
) -> str:
    """Write one picture with its settings inside, where gradio serves it and deletes it after its time."""
    info = settings_to_pnginfo(result, index)
    return save_picture(result.images[index], f"limelight-{result.seed_used + index}.png", pnginfo=info, **options)


def save_picture(picture: Image.Image, name: str, **options: Any) -> str:
    """Write a picture as PNG where gradio serves it and deletes it after its time."""
    data = io.BytesIO()
    picture.save(data, "PNG", **options)
    return str(save_bytes_to_cache(data.getvalue(), name, get_upload_folder()))


def save_clip(frames: Sequence[Image.Image], name: str, *, frame_ms: int = 80) -> str:
    """Write pictures as one that moves for ever (WebP), where gradio serves it and deletes it after its time."""
    data = io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0, quality=85)
    return save_data(data.getvalue(), name)


def save_data(data: bytes, name: str) -> str:
    """Write a file where gradio serves it and deletes it after its time."""
    return str(save_bytes_to_cache(data, name, get_upload_folder()))
