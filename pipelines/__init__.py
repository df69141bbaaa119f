"""What the page may use: request and result records, errors, ranges, PNG settings, and the stream functions.

Names that need torch and diffusers are loaded at their first use, so that the page is on screen before them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelines.errors import BackendUnavailable, CompositionError, UserError
from pipelines.params import Choice, Flag, Range, Text, ranges, specs, validate
from pipelines.png_settings import read_settings, read_style_settings, settings_to_pnginfo, to_python
from pipelines.quick_start import collect_no_garbage
from pipelines.technique_catalogue import STYLE_TECHNIQUES, TechniqueEntry, catalogue
from pipelines.types import (
    SAMPLERS,
    ImageResult,
    Measure,
    Progress,
    StyleArm,
    StyleRequest,
    StyleResult,
    TextToImageRequest,
)
from pipelines.uploads import Upload, read_picture

if TYPE_CHECKING:
    from pipelines.cache import ModelStore
    from pipelines.layout import propose_layout
    from pipelines.model import badge, unknown_words
    from pipelines.style_prompting import style_stream
    from pipelines.text_to_image import text_to_image_stream

_LATE = {
    "ModelStore": "pipelines.cache",
    "badge": "pipelines.model",
    "propose_layout": "pipelines.layout",
    "unknown_words": "pipelines.model",
    "style_stream": "pipelines.style_prompting",
    "text_to_image_stream": "pipelines.text_to_image",
}

__all__ = [
    "SAMPLERS",
    "STYLE_TECHNIQUES",
    "BackendUnavailable",
    "Choice",
    "CompositionError",
    "Flag",
    "ImageResult",
    "Measure",
    "ModelStore",
    "Progress",
    "Range",
    "StyleArm",
    "StyleRequest",
    "StyleResult",
    "TechniqueEntry",
    "Text",
    "TextToImageRequest",
    "Upload",
    "UserError",
    "badge",
    "catalogue",
    "collect_no_garbage",
    "propose_layout",
    "ranges",
    "read_picture",
    "read_settings",
    "read_style_settings",
    "settings_to_pnginfo",
    "specs",
    "style_stream",
    "text_to_image_stream",
    "to_python",
    "unknown_words",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Load a name that needs torch at its first use."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
