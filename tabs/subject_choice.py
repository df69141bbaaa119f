"""Which subject it is: a prepared one, pictures of the visitor's own, or a saved one, and what was learned of each.

What was learned in this visit stays with its subject, so that looking at another one loses nothing. A subject is named
by a short text: "prepared robot", "yours ...", "saved Robby", "file".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr
from PIL import Image

from pipelines import Adapter, UserError, read_adapter, read_pictures
from tabs.controls import show_error, show_notes
from tabs.wiring import Updates, wire

LISTING = Path(__file__).resolve().parents[1] / "assets" / "examples" / "subject" / "subjects.json"
MAX_UPLOADS = 20
# Of so many subjects of one visit it is kept what was learned.
MAX_KEPT = 12
TITLES = MappingProxyType({"dco": "DCO", "dreambooth": "DreamBooth"})
# How a LoRA file from elsewhere was learned: nobody knows.
UNKNOWN = ""
FILE = "file"
ADDED = "yours"
WORDS = ("word", "phrase")
Learned = Mapping[str, Mapping[str, Adapter]]


@dataclass(frozen=True)
class ExampleSubject:
    """Name one of the prepared subjects: its words, its pictures, what they show, and what was learned of it."""

    name: str
    word: str
    phrase: str
    alt: str
    paths: tuple[Path, ...]
    adapter: Path

    @property
    def key(self) -> str:
        """Return the text that names it among all subjects."""
        return f"prepared {self.name}"

    def open(self) -> Image.Image:
        """Load the first picture."""
        with Image.open(self.paths[0]) as picture:
            return picture.convert("RGB")


@cache
def list_subjects() -> tuple[ExampleSubject, ...]:
    """List the prepared subjects in display order."""
    rows = json.loads(LISTING.read_text("utf-8"))["subjects"]
    folder = LISTING.parent
    return tuple(
        ExampleSubject(
            **{name: row[name] for name in ("name", "word", "phrase", "alt")},
            paths=tuple(folder / file for file in row["files"]),
            adapter=folder / f"{row['name']}.safetensors",
        )
        for row in rows
    )


@cache
def load_prepared(key: str) -> Mapping[str, Adapter]:
    """Load what was learned of a prepared subject before; nothing for others."""
    found = [read_adapter(subject.adapter.read_bytes()) for subject in list_subjects() if subject.key == key]
    return {adapter.objective: adapter for adapter in found}


def find_adapters(learned: Learned, subject: str) -> dict[str, Adapter]:
    """Collect everything that was learned of a subject, by the way it was learned."""
    return {**load_prepared(subject), **learned.get(subject, {})}


def choose(learned: Learned, subject: str, objective: Any) -> Adapter:
    """Take what was learned of a subject the chosen way; a file from elsewhere goes by any."""
    found = find_adapters(learned, subject)
    if not found:
        raise UserError("Nothing is learned of this subject yet; press Learn, or draw with Instant.")
    adapter = found.get(str(objective)) or found.get(UNKNOWN)
    if adapter is None:
        asked = TITLES.get(str(objective), str(objective))
        known = " and ".join(TITLES.get(name, name) for name in found)
        raise UserError(f"This subject was not learned by {asked}; press Learn, or choose {known} above it.")
    return adapter


def choose_all(learned: Learned, subject: str, objective: Any) -> list[Adapter]:
    """Take everything that was learned of a subject, the chosen way last, where the buttons below find it."""
    found = find_adapters(learned, subject)
    names = sorted(found, key=lambda name: (name == str(objective), name == "dco"))
    return [found[name] for name in names]


def keep(learned: Learned, subject: str, adapter: Adapter) -> dict[str, dict[str, Adapter]]:
    """Put what was just learned of a subject beside what was learned before; the oldest subjects are let go."""
    own = {**learned.get(subject, {}), adapter.objective: adapter}
    others = [(name, dict(found)) for name, found in learned.items() if name != subject]
    return {**dict(others[1 - MAX_KEPT :]), subject: own}


def show_ready(learned: Learned, subject: str) -> str:
    """Say in one line what is known of a subject."""
    found = find_adapters(learned, subject)
    if not found:
        return '<p class="known none">Not learned yet: about a minute, and you watch.</p>'
    own = learned.get(subject, {})
    words = [describe(adapter, is_prepared=name not in own) for name, adapter in found.items()]
    return f'<p class="known">{escape("; ".join(words))}</p>'


def describe(adapter: Adapter, *, is_prepared: bool) -> str:
    """Say how an adapter came about."""
    if not adapter.objective:
        return "A LoRA file from elsewhere"
    how = f"by {TITLES.get(adapter.objective, adapter.objective)} in {adapter.num_steps} steps"
    return f"Learned before {how}; press Learn to watch it anew" if is_prepared else f"Learned {how}"


def open_pictures(paths: Any) -> tuple[tuple[Image.Image, ...], tuple[str, ...]]:
    """Open the uploaded files; returns the pictures and notes about them."""
    paths = list_paths(paths)
    if len(paths) > MAX_UPLOADS:
        raise UserError(f"{len(paths)} pictures are too many; choose the best six.")
    uploads = read_pictures(paths)
    return tuple(upload.picture for upload in uploads), tuple(note for upload in uploads for note in upload.notes)


def list_paths(pictures: Any) -> list[str]:
    """Bring what a gallery holds, pictures each with a caption or without, to a list of paths."""
    if not isinstance(pictures, list | tuple):
        return [str(pictures)] if pictures else []
    return [str(item[0] if isinstance(item, list | tuple) else item) for item in pictures]


def is_prepared(path: str) -> bool:
    """Tell whether a picture is one of the prepared subjects'."""
    given = Path(path)
    if not given.is_file():
        return False
    size = given.stat().st_size
    same = (own for subject in list_subjects() for own in subject.paths if own.stat().st_size == size)
    return any(own.read_bytes() == given.read_bytes() for own in same)


