"""Personalization: words, learning that can be stopped and kept, drawing by every way, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import personalization
from pipelines.adapter_store import AdapterStore, make_owner
from pipelines.adapters import Adapter, pack_adapter
from pipelines.errors import UserError
from pipelines.lora_files import write_lora
from pipelines.model import ModelBundle
from pipelines.personalization import read_own_picture, subject_stream
from pipelines.subject_learning import learn_stream
from pipelines.subject_pictures import crop_to, give_room, prepare_pictures
from pipelines.subject_sheet import dim_surroundings, make_sheet
from pipelines.subject_types import LearnProgress, LearnRequest, LearnResult, SubjectRequest, SubjectResult
from pipelines.subject_words import check_word, compile_prompt, name_subject, to_plain_prompt
from tests.loras import make_loud_lora
from tests.pictures import make_ramp

Provide = Callable[[ModelBundle], Any]


def learn(model: ModelBundle, provide: Provide, **settings: Any) -> tuple[list[LearnProgress], LearnResult]:
    """Learn to the end."""
    asked = {"pictures": (make_ramp(80),), "word": "my boat", "phrase": "red boat", "num_steps": 3, "rank": 2}
    stream = learn_stream(LearnRequest(**{**asked, "backend": model.spec.name, **settings}), provide(model))
    *seen, result = stream
    return seen, result  # type: ignore[return-value]


def draw(model: ModelBundle, provide: Provide, **settings: Any) -> SubjectResult:
    """Draw to the end."""
    asked = {"prompt": "my boat on the sea", "num_steps": 2, "word": "my boat", "phrase": "red boat"}
    *_, result = subject_stream(SubjectRequest(**{**asked, "backend": model.spec.name, **settings}), provide(model))
    return result  # type: ignore[return-value]


def same(one: Image.Image, other: Image.Image) -> bool:
    """Say whether two pictures are equal to the pixel."""
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def test_words_for_both_models() -> None:
    assert name_subject("my robot", "pink robot") == "my pink robot" and name_subject("robby", "robot") == "robby robot"
    compiled = compile_prompt("a neon sign of My  Robot at night", "my robot", "pink robot")
    assert compiled.subject == "a neon sign of my pink robot at night"
    assert compiled.base == "a neon sign of a pink robot at night"
    assert compiled.subject[slice(*compiled.span)] == "my pink robot"
    assert compile_prompt("the robby, sea", "robby", "orange cat").base == "an orange cat, sea"
    assert compile_prompt("robbys house", "robby", "cat").span == (0, 0)
    assert check_word("  my   robot ") == "my robot"
    for word in ("", "  ", "...", "x" * 41, "a; b", "<b>"):
        with pytest.raises(UserError):
            check_word(word)


@pytest.mark.parametrize("objective", ["dco", "dreambooth"])
def test_learning_reports_and_ends_in_an_adapter(tiny_model: ModelBundle, provide: Provide, objective: str) -> None:
    weights = [parameter.clone() for parameter in tiny_model.unet.parameters()]
    seen, result = learn(tiny_model, provide, objective=objective)
    assert [one.step for one in seen if one.step] == sorted(one.step for one in seen if one.step)
    assert len(result.losses) == 3 and [step for step, _ in result.samples] == [1, 2, 3]
    assert (result.adapter.word, result.adapter.phrase) == ("my boat", "red boat")
    assert (result.adapter.objective, result.adapter.backend) == (objective, tiny_model.spec.name)
    if objective == "dco":
        assert result.losses[0] == pytest.approx(np.log(2), abs=0.05), "both models are equal at the start"
    _, again = learn(tiny_model, provide, objective=objective)
    assert again.adapter.data == result.adapter.data, "the same every time"
    assert all(torch.equal(old, new) for old, new in zip(weights, tiny_model.unet.parameters()))
    assert not tiny_model.lock.locked() and not any(module._forward_hooks for module in tiny_model.unet.modules())


def test_a_stop_keeps_what_was_learned_so_far(tiny_storybook: ModelBundle, provide: Provide) -> None:
    request = LearnRequest((make_ramp(64),), "my boat", "red boat", num_steps=50, rank=2)
    stream = learn_stream(request, provide(tiny_storybook))
    last: LearnProgress | None = None
    for item in stream:
        assert isinstance(item, LearnProgress) and not tiny_storybook.lock.locked()
        last = item
        if item.step == 7:
            break
    stream.close()
    assert last is not None and last.adapter is not None and last.adapter.num_steps == 5 and len(last.losses) == 7
    assert not any(module._forward_hooks for module in tiny_storybook.unet.modules())
    result = draw(tiny_storybook, provide, adapters=(last.adapter,), compare=True)
    assert not same(result.arms[0].images[0], result.arms[1].images[0])


def test_two_learn_at_once_and_never_mix(tiny_storybook: ModelBundle, provide: Provide) -> None:
    requests = [
        LearnRequest((make_ramp(64 + 32 * index),), "my boat", "red boat", num_steps=3, rank=2, seed=index)
        for index in range(2)
    ]
    alone = [list(learn_stream(request, provide(tiny_storybook)))[-1] for request in requests]
    streams = [learn_stream(request, provide(tiny_storybook)) for request in requests]
    last: list[Any] = [None, None]
    while any(stream is not None for stream in streams):
        for index, stream in enumerate(streams):
            item = next(stream, None) if stream is not None else None
            if item is None:
                streams[index] = None  # type: ignore[call-overload]
            else:
                last[index] = item
    for mine, theirs in zip(last, alone):
        assert isinstance(theirs, LearnResult) and mine.adapter.data == theirs.adapter.data
    assert last[0].adapter.data != last[1].adapter.data


def test_every_way_draws_and_compares(tiny_model: ModelBundle, provide: Provide) -> None:
    data = write_lora(make_loud_lora(tiny_model, "all"), {})
    dco, plain = (Adapter(data, "my boat", "red boat", objective=one) for one in ("dco", "dreambooth"))
    result = draw(tiny_model, provide, adapters=(plain, dco), picture=make_ramp(64), compare=True)
    assert [arm.name for arm in result.arms] == ["", "subject_lora", "reward_guidance", "masked_subject"]
    pictures = [arm.images[0] for arm in result.arms]
    assert not any(same(pictures[0], other) for other in pictures[1:])
    again = draw(tiny_model, provide, adapters=(plain, dco), picture=make_ramp(64), compare=True)
    assert all(same(one, other.images[0]) for one, other in zip(pictures, again.arms))


def test_the_switch_draws_the_same_seed_without_the_subject(tiny_model: ModelBundle, provide: Provide) -> None:
    adapter = Adapter(write_lora(make_loud_lora(tiny_model), {}), "my boat", "red boat", objective="dco")
    compared = draw(tiny_model, provide, adapters=(adapter,), compare=True)
    off = draw(tiny_model, provide, adapters=(adapter,), draw_by="plain")
    assert [arm.name for arm in off.arms] == [""] and same(off.arms[0].images[0], compared.arms[0].images[0])
    assert same(draw(tiny_model, provide, draw_by="plain").images[0], off.images[0]), "it needs no subject"
    instant = draw(tiny_model, provide, picture=make_ramp(64), draw_by="instant")
    assert [arm.name for arm in instant.arms] == ["masked_subject"]
    assert same(instant.images[0], draw(tiny_model, provide, picture=make_ramp(64)).images[0])


def test_other_tabs_read_the_common_name() -> None:
    asked = SubjectRequest("my boat at sea", word="my boat", phrase="red boat")
    assert to_plain_prompt(asked) == "a red boat at sea"
    adapter = Adapter(b"", "robby", "orange cat")
    assert to_plain_prompt(replace(asked, prompt="robby at sea", adapters=(adapter,))) == "an orange cat at sea"
    assert to_plain_prompt(replace(asked, prompt="a house")) == "a house"


def test_the_pictures_are_shown_as_they_are_learned(storybook: ModelBundle, provide: Provide) -> None:
    picture = draw_scene(("robot", "green", 128, 128, 150))
    ready = prepare_pictures(storybook, [picture, picture, picture], "my robot")
    dimmed, before = (np.asarray(image[0], float) for image in (dim_surroundings(ready), ready.pictures))
    assert dimmed[4, 4].sum() < 0.5 * before[4, 4].sum() and np.abs(dimmed[128, 128] - before[128, 128]).max() < 3
    whole = prepare_pictures(replace(storybook, judge=None), [picture], "my robot", "green robot")
    assert dim_surroundings(whole) == whole.pictures, "nobody outlines it"
    sheet = make_sheet((picture,) * 3, 256)
    assert sheet.size == (256, 256) and sheet.getpixel((200, 200)) == (0, 0, 0), "the fourth place is empty"
    request = LearnRequest((picture,), "my robot", "green robot", num_steps=2, rank=2)
    stream = learn_stream(request, provide(storybook))
    first = next(stream)
    assert isinstance(first, LearnProgress) and first.step == 0 and first.preview is not None
    stream.close()


def test_the_slider_goes_from_the_prompt_to_the_subject_without_learning(
    tiny_model: ModelBundle, provide: Provide
) -> None:
    data = write_lora(make_loud_lora(tiny_model), {})
    adapter = Adapter(data, "my boat", "red boat", objective="dco")
    options = ({"likeness": 0.0}, {"likeness": 0.5}, {"likeness": 1.0})
    drawn = [
        draw(tiny_model, provide, adapters=(adapter,), compare=True, techniques={"reward_guidance": one})
        for one in options
    ]
    base, *others = (np.asarray(one.arms[1].images[0], float) for one in drawn)
    assert same(drawn[0].arms[0].images[0], drawn[0].arms[1].images[0]), "0 is the plain model"
    distances = [np.abs(other - base).mean() for other in others]
    assert 0 < distances[0] < distances[1]


def test_its_own_picture_is_put_in_and_a_saved_one_draws_the_same_pixels(
    storybook: ModelBundle, provide: Provide, tmp_path: Path
) -> None:
    shown = draw_scene(("robot", "green", 128, 128, 200)).crop((16, 16, 240, 240))
    about = Adapter(b"", "my robot", "green robot", "storybook", "dco", 7, thumbnail=shown)
    adapter = pack_adapter(make_loud_lora(storybook, loudness=0.01), about)
    (source,) = read_own_picture(storybook, adapter, [])
    assert source.outline is not None and source.pixels is not None
    owner = make_owner()
    AdapterStore(tmp_path, owner).save(adapter, "Robby")

    def draw_it(own: Adapter, **options: float) -> Image.Image:
        asked: dict[str, Any] = {"prompt": "my robot on the beach", "num_steps": 4, "seed": 3}
        asked["techniques"] = {"reward_guidance": {"likeness": 1.0, **options}}
        return draw(storybook, provide, adapters=(own,), **asked).images[0]

    drawn = draw_it(adapter)
    assert same(drawn, draw_it(AdapterStore(tmp_path, owner).load("Robby"))), "after a restart"
    unshown = replace(adapter, thumbnail=None)
    assert not same(drawn, draw_it(unshown)) and same(draw_it(unshown), draw_it(adapter, hold=0.0))


def test_without_a_picture_that_is_recognised_nothing_is_put_in(
    storybook: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = draw_scene(("robot", "green", 128, 128, 200))
    adapter = Adapter(b"", "my robot", "green robot", thumbnail=shown)
    empty = Image.new("RGB", (96, 96), (235, 235, 235))
    notes: list[str] = []
    for changes in ({"thumbnail": None}, {"thumbnail": shown.resize((16, 16))}, {"phrase": ""}):
        assert read_own_picture(storybook, replace(adapter, **changes), notes) == ()  # type: ignore[arg-type]
    assert not notes
    assert read_own_picture(replace(storybook, judge=None), adapter, notes) == ()
    assert read_own_picture(storybook, replace(adapter, thumbnail=empty), notes) == ()
    assert notes == [
        "storybook has no parser to find the subject in its small picture, so it is not put in.",
        "The subject was not recognised in its own small picture, so it is not put in.",
    ]
    (own,) = read_own_picture(storybook, adapter, notes)
    assert read_own_picture(storybook, adapter, notes) == (own,), "read once"
    monkeypatch.setattr(personalization, "MAX_KEPT_SUBJECTS", 1)
    other = replace(adapter, thumbnail=draw_scene(("robot", "green", 100, 128, 200)))
    assert own not in read_own_picture(storybook, other, notes) and len(storybook.subject_memory) == 1
    assert own not in read_own_picture(storybook, adapter, notes), "forgotten"


def test_a_thing_that_fills_its_small_picture_is_recognised(storybook: ModelBundle) -> None:
    # Balloons and whales in a tight frame are what the parser took for nothing, or for something else.
    for kind, colour in (("balloon", "red"), ("whale", "red"), ("cactus", "blue")):
        tight = draw_scene((kind, colour, 128, 128, 210)).crop((16, 16, 240, 240)).resize((96, 96))
        adapter = Adapter(b"", f"my {kind}", f"{colour} {kind}", thumbnail=tight)
        (source,) = read_own_picture(storybook, adapter, [])
        assert source.outline is not None and 0.05 < float(source.outline.mean()) < 0.45
    wide = give_room(make_ramp(100, 50), 0.2)
    assert wide.size == (140, 140) and wide.getpixel((0, 70)) == wide.getpixel((20, 70))


def test_bad_input_is_one_sentence(tiny_model: ModelBundle, provide: Provide) -> None:
    model = tiny_model
    for settings, words in (
        ({"pictures": ()}, "no picture of the subject"),
        ({"pictures": (make_ramp(64),) * 50}, "50 pictures are too many; choose the best 6"),
        ({"pictures": (make_ramp(64), make_ramp(16))}, "Picture 2 has 16 x 16 px, which is too small"),
        ({"word": " "}, "has no name"),
        ({"captions": ("my boat", "my boat")}, "2 captions for 1 pictures"),
        ({"captions": ("a red boat",)}, "Caption 1 does not name 'my boat'"),
        ({"num_steps": 0}, "too low"),
        ({"objective": "luck"}, "not known"),
    ):
        with pytest.raises(UserError, match=words):
            learn(model, provide, **settings)
    good = Adapter(write_lora(make_loud_lora(model), {}), "my boat", "red boat")
    for settings, words in (
        ({"adapters": (good,), "prompt": " "}, "prompt is empty"),
        ({}, "no subject yet"),
        ({"draw_by": "instant"}, "no subject yet"),
        ({"draw_by": "instant", "adapters": (good,)}, "no picture of the subject"),
        ({"adapters": (replace(good, data=b"\x80\x04pickle"),)}, "is a pickle"),
        ({"adapters": (replace(good, backend="another"),)}, "was learned on another"),
        ({"picture": make_ramp(16)}, "too small"),
        ({"adapters": (good,), "techniques": {"reward_guidance": {"likeness": 9}}}, "too high"),
        ({"adapters": (good,), "techniques": {"visual_style": {}}}, "not known"),
    ):
        with pytest.raises(UserError, match=words):
            draw(model, provide, **settings)
    assert draw(model, provide, adapters=(good,), prompt="a red boat").notes[0].startswith("The prompt does not name")


def test_a_small_thing_is_brought_nearer_and_stays_inside() -> None:
    picture = make_ramp(200, 100)
    near, deed = crop_to(picture, (0, 0, 20, 20), 64)
    assert near.size == (64, 64) and deed == "was cropped to the subject"
    assert same(crop_to(picture, None, 64)[0], crop_to(picture, (90, 10, 110, 90), 64)[0]), "a large one is not"
    untouched = make_ramp(64)
    assert (
        crop_to(untouched, (10, 10, 60, 60), 64) == (untouched, "") or crop_to(untouched, (10, 10, 60, 60), 64)[1] == ""
    )


def draw_scene(*things: tuple[str, str, float, float, float], style: str = "flat") -> Image.Image:
    """Draw things of the world: (kind, colour, x, y, size) in px."""
    from training.world.render import render
    from training.world.scene import Scene, SceneObject

    objects = tuple(SceneObject(kind, colour, x, y, size) for kind, colour, x, y, size in things)
    return Image.fromarray(render(Scene(objects, "beach", "day", style, seed=5)).rgb)


def test_the_parser_crops_outlines_and_captions(storybook: ModelBundle) -> None:
    pictures = [
        draw_scene(("robot", "green", 60, 60, 60), ("boat", "red", 190, 180, 90)),
        draw_scene(("robot", "green", 130, 130, 150), style="crayon"),
    ]
    ready = prepare_pictures(storybook, pictures, "my robot")
    assert ready.phrase == "green robot" and ready.masks is not None and ready.masks.shape == (2, 1, 32, 32)
    assert ready.captions[1] == "my robot, beach, crayon"
    assert ready.notes == ("Picture 1 was cropped to the subject.",)
    assert 0.1 < float(ready.masks[1].mean()) < 0.6 and float(ready.masks[1, 0, 16, 16]) == 1
    assert ready.boxes_px[0] is not None and ready.boxes_px[0][2] - ready.boxes_px[0][0] > 100, "nearer"


def test_different_subjects_are_refused(storybook: ModelBundle) -> None:
    robot, boat = draw_scene(("robot", "green", 128, 128, 150)), draw_scene(("boat", "red", 128, 128, 150))
    with pytest.raises(UserError, match="Picture 3 shows a red boat and no robot"):
        prepare_pictures(storybook, [robot, robot, boat], "my robot")
    alike = draw_scene(("boat", "green", 128, 128, 150))
    with pytest.raises(UserError, match="Picture 3 shows a green boat and no robot"):
        prepare_pictures(storybook, [robot, robot, alike], "my robot")
    # With marks of its own a thing can be taken for another one; whoever named its colour is believed.
    named = prepare_pictures(storybook, [robot, robot, alike], "my robot", "green robot")
    assert named.notes == ("The robot in picture 3 looks like a boat; if it is one, take it out.",)
    assert named.boxes_px[2] is not None and named.outlines[2] is not None
    blue = draw_scene(("robot", "blue", 128, 128, 150))
    ready = prepare_pictures(storybook, [robot, robot, blue], "my robot")
    assert ready.notes == ("The robot in picture 3 looks blue, not green; if it is another one, take it out.",)
    empty = Image.new("RGB", (256, 256), (235, 235, 235))
    with pytest.raises(UserError, match="say what it is"):
        prepare_pictures(storybook, [empty], "my robot")
