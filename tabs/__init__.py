"""The tabs of the page in display order; this tuple is the only place that lists them.

A tab is a module with NAME (its URL: ?tab=NAME), TITLE and build(services).
"""

from types import ModuleType

from tabs import drag_editing, low_light, personalization, preview_3d, style_prompting, super_resolution, text_to_image

TABS: tuple[ModuleType, ...] = (
    text_to_image,
    style_prompting,
    drag_editing,
    personalization,
    super_resolution,
    low_light,
    preview_3d,
)
