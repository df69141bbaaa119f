"""How a picture comes into the 3D tab: uploaded, drawn from words, or sent; and what of it is taken for the object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from PIL import Image

from pipelines import Progress, TextToImageRequest, read_photo, validate, write_mask
from tabs.controls import show_notes, show_progress, show_status, to_seed
from tabs.files import save_picture
from tabs.paint_canvas import lay_picture
from tabs.preview_result import clear_result, show_picture
from tabs.running import load
from tabs.shown import PREVIEW_TAB
from tabs.wiring import Services, Updates, pace

READY = "Press Run, or Ctrl + Enter."
NOTHING_YET = "No picture yet."


def on_picture(*, path: Any) -> Updates:
    """Look at an uploaded picture: what was changed to read it, and what is taken for its object."""
    if not path:
        return {"picture_notes": "", "cutout": {"hint": NOTHING_YET}, **clear_result(READY)}
    upload = read_photo(path)
    canvas, notes = lay_cutout(upload.picture)
    return {"picture_notes": show_notes((*upload.notes, *notes)), "cutout": canvas, **clear_result(READY)}


def lay_cutout(picture: Image.Image) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Lay a picture with its found object on the canvas; returns the canvas's value, and notes."""
    from pipelines import show_cutout

    small, mask, notes = show_cutout(picture)
    if mask is None:
        return lay_picture(small, alt="The picture", hint="Paint over the object."), notes
    hint = "Bright is the object. Paint what is missing, rub out what does not belong to it."
    return lay_picture(small, alt="The picture with its object", hint=hint, paint=write_mask(mask)), notes


def on_refused() -> Updates:
    """Leave the place of the picture empty after an upload that cannot be used; the sentence about it stays."""
    return {"picture": None, "cutout": {"hint": NOTHING_YET}}


def on_sent(*, sent: Mapping[str, Any]) -> Updates:
    """Take a picture from another tab."""
    if sent["tab"] != PREVIEW_TAB:
        return {}
    return {**on_picture(path=sent["path"]), "picture": sent["path"]}


def on_draw(services: Services, *, prompt: str, seed: Any, backend: str) -> Iterator[Updates]:
    """Draw a picture from words, to be looked at before it becomes a model."""
    request = validate(TextToImageRequest(prompt=prompt, seed=to_seed(seed), backend=backend))
    yield {**clear_result(""), "status": show_status("Drawing the picture", done=0, kind="running")}
    yield from load(services, request.backend)

    from pipelines import text_to_image_stream

    with closing(services.models.run(text_to_image_stream(request, services.models))) as stream:
        for item in pace(stream):
            if isinstance(item, Progress):
                shown = {} if item.preview is None else {"live": show_picture(item.preview, "Unfinished", "live")}
                yield {"status": show_progress(item), **shown}
            else:
                path = save_picture(item.images[0], f"limelight-{item.seed_used}.png")
    done = show_status("Drawn. Run makes a model of it; another seed draws another one.", kind="done")
    yield {**on_picture(path=path), "picture": path, "status": done}
