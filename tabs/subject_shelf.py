"""Saved subjects: a visitor's own shelf of adapters, to save, choose, rename, delete, download, and to bring one along.

Whose shelf it is says a key in the visitor's browser; what was learned but not saved lives in the page's state alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from pipelines import Adapter, AdapterStore, UserError, make_owner, read_adapter
from tabs.controls import show_error, show_notes, show_status
from tabs.running import load
from tabs.subject_choice import FILE, Learned, choose, forget, keep, show_ready
from tabs.wiring import Services, Updates, wire

MAX_FILE_MB = 512
OWNER_KEY = "limelight-owner"
BLANK_PX = 96
NOTHING = "Nothing is saved yet: learn a subject, give it a name and press Save."
UNCHOSEN = "Click a picture to draw that subject."


def open_store(owner: Any) -> AdapterStore:
    """Open the shelf of a visitor."""
    from pipelines import kept_folder

    return AdapterStore(kept_folder() / "adapters", owner)


def show_shelf(owner: Any, chosen: str = "") -> Updates:
    """List the saved adapters with their pictures; one from elsewhere has none and gets a blank one."""
    saved = open_store(owner).list()
    names = [adapter.name for adapter in saved]
    pictures = [(adapter.thumbnail or make_blank(adapter.name), adapter.name) for adapter in saved]
    # gradio takes a place that is set for a click, so none is set: a line says which one is chosen.
    return {
        "thumbnails": gr.Gallery(pictures, selected_index=None, visible=bool(saved)),
        "names": names,
        **show_chosen(chosen if chosen in names else "", NOTHING if not saved else UNCHOSEN),
    }


def show_chosen(name: str, otherwise: str = "") -> Updates:
    """Say which of the saved subjects Rename and Delete are about."""
    kind, sentence = ("known", f"Chosen: {name}") if name else ("known none", otherwise)
    return {"saved": name, "chosen": f'<p class="{kind}">{escape(sentence)}</p>'}


def make_blank(name: str) -> Image.Image:
    """Make a plain picture for an adapter without one, of a colour that its name decides."""
    red, green, blue = sha256(name.encode()).digest()[:3]
    return Image.new("RGB", (BLANK_PX, BLANK_PX), (red, green, blue))


def on_arrive(*, owner: Any) -> Updates:
    """Give a new visitor a key, and show what they saved."""
    key = owner or make_owner()
    return {"owner": key, **show_shelf(key)}


def on_save(*, owner: Any, learned: Any, subject: Any, objective: Any, name: Any) -> Updates:
    """Save what was learned under a name."""
    adapter = open_store(owner).save(choose(learned, subject, objective), str(name or ""))
    return {**show_shelf(owner, adapter.name), "status": show_status(f"Saved as {adapter.name!r}.", kind="done")}


def on_choose(*, owner: Any, learned: Any, names: Any, index: int) -> Updates:
    """Take a saved adapter for drawing."""
    adapter = open_store(owner).load(names[index])
    return {**take(adapter, learned, f"saved {adapter.name}"), "name": adapter.name, **show_chosen(adapter.name)}


def on_rename(*, owner: Any, saved: Any, name: Any) -> Updates:
    """Give a saved adapter another name."""
    adapter = open_store(owner).rename(name_of(saved), str(name or ""))
    return {**show_shelf(owner, adapter.name), "status": show_status(f"Renamed to {adapter.name!r}.", kind="done")}


def on_delete(*, owner: Any, saved: Any) -> Updates:
    """Delete a saved adapter; it was chosen, so it is still on the page."""
    open_store(owner).delete(name_of(saved))
    sentence = f"Deleted {saved!r}; it can be drawn, and saved again, until you leave the page."
    return {**show_shelf(owner), "status": show_status(sentence, kind="done")}


def on_download(*, learned: Any, subject: Any, objective: Any) -> Updates:
    """Hand out what draws as a LoRA file."""
    adapter = choose(learned, subject, objective)
    name = "".join(sign if sign.isalnum() else "-" for sign in (adapter.name or adapter.word or "lora"))
    path = save_bytes_to_cache(adapter.data, f"{name}.safetensors", get_upload_folder())
    sentence = "The LoRA file is below the shelf; diffusers loads it with load_lora_weights."
    return {"file": gr.File(str(path), visible=True), "status": show_status(sentence, kind="done")}


def on_bring(services: Services, *, brought: Any, learned: Any, backend: Any) -> Iterator[Updates]:
    """Take a LoRA file from elsewhere, if it fits the model."""
    if not brought:
        return
    path = Path(brought)
    if path.stat().st_size > MAX_FILE_MB * 2**20:
        raise UserError(f"This file has more than {MAX_FILE_MB} MB; choose a smaller LoRA.")
    adapter = read_adapter(path.read_bytes())
    model = yield from load(services, backend)

    from pipelines import check_adapter

    notes = check_adapter(adapter, model)
    yield {**take(adapter, learned, FILE), "seen": show_notes(notes), **show_chosen("", UNCHOSEN)}


def take(adapter: Adapter, learned: Learned, subject: str) -> Updates:
    """Make an adapter the one that draws, with its own words if it says them; it came without pictures."""
    words = {"word": adapter.word, "phrase": adapter.phrase} if adapter.word else {}
    named = f"{adapter.name!r}" if adapter.name else "The LoRA file"
    sentence = f"{named} is ready; call it {adapter.word!r}." if adapter.word else f"{named} is ready."
    others = {name: found for name, found in learned.items() if name != subject}
    kept = keep(others, subject, adapter)
    by = {"objective": adapter.objective} if adapter.objective else {}
    return {
        **forget(),
        **words,
        **by,
        "subject": subject,
        "learned": kept,
        "pictures": [],
        "accepted": [],
        "shelf": gr.Gallery(selected_index=None),
        "ready": show_ready(kept, subject),
        "status": show_status(sentence, kind="done"),
    }


def name_of(saved: Any) -> str:
    """Return the chosen name."""
    if not saved:
        raise UserError("No saved subject is chosen; choose one of the shelf first.")
    return str(saved)


def build_shelf() -> dict[str, Any]:
    """Lay out the saved subjects."""
    made: dict[str, Any] = {
        # A fixed secret: the default one changes with every start of the app, and the shelf would be lost with it.
        "owner": gr.BrowserState("", storage_key=OWNER_KEY, secret=OWNER_KEY),
        "names": gr.State([]),
        "saved": gr.State(""),
    }
    with gr.Accordion("Saved subjects", open=False, elem_classes="saved") as made["saved_fold"]:
        made["chosen"] = gr.HTML("", elem_classes="ready-box", padding=False)
        made["thumbnails"] = gr.Gallery(
            label="Saved",
            columns=5,
            fit_columns=False,
            height="auto",
            visible=False,
            format="png",
            interactive=False,
            allow_preview=False,
            buttons=[],
            elem_classes="saved-shelf",
        )
        made["name"] = gr.Textbox("", label="Name", info="For Save and Rename.", max_lines=1)
        with gr.Row(elem_classes="keep"):
            for name, label in (("save", "Save"), ("rename", "Rename"), ("delete", "Delete"), ("download", "Download")):
                made[name] = gr.Button(label, size="sm", min_width=80)
        made["file"] = gr.File(label="LoRA file", visible=False, interactive=False)
        made["brought"] = gr.File(label="Load a LoRA file (safetensors)", file_types=[".safetensors"], height=110)
    return made


def connect_shelf(services: Services, made: Mapping[str, Any], status: Any) -> Any:
    """Wire the shelf; returns the event that looks into a LoRA file with the model."""
    problem: dict[str, Any] = {"error_output": "status", "describe_error": show_error}
    quick: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", **problem}

    def pick(*names: str) -> dict[str, Any]:
        return {name: made[name] for name in names} | {"status": status}

    def ask(*names: str) -> dict[str, Any]:
        return {name: made[name] for name in names}

    shelf = pick("saved", "thumbnails", "names", "chosen")
    # Not when the page loads: the key is read from the browser only when the tab is built, which is later.
    wire(made["saved_fold"].expand, on_arrive, ask("owner"), {**shelf, "owner": made["owner"]}, **quick)
    wire(made["save"].click, on_save, ask("owner", "learned", "subject", "objective", "name"), shelf, **quick)
    wire(made["rename"].click, on_rename, ask("owner", "saved", "name"), shelf, **quick)
    wire(made["delete"].click, on_delete, ask("owner", "saved"), shelf, **quick)
    wire(made["download"].click, on_download, ask("learned", "subject", "objective"), pick("file"), **quick)
    taken = pick(
        *("word", "phrase", "objective", "subject", "learned", "pictures", "accepted", "shelf", "ready"),
        *("captions", "seen", "crops", "saved", "chosen", "name"),
    )

    # gradio tells the place of a click by this type alone, which `wire` does not know: the place comes first.
    def place(event: gr.SelectData) -> int:
        return int(event.index)

    clicked = gr.State(0)
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    chosen = made["thumbnails"].select(place, None, clicked, **quiet)
    wire(chosen.then, on_choose, {**ask("owner", "learned", "names"), "index": clicked}, taken, **quick)
    return wire(
        made["brought"].upload,
        partial(on_bring, services),
        {**ask("brought", "learned"), "backend": services.backend},
        taken,
        uses_model=True,
        show_progress="hidden",
        **problem,
    )
