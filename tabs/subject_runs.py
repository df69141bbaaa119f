"""What runs in the personalization tab: learning, drawing, comparing, and looking at the pictures before either.

Handlers are plain functions of plain values that yield updates by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import gradio as gr

from pipelines import Adapter, LearnRequest
from tabs.controls import show_notes, show_status, show_step
from tabs.running import load, on_prompt_changed, on_stop, watch
from tabs.subject_choice import TITLES, choose, choose_all, keep, open_pictures, show_ready
from tabs.subject_inputs import INSTANT, LEARNED_WAY, to_learn_request, to_request
from tabs.subject_result import LEARNING, draw_curve, show_learned, show_learning, show_result
from tabs.wiring import Services, Updates, pace


def on_learn(services: Services, *, learned: Any, subject: Any, **values: Any) -> Iterator[Updates]:
    """Learn the subject step by step; what was learned so far is there for drawing at every moment."""
    yield {"stopped": ""}
    request, notes = to_learn_request(values)
    yield {
        "status": show_status("Starting", done=0, kind="running"),
        "curve": draw_curve((), request.num_steps),
        "facts": "",
        "notes": "",
        "sketches": gr.Gallery([], visible=False),
        "trace": (0, request.num_steps, LEARNING),
    }
    yield from load(services, request.backend)

    from pipelines import LearnResult, learn_stream

    known = None
    with closing(services.models.run(learn_stream(request, services.models))) as stream:
        for item in pace(stream):
            updates = show_learned(item, notes) if isinstance(item, LearnResult) else show_learning(item)
            if item.adapter is not None and item.adapter is not known:
                known = item.adapter
                kept = keep(learned, subject, known)
                updates |= {"learned": kept, "ready": show_ready(kept, subject), "way": LEARNED_WAY}
            yield updates


def on_draw(
    services: Services, *, learned: Any, subject: Any, objective: Any, way: Any, **values: Any
) -> Iterator[Updates]:
    """Draw the subject by what was learned the chosen way, from its first picture, or not at all."""
    yield {"stopped": ""}
    adapters = [choose(learned, subject, objective)] if way == LEARNED_WAY else []
    yield from draw(services, {**values, "way": way}, adapters, is_compared=False)


def on_compare(
    services: Services, *, learned: Any, subject: Any, objective: Any, way: Any, **values: Any
) -> Iterator[Updates]:
    """Draw the same seeds with the plain model, by everything that was learned, and at once if that is chosen."""
    yield {"stopped": ""}
    if way != INSTANT:
        choose(learned, subject, objective)
    adapters = choose_all(learned, subject, objective)
    yield from draw(services, {**values, "way": way}, adapters, is_compared=True, notes=name_missing(adapters))


def name_missing(adapters: Sequence[Adapter]) -> list[str]:
    """Say which way of learning a comparison lacks."""
    known = [adapter.objective for adapter in adapters]
    missing = [title for name, title in TITLES.items() if name not in known]
    return [f"Not learned by {title} yet; learn it that way too, and it stands here." for title in missing]


def draw(
    services: Services,
    values: Mapping[str, Any],
    adapters: Sequence[Adapter],
    *,
    is_compared: bool,
    notes: Sequence[str] = (),
) -> Iterator[Updates]:
    """Turn the values of the widgets into one request and show how it is drawn."""
    request, seen = to_request(values, adapters, is_compared=is_compared)

    def open_stream() -> Any:
        from pipelines import subject_stream

        return subject_stream(request, services.models)

    shown = partial(show_step, prompt=request.prompt, hides="sheet")
    drawn = partial(show_result, upload_notes=(*seen, *notes))
    read_as = replace_word(request.prompt, request.word, request.phrase)
    yield {"curve": ""}
    yield from watch(services, request, open_stream, drawn, show_step=shown, read_as=read_as)


def replace_word(prompt: str, word: str, phrase: str) -> str:
    """Put the common name in place of the visitor's own word, which no model needs to know."""
    return prompt.replace(word, phrase) if word else prompt


def on_words_changed(services: Services, *, prompt: str, word: str, phrase: str, backend: str) -> Updates:
    """Name unknown words while the visitor types, all but the subject's own."""
    return on_prompt_changed(services, prompt=replace_word(prompt, word, phrase), backend=backend)


def on_propose(services: Services, *, pictures: Any, word: Any, phrase: Any, backend: Any) -> Iterator[Updates]:
    """Look at the pictures: crop them, show what is learned of them, and propose captions, to be changed at will."""
    opened, notes = open_pictures(pictures)
    request = LearnRequest(opened, str(word), str(phrase), backend=backend)
    yield from load(services, backend)

    from pipelines import dim_surroundings, propose_captions

    found = propose_captions(request, services.models)
    crops = list(zip(dim_surroundings(found), found.captions))
    sentence = f"Cropped and captioned: {len(found.captions)}. What is bright is learned; change the captions at will."
    yield {
        "captions": "\n".join(found.captions),
        "phrase": found.phrase,
        "crops": gr.Gallery(crops, visible=True),
        "captions_fold": gr.Accordion(open=True),
        "seen": show_notes((*notes, *found.notes)),
        "status": show_status(sentence, kind="done"),
    }


def on_stop_any(*, trace: Any) -> Updates:
    """Say what a stopped run leaves behind; what was learned by then can be drawn."""
    if trace is None or len(trace) == 2:
        return on_stop(trace=trace)
    step, num_steps, _ = trace
    kept = "what was learned so far can be drawn and saved" if step else "nothing was learned yet"
    return {"stopped": show_status(f"Stopped at step {step} of {num_steps}; {kept}.", kind="stopped"), "trace": None}
