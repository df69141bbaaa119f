"""The right side of the low-light tab: the picture as it gets lighter, the slider's three views, histogram, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr

from pipelines import LightArm, LowLightRequest, LowLightResult, Progress
from tabs.controls import build_findings, build_lines, format_number, show_facts, show_notes, show_progress, show_status
from tabs.enlarge_result import EMPTY_STAGE, to_data
from tabs.files import save_picture, save_png
from tabs.light_inputs import METHODS
from tabs.loupe import NOTHING, build_loupe, point_loupe
from tabs.wiring import Updates

QUICK = 1  # of a large picture, writing takes longer than its lighting otherwise
BUTTONS = ("reuse", "copy", "use", "drag", "enlarge", "solid")
# What the slider compares: both sides of each view, with their names.
VIEWS = MappingProxyType(
    {
        "before": ("Before and after", "before", "after"),
        "bright": ("Only brightened, and after", "only brightened", "after"),
        "added": ("Where detail was added", "after", "added"),
    }
)
CHART = (256, 64)
SMALL_PX = 384  # up to here the slider itself shows pixels enlarged, and a loupe would show nothing more


@dataclass(frozen=True)
class Shown:
    """Hold one method's picture as it is shown: files, words, where the loupe looks first, its own settings."""

    files: Mapping[str, str]
    label: str
    place: Mapping[str, Any]
    chart: str
    facts: str
    request: LowLightRequest


def build_result(invitation: str) -> dict[str, Any]:
    """Lay out the right side: the picture as it gets lighter, slider and views, histogram, loupe; facts below."""
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
        titles = [(title, name) for name, (title, *_) in VIEWS.items()]
        made["view"] = gr.Radio(
            titles, value="before", label="The slider shows", visible=False, elem_classes="picker light-view"
        )
        made["chart"] = gr.HTML(elem_classes="light-chart", apply_default_css=False)
        made["loupe"] = build_loupe()
    made |= build_findings("The methods; click one to see it above")
    # Sent here again, a lit picture would come back unchanged.
    made["light"].visible = False
    made["kept"] = gr.State(None)
    made["arms"] = gr.State(())
    made["arm"] = gr.State(None)
    return made


def clear_result(invitation: str) -> Updates:
    """Empty the stage for another picture."""
    off: dict[str, Any] = {"interactive": False}
    return {
        **clear_stage(),
        "status": show_status(invitation),
        "stopped": "",
        "python": gr.Code(visible=False),
        "download": gr.DownloadButton(**off),
        **{name: gr.Button(**off) for name in BUTTONS},
        "kept": None,
        "arm": None,
    }


def clear_stage() -> Updates:
    """Take away everything that belongs to an earlier picture."""
    return {
        "live": gr.HTML(EMPTY_STAGE, visible=True),
        "pair": gr.ImageSlider(visible=False),
        "view": gr.Radio(visible=False),
        "chart": "",
        "loupe": dict(NOTHING),
        "facts": "",
        "notes": "",
        "sketches": gr.Gallery([], visible=False),
    }


def show_start() -> Updates:
    """Say that a run begins, on an empty stage."""
    return {**clear_stage(), "status": show_status("Starting", done=0, kind="running"), "trace": (0, 1), "arm": None}


def show_step(progress: Progress) -> Updates:
    """Show the picture as far as it is lit."""
    updates: Updates = {"status": show_progress(progress), "trace": (progress.step, progress.num_steps)}
    if progress.preview is not None:
        alt = escape(f"Unfinished picture, {progress.note}", quote=True)
        picture = f'<div class="picture live"><img src="{to_data(progress.preview)}" alt="{alt}"></div>'
        updates["live"] = gr.HTML(picture, visible=True)
        updates["kept"] = getattr(progress, "keep", None)
    return updates


def show_result(result: LowLightResult, notes: Sequence[str] = ()) -> Updates:
    """Turn a finished run into updates: slider, histogram, facts, notes, and what the buttons need."""
    title = METHODS[result.request.method][0]
    words = f"Done in {result.seconds:.1f} s. Left: before. Right: {title}."
    if not result.is_dark:
        words = "Not dark: the picture comes back unchanged."
    return show_all(result, notes) | {"status": show_status(words, kind="done"), "trace": None}


def show_kept(result: LowLightResult) -> Updates:
    """Show the unfinished picture of a stopped run as its result."""
    return show_all(result, ("Stopped: the picture is as far as it was when you stopped it.",))


def show_all(result: LowLightResult, notes: Sequence[str]) -> Updates:
    """Show what every method made, the asked one on the stage."""
    settings = replace(result.request, picture=None, burst=(), truth=None)
    saved = replace(result, request=settings)
    before = save_picture(result.original.convert("RGBA"), "limelight-before.png", compress_level=QUICK)
    arms = tuple(make_shown(saved, index, before) for index in range(len(result.arms)))
    gallery = [(shown.files["after"], caption(arm)) for shown, arm in zip(arms, result.arms)] if len(arms) > 1 else []
    return {
        **on_arm(arms=arms, index=len(arms) - 1),
        "live": gr.HTML(visible=False),
        "arms": arms,
        "sketches": gr.Gallery(gallery, visible=bool(gallery), allow_preview=False),
        "notes": show_notes(dict.fromkeys((*notes, *result.notes))),
        **{name: gr.Button(interactive=name != "reuse" or is_seeded(settings)) for name in BUTTONS},
        "kept": None,
    }


