"""The head of the page: name, one sentence, which model draws, and a badge with the facts about it.

The page appears before the model: the badge says that it loads, and a stream replaces it when it is ready.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from tabs.controls import pass_on, show_badge
from tabs.wiring import ModelLoader, Services, Updates, wait_for, wire

NAME = "Limelight"
SENTENCE = "Diffusion techniques on stage: switch one on, keep the seed, see and measure what it changes."
MARK = (
    '<svg class="mark" viewBox="0 0 48 48" aria-hidden="true"><path class="beam" d="M24 9 L43 44 H5 Z"/>'
    '<circle class="lamp" cx="24" cy="9" r="6"/><ellipse class="floor" cx="24" cy="43" rx="19" ry="3.4"/></svg>'
)
THEME_SWITCH = (
    '<button type="button" class="theme" onclick="limelight.toggleTheme()" aria-label="Light or dark" '
    'title="Light or dark"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 3a9 9 0 1 0 0 18V3Z"/>'
    '<circle cx="12" cy="12" r="9" fill="none" stroke="currentColor" stroke-width="2"/></svg></button>'
)


def on_page_load(models: ModelLoader, *, backend: str) -> Iterator[Updates]:
    """Say that the model loads, then state its device, number format, kernel and measured speed."""
    pending = models.start(backend)
    if not models.is_ready(backend):
        yield {"badge": show_badge([f"loading {backend}"], kind="loading")}
    for _ in wait_for(pending):
        yield {}
    model = pending.result()

    from pipelines import badge

    yield {"badge": show_badge(badge(model).split(" \u00b7 "))}


def show_unavailable(sentence: str) -> str:
    """Draw a badge that says why there is no model."""
    return show_badge([sentence], kind="unavailable")


def build(models: ModelLoader, backends: Sequence[tuple[str, str]], default: str) -> Services:
    """Lay out the header and hand its widgets to the tabs; `backends` are pairs (title, name)."""
    loading = show_badge([f"loading {default}"], kind="loading")
    with gr.Row(elem_classes="masthead", equal_height=False):
        gr.HTML(
            f'<div class="brand">{MARK}<div><h1>{escape(NAME)}</h1><p>{escape(SENTENCE)}</p></div></div>',
            elem_classes="brand-box",
            apply_default_css=False,
        )
        with gr.Column(elem_classes="engine", scale=0, min_width=300):
            with gr.Row(elem_classes="engine-row", equal_height=True):
                backend = pass_on(
                    gr.Dropdown(
                        list(backends),
                        value=default,
                        label="Model",
                        filterable=False,
                        container=False,
                        elem_classes="backend",
                    )
                )
                gr.HTML(THEME_SWITCH, elem_classes="theme-box", apply_default_css=False)
            shown = gr.HTML(loading, elem_classes="badge-box", apply_default_css=False)
    return Services(models=models, backend=backend, badge=shown, sent=gr.State({"tab": "", "path": "", "count": 0}))


def on_open(names: Sequence[str], request: gr.Request) -> Any:
    """Open the tab that the address asks for (?tab=NAME)."""
    wanted = request.query_params.get("tab")
    if wanted is None or wanted in names:
        return gr.Tabs(selected=wanted or names[0])
    gr.Warning(f"There is no tab {escape(wanted[:40])!r}; there are: {', '.join(names)}.")
    return gr.Tabs(selected=names[0])


def on_sent(*, sent: Mapping[str, Any]) -> Updates:
    """Open the tab that a picture was sent to."""
    return {"shelf": gr.Tabs(selected=sent["tab"])}


def connect(page: gr.Blocks, services: Services, shelf: gr.Tabs, names: Sequence[str]) -> None:
    """Keep the badge true when the page opens or another model is chosen, and open the tab of the address."""
    wire(
        [page.load, services.backend.change],
        partial(on_page_load, services.models),
        {"backend": services.backend},
        {"badge": services.badge},
        error_output="badge",
        describe_error=show_unavailable,
        show_progress="hidden",
        concurrency_limit=None,
    )

    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    opened = wire(services.sent.change, on_sent, {"sent": services.sent}, {"shelf": shelf}, **quick)
    opened.success(None, js="() => { limelight.rememberTab(); scrollTo(0, 0); }")

    def open_tab(request: gr.Request) -> Any:
        return on_open(names, request)

    # Queued, because gradio shows warnings of queued events only.
    page.load(open_tab, None, shelf, show_progress="hidden", concurrency_limit=None, api_visibility="private")