def on_subject(index: int, *, prompt: str, word: str, learned: Learned) -> Updates:
    """Take a prepared subject with its words, also in the prompt; captions are proposed anew."""
    subject = list_subjects()[index]
    paths = [str(path) for path in subject.paths]
    return {
        "subject": subject.key,
        "prompt": prompt.replace(word, subject.word) if word else prompt,
        "pictures": paths,
        "accepted": paths,
        "word": subject.word,
        "phrase": subject.phrase,
        "ready": show_ready(learned, subject.key),
        "saved": "",
        **forget(),
    }


def forget() -> Updates:
    """Clear what was found out about the pictures before."""
    return {"captions": "", "seen": "", "crops": gr.Gallery([], visible=False)}


def on_uploaded(*, pictures: Any, learned: Learned) -> Updates:
    """Look whether uploads can be used, before a run does; they take the place of a prepared subject's pictures."""
    paths = list_paths(pictures)
    own = [path for path in paths if not is_prepared(path)] or paths
    _, notes = open_pictures(own)
    subject = f"{ADDED} {' '.join(own)}"
    return {
        **forget(),
        "subject": subject,
        "pictures": own,
        "accepted": own,
        "phrase": "",
        "ready": show_ready(learned, subject),
        "seen": show_notes(notes),
        "shelf": gr.Gallery(selected_index=None),
        "saved": "",
    }


def on_deleted(*, pictures: Any, subject: str) -> Updates:
    """Go on with the pictures that are left; what was learned from all of them stays."""
    return {**forget(), "accepted": list_paths(pictures), "subject": subject}


def on_refused(*, accepted: Any) -> Updates:
    """Put the pictures back that were there before uploads that cannot be used; the sentence about those stays."""
    return {"pictures": list(accepted)}


def build_choice() -> dict[str, Any]:
    """Lay out the prepared subjects, and the pictures of the chosen one."""
    subject = list_subjects()[0]
    paths = [str(path) for path in subject.paths]
    made: dict[str, Any] = {"subject": gr.State(subject.key), "accepted": gr.State(paths), "learned": gr.State({})}
    quiet: dict[str, Any] = {"format": "png", "buttons": [], "height": "auto", "allow_preview": False}
    made["shelf"] = gr.Gallery(
        [(example.open(), example.alt) for example in list_subjects()],
        label="Prepared subjects",
        columns=4,
        selected_index=0,
        interactive=False,
        elem_classes="style-shelf",
        **quiet,
    )
    made["pictures"] = gr.Gallery(
        paths,
        label="Its pictures: add one to six of a thing of yours",
        columns=6,
        fit_columns=False,
        interactive=True,
        # Any file may come: our own check has a sentence for everything that can be wrong with it.
        elem_classes="subject-pictures",
        **quiet,
    )
    made["seen"] = gr.HTML(elem_classes="choice-notes", apply_default_css=False)
    return made


def connect_choice(inputs: Mapping[str, Any], status: Any) -> Any:
    """Let a click on a prepared subject choose it, and look at uploads early; returns the event of an upload."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    names = ("subject", "prompt", "pictures", "accepted", *WORDS, "captions", "seen", "crops", "ready", "saved")
    parts = {name: inputs[name] for name in names}

    def pick(event: gr.SelectData, prompt: str, word: str, learned: Any) -> dict[Any, Any]:
        found = on_subject(event.index, prompt=prompt, word=word, learned=learned)
        return {parts[key]: value for key, value in found.items()}

    asked = [inputs[name] for name in ("prompt", "word", "learned")]
    inputs["shelf"].select(pick, asked, list(parts.values()), api_visibility="private", **quick)
    looked = {**parts, "shelf": inputs["shelf"], "status": status}
    problem: dict[str, Any] = {"error_output": "status", "describe_error": show_error}
    queued: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    pictures = inputs["pictures"]
    taken = {"pictures": pictures, "learned": inputs["learned"]}
    upload = wire(pictures.upload, on_uploaded, taken, looked, **problem, **queued)
    wire(upload.failure, on_refused, {"accepted": inputs["accepted"]}, {"pictures": pictures}, **queued)
    rest = {"pictures": pictures, "subject": inputs["subject"]}
    wire(pictures.delete, on_deleted, rest, looked, **queued)
    return upload
