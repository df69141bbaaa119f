"""Tab "Text to image": a prompt becomes a picture, without and with the chosen techniques at the same seed.

Handlers come first and are plain functions of plain values; `build` lays out the widgets and wires them by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines import (
    TextToImageRequest,
    UserError,
    read_settings,
    validate,
)
from pipelines import (
    specs as describe_fields,
)
from tabs import technique_picker
from tabs.controls import (
    build_result,
    make_control,
    make_seed_box,
    pass_on,
    show_error,
    show_result,
    show_status,
    show_step,
    to_seed,
)
from tabs.examples import read_examples
from tabs.running import build_actions, connect_prompt, on_stop, watch
from tabs.shown import connect_shown
from tabs.wiring import Services, Updates, wire, wire_end, wire_stop

NAME = "text-to-image"
TITLE = "Text to image"
INTRO = "Describe a scene and watch it form out of noise. Then choose a technique: the same seed without and with it."
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples" / "text_to_image.json"
EXPLANATION = Path(__file__).with_suffix(".md")
OWN_SIZE = "the model's own"
SIZES = ("512 x 512", "768 x 256", "256 x 768", "1024 x 1024", "2048 x 512")
READY = "Press Run, or Ctrl + Enter in the prompt."


def to_request(
    *, seed: Any, size: Any, picked: Any, layout: Any, options: Mapping[str, Any], **values: Any
) -> TextToImageRequest:
    """Collect the values of the widgets into one checked request."""
    width_px, height_px = to_size(size)
    techniques = technique_picker.to_choice(picked, layout, options)
    return validate(
        TextToImageRequest(seed=to_seed(seed), width_px=width_px, height_px=height_px, techniques=techniques, **values)
    )


def to_size(text: Any) -> tuple[int | None, int | None]:
    """Read "768 x 256"; the model's own size is (None, None)."""
    if not text or text == OWN_SIZE:
        return None, None
    sides = re.fullmatch(r"\s*(\d{1,6})\s*[x\u00d7*, ]\s*(\d{1,6})\s*", str(text))
    if sides is None:
        raise UserError(f'Size {str(text)[:40]!r} is no size; write width x height, for example "768 x 256".')
    return int(sides[1]), int(sides[2])


def on_generate(
    services: Services,
    *,
    prompt: Any,
    negative_prompt: Any,
    seed: Any,
    num_steps: Any,
    guidance_scale: Any,
    sampler: Any,
    size: Any,
    compare: Any,
    backend: Any,
    picked: Any,
    layout: Any,
    **options: Any,
) -> Iterator[Updates]:
    """Draw a picture, step by step; with techniques picked and compare on, the same seed without and with them."""
    yield {"stopped": ""}
    request = to_request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        size=size,
        compare=bool(compare and picked),
        backend=backend,
        picked=picked,
        layout=layout,
        options=options,
    )

    def open_stream() -> Any:
        from pipelines import text_to_image_stream

        return text_to_image_stream(request, services.models)

    shown = partial(show_step, prompt=request.prompt, hides="pair")
    yield from watch(services, request, open_stream, show_result, show_step=shown)


def on_compare(services: Services, **values: Any) -> Iterator[Updates]:
    """Draw the same seed without and with the picked techniques; with the first of all if none is picked."""
    picked = values["picked"] or technique_picker.first()
    yield {"picked": picked}
    yield from on_generate(services, **{**values, "picked": picked, "compare": True})


def on_restore(*, dropped: str | None) -> Updates:
    """Put the settings of a dropped PNG back into the widgets."""
    if dropped is None:
        return {}
    request = read_settings(dropped)
    return {
        **to_widgets(request),
        "status": show_status("The settings of this PNG are back; press Run for the same pixels.", kind="done"),
        "stopped": "",
    }


def to_widgets(request: TextToImageRequest) -> Updates:
    """Turn a request into the values of the widgets that made it."""
    names = ("prompt", "negative_prompt", "num_steps", "guidance_scale", "sampler", "backend")
    values = {name: getattr(request, name) for name in names}
    sides = (request.width_px, request.height_px)
    size = OWN_SIZE if sides == (None, None) else " x ".join(str(side or "") for side in sides)
    return {**values, "seed": str(request.seed), "size": size, **technique_picker.to_widgets(request.techniques)}


def load_examples() -> dict[str, Any]:
    """Read the examples and the values the tab starts with; each row may set any field of the request."""
    return read_examples(EXAMPLES, TextToImageRequest)


