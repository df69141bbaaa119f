"""The left side of the personalization tab: a subject's pictures and words, how it is learned, and what is drawn.

Learning and drawing are two requests from one set of widgets; a widget that both have is named `learn_...` for the
first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from pipelines import (
    SUBJECT_TECHNIQUES,
    Adapter,
    LearnRequest,
    SubjectRequest,
    UserError,
    catalogue,
    read_picture,
    specs,
    validate,
)
from tabs.controls import make_control, make_seed_box, pass_on, to_seed
from tabs.technique_picker import option_key

LISTING = Path(__file__).resolve().parents[1] / "assets" / "examples" / "subject" / "subjects.json"
UPLOADS = (".png", ".jpg", ".jpeg", ".webp")
WORDS = ("word", "phrase")
LEARNED = ("num_steps", "rank", "learning_rate", "beta", "prior_weight", "seed")
DRAWN = ("negative_prompt", "num_steps", "guidance_scale", "sampler", "num_images")
MAX_UPLOADS = 20
# Options that stand beside the prompt; every other one is folded into the settings.
OUTRIGHT = (("reward_guidance", "likeness"),)


@dataclass(frozen=True)
class ExampleSubject:
    """Name one of the prepared subjects: its words, its pictures, and what they show."""

    name: str
    word: str
    phrase: str
    alt: str
    paths: tuple[Path, ...]

    def open(self) -> Image.Image:
        """Load the first picture."""
        with Image.open(self.paths[0]) as picture:
            return picture.convert("RGB")


@cache
def list_subjects() -> tuple[ExampleSubject, ...]:
    """List the prepared subjects in display order."""
    rows = json.loads(LISTING.read_text("utf-8"))["subjects"]
    return tuple(
        ExampleSubject(
            row["name"], row["word"], row["phrase"], row["alt"], tuple(LISTING.parent / file for file in row["files"])
        )
        for row in rows
    )


def list_options() -> list[tuple[str, str, Any]]:
    """List (technique, option, spec) of all options."""
    techniques = catalogue(SUBJECT_TECHNIQUES).items()
    return [(name, option, spec) for name, entry in techniques for option, spec in entry.specs.items()]


def open_pictures(paths: Any) -> tuple[tuple[Image.Image, ...], tuple[str, ...]]:
    """Open the uploaded files; returns the pictures and notes about them."""
    if not isinstance(paths, list | tuple):
        paths = [paths] if paths else []
    if len(paths) > MAX_UPLOADS:
        raise UserError(f"{len(paths)} pictures are too many; choose the best six.")
    uploads = [read_picture(path) for path in paths]
    return tuple(upload.picture for upload in uploads), tuple(note for upload in uploads for note in upload.notes)


def to_learn_request(values: Mapping[str, Any]) -> tuple[LearnRequest, tuple[str, ...]]:
    """Collect the values of the widgets into one checked request to learn, and notes about the uploads."""
    pictures, notes = open_pictures(values["pictures"])
    lines = str(values["captions"] or "").splitlines()
    settings: dict[str, Any] = {name: values[f"learn_{name}"] for name in LEARNED if name != "seed"}
    request = LearnRequest(
        pictures,
        **{name: values[name] for name in WORDS},
        captions=tuple(line.strip() for line in lines if line.strip()),
        objective=values["objective"],
        sample_prompt=values["sample_prompt"],
        **settings,
        seed=to_seed(values["learn_seed"]),
        backend=values["backend"],
    )
    return validate(request), notes


def to_request(
    values: Mapping[str, Any], adapters: Sequence[Adapter], *, is_compared: bool, is_instant: bool
) -> tuple[SubjectRequest, tuple[str, ...]]:
    """Collect the values of the widgets into one checked request to draw, and notes about the uploads."""
    options: dict[str, dict[str, Any]] = {}
    for name, option, _ in list_options():
        options.setdefault(name, {})[option] = values[option_key(name, option)]
    picture: Image.Image | None = None
    notes: tuple[str, ...] = ()
    if is_instant:
        pictures, notes = open_pictures(values["pictures"])
        if not pictures:
            raise UserError("There is no picture of the subject; give one, Instant needs no more.")
        picture = pictures[0]
    request = SubjectRequest(
        values["prompt"],
        tuple(adapters),
        picture,
        **{name: values[name] for name in (*WORDS, "draw_by", *DRAWN)},
        techniques=options,
        seed=to_seed(values["seed"]),
        compare=is_compared,
        backend=values["backend"],
    )
    return validate(request), notes


def build_subject(start: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out the subject: prepared ones, uploads, its words and captions."""
    described: dict[str, Any] = specs(LearnRequest)
    subject = list_subjects()[0]
    made: dict[str, Any] = {}
    made["shelf"] = gr.Gallery(
        [(example.open(), example.alt) for example in list_subjects()],
        label="1. A prepared subject",
        columns=4,
        height="auto",
        allow_preview=False,
        selected_index=0,
        format="png",
        interactive=False,
        buttons=[],
        elem_classes="style-shelf",
    )
    made["pictures"] = gr.File(
        [str(path) for path in subject.paths],
        label="or one to six pictures of one thing of yours",
        file_count="multiple",
        file_types=list(UPLOADS),
        elem_classes="subject-files",
    )
    # The files as they came: our own check has a sentence for everything that can be wrong with them.
    made["pictures"].preprocess = find_paths
    made["seen"] = gr.HTML(elem_classes="choice-notes", apply_default_css=False)
    with gr.Row(equal_height=True):
        made["word"] = make_control(described["word"], value=start.get("word", subject.word))
        made["phrase"] = make_control(described["phrase"], value=start.get("phrase", subject.phrase))
    with gr.Accordion("Captions", open=False, elem_classes="captions"):
        made["captions"] = gr.Textbox(
            "",
            label="One line per picture",
            info="They name what is around the subject, so that it is not learned with it. Empty: proposed.",
            lines=4,
            max_lines=6,
        )
        made["propose"] = gr.Button("Propose captions", size="sm", elem_classes="propose")
    return made


