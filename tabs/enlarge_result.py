"""The right side of the super-resolution tab: tiles as they finish, the slider, the loupe, and what was measured."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from pipelines import Progress, SuperResolutionRequest, SuperResolutionResult
from tabs.controls import build_findings, build_lines, show_facts, show_notes, show_progress, show_status
from tabs.enlarge_inputs import MODES, write_size
from tabs.files import save_picture, save_png
from tabs.loupe import NOTHING, build_loupe, point_loupe
from tabs.wiring import Updates

EMPTY_STAGE = '<div class="picture"><div class="empty"></div></div>'
JPEG_QUALITY = 90
QUICK = 1  # of 4096 px, both pictures are written in 1.6 s instead of 6, a third larger
BASELINE = "Bicubic"
BUTTONS = ("reuse", "copy", "use", "drag", "enlarge", "light", "solid")
AGREEMENT = "consistency_db"
SEEDED = ("detail", "damage", "explore")


@dataclass(frozen=True)
class Answer:
    """Hold one picture as it is shown: two files, words about it, where the loupe looks first, its own settings."""

    path: str
    baseline: str
    label: str
    place: Mapping[str, Any]
    request: SuperResolutionRequest


def build_result(invitation: str) -> dict[str, Any]:
    """Lay out the right side: the picture as it grows, the slider, the loupe; below them facts and what to do next."""
    made: dict[str, Any] = {}
    with gr.Column(elem_classes="stage-box"):
        made["live"] = gr.HTML(EMPTY_STAGE, elem_classes="live-box", apply_default_css=False)
        made["pair"] = gr.ImageSlider(
            format="png",
            elem_classes="pair",
            visible=False,
            container=False,
            # Its own limit of 500 px would leave a margin on a projector; the style sheet knows the room.
            max_height=4096,
            show_label=False,
            interactive=False,
            buttons=["fullscreen"],
        )
        made |= build_lines(invitation)
        made["loupe"] = build_loupe()
    made |= build_findings("The answers; click one to see it above")
    made["kept"] = gr.State(None)
    made["answers"] = gr.State(())
    return made


def clear_result(invitation: str) -> Updates:
    """Empty the stage for another picture."""
    off: dict[str, Any] = {"interactive": False}
    return {
        "live": gr.HTML(EMPTY_STAGE, visible=True),
        "pair": gr.ImageSlider(visible=False),
        "loupe": dict(NOTHING),
        "status": show_status(invitation),
        "stopped": "",
        "facts": "",
        "notes": "",
        "sketches": gr.Gallery([], visible=False),
        "python": gr.Code(visible=False),
        "download": gr.DownloadButton(**off),
        **{name: gr.Button(**off) for name in BUTTONS},
        "kept": None,
    }


def show_start() -> Updates:
    """Say that a run begins, on an empty stage."""
    return {
        "status": show_status("Starting", done=0, kind="running"),
        "trace": (0, 1),
        "live": gr.HTML(EMPTY_STAGE, visible=True),
        "pair": gr.ImageSlider(visible=False),
        "loupe": dict(NOTHING),
        "facts": "",
        "notes": "",
        "sketches": gr.Gallery([], visible=False),
    }


def show_step(progress: Progress) -> Updates:
    """Show the picture with what is finished of it."""
    updates: Updates = {"status": show_progress(progress), "trace": (progress.step, progress.num_steps)}
    if progress.preview is not None:
        alt = escape(f"Unfinished picture, {progress.note}", quote=True)
        picture = f'<div class="picture live"><img src="{to_data(progress.preview)}" alt="{alt}"></div>'
        updates["live"] = gr.HTML(picture, visible=True)
        updates["kept"] = getattr(progress, "keep", None)
    return updates


def show_result(result: SuperResolutionResult, notes: Sequence[str] = ()) -> Updates:
    """Turn a finished run into updates: slider, loupe, facts with their meaning, notes, and what the buttons need."""
    title = MODES[result.request.mode][0]
    words = f"Done in {result.seconds:.1f} s. Left: bicubic. Right: {title}."
    return show_both(result, notes) | {"status": show_status(words, kind="done"), "trace": None}


def show_kept(result: SuperResolutionResult) -> Updates:
    """Show the unfinished picture of a stopped run as its result."""
    return show_both(
        result, ("Stopped: what was not finished is as bicubic interpolation, or the last step, left it.",)
    )


def show_both(result: SuperResolutionResult, notes: Sequence[str]) -> Updates:
    """Show a result beside bicubic interpolation."""
    settings = replace(result.request, picture=None)
    saved = replace(result, request=settings)
    baseline = save_picture(result.baseline, "limelight-bicubic.png", compress_level=QUICK)
    answers = tuple(make_answer(saved, index, baseline) for index in range(len(result.images)))
    gallery = [(answer.path, f"answer {index}") for index, answer in enumerate(answers, 1)] if len(answers) > 1 else []
    return {
        **on_answer(answers=answers, index=0),
        "live": gr.HTML(visible=False),
        "answers": answers,
        "sketches": gr.Gallery(gallery, visible=bool(gallery), allow_preview=False),
        "facts": show_facts(list_facts(result), result.measures, is_compared=True) + explain_agreement(result),
        "notes": show_notes(dict.fromkeys((*notes, *result.notes))),
        **{name: gr.Button(interactive=name != "reuse" or settings.mode in SEEDED) for name in BUTTONS},
        "kept": None,
    }


def make_answer(result: SuperResolutionResult, index: int, baseline: str) -> Answer:
    """Save one picture of a result with its settings, and say how it is shown."""
    request, image = result.request, result.images[index]
    title = MODES[request.mode][0]
    path = save_png(result, index, compress_level=QUICK)
    label = f"your picture, {write_size(result.original.size)}, enlarged {request.scale:g} times ({title})"
    place = point_loupe(Path(path).parent.name, result.baseline, image, (BASELINE, title))
    single = replace(request, seed=result.seed_used + index, num_images=1) if result.others else request
    return Answer(path, baseline, label, place, single)


def on_answer(*, answers: tuple[Answer, ...], index: int) -> Updates:
    """Show one of the answers beside bicubic interpolation."""
    answer = answers[index]
    return {
        "pair": gr.ImageSlider(value=(answer.baseline, answer.path), label=answer.label, visible=True),
        "loupe": answer.place,
        "download": gr.DownloadButton(value=answer.path, interactive=True),
        "shown": answer.request,
        "path": answer.path,
    }


def list_facts(result: SuperResolutionResult) -> Iterable[tuple[str, str]]:
    """List what is true of the whole run."""
    yield "time", f"{result.seconds:.1f} s"
    yield "size", f"{write_size(result.original.size)} \u2192 {write_size(result.image.size)}"
    if result.request.mode in SEEDED:
        yield "seed", str(result.seed_used)


def explain_agreement(result: SuperResolutionResult) -> str:
    """Say in one line what the agreement with the upload means, in levels that a pixel has."""
    found = [measure for measure in result.measures if measure.name == AGREEMENT]
    if not found:
        return ""
    off, on = (write_levels(db) for db in (found[0].off, found[0].on))
    way = "Damaged again as described" if result.request.mode == "damage" else "Shrunk back"
    words = f"{way}, the result differs from your picture by {on} of 255 levels; the bicubic one by {off}."
    return f'<p class="meaning">{escape(words)}</p>'


def write_levels(db: float) -> str:
    """Write a PSNR as the root of the mean square difference in levels of 255."""
    levels = 255 * 10 ** (-db / 20)
    return "less than 0.1" if levels < 0.1 else f"{levels:.1f}"


def to_data(picture: Image.Image) -> str:
    """Write a picture as data address, small enough to send several times a second; for the eye only."""
    data = io.BytesIO()
    flat = picture.convert("RGB")
    flat.save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