def on_example(row: Mapping[str, Any]) -> Updates:
    """Fill the widgets with an example; what it does not set goes back to its default, the backend stays."""
    values = to_widgets(TextToImageRequest(**row))
    del values["backend"]
    return values


def build(services: Services) -> None:
    """Lay out the tab and connect it."""
    document = load_examples()
    with gr.Column(elem_classes="shelf"):
        gr.HTML(f"<p>{INTRO}</p>", elem_classes="intro", apply_default_css=False)
        with gr.Row(elem_classes="bench", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
                inputs = build_inputs(document["start"])
            with gr.Column(scale=6, min_width=300, elem_classes="result"):
                result = build_result(READY)
        with gr.Row(elem_classes="examples"):
            examples = [gr.Button(row["prompt"], elem_classes="example", min_width=200) for row in document["examples"]]
        with gr.Accordion("How it works", open=False, elem_classes="how"):
            gr.Markdown(
                EXPLANATION.read_text("utf-8"), latex_delimiters=[{"left": "$$", "right": "$$", "display": True}]
            )
    connect(services, inputs, result, tuple(zip(examples, document["examples"])))


def build_inputs(start: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out the left side: prompt, buttons, the technique's switch, folded settings."""
    specs: dict[str, Any] = describe_fields(TextToImageRequest)
    made: dict[str, Any] = {}
    made["prompt"] = gr.Textbox(
        start["prompt"], label="Prompt", lines=3, max_lines=8, elem_classes="prompt", info=READY, autofocus=True
    )
    made["unknown"] = gr.HTML(elem_classes="unknown-box", apply_default_css=False)
    made |= build_actions()
    picker, made["groups"] = technique_picker.build()
    made["picker"] = picker
    with gr.Accordion("Settings", open=False, elem_classes="settings"):
        made["seed"], _ = make_seed_box(specs["seed"], value=start["seed"])
        for name in ("num_steps", "guidance_scale", "sampler"):
            made[name] = make_control(specs[name])
        made["negative_prompt"] = gr.Textbox("", label="Negative prompt", info="What the picture should not show.")
        made["size"] = pass_on(
            gr.Dropdown([OWN_SIZE, *SIZES], label="Size", info="Width x height in px.", allow_custom_value=True)
        )
        made["side_by_side"] = gr.Checkbox(True, label="Side by side", info=specs["compare"].help)
    with gr.Accordion("Settings from a PNG", open=False, elem_classes="restore"):
        made["dropped"] = gr.File(label="Drop a PNG from Limelight", file_types=[".png"], height=120)
    return made


def connect(
    services: Services, inputs: dict[str, Any], result: dict[str, Any], examples: tuple[tuple[gr.Button, Any], ...]
) -> None:
    """Wire every widget of the tab to its handler."""
    names = ("prompt", "negative_prompt", "seed", "num_steps", "guidance_scale", "sampler", "size")
    fields_in = {name: inputs[name] for name in names}
    fields_in |= {"compare": inputs["side_by_side"], "backend": services.backend, **inputs["picker"]}
    settings = {name: widget for name, widget in fields_in.items() if name != "compare"}
    outputs = {**result, "unknown": inputs["unknown"], "badge": services.badge}
    generate = partial(on_generate, services)
    model: dict[str, Any] = {
        "outputs": outputs,
        "uses_model": True,
        "error_output": "status",
        "describe_error": show_error,
        "show_progress": "minimal",
        "show_progress_on": result["status"],
    }
    runs = [wire(inputs["run"].click, generate, fields_in, api_name="text_to_image", **model)]
    model["outputs"] = {**outputs, "picked": inputs["picker"]["picked"]}
    runs.append(wire(inputs["compare"].click, partial(on_compare, services), fields_in, **model))
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    for button, row in examples:
        fill = wire(button.click, partial(on_example, row), {}, settings, **quick)
        runs.append(wire(fill.success, generate, fields_in, **model))
    wire_end(runs, "() => limelight.end()")
    trace = {"trace": result["trace"]}
    lines = {"status": result["status"], "stopped": result["stopped"]}
    wire_stop(inputs["stop"], runs, on_stop, trace, {**trace, "stopped": result["stopped"]})
    problem: dict[str, Any] = {"error_output": "status", "describe_error": show_error}
    restored = {**settings, **lines}
    dropped = {"dropped": inputs["dropped"]}
    wire(inputs["dropped"].change, on_restore, dropped, restored, api_name="read_settings", **quick, **problem)
    technique_picker.connect(inputs["picker"], inputs["groups"], inputs["prompt"], inputs["sampler"])
    connect_shown(services, inputs, result)
    connect_prompt(services, inputs)
