"""Tab "Personalization": a few pictures of one thing and a word for it, then this thing in other scenes.

Handlers come first and are plain functions of plain values; `build` lays out the widgets and wires them by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines import LearnRequest, SubjectRequest, read_subject_settings
from tabs.controls import show_error, show_notes, show_status, show_step
from tabs.running import load, on_prompt_changed, on_stop, watch
from tabs.shown import connect_shown
from tabs.subject_inputs import (
    DRAWN,
    LEARNED,
    WORDS,
    build_drawing,
    build_learning,
    build_subject,
    list_options,
    list_subjects,
    open_pictures,
    to_learn_request,
    to_request,
    to_widgets,
)
from tabs.subject_result import LEARNING, build_result, show_learned, show_learning, show_result
from tabs.subject_shelf import build_shelf, choose, connect_shelf
from tabs.technique_picker import option_key
from tabs.wiring import Services, Updates, pace, wire, wire_end, wire_stop

NAME = "personalization"
TITLE = "Personalization"
INTRO = "One to six pictures of one thing and a word for it: learned in a minute, then drawn wherever you say."
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples" / "personalization.json"
EXPLANATION = Path(__file__).with_suffix(".md")


def on_learn(services: Services, *, learned: Any, **values: Any) -> Iterator[Updates]:
    """Learn the subject step by step; what was learned so far is there for drawing at every moment."""
    yield {"stopped": ""}
    request, notes = to_learn_request(values)
    yield {"status": show_status("Starting", done=0, kind="running"), "trace": (0, request.num_steps, LEARNING)}
    yield from load(services, request.backend)

    from pipelines import LearnResult, learn_stream

    known = None
    with closing(services.models.run(learn_stream(request, services.models))) as stream:
        for item in pace(stream):
            updates = show_learned(item, notes) if isinstance(item, LearnResult) else show_learning(item)
            if item.adapter is not None and item.adapter is not known:
                known = item.adapter
                updates["learned"] = keep(learned, known)
            yield updates


def keep(learned: Mapping[str, Any], adapter: Any) -> dict[str, Any]:
    """Put what was just learned beside what was learned of the same subject by the other way."""
    same = {name: one for name, one in learned.items() if (one.word, one.phrase) == (adapter.word, adapter.phrase)}
    return {**same, adapter.objective: adapter}


def on_draw(services: Services, *, learned: Any, objective: Any, **values: Any) -> Iterator[Updates]:
    """Draw the subject by what was learned the chosen way."""
    yield {"stopped": ""}
    yield from draw(services, values, [choose(learned, objective)])


def on_compare(services: Services, *, learned: Any, objective: Any, **values: Any) -> Iterator[Updates]:
    """Draw the same seeds with the plain model and by everything that was learned."""
    yield {"stopped": ""}
    choose(learned, objective)
    yield from draw(services, values, list(learned.values()), is_compared=True)


def on_instant(services: Services, *, learned: Any, objective: Any, **values: Any) -> Iterator[Updates]:
    """Draw the subject of the first picture at once, without learning."""
    yield {"stopped": ""}
    yield from draw(services, values, [], is_instant=True)


def draw(
    services: Services,
    values: Mapping[str, Any],
    adapters: list[Any],
    *,
    is_compared: bool = False,
    is_instant: bool = False,
) -> Iterator[Updates]:
    """Turn the values of the widgets into one request and show how it is drawn."""
    request, notes = to_request(values, adapters, is_compared=is_compared, is_instant=is_instant)

    def open_stream() -> Any:
        from pipelines import subject_stream

        return subject_stream(request, services.models)

    shown = partial(show_step, prompt=request.prompt, hides="sheet")
    drawn = partial(show_result, upload_notes=notes)
    read_as = replace_word(request.prompt, request.word, request.phrase)
    yield from watch(services, request, open_stream, drawn, show_step=shown, read_as=read_as)


def replace_word(prompt: str, word: str, phrase: str) -> str:
    """Put the common name in place of the visitor's own word, which no model needs to know."""
    return prompt.replace(word, phrase) if word else prompt


def on_words_changed(services: Services, *, prompt: str, word: str, phrase: str, backend: str) -> Updates:
    """Name unknown words while the visitor types, all but the subject's own."""
    return on_prompt_changed(services, prompt=replace_word(prompt, word, phrase), backend=backend)