def find_paths(payload: Any) -> list[str]:
    """Return where the files of an upload lie."""
    files = getattr(payload, "root", payload) or []
    return [str(file.path) for file in (files if isinstance(files, list) else [files])]


def build_learning() -> dict[str, Any]:
    """Lay out how the subject is learned."""
    described: dict[str, Any] = specs(LearnRequest)
    objective: Any = described["objective"]
    made: dict[str, Any] = {}
    with gr.Row(elem_classes="learn-row"):
        titles = {"dco": "DCO", "dreambooth": "DreamBooth"}
        made["objective"] = pass_on(
            gr.Radio(
                [(titles[name], name) for name in objective.options],
                value=objective.default,
                label=objective.label,
                info=objective.help,
            )
        )
        made["learn"] = gr.Button("Learn", variant="primary", elem_classes="learn", scale=0, min_width=90)
    with gr.Accordion("Settings of learning", open=False, elem_classes="settings"):
        made["sample_prompt"] = make_control(described["sample_prompt"])
        for name in LEARNED[:-1]:
            made[f"learn_{name}"] = make_control(described[name])
        made["learn_seed"], _ = make_seed_box(described["seed"])
    return made


def build_drawing(start: Mapping[str, Any], ready: str) -> dict[str, Any]:
    """Lay out what is drawn: the prompt, the slider between identity and prompt, the buttons, the settings."""
    described: dict[str, Any] = specs(SubjectRequest)
    made: dict[str, Any] = {}
    made["prompt"] = gr.Textbox(
        start["prompt"], label="2. A prompt", lines=2, max_lines=8, elem_classes="prompt", info=ready
    )
    made["unknown"] = gr.HTML(elem_classes="unknown-box", apply_default_css=False)
    for name, option, spec in list_options():
        if (name, option) in OUTRIGHT:
            made[option_key(name, option)] = make_control(spec)
    with gr.Row(elem_classes="actions"):
        made["run"] = gr.Button("Run", variant="primary", elem_classes="run", min_width=80)
        made["compare"] = gr.Button("Compare", elem_classes="compare", min_width=100)
        made["instant"] = gr.Button("Instant", elem_classes="instant", min_width=80)
        made["stop"] = gr.Button("Stop", variant="stop", elem_classes="stop", min_width=70)
    with gr.Accordion("Settings", open=False, elem_classes="settings"):
        made["seed"], _ = make_seed_box(described["seed"], value=start.get("seed"))
        made["draw_by"] = make_control(described["draw_by"])
        for name, option, spec in list_options():
            if (name, option) not in OUTRIGHT:
                made[option_key(name, option)] = make_control(spec)
        for name in ("num_images", "num_steps", "guidance_scale", "sampler", "negative_prompt"):
            made[name] = make_control(described[name])
    with gr.Accordion("Settings from a PNG", open=False, elem_classes="restore"):
        made["dropped"] = gr.File(label="Drop a PNG from this tab", file_types=[".png"], height=120)
    return made


def to_widgets(request: SubjectRequest) -> dict[str, Any]:
    """Turn a request into the values of the widgets that made it; its subject is chosen apart."""
    values = {name: getattr(request, name) for name in ("prompt", "draw_by", *WORDS, *DRAWN)}
    for name, option, spec in list_options():
        values[option_key(name, option)] = request.techniques.get(name, {}).get(option, spec.default)
    return {**values, "seed": str(request.seed)}
