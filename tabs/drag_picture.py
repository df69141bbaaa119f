"""How a picture comes onto the drag tab's canvas: drawn from words, uploaded, sent by another tab, or an example.

Which picture lies there is known in the visitor's own state only; what the browser sends back of it is never believed.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipelines import DragRequest, Progress, UserError, read_picture, validate
from tabs.controls import show_status
from tabs.drag_canvas import EMPTY
from tabs.running import load
from tabs.wiring import Services, Updates, pace

JPEG_QUALITY = 90


@dataclass(frozen=True)
class Source:
    """Hold the picture on a visitor's canvas.

    `drawn` holds the words, seed and backend that draw it again, None for a picture from outside.
    """

    picture: Image.Image | None = None
    drawn: tuple[Any, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return a name that no other picture has."""
        return hashlib.sha256(self.picture.tobytes()).hexdigest()[:16] if self.picture else ""


def check_shown(canvas: Mapping[str, Any], source: Source) -> None:
    """Refuse points on a picture that is no longer known, as after a restart of the server."""
    if canvas.get("picture") and canvas.get("key") != source.key:
        raise UserError("This picture is no longer here, because it was laid out long ago; draw or upload it again.")


def is_drawn(request: DragRequest, source: Source) -> bool:
    """Tell whether a request without picture would draw the one that lies on the canvas."""
    return source.drawn == (request.prompt, request.seed, request.backend)


def show_canvas(source: Source, pairs: Any = (), mask: Any = None, *, alt: str = "") -> dict[str, Any]:
    """Make the canvas's value out of a picture and what is set on it."""
    value = {**EMPTY, "pairs": list(pairs), "mask": mask, "alt": alt}
    if source.picture is None:
        return value
    width, height = source.picture.size
    return {**value, "picture": to_data(source.picture), "key": source.key, "width": width, "height": height}


def lay(source: Source, points: Any, *, alt: str) -> dict[str, Any]:
    """Make the canvas's value for a new picture.

    Points that wait for their picture, as after settings from a PNG, stay; those of another picture go.
    """
    waiting = points if isinstance(points, Mapping) and not points.get("key") else EMPTY
    return show_canvas(source, waiting.get("pairs") or (), waiting.get("mask"), alt=alt)


def place_picture(path: str, backend: str, points: Any) -> tuple[Source, Updates]:
    """Lay a picture from outside on the canvas, as the model will see it."""
    from pipelines import fit_picture

    upload = read_picture(path)
    fitted, deed = fit_picture(upload.picture, backend)
    source = Source(fitted, notes=(*upload.notes, *([deed] if deed else ())))
    return source, {"source": source, "points": lay(source, points, alt="Your picture, to be dragged")}


def draw(services: Services, request: DragRequest, points: Any) -> Generator[Updates, None, Source]:
    """Draw the picture that is to be dragged, seen on the canvas as it forms; returns what lies there then."""
    request = validate(request)
    yield {"status": show_status("Drawing the picture", done=0, kind="running"), "trace": (0, request.num_steps)}
    yield from load(services, request.backend)

    from pipelines import ask_for_picture, text_to_image_stream

    asked = ask_for_picture(request)

    with closing(services.models.run(text_to_image_stream(asked, services.models))) as stream:
        for item in pace(stream):
            if isinstance(item, Progress):
                words = f"Drawing the picture, {item.note or f'step {item.step}/{item.num_steps}'}"
                status = show_status(words, done=item.step / item.num_steps, kind="running")
                yield {"status": status, **preview(item, points)}
            else:
                source = Source(item.images[0], (asked.prompt, asked.seed, asked.backend))
    alt = f"Picture to be dragged: {asked.prompt}"
    yield {"source": source, "points": lay(source, points, alt=alt), "trace": None}
    return source


def preview(progress: Progress, points: Any) -> Updates:
    """Show an unfinished picture on the canvas, with the points that wait for it; it has no key and takes no clicks."""
    if progress.preview is None:
        return {}
    value = lay(Source(), points, alt="Unfinished picture")
    width, height = progress.preview.size
    return {"points": {**value, "picture": to_data(progress.preview), "width": width, "height": height}}


def to_data(picture: Image.Image) -> str:
    """Write a picture as data address, small enough to send several times a second; for the eye only."""
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