def on_propose(services: Services, *, pictures: Any, word: Any, phrase: Any, backend: Any) -> Iterator[Updates]:
    """Look at the pictures and propose captions, to be changed before learning."""
    opened, notes = open_pictures(pictures)
    request = LearnRequest(opened, str(word), str(phrase), backend=backend)
    yield from load(services, backend)

    from pipelines import propose_captions

    found = propose_captions(request, services.models)
    yield {
        "captions": "\n".join(found.captions),
        "phrase": found.phrase,
        "seen": show_notes((*notes, *found.notes)),
        "status": show_status(f"{len(found.captions)} captions proposed; change them as you like.", kind="done"),
    }


def on_stop_any(*, trace: Any) -> Updates:
    """Say what a stopped run leaves behind; what was learned by then can be drawn."""
    if trace is None or len(trace) == 2:
        return on_stop(trace=trace)
    step, num_steps, _ = trace
    kept = "what was learned so far can be drawn and saved" if step else "nothing was learned yet"
    return {"stopped": show_status(f"Stopped at step {step} of {num_steps}; {kept}.", kind="stopped"), "trace": None}


def on_subject(index: int, prompt: str = "", word: str = "") -> Updates:
    """Take a prepared subject with its words, also in the prompt; captions are proposed anew."""
    subject = list_subjects()[index]
    return {
        "prompt": prompt.replace(word, subject.word) if word else prompt,
        "pictures": [str(path) for path in subject.paths],
        "word": subject.word,
        "phrase": subject.phrase,
        "captions": "",
        "seen": "",
        "learned": {},
        "curve": "",
        "sketches": gr.Gallery(visible=False),
    }


def on_uploaded(*, pictures: Any) -> Updates:
    """Look whether uploads can be used, before a run does; words and captions of the subject before are cleared."""
    _, notes = open_pictures(pictures)
    return {"seen": show_notes(notes), "shelf": gr.Gallery(selected_index=None), "phrase": "", "captions": ""}


def on_example(row: Mapping[str, Any], *, word: Any) -> Updates:
    """Fill in the prompt of an example, with the word of the subject that is chosen."""
    return {"prompt": row["prompt"].format(word=word), "seed": str(row["seed"])}


def on_draw_example(services: Services, *, learned: Any, **values: Any) -> Iterator[Updates]:
    """Draw an example by what was learned, or at once where nothing was."""
    handler = on_draw if learned else on_instant
    yield from handler(services, learned=learned, **values)


def on_restore(*, dropped: str | None) -> Updates:
    """Put the settings of a dropped PNG back into the widgets; the subject is not in it and stays."""
    if dropped is None:
        return {}
    sentence = "The settings of this PNG are back, all but its subject; choose that one and press Run."
    return {**to_widgets(read_subject_settings(dropped)), "status": show_status(sentence, kind="done"), "stopped": ""}


def load_examples() -> dict[str, Any]:
    """Read the examples and the values the tab starts with."""
    document: dict[str, Any] = json.loads(EXAMPLES.read_text("utf-8"))
    return document


def build(services: Services) -> None:
    """Lay out the tab and connect it."""
    document = load_examples()
    with gr.Column(elem_classes="shelf subject-tab"):
        gr.HTML(f"<p>{INTRO}</p>", elem_classes="intro", apply_default_css=False)
        with gr.Row(elem_classes="bench", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="inputs"):
                inputs = build_subject(document["start"])
                inputs |= build_learning()
                inputs |= build_drawing(document["start"], "Call it by its word. Press Run, or Ctrl + Enter here.")
                inputs |= build_shelf()
            with gr.Column(scale=6, min_width=300, elem_classes="result"):
                result = build_result("Choose a subject and press Learn; Instant needs no learning.")
        with gr.Row(elem_classes="examples"):
            examples = [gr.Button(row["label"], elem_classes="example", min_width=200) for row in document["examples"]]
        with gr.Accordion("How it works", open=False, elem_classes="how"):
            gr.Markdown(
                EXPLANATION.read_text("utf-8"), latex_delimiters=[{"left": "$$", "right": "$$", "display": True}]
            )
    connect(services, inputs, result, tuple(zip(examples, document["examples"])))


