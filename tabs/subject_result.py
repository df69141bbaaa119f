"""The right side of the personalization tab: learning as it goes, then the pictures, one row per way of drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from pipelines import LearnProgress, LearnResult, SubjectArm, SubjectRequest, SubjectResult
from tabs.controls import build_findings, build_lines, show_facts, show_notes, show_progress, show_status
from tabs.files import save_picture, save_png
from tabs.wiring import Updates

MAX_ARMS = 4
CURVE_PX = (400, 90)
LEARNING = "learning"


def build_result(invitation: str) -> dict[str, Any]:
    """Lay out the right side: the curve and samples of learning, the rows of pictures, facts and notes."""
    made: dict[str, Any] = {}
    shown: dict[str, Any] = {"show_label": False, "interactive": False, "format": "png", "object_fit": "contain"}
    with gr.Column(elem_classes="stage-box"):
        made["picture"] = gr.Image(
            format="png",
            elem_classes="picture",
            alt_text="No picture yet",
            container=False,
            show_label=False,
            interactive=False,
            buttons=["fullscreen"],
        )
        with gr.Column(visible=False, elem_classes="style-sheet") as made["sheet"]:
            for index in range(MAX_ARMS):
                with gr.Column(visible=False, elem_classes="style-arm") as made[f"arm_{index}"]:
                    made[f"title_{index}"] = gr.HTML(elem_classes="arm-title", apply_default_css=False)
                    made[f"images_{index}"] = gr.Gallery(
                        height="auto", buttons=["fullscreen", "download"], elem_classes="arm-pictures", **shown
                    )
        made |= build_lines(invitation)
    made["curve"] = gr.HTML(elem_classes="curve-box", apply_default_css=False)
    return made | build_findings("While it learned")


def draw_curve(losses: Sequence[float], num_steps: int) -> str:
    """Draw the loss over the steps as a line; nothing before the second step."""
    if len(losses) < 2:
        return ""
    width, height = CURVE_PX
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    points = " ".join(
        f"{width * step / max(1, num_steps - 1):.1f},{height - (height - 4) * (loss - low) / span - 2:.1f}"
        for step, loss in enumerate(losses)
    )
    return (
        f'<figure class="curve"><svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="Loss while learning: '
        f'{losses[0]:.3g} at first, {losses[-1]:.3g} now"><polyline points="{points}" fill="none" '
        f'stroke="currentColor" stroke-width="1.5"/></svg><figcaption>Loss {losses[0]:.3g} → {losses[-1]:.3g}'
        "</figcaption></figure>"
    )


def show_learning(progress: LearnProgress) -> Updates:
    """Turn a step of learning into updates: the line, the curve, the samples and the unfinished sample."""
    updates: Updates = {
        "status": show_progress(progress),
        "curve": draw_curve(progress.losses, progress.num_steps),
        "trace": (progress.step, progress.num_steps, LEARNING),
    }
    if progress.preview is not None:
        updates["picture"] = gr.Image(progress.preview, alt_text="A sample while it learns", visible=True)
        updates["sheet"] = gr.Column(visible=False)
    if progress.samples:
        updates["sketches"] = show_samples(progress.samples)
    return updates


def show_samples(samples: Sequence[tuple[int, Any]]) -> Any:
    """Show the samples drawn so far, each with its step."""
    return gr.Gallery([(picture, f"after {step} steps") for step, picture in samples], visible=True)


def show_learned(result: LearnResult, upload_notes: Sequence[str] = ()) -> Updates:
    """Turn what was learned into updates."""
    adapter = result.adapter
    sentence = f"Learned {adapter.word!r} in {result.seconds:.0f} s; now draw it, or save it."
    facts = (
        ("time", f"{result.seconds:.0f} s"),
        ("steps", str(adapter.num_steps)),
        ("file", f"{len(adapter.data) / 2**20:.1f} MB"),
    )
    return {
        "status": show_status(sentence, kind="done"),
        "curve": draw_curve(result.losses, result.request.num_steps),
        "sketches": show_samples(result.samples),
        "facts": show_facts(facts, (), is_compared=False),
        "notes": show_notes(dict.fromkeys((*upload_notes, *result.notes))),
        "captions": "\n".join(result.captions),
        "phrase": result.phrase,
        "trace": None,
    }


def show_result(result: SubjectResult, upload_notes: Sequence[str] = ()) -> Updates:
    """Turn a finished run into updates: the rows, facts and notes."""
    updates: Updates = {}
    for index in range(MAX_ARMS):
        arm = result.arms[index] if index < len(result.arms) else None
        updates |= show_arm(index, arm, result)
    size = " x ".join(str(side) for side in result.images[0].size)
    facts = (("time", f"{result.seconds:.1f} s"), ("seed", str(result.seed_used)), ("size", size))
    is_compared = len(result.arms) > 1
    path = save_arm(result, len(result.arms) - 1)[0][0]
    sentence = "The same seeds in the same places. " if is_compared else ""
    return updates | {
        "picture": gr.Image(visible=False),
        "sheet": gr.Column(visible=True),
        "status": show_status(f"{sentence}Done in {result.seconds:.1f} s", kind="done"),
        "facts": show_facts(facts, () if is_compared else result.arms[-1].measures, is_compared=False),
        "notes": show_notes(dict.fromkeys((*upload_notes, *result.notes))),
        "download": gr.DownloadButton(value=path, interactive=True),
        **{name: gr.Button(interactive=True) for name in ("reuse", "copy", "use", "drag")},
        "shown": ask_for_arm(result, len(result.arms) - 1),
        "path": path,
        "trace": None,
    }


def ask_for_arm(result: SubjectResult, index: int) -> SubjectRequest:
    """Make the request that draws one row alone; the plain model, which comes first in a comparison, has no subject."""
    request = replace(result.request, seed=result.seed_used, compare=False)
    if not request.adapters:
        return request
    own = index - (len(result.arms) - len(request.adapters))
    return replace(request, adapters=request.adapters[own : own + 1] if own >= 0 else ())


def save_arm(result: SubjectResult, index: int) -> list[tuple[str, str]]:
    """Write the pictures of one row with the settings that draw it alone, and say in words what each is.

    The plain model's pictures carry none: this tab cannot draw them without a subject.
    """
    arm, request = result.arms[index], ask_for_arm(result, index)
    words = f"{request.prompt}; {arm.title}, seed "
    seeds = range(result.seed_used, result.seed_used + len(arm.images))
    if not arm.name:
        return [
            (save_picture(image, f"limelight-{seed}.png"), f"{words}{seed}") for seed, image in zip(seeds, arm.images)
        ]
    own = replace(result, arms=(arm,), request=request)
    return [(save_png(own, place), f"{words}{seed}") for place, seed in enumerate(seeds)]


def show_arm(index: int, arm: SubjectArm | None, result: SubjectResult) -> Updates:
    """Turn one way of drawing into its row; a row that is not needed is hidden."""
    if arm is None:
        return {f"arm_{index}": gr.Column(visible=False), f"images_{index}": []}
    is_compared = len(result.arms) > 1
    measures = show_facts((), arm.measures, is_compared=False) if is_compared else ""
    pictures = save_arm(result, index)
    return {
        f"arm_{index}": gr.Column(visible=True),
        f"title_{index}": gr.HTML(f"<h3>{escape(arm.title)}</h3>{measures}"),
        f"images_{index}": gr.Gallery(pictures, columns=1 if len(pictures) == 1 else 2),
    }
