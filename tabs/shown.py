"""What can be done with a shown picture, alike in all tabs: send it on, reuse its seed, see its settings as code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from pipelines import SubjectRequest, to_plain_prompt, to_python
from tabs.wiring import Services, Updates, send, wire

STYLE_TAB = "style"
DRAG_TAB = "drag"
ENLARGE_TAB = "enlarge"
LIGHT_TAB = "light"
PREVIEW_TAB = "preview"


def on_reuse_seed(*, shown: Any) -> Updates:
    """Put the seed of the shown picture back."""
    return {"seed": str(shown.seed)}


def on_copy(*, shown: Any) -> Updates:
    """Show the settings of the shown picture as code."""
    return {"python": gr.Code(to_python(shown), visible=True)}


def name_plainly(shown: Any) -> str:
    """Write what a picture shows for a tab that knows no visitor's subject: there "my robot" is a pink robot."""
    return to_plain_prompt(shown) if isinstance(shown, SubjectRequest) else str(shown.prompt)


def on_use_as_style(*, path: str, sent: Mapping[str, Any]) -> Updates:
    """Send the shown picture to the tab that takes a style from it."""
    return {"sent": send(sent, STYLE_TAB, path)}


def on_drag(*, path: str, shown: Any, sent: Mapping[str, Any]) -> Updates:
    """Send the shown picture, with its words, to the tab where it is dragged."""
    return {"sent": send(sent, DRAG_TAB, path, prompt=name_plainly(shown))}


def on_enlarge(*, path: str, shown: Any, sent: Mapping[str, Any]) -> Updates:
    """Send the shown picture, with its words, to the tab where it is enlarged."""
    return {"sent": send(sent, ENLARGE_TAB, path, prompt=name_plainly(shown))}


def on_light(*, path: str, sent: Mapping[str, Any]) -> Updates:
    """Send the shown picture to the tab where dark pictures are lit."""
    return {"sent": send(sent, LIGHT_TAB, path)}


def on_make_solid(*, path: str, sent: Mapping[str, Any]) -> Updates:
    """Send the shown picture to the tab where its object becomes a model."""
    return {"sent": send(sent, PREVIEW_TAB, path)}


def connect_copy(result: Mapping[str, Any]) -> None:
    """Wire the button that shows the settings of a result as code and copies them."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    copied = wire(result["copy"].click, on_copy, {"shown": result["shown"]}, {"python": result["python"]}, **quick)
    copied.success(None, [result["python"]], None, js="(code) => limelight.copy(code)")


def connect_shown(services: Services, inputs: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Wire the buttons below a result; `inputs` has a box for the seed."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    shown, sent = {"shown": result["shown"]}, {"sent": services.sent}
    wire(result["reuse"].click, on_reuse_seed, shown, {"seed": inputs["seed"]}, **quick)
    connect_copy(result)
    path = {"path": result["path"]}
    wire(result["use"].click, on_use_as_style, path | sent, sent, **services.sending)
    wire(result["light"].click, on_light, path | sent, sent, **services.sending)
    wire(result["solid"].click, on_make_solid, path | sent, sent, **services.sending)
    wire(result["enlarge"].click, on_enlarge, path | shown | sent, sent, **services.sending)
    wire(result["drag"].click, on_drag, path | shown | sent, sent, **services.sending)
