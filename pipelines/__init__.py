"""What the page may use: request and result records, errors, ranges, PNG settings, and the stream functions.

Names that need torch and diffusers are loaded at their first use, so that the page is on screen before them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelines.adapter_store import AdapterStore, make_owner
from pipelines.adapters import Adapter, read_adapter
from pipelines.drag_points import DragPair, check_pairs
from pipelines.enlarged_size import plan_size
from pipelines.errors import BackendUnavailable, CompositionError, UserError
from pipelines.low_light_types import (
    WAYS_OF_LIGHTING,
    DarkenRequest,
    LightArm,
    LowLightProgress,
    LowLightRequest,
    LowLightResult,
)
from pipelines.params import Choice, Flag, Range, Text, ranges, specs, validate
from pipelines.png_settings import (
    read_drag_settings,
    read_low_light_settings,
    read_settings,
    read_style_settings,
    read_subject_settings,
    read_super_resolution_settings,
    settings_to_pnginfo,
)
from pipelines.preview_records import Preview3dProgress, Preview3dRequest, Preview3dResult
from pipelines.python_code import to_python
from pipelines.quick_start import collect_no_garbage
from pipelines.subject_types import (
    LearnProgress,
    LearnRequest,
    LearnResult,
    SubjectArm,
    SubjectRequest,
    SubjectResult,
)
from pipelines.subject_words import to_plain_prompt
from pipelines.technique_catalogue import (
    DRAG_TECHNIQUES,
    STYLE_TECHNIQUES,
    SUBJECT_TECHNIQUES,
    TechniqueEntry,
    catalogue,
)
from pipelines.types import (
    SAMPLERS,
    DragProgress,
    DragRequest,
    DragResult,
    ImageResult,
    Measure,
    Progress,
    StyleArm,
    StyleRequest,
    StyleResult,
    SuperResolutionProgress,
    SuperResolutionRequest,
    SuperResolutionResult,
    TextToImageRequest,
)
from pipelines.uploads import (
    Upload,
    read_burst,
    read_dark_photo,
    read_mask,
    read_photo,
    read_picture,
    read_pictures,
    read_strokes,
    write_mask,
)

if TYPE_CHECKING:
    from pipelines.cache import ModelStore
    from pipelines.cutout import show_cutout
    from pipelines.drag_editing import ask_for_picture, drag_stream, fit_picture, fit_request
    from pipelines.layout import propose_layout
    from pipelines.low_light import darken_photo, low_light_stream, suggest_brightness, tell_light
    from pipelines.mesh_files import to_glb, to_obj
    from pipelines.model import badge, unknown_words
    from pipelines.personalization import check_adapter, subject_stream
    from pipelines.preview_3d import preview_3d_stream
    from pipelines.recolour import draw_model, recolour_model
    from pipelines.runtime import kept_folder
    from pipelines.style_prompting import style_stream
    from pipelines.subject_learning import learn_stream, propose_captions
    from pipelines.subject_sheet import dim_surroundings
    from pipelines.super_resolution import super_resolution_stream
    from pipelines.text_to_image import text_to_image_stream

_LATE = {
    "ModelStore": "pipelines.cache",
    "ask_for_picture": "pipelines.drag_editing",
    "badge": "pipelines.model",
    "check_adapter": "pipelines.personalization",
    "darken_photo": "pipelines.low_light",
    "dim_surroundings": "pipelines.subject_sheet",
    "drag_stream": "pipelines.drag_editing",
    "draw_model": "pipelines.recolour",
    "fit_picture": "pipelines.drag_editing",
    "fit_request": "pipelines.drag_editing",
    "kept_folder": "pipelines.runtime",
    "learn_stream": "pipelines.subject_learning",
    "low_light_stream": "pipelines.low_light",
    "propose_captions": "pipelines.subject_learning",
    "preview_3d_stream": "pipelines.preview_3d",
    "recolour_model": "pipelines.recolour",
    "show_cutout": "pipelines.cutout",
    "propose_layout": "pipelines.layout",
    "suggest_brightness": "pipelines.low_light",
    "subject_stream": "pipelines.personalization",
    "tell_light": "pipelines.low_light",
    "to_glb": "pipelines.mesh_files",
    "to_obj": "pipelines.mesh_files",
    "unknown_words": "pipelines.model",
    "style_stream": "pipelines.style_prompting",
    "super_resolution_stream": "pipelines.super_resolution",
    "text_to_image_stream": "pipelines.text_to_image",
}

__all__ = [
    "DRAG_TECHNIQUES",
    "SAMPLERS",
    "STYLE_TECHNIQUES",
    "SUBJECT_TECHNIQUES",
    "WAYS_OF_LIGHTING",
    "Adapter",
    "AdapterStore",
    "BackendUnavailable",
    "Choice",
    "CompositionError",
    "DarkenRequest",
    "DragPair",
    "DragProgress",
    "DragRequest",
    "DragResult",
    "Flag",
    "ImageResult",
    "LearnProgress",
    "LearnRequest",
    "LearnResult",
    "LightArm",
    "LowLightProgress",
    "LowLightRequest",
    "LowLightResult",
    "Measure",
    "ModelStore",
    "Preview3dProgress",
    "Preview3dRequest",
    "Preview3dResult",
    "Progress",
    "Range",
    "StyleArm",
    "StyleRequest",
    "StyleResult",
    "SubjectArm",
    "SubjectRequest",
    "SubjectResult",
    "SuperResolutionProgress",
    "SuperResolutionRequest",
    "SuperResolutionResult",
    "TechniqueEntry",
    "Text",
    "TextToImageRequest",
    "Upload",
    "UserError",
    "ask_for_picture",
    "badge",
    "catalogue",
    "check_adapter",
    "check_pairs",
    "collect_no_garbage",
    "darken_photo",
    "dim_surroundings",
    "drag_stream",
    "draw_model",
    "fit_picture",
    "fit_request",
    "kept_folder",
    "learn_stream",
    "low_light_stream",
    "make_owner",
    "plan_size",
    "propose_captions",
    "preview_3d_stream",
    "propose_layout",
    "ranges",
    "read_adapter",
    "read_burst",
    "read_dark_photo",
    "read_drag_settings",
    "read_low_light_settings",
    "read_mask",
    "read_photo",
    "read_picture",
    "read_pictures",
    "read_settings",
    "read_style_settings",
    "read_subject_settings",
    "read_super_resolution_settings",
    "settings_to_pnginfo",
    "read_strokes",
    "recolour_model",
    "show_cutout",
    "specs",
    "style_stream",
    "suggest_brightness",
    "subject_stream",
    "super_resolution_stream",
    "tell_light",
    "text_to_image_stream",
    "to_plain_prompt",
    "to_glb",
    "to_obj",
    "to_python",
    "unknown_words",
    "validate",
    "write_mask",
]


def __getattr__(name: str) -> Any:
    """Load a name that needs torch at its first use."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
