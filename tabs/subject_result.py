"""The right side of the personalization tab: learning as it goes, then the pictures, one row per way of drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from pipelines import LearnProgress, LearnResult, SubjectArm, SubjectRequest, SubjectResult
from tabs.controls import build_findings, build_lines, show_facts, show_notes, show_progress, show_status
from tabs.files import save_png
from tabs.subject_inputs import INSTANT, PLAIN
from tabs.wiring import Updates

MAX_ARMS = 4
CURVE_PX = (400, 90)
MEAN_OF = 10
LEARNING = "learning"
BUTTONS = ("reuse", "copy", "use", "drag", "enlarge", "light", "solid")


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
    """Draw the loss of every step thin, and their running mean thick; an empty frame before the second step.

    Losses of single steps jump, because every step looks at other noise; the mean shows where it goes.
    """
    means = [sum(losses[max(0, end - MEAN_OF) : end]) / min(end, MEAN_OF) for end in range(1, len(losses) + 1)]
    lines, words = "", f"Loss over {num_steps} steps"
    if len(losses) > 1:
        low, high = min(losses), max(losses)
        lines = draw_line(losses, num_steps, low, high, "each") + draw_line(means, num_steps, low, high, "mean")
        words = f"Loss {means[0]:.3g} \u2192 {means[-1]:.3g}, mean of {MEAN_OF}; step {len(losses)} of {num_steps}"
    width, height = CURVE_PX
    return (
        f'<figure class="curve"><svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{words}">{lines}</svg><figcaption>{words}</figcaption></figure>'
    )


def draw_line(values: Sequence[float], num_steps: int, low: float, high: float, kind: str) -> str:
    """Draw values over the steps between a lowest and a highest one."""
    width, height = CURVE_PX
    span = (high - low) or 1.0
    points = " ".join(
        f"{width * step / max(1, num_steps - 1):.1f},{height - (height - 4) * (value - low) / span - 2:.1f}"
        for step, value in enumerate(values)
    )
    return f'<polyline class="{kind}" points="{points}"/>'


def show_learning(progress: LearnProgress) -> Updates:
    """Turn a step of learning into updates: the line, the curve, the samples and the unfinished sample."""
    updates: Updates = {
        "status": show_progress(progress),
        "curve": draw_curve(progress.losses, progress.num_steps),
        "trace": (progress.step, progress.num_steps, LEARNING),
    }
    if progress.preview is not None:
        words = "A sample while it learns" if progress.step else "The pictures that are learned, the subject bright"
        updates["picture"] = gr.Image(progress.preview, alt_text=words, visible=True)
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
        **{name: gr.Button(interactive=True) for name in BUTTONS},
        "shown": ask_for_arm(result, len(result.arms) - 1),
        "path": path,
        "trace": None,
    }


def ask_for_arm(result: SubjectResult, index: int) -> SubjectRequest:
    """Make the request that draws one row alone, with the words of its subject."""
    request, arm = result.request, result.arms[index]
    first = request.adapters[0] if request.adapters else None
    request = replace(request, seed=result.seed_used, compare=False)
    if first and first.word:
        request = replace(request, word=first.word, phrase=first.phrase)
    if not arm.name:
        return replace(request, adapters=(), picture=None, draw_by=PLAIN)
    own = index - int(not result.arms[0].name)
    if own < len(request.adapters):
        by = "auto" if request.draw_by == INSTANT else request.draw_by
        return replace(request, adapters=request.adapters[own : own + 1], picture=None, draw_by=by)
    return replace(request, adapters=(), draw_by=INSTANT)


def save_arm(result: SubjectResult, index: int) -> list[tuple[str, str]]:
    """Write the pictures of one row with the settings that draw it alone, and say in words what each is."""
    arm, request = result.arms[index], ask_for_arm(result, index)
    own = replace(result, arms=(arm,), request=request)
    words = f"{request.prompt}; {arm.title}, seed "
    return [(save_png(own, place), f"{words}{result.seed_used + place}") for place in range(len(arm.images))]


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
