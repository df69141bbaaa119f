"""The left side of the personalization tab: how a subject is learned and what is drawn, and the requests they make.

Learning and drawing are two requests from one set of widgets; a widget that both have is named `learn_...` for the
first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import gradio as gr
from PIL import Image

from pipelines import SUBJECT_TECHNIQUES, Adapter, LearnRequest, SubjectRequest, UserError, catalogue, specs, validate
from tabs.controls import make_control, make_seed_box, pass_on, to_seed
from tabs.subject_choice import TITLES, WORDS, open_pictures, show_ready
from tabs.technique_picker import option_key

LEARNED = ("num_steps", "rank", "learning_rate", "beta", "prior_weight", "seed")
DRAWN = ("negative_prompt", "num_steps", "guidance_scale", "sampler", "num_images")
# Options that stand beside the prompt, with what they are called there; every other one is folded into the settings.
OUTRIGHT = MappingProxyType({("reward_guidance", "likeness"): "Prompt \u2194 identity"})
# What the prompt is drawn with: the adapter, the first picture, or neither.
LEARNED_WAY, INSTANT, PLAIN = "learned", "instant", "plain"
WAYS = (("What was learned", LEARNED_WAY), ("Instant, one picture", INSTANT), ("Off: plain model", PLAIN))


def list_options() -> list[tuple[str, str, Any]]:
    """List (technique, option, spec) of all options."""
    techniques = catalogue(SUBJECT_TECHNIQUES).items()
    return [(name, option, spec) for name, entry in techniques for option, spec in entry.specs.items()]


def to_learn_request(values: Mapping[str, Any]) -> tuple[LearnRequest, tuple[str, ...]]:
    """Collect the values of the widgets into one checked request to learn, and notes about the uploads.

    Without a sample prompt the samples are of what is to be drawn.
    """
    pictures, notes = open_pictures(values["pictures"])
    lines = str(values["captions"] or "").splitlines()
    settings: dict[str, Any] = {name: values[f"learn_{name}"] for name in LEARNED if name != "seed"}
    request = LearnRequest(
        pictures,
        **{name: values[name] for name in WORDS},
        captions=tuple(line.strip() for line in lines if line.strip()),
        objective=values["objective"],
        sample_prompt=values["sample_prompt"] or values["prompt"],
        **settings,
        seed=to_seed(values["learn_seed"]),
        backend=values["backend"],
    )
    return validate(request), notes


def to_request(
    values: Mapping[str, Any], adapters: Sequence[Adapter], *, is_compared: bool
) -> tuple[SubjectRequest, tuple[str, ...]]:
    """Collect the values of the widgets into one checked request to draw, and notes about the uploads."""
    options: dict[str, dict[str, Any]] = {}
    for name, option, _ in list_options():
        options.setdefault(name, {})[option] = values[option_key(name, option)]
    picture: Image.Image | None = None
    notes: tuple[str, ...] = ()
    if values["way"] == INSTANT:
        pictures, notes = open_pictures(values["pictures"])
        if not pictures:
            raise UserError("There is no picture of the subject; give one, Instant needs no more.")
        picture = pictures[0]
    way = values["way"]
    if is_compared and way == PLAIN:  # a comparison has the plain model anyway
        way = LEARNED_WAY
    request = SubjectRequest(
        values["prompt"],
        tuple(adapters),
        picture,
        **{name: values[name] for name in (*WORDS, *DRAWN)},
        draw_by=values["draw_by"] if way == LEARNED_WAY else way,
        techniques=options,
        seed=to_seed(values["seed"]),
        compare=is_compared,
        backend=values["backend"],
    )
    return validate(request), notes


def build_words(start: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out what the subject is called."""
    described: dict[str, Any] = specs(LearnRequest)
    with gr.Row(equal_height=True):
        info = {"word": "How prompts call it.", "phrase": "How anybody would."}
        return {name: make_control(described[name], value=start[name], info=info[name]) for name in WORDS}


def build_learning(subject: str) -> dict[str, Any]:
    """Lay out how the subject is learned."""
    described: dict[str, Any] = specs(LearnRequest)
    objective: Any = described["objective"]
    made: dict[str, Any] = {"ready": gr.HTML(show_ready({}, subject), elem_classes="ready-box", padding=False)}
    with gr.Row(elem_classes="actions learn-row"):
        made["objective"] = pass_on(
            gr.Radio(
                [(TITLES[name], name) for name in objective.options],
                value=objective.default,
                label=objective.label,
                min_width=200,
                elem_classes="picker",
            )
        )
        made["learn"] = gr.Button("Learn", variant="primary", elem_classes="learn", min_width=100)
        made["stop_learning"] = gr.Button("Stop learning", variant="stop", elem_classes="stop", min_width=100)
    with gr.Accordion("Crops and captions", open=False, elem_classes="captions") as made["captions_fold"]:
        made["crops"] = gr.Gallery(
            label="What is learned: the bright part",
            columns=3,
            height="auto",
            format="png",
            visible=False,
            interactive=False,
            buttons=[],
            elem_classes="sketches",
        )
        made["captions"] = gr.Textbox(
            "",
            label="Captions, one line per picture",
            info="They name what is around the subject, so that it is not learned with it. Empty: proposed.",
            lines=4,
            max_lines=6,
        )
        made["propose"] = gr.Button("Propose captions", size="sm", elem_classes="propose")
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
        start["prompt"], label="Prompt", lines=2, max_lines=8, elem_classes="prompt", info=ready
    )
    made["unknown"] = gr.HTML(elem_classes="unknown-box", apply_default_css=False)
    with gr.Group(elem_classes="enlarge-how"):
        for name, option, spec in list_options():
            if (name, option) in OUTRIGHT:
                made[option_key(name, option)] = make_control(spec, label=OUTRIGHT[name, option])
        made["way"] = pass_on(
            gr.Radio(list(WAYS), value=LEARNED_WAY, label="Draw with", elem_classes="picker", container=True)
        )
    with gr.Row(elem_classes="actions"):
        made["run"] = gr.Button("Run", variant="primary", elem_classes="run", min_width=80)
        made["compare"] = gr.Button("Compare", elem_classes="compare", min_width=100)
        made["stop"] = gr.Button("Stop", variant="stop", elem_classes="stop", min_width=70)
    with gr.Accordion("Settings", open=False, elem_classes="settings"):
        made["seed"], _ = make_seed_box(described["seed"], value=start.get("seed"))
        by: Any = described["draw_by"]
        options = tuple(name for name in by.options if name not in (INSTANT, PLAIN))
        words = {"label": "Use what was learned by", "help": "auto: reward guidance after DCO, else plain LoRA."}
        made["draw_by"] = make_control(replace(by, options=options, **words))
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
    values = {name: getattr(request, name) for name in ("prompt", *WORDS, *DRAWN)}
    for name, option, spec in list_options():
        values[option_key(name, option)] = request.techniques.get(name, {}).get(option, spec.default)
    is_learned = request.draw_by not in (INSTANT, PLAIN)
    way = {"way": LEARNED_WAY if is_learned else request.draw_by, "draw_by": request.draw_by if is_learned else "auto"}
    return {**values, **way, "seed": str(request.seed)}