def list_fields(services: Services, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """List the widgets whose values make a request to learn, and one to draw."""
    learn = ("learned", "pictures", *WORDS, "captions", "objective", "sample_prompt", *(f"learn_{n}" for n in LEARNED))
    options = [option_key(name, option) for name, option, _ in list_options()]
    drawing = ("learned", "objective", "prompt", "pictures", *WORDS, "draw_by", *options, *DRAWN, "seed")
    backend = {"backend": services.backend}
    return {name: inputs[name] for name in learn} | backend, {name: inputs[name] for name in drawing} | backend


def connect(
    services: Services, inputs: dict[str, Any], result: dict[str, Any], examples: tuple[tuple[gr.Button, Any], ...]
) -> None:
    """Wire every widget of the tab to its handler."""
    learn_in, draw_in = list_fields(services, inputs)
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    model: dict[str, Any] = {
        "uses_model": True,
        "error_output": "status",
        "describe_error": show_error,
        "show_progress": "minimal",
        "show_progress_on": result["status"],
    }
    filled = {name: inputs[name] for name in ("captions", "phrase", "learned")}
    outputs = {**result, "unknown": inputs["unknown"], "badge": services.badge}
    learning = {**model, "outputs": {**result, **filled}}
    drawing = {**model, "outputs": outputs}
    runs = [wire(inputs["learn"].click, partial(on_learn, services), learn_in, **learning)]
    generate = partial(on_draw, services)
    runs.append(wire(inputs["run"].click, generate, draw_in, api_name="personalization", **drawing))
    runs.append(wire(inputs["compare"].click, partial(on_compare, services), draw_in, **drawing))
    runs.append(wire(inputs["instant"].click, partial(on_instant, services), draw_in, **drawing))
    proposed = {name: inputs[name] for name in ("captions", "phrase", "seen")} | {"status": result["status"]}
    asked = {name: inputs[name] for name in ("pictures", "word", "phrase")} | {"backend": services.backend}
    runs.append(wire(inputs["propose"].click, partial(on_propose, services), asked, **{**model, "outputs": proposed}))
    word = {"word": inputs["word"]}
    for button, row in examples:
        fill = wire(button.click, partial(on_example, row), word, {n: inputs[n] for n in ("prompt", "seed")}, **quick)
        runs.append(wire(fill.success, partial(on_draw_example, services), draw_in, **drawing))
    wire_end(runs, "() => limelight.end()")
    trace = {"trace": result["trace"]}
    wire_stop(inputs["stop"], runs, on_stop_any, trace, {**trace, "stopped": result["stopped"]})
    connect_subjects(inputs, result)
    connect_shelf(inputs, result["status"])
    connect_shown(services, inputs, result)
    restored = {name: widget for name, widget in draw_in.items() if name in to_widgets(SubjectRequest(""))}
    lines = {"status": result["status"], "stopped": result["stopped"]}
    problem: dict[str, Any] = {"error_output": "status", "describe_error": show_error}
    wire(inputs["dropped"].change, on_restore, {"dropped": inputs["dropped"]}, restored | lines, **problem, **quick)
    typed: dict[str, Any] = {name: inputs[name] for name in ("prompt", *WORDS)} | {"backend": services.backend}
    changes = [widget.change for widget in typed.values()]
    words = partial(on_words_changed, services)
    wire(changes, words, typed, {"unknown": inputs["unknown"]}, trigger_mode="always_last", **quick)


def connect_subjects(inputs: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Let a click on a prepared subject choose it, and look at uploads before a run does."""
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    names = ("prompt", "pictures", "word", "phrase", "captions", "seen", "learned")
    parts = {name: inputs[name] for name in names} | {name: result[name] for name in ("curve", "sketches")}

    def pick(event: gr.SelectData, prompt: str, word: str) -> dict[Any, Any]:
        return {parts[key]: value for key, value in on_subject(event.index, prompt, word).items()}

    asked = [inputs["prompt"], inputs["word"]]
    inputs["shelf"].select(pick, asked, list(parts.values()), api_visibility="private", **quick)
    looked = {name: inputs[name] for name in ("seen", "shelf", "phrase", "captions")} | {"status": result["status"]}
    problem: dict[str, Any] = {"error_output": "status", "describe_error": show_error}
    queued: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    wire(inputs["pictures"].upload, on_uploaded, {"pictures": inputs["pictures"]}, looked, **problem, **queued)
