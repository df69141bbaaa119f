"""What every tab does around a run: wait for the model, show its steps, name unknown words, say what a Stop kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import gradio as gr

from pipelines import Progress
from tabs.controls import show_badge, show_status, show_unknown_words
from tabs.wiring import Services, Updates, pace, wait_for, wire


def watch(
    services: Services,
    request: Any,
    open_stream: Callable[[], Generator[Any, None, None]],
    show_result: Callable[[Any], Updates],
    *,
    show_step: Callable[[Any], Updates],
    read_as: str | None = None,
) -> Iterator[Updates]:
    """Load the model of a request, run its stream, and show every step and the result.

    `read_as` is the prompt as the model reads it, where that is not the request's. `open_stream` is called once the
    model is there, so it may import what needs torch.
    """
    yield {"status": show_status("Starting", done=0, kind="running"), "trace": (0, request.num_steps)}
    model = yield from load(services, request.backend)
    yield {"unknown": name_unknown_words(read_as or request.prompt, request.backend, model)}

    from pipelines import badge

    with closing(services.models.run(open_stream())) as stream:
        for item in pace(stream):
            if isinstance(item, Progress):
                yield {**show_step(item), "trace": (item.step, item.num_steps)}
            else:
                facts = show_badge(badge(model).split(" \u00b7 "))
                yield {**show_result(item), "trace": None, "badge": facts}


def load(services: Services, backend: str) -> Generator[Updates, None, Any]:
    """Load a model and say how long it takes; returns it."""
    pending = services.models.start(backend)
    for waited_s in wait_for(pending):
        yield {"status": show_status(f"Loading {backend}, {waited_s:.0f} s", done=0, kind="running")}
    return pending.result()


def on_stop(*, trace: tuple[int, int] | None) -> Updates:
    """Say what a stopped run leaves behind; without a run there is nothing to say."""
    if trace is None:
        return {}
    step, num_steps = trace
    kept = "the unfinished picture stays here" if step else "nothing was drawn yet"
    return {"stopped": show_status(f"Stopped at step {step} of {num_steps}; {kept}.", kind="stopped"), "trace": None}


def name_unknown_words(prompt: str, backend: str, model: Any) -> str:
    """Say which words of the prompt the model never learned."""
    from pipelines import unknown_words

    return show_unknown_words(backend, unknown_words(prompt, model))


def on_prompt_changed(services: Services, *, prompt: str, backend: str) -> Updates:
    """Name unknown words while the visitor types; silent until the model is loaded."""
    if not services.models.is_ready(backend):
        return {"unknown": ""}
    return {"unknown": name_unknown_words(prompt, backend, services.models.get(backend))}


def connect_prompt(services: Services, inputs: Mapping[str, Any]) -> None:
    """Name unknown words below the prompt while the visitor types, and when another model is chosen."""
    words = {"prompt": inputs["prompt"], "backend": services.backend}
    wire(
        [inputs["prompt"].change, services.backend.change],
        partial(on_prompt_changed, services),
        words,
        {"unknown": inputs["unknown"]},
        trigger_mode="always_last",
        queue=False,
        show_progress="hidden",
    )


def build_actions() -> dict[str, gr.Button]:
    """Lay out the three buttons that every tab has below its prompt."""
    with gr.Row(elem_classes="actions"):
        return {
            "run": gr.Button("Run", variant="primary", elem_classes="run", min_width=80),
            "compare": gr.Button("Compare", elem_classes="compare", min_width=100),
            "stop": gr.Button("Stop", variant="stop", elem_classes="stop", min_width=70),
        }
