"""Saved subjects: a visitor's own shelf of adapters, to save, choose, rename, delete, download, and to bring one along.

Whose shelf it is says a key in the visitor's browser; what was learned but not saved lives in the page's state alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from pipelines import Adapter, AdapterStore, UserError, make_owner, read_adapter
from tabs.controls import show_error, show_status
from tabs.wiring import Updates, wire

MAX_FILE_MB = 512
OWNER_KEY = "limelight-owner"
ANY = ""
Learned = Mapping[str, Adapter]


def open_store(owner: Any) -> AdapterStore:
    """Open the shelf of a visitor."""
    from pipelines import kept_folder

    return AdapterStore(kept_folder() / "adapters", owner)


def choose(learned: Learned, objective: Any) -> Adapter:
    """Take what was learned the chosen way, or the only one there is."""
    if not learned:
        raise UserError("There is no subject yet; press Learn, choose a saved one, or use Instant.")
    return learned.get(str(objective)) or next(iter(learned.values()))


def show_shelf(owner: Any, chosen: str | None = None) -> Updates:
    """List the saved adapters with their pictures."""
    saved = open_store(owner).list()
    names = [adapter.name for adapter in saved]
    return {
        "saved": gr.Dropdown(names, value=chosen),
        "thumbnails": gr.Gallery(
            [(adapter.thumbnail, adapter.name) for adapter in saved if adapter.thumbnail], visible=bool(saved)
        ),
    }


def on_arrive(*, owner: Any) -> Updates:
    """Give a new visitor a key, and show what they saved."""
    key = owner or make_owner()
    return {"owner": key, **show_shelf(key)}


def on_save(*, owner: Any, learned: Any, objective: Any, name: Any) -> Updates:
    """Save what was learned under a name."""
    adapter = open_store(owner).save(choose(learned, objective), str(name or ""))
    return {**show_shelf(owner, adapter.name), "status": show_status(f"Saved as {adapter.name!r}.", kind="done")}


def on_choose(*, owner: Any, saved: Any) -> Updates:
    """Take a saved adapter for drawing."""
    return take(open_store(owner).load(name_of(saved)))


def on_rename(*, owner: Any, saved: Any, name: Any) -> Updates:
    """Give a saved adapter another name."""
    adapter = open_store(owner).rename(name_of(saved), str(name or ""))
    return {**show_shelf(owner, adapter.name), "status": show_status(f"Renamed to {adapter.name!r}.", kind="done")}


def on_delete(*, owner: Any, saved: Any) -> Updates:
    """Delete a saved adapter."""
    open_store(owner).delete(name_of(saved))
    return {**show_shelf(owner), "status": show_status(f"Deleted {saved!r}.", kind="done")}


def on_download(*, owner: Any, learned: Any, objective: Any, saved: Any) -> Updates:
    """Hand out a LoRA file: the saved adapter that is chosen, else what was learned."""
    adapter = open_store(owner).load(saved) if saved else choose(learned, objective)
    name = "".join(sign if sign.isalnum() else "-" for sign in (adapter.name or adapter.word or "lora"))
    path = save_bytes_to_cache(adapter.data, f"{name}.safetensors", get_upload_folder())
    return {"file": gr.File(str(path), visible=True)}


def on_bring(*, brought: Any) -> Updates:
    """Take a LoRA file from elsewhere; whether it fits the model shows when it draws."""
    if not brought:
        return {}
    path = Path(brought)
    if path.stat().st_size > MAX_FILE_MB * 2**20:
        raise UserError(f"This file has more than {MAX_FILE_MB} MB; choose a smaller LoRA.")
    return take(read_adapter(path.read_bytes()))


def take(adapter: Adapter) -> Updates:
    """Make an adapter the one that draws, with its own words if it says them."""
    words = {"word": adapter.word, "phrase": adapter.phrase} if adapter.word else {}
    named = f"{adapter.name!r}" if adapter.name else "The LoRA file"
    sentence = f"{named} is ready; call it {adapter.word!r}." if adapter.word else f"{named} is ready."
    return {**words, "learned": {adapter.objective or ANY: adapter}, "status": show_status(sentence, kind="done")}


def name_of(saved: Any) -> str:
    """Return the chosen name."""
    if not saved:
        raise UserError("No saved subject is chosen; choose one of the list first.")
    return str(saved)


def build_shelf() -> dict[str, Any]:
    """Lay out the saved subjects."""
    # A fixed secret: the default one changes with every start of the app, and the shelf would be lost with it.
    made: dict[str, Any] = {
        "owner": gr.BrowserState("", storage_key=OWNER_KEY, secret=OWNER_KEY),
        "learned": gr.State({}),
    }
    with gr.Accordion("Saved subjects", open=False, elem_classes="saved") as made["saved_fold"]:
        made["thumbnails"] = gr.Gallery(
            label="Saved", columns=5, height="auto", visible=False, format="png", interactive=False, buttons=[]
        )
        with gr.Row(equal_height=True):
            made["saved"] = gr.Dropdown([], label="Saved subject", info="Choose one to draw it.", filterable=False)
            made["name"] = gr.Textbox("", label="Name", info="For Save and Rename.", max_lines=1)
        with gr.Row(elem_classes="keep"):
            for name, label in (("save", "Save"), ("rename", "Rename"), ("delete", "Delete"), ("download", "Download")):
                made[name] = gr.Button(label, size="sm", min_width=80)
        made["file"] = gr.File(label="LoRA file", visible=False, interactive=False)
        made["brought"] = gr.File(label="Load a LoRA file (safetensors)", file_types=[".safetensors"], height=110)
    return made


def connect_shelf(made: Mapping[str, Any], status: Any) -> None:
    """Wire the shelf."""
    problem: dict[str, Any] = {"error_output": "status", "describe_error": show_error}
    quick: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", **problem}

    def pick(*names: str) -> dict[str, Any]:
        return {name: made[name] for name in names}

    shelf = {**pick("saved", "thumbnails"), "status": status}
    taken = {**pick("word", "phrase", "learned"), "status": status}
    # Not when the page loads: the key is read from the browser only when the tab is built, which is later.
    wire(
        made["saved_fold"].expand,
        on_arrive,
        pick("owner"),
        {**pick("owner", "saved", "thumbnails"), "status": status},
        **quick,
    )
    wire(made["save"].click, on_save, pick("owner", "learned", "objective", "name"), shelf, **quick)
    wire(made["rename"].click, on_rename, pick("owner", "saved", "name"), shelf, **quick)
    wire(made["delete"].click, on_delete, pick("owner", "saved"), shelf, **quick)
    wire(made["saved"].input, on_choose, pick("owner", "saved"), taken, **quick)
    asked = pick("owner", "learned", "objective", "saved")
    wire(made["download"].click, on_download, asked, {**pick("file"), "status": status}, **quick)
    wire(made["brought"].upload, on_bring, pick("brought"), taken, **quick)