def make_shown(result: LowLightResult, index: int, before: str) -> Shown:
    """Save one method's pictures, and say how they are shown."""
    arm = result.arms[index]
    title = METHODS[arm.method][0]
    after = save_png(result, index, compress_level=QUICK)
    files = {
        "before": before,
        "after": after,
        "only brightened": save_picture(arm.baseline, "limelight-brightened.png", compress_level=QUICK),
        "added": save_picture(arm.added, "limelight-added.png", compress_level=QUICK),
    }
    width, height = arm.image.size
    return Shown(
        files=files,
        label=f"your picture, {width} x {height} px, lit by {title}" if result.is_dark else "your picture, not dark",
        place={
            **point_loupe(Path(after).parent.name, arm.baseline, arm.image, ("", "")),
            "is_small": max(arm.image.size) <= SMALL_PX,
        },
        chart=draw_chart(result.histogram, arm.histogram),
        facts=write_facts(result, arm),
        request=replace(result.request, method=arm.method, compare=False),
    )


def on_arm(*, arms: tuple[Shown, ...], index: int) -> Updates:
    """Show one method's picture beside the dark one."""
    arm = arms[index]
    return {
        **on_view(view="before", arm=arm),
        "view": gr.Radio(value="before", visible=True),
        "chart": arm.chart,
        "facts": arm.facts,
        "arm": arm,
        "download": gr.DownloadButton(value=arm.files["after"], interactive=True),
        "shown": arm.request,
        "path": arm.files["after"],
    }


def on_view(*, view: str, arm: Shown | None) -> Updates:
    """Show another pair of pictures under the slider."""
    if arm is None:
        return {}
    _, left, right = VIEWS[view]
    words = f"{arm.label}; left {left}, right {right}"
    key = f"{arm.place['key']} {view}"
    return {
        "pair": gr.ImageSlider(value=(arm.files[left], arm.files[right]), label=words, visible=True),
        "loupe": {**arm.place, "key": key, "left": left.capitalize(), "right": right.capitalize()},
    }


def caption(arm: LightArm) -> str:
    """Write a method's name and its numbers below its small picture."""
    numbers = {measure.name: measure for measure in arm.measures}
    parts = [METHODS[arm.method][0]]
    if "truth_db" in numbers:
        parts.append(f"{format_number(numbers['truth_db'].on)} dB")
    return ", ".join([*parts, f"noise {format_number(numbers['noise_levels'].on)}", f"{arm.seconds:.1f} s"])


def write_facts(result: LowLightResult, arm: LightArm) -> str:
    """Write the numbers of one method and what they mean; of a picture that came back there is only its brightness."""
    numbers = {measure.name: measure for measure in arm.measures}
    light = numbers.pop("brightness")
    if not result.is_dark:
        return show_facts([("brightness", format_number(light.on))], (), is_compared=False)
    facts = [("brightness", f"{light.off:.2f} \u2192 {light.on:.2f}")]
    return show_facts([*list_facts(result, arm), *facts], numbers.values(), is_compared=True) + explain_share(
        numbers["explained_share"].on
    )


def is_seeded(request: LowLightRequest) -> bool:
    """Tell whether a seed changes anything: only where detail is invented."""
    return request.method == "diffusion" and request.detail_frac > 0


def list_facts(result: LowLightResult, arm: LightArm) -> Iterable[tuple[str, str]]:
    """List what is true of one method's run."""
    yield "method", METHODS[arm.method][0]
    yield "time", f"{arm.seconds:.1f} s"
    if is_seeded(replace(result.request, method=arm.method)):
        yield "seed", str(result.seed_used)


def explain_share(share: float) -> str:
    """Say in one line what the grey numbers are, and what was added."""
    words = (
        "Grey numbers: your picture only brightened, noise and all. "
        f"Of the fine detail in the result, {share:.0%} follows from your picture by a brightness curve; "
        f"{1 - share:.0%} was added."
    )
    return f'<p class="meaning">{escape(words)}</p>'


def draw_chart(before: Sequence[float], after: Sequence[float]) -> str:
    """Draw both histograms over each other, from black on the left to white on the right."""
    width, height = CHART
    top = max(*before[1:], *after[1:], 1e-9)

    def trace(shares: Sequence[float]) -> str:
        step = width / len(shares)
        # A root lets small shares be seen; black and white may rise above the frame, and are cut.
        points = (
            f"{(i + 0.5) * step:.1f},{height * (1 - min(1.0, (share / top) ** 0.5)):.1f}"
            for i, share in enumerate(shares)
        )
        return f"0,{height} {' '.join(points)} {width},{height}"

    words = "How many pixels are how bright: before, on the left and dark, and after."
    return (
        f'<figure class="chart"><svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{words}"><polygon class="chart-after" points="{trace(after)}"/>'
        f'<polygon class="chart-before" points="{trace(before)}"/></svg>'
        '<figcaption><span>black</span><span class="chart-key"><i class="before"></i>before '
        '<i class="after"></i>after</span><span>white</span></figcaption></figure>'
    )
