"""The personalization tab's handlers as plain functions on a tiny pipeline: learn, stop, draw, save, and bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from safetensors.torch import save

from pipelines import (
    Adapter,
    LearnRequest,
    SubjectRequest,
    UserError,
    read_adapter,
    read_subject_settings,
    specs,
    to_python,
)
from pipelines.lora_files import write_lora
from pipelines.model import ModelBundle
from tabs import TABS, shown, subject_choice, subject_inputs, subject_result, subject_runs, subject_shelf
from tabs import personalization as tab
from tabs.technique_picker import option_key
from tabs.wiring import Services
from tests.loras import make_loud_lora
from tests.pictures import make_ramp

SUBJECT = subject_choice.list_subjects()[0]
MINE = "yours of this test"
FILE = subject_choice.FILE
LEARN: dict[str, Any] = {
    **{f"learn_{name}": specs(LearnRequest)[name].default for name in subject_inputs.LEARNED},  # type: ignore[union-attr]
    "subject": MINE,
    "learn_num_steps": 2,
    "learn_rank": 2,
    "learn_seed": "3",
    "pictures": [str(SUBJECT.paths[0])],
    "word": SUBJECT.word,
    "phrase": SUBJECT.phrase,
    "captions": "",
    "objective": "dco",
    "sample_prompt": "",
    "prompt": "my robot on the sea",
    "backend": "storybook",
}
DRAW: dict[str, Any] = {
    **{option_key(name, option): spec.default for name, option, spec in subject_inputs.list_options()},
    **{name: specs(SubjectRequest)[name].default for name in subject_inputs.DRAWN},  # type: ignore[union-attr]
    "subject": MINE,
    "way": "learned",
    "prompt": "my robot on the sea",
    "num_steps": 2,
    "pictures": LEARN["pictures"],
    "word": SUBJECT.word,
    "phrase": SUBJECT.phrase,
    "draw_by": "auto",
    "seed": "5",
    "objective": "dco",
    "backend": "storybook",
}


@pytest.fixture(autouse=True)
def own_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep what is saved in this test's own folder."""
    monkeypatch.setenv("LIMELIGHT_CACHE", str(tmp_path))
    yield


@pytest.fixture
def loud(tiny_storybook: ModelBundle) -> Adapter:
    """An adapter that changes every picture, without a word of its own."""
    return read_adapter(write_lora(make_loud_lora(tiny_storybook), {}))


def seen(updates: list[dict[str, Any]], name: str) -> Any:
    return [update[name] for update in updates if name in update][-1]


def learn(services: Services, learned: Any = None, **changes: Any) -> list[dict[str, Any]]:
    return list(tab.on_learn(services, learned=learned or {}, **{**LEARN, **changes}))


def draw(services: Services, learned: Any, **changes: Any) -> list[dict[str, Any]]:
    return list(tab.on_draw(services, learned=learned, **{**DRAW, **changes}))


def compare(services: Services, learned: Any, **changes: Any) -> list[dict[str, Any]]:
    return list(tab.on_compare(services, learned=learned, **{**DRAW, **changes}))


def titles(updates: list[dict[str, Any]]) -> list[str]:
    rows = [seen(updates, f"title_{index}") for index in range(subject_result.MAX_ARMS)
            if any(f"title_{index}" in update for update in updates)]  # fmt: skip
    return [row.value.split("</h3>")[0].removeprefix("<h3>") for row in rows]


def test_learn_draw_and_compare(services: Services) -> None:
    updates = learn(services)
    learned = seen(updates, "learned")
    own = learned[MINE]
    assert set(own) == {"dco"} and own["dco"].num_steps == 2 and own["dco"].word == "my robot"
    assert 'class="mean"' in seen(updates, "curve") and len(seen(updates, "sketches").value) >= 1
    assert "Learned" in seen(updates, "status") and seen(updates, "captions").startswith("my robot")
    assert "Learned by DCO in 2 steps" in seen(updates, "ready") and seen(updates, "way") == "learned"
    both = seen(learn(services, learned, objective="dreambooth"), "learned")
    assert set(both[MINE]) == {"dco", "dreambooth"}
    drawn = draw(services, both)
    assert titles(drawn) == ["DCO + reward guidance"] and "Done in" in seen(drawn, "status")
    assert titles(compare(services, both)) == ["Plain model", "DreamBooth", "DCO + reward guidance"]
    assert titles(compare(services, both, objective="dreambooth"))[-1] == "DreamBooth", "the chosen one comes last"
    assert titles(draw(services, {}, way="instant")) == ["Instant"]
    assert titles(compare(services, {}, way="instant")) == ["Plain model", "Instant"]
    assert titles(draw(services, {}, way="plain")) == ["Plain model"], "off: the same seed without the subject"
    lacking = compare(services, learned)
    assert "Not learned by DreamBooth yet" in seen(lacking, "notes") and "DCO yet" not in seen(lacking, "notes")


def test_what_was_learned_stays_with_its_subject(services: Services) -> None:
    learned = seen(learn(services), "learned")
    other = seen(learn(services, learned, subject="another", word="robby"), "learned")
    assert subject_choice.choose(other, MINE, "dco").word == "my robot"
    assert subject_choice.choose(other, "another", "dco").word == "robby"
    with pytest.raises(UserError, match="Nothing is learned of this subject yet"):
        subject_choice.choose(other, "a third", "dco")
    with pytest.raises(UserError, match="not learned by DreamBooth; press Learn, or choose DCO"):
        subject_choice.choose(other, MINE, "dreambooth")
    adapter = learned[MINE]["dco"]
    many: Any = {}
    for index in range(subject_choice.MAX_KEPT + 3):
        many = subject_choice.keep(many, f"subject {index}", adapter)
    assert len(many) == subject_choice.MAX_KEPT and "subject 14" in many and "subject 2" not in many


def test_a_stopped_run_leaves_what_was_learned(services: Services) -> None:
    stream = tab.on_learn(services, learned={}, **{**LEARN, "learn_num_steps": 50})
    for updates in stream:
        if "learned" in updates:
            break
    stream.close()  # type: ignore[attr-defined]
    stopped = tab.on_stop_any(trace=updates["trace"])
    assert "what was learned so far can be drawn and saved" in stopped["stopped"]
    assert "Done in" in seen(draw(services, updates["learned"]), "status")


def test_what_is_drawn_can_be_drawn_again_from_its_png_and_as_python(services: Services) -> None:
    learned = seen(learn(services), "learned")
    updates = compare(services, learned)
    paths = [seen(updates, f"images_{index}").value[0]["image"]["path"] for index in range(2)]
    plain, adapted = (read_subject_settings(path) for path in paths)
    assert (plain.draw_by, adapted.draw_by, plain.seed, adapted.seed) == ("plain", "auto", 5, 5)
    assert (adapted.word, adapted.phrase, adapted.compare) == ("my robot", "pink robot", False)
    values = tab.on_restore(dropped=paths[0])
    assert values["way"] == "plain" and values["prompt"] == DRAW["prompt"] and values["seed"] == "5"
    assert tab.on_restore(dropped=paths[1])["way"] == "learned" and tab.on_restore(dropped=None) == {}
    request = seen(updates, "shown")
    assert len(request.adapters) == 1 and "read_adapter" in to_python(request)
    one = draw(services, {}, way="instant")
    assert 'Image.open("picture.png")' in to_python(seen(one, "shown"))
    assert tab.on_restore(dropped=seen(one, "path"))["way"] == "instant"


def test_other_tabs_are_told_the_common_name(services: Services) -> None:
    request = seen(draw(services, seen(learn(services), "learned")), "shown")
    sent = shown.on_drag(path="a.png", shown=request, sent={"count": 0})["sent"]
    assert sent["prompt"] == "a pink robot on the sea", "no other tab knows 'my robot'"
    assert shown.on_enlarge(path="a.png", shown=request, sent={"count": 0})["sent"]["prompt"] == sent["prompt"]


def test_saved_chosen_renamed_downloaded_deleted_and_brought(services: Services) -> None:
    learned = seen(learn(services), "learned")
    owner = subject_shelf.on_arrive(owner="")["owner"]
    asked = {"learned": learned, "subject": MINE, "objective": "dco"}
    saved = subject_shelf.on_save(owner=owner, **asked, name="Robby")
    assert saved["saved"] == "Robby" and len(saved["thumbnails"].value) == 1 and "Chosen: Robby" in saved["chosen"]
    again = subject_shelf.on_arrive(owner=owner)
    assert again["names"] == ["Robby"] and again["saved"] == ""
    stranger = subject_shelf.on_arrive(owner="")
    assert stranger["owner"] != owner and stranger["names"] == [] and "Nothing is saved yet" in stranger["chosen"]
    assert subject_shelf.on_rename(owner=owner, saved="Robby", name="Bobby")["saved"] == "Bobby"
    chosen = subject_shelf.on_choose(owner=owner, learned={}, names=["Bobby"], index=0)
    kept, subject = chosen["learned"], chosen["subject"]
    assert (chosen["word"], chosen["objective"], chosen["pictures"]) == ("my robot", "dco", [])
    assert "Done in" in seen(draw(services, kept, subject=subject, pictures=[]), "status")
    offered = subject_shelf.on_download(learned=kept, subject=subject, objective="dco")
    file = offered["file"].value["path"]
    assert Path(file).name == "Bobby.safetensors"
    brought = list(subject_shelf.on_bring(services, brought=file, learned=kept, backend="storybook"))[-1]
    own = brought["learned"][subject_choice.FILE]["dco"]
    assert own.data == kept[subject]["dco"].data and subject in brought["learned"], "the one before is still there"
    deleted = subject_shelf.on_delete(owner=owner, saved="Bobby")
    assert deleted["names"] == [] and deleted["saved"] == ""
    undone = subject_shelf.on_save(owner=owner, learned=kept, subject=subject, objective="dco", name="Bobby")
    assert undone["names"] == ["Bobby"], "deleted by mistake, saved again"


def test_a_lora_from_elsewhere_draws_without_a_word_of_its_own(services: Services, loud: Adapter) -> None:
    offered = subject_shelf.on_download(learned={FILE: {"": loud}}, subject=FILE, objective="dco")
    path = offered["file"].value["path"]
    taken = list(subject_shelf.on_bring(services, brought=path, learned={}, backend="storybook"))[-1]
    assert "objective" not in taken and "word" not in taken and "A LoRA file from elsewhere" in taken["ready"]
    drawn = draw(services, taken["learned"], subject=taken["subject"], pictures=[], objective="dreambooth")
    assert titles(drawn) == ["LoRA file"]
    owner = subject_shelf.on_arrive(owner="")["owner"]
    asked = {"learned": taken["learned"], "subject": FILE, "objective": "dco"}
    shelf = subject_shelf.on_save(owner=owner, **asked, name="found")
    assert len(shelf["thumbnails"].value) == 1, "a blank picture stands for it"


def test_bad_input_is_one_sentence(services: Services, tmp_path: Path) -> None:
    tiny, broken = tmp_path / "tiny.png", tmp_path / "broken.png"
    Image.new("RGB", (16, 16)).save(tiny)
    broken.write_bytes(b"no picture")
    good = LEARN["pictures"]
    for changes, words in (
        ({"pictures": []}, "no picture of the subject"),
        ({"pictures": good * 50}, "50 pictures are too many"),
        ({"pictures": good * 7}, "7 pictures are too many"),
        ({"pictures": [str(tiny)]}, "16 x 16 px, which is too small"),
        ({"pictures": [str(broken)]}, "^This file cannot be read as a picture"),
        ({"pictures": [*good, str(broken)]}, "^broken.png: This file cannot be read as a picture"),
        ({"word": ""}, "has no name"),
        ({"captions": "a robot"}, "does not name"),
        ({"learn_num_steps": 0}, "too low"),
        ({"learn_seed": "luck"}, "must be a number"),
    ):
        with pytest.raises(UserError, match=words):
            learn(services, **changes)
    for changes, words in (
        ({}, "press Learn, or draw with Instant"),
        ({"way": "instant", "prompt": " "}, "prompt is empty"),
        ({"way": "instant", "pictures": []}, "no picture of the subject"),
        ({"way": "instant", "pictures": [str(tiny)]}, "too small"),
    ):
        with pytest.raises(UserError, match=words):
            draw(services, {}, **changes)
    with pytest.raises(UserError, match="press Learn"):
        compare(services, {}, way="plain")


def test_bad_files_and_names_are_one_sentence_and_lose_nothing(
    services: Services, tmp_path: Path, tiny_sdxl: ModelBundle
) -> None:
    learned = seen(learn(services), "learned")
    owner = subject_shelf.on_arrive(owner="")["owner"]
    asked = {"owner": owner, "learned": learned, "subject": MINE, "objective": "dco"}
    subject_shelf.on_save(**asked, name="Robby")
    files = {
        "pickle.safetensors": (b"\x80\x04\x95\x00", "is a pickle"),
        "text.safetensors": (b"hello, this is no file of tensors", "damaged or no safetensors"),
        "sdxl.safetensors": (write_lora(make_loud_lora(tiny_sdxl), {}), "another model|no part that fits"),
        "other.safetensors": (save({"decoder.weight": make_loud_lora(tiny_sdxl).paths.popitem()[1][0]}), "no part"),
    }
    for name, (data, words) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=words):
            list(subject_shelf.on_bring(services, brought=str(tmp_path / name), learned=learned, backend="storybook"))
    for wrong, words in (
        (lambda: subject_shelf.on_save(**asked, name=" "), "name is empty"),
        (lambda: subject_shelf.on_save(**asked, name="robby"), "already an adapter"),
        (lambda: subject_shelf.on_rename(owner=owner, saved="", name="x"), "choose one of the shelf"),
        (lambda: subject_shelf.on_rename(owner=owner, saved="Robby", name=""), "name is empty"),
        (lambda: subject_shelf.on_choose(owner=owner, learned={}, names=["Nobody"], index=0), "no saved adapter"),
        (lambda: subject_shelf.on_choose(owner="guess", learned={}, names=["Robby"], index=0), "reload it"),
        (lambda: subject_shelf.on_save(**{**asked, "learned": {}}, name="x"), "press Learn"),
    ):
        with pytest.raises(UserError, match=words):
            wrong()
    assert subject_shelf.on_arrive(owner=owner)["names"] == ["Robby"]


def test_uploads_take_the_place_of_a_prepared_subject(tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    make_ramp(64).save(mine)
    prepared = [str(shutil.copy(path, tmp_path / path.name)) for path in SUBJECT.paths]
    taken = subject_choice.on_uploaded(pictures=[*prepared, str(mine)], learned={})
    assert taken["pictures"] == [str(mine)] and taken["accepted"] == [str(mine)] and taken["phrase"] == ""
    assert taken["subject"] != SUBJECT.key and "Not learned yet" in taken["ready"]
    assert subject_choice.on_uploaded(pictures=prepared, learned={})["pictures"] == prepared, "given by hand: kept"
    assert subject_choice.on_refused(accepted=prepared) == {"pictures": prepared}
    # A gallery gives pairs of a picture and its caption, whatever was put into it.
    assert subject_choice.on_uploaded(pictures=[(str(mine), None)], learned={})["pictures"] == [str(mine)]
    with pytest.raises(UserError, match="50 pictures are too many"):
        subject_choice.on_uploaded(pictures=[str(mine)] * 50, learned={})
    left = subject_choice.on_deleted(pictures=prepared[:2], subject=SUBJECT.key)
    assert left["accepted"] == prepared[:2] and left["subject"] == SUBJECT.key


def test_prepared_subjects_are_complete_and_captions_are_proposed(services: Services) -> None:
    document = tab.load_examples()
    assert tab in TABS and len(document["examples"]) >= 4
    for index, subject in enumerate(subject_choice.list_subjects()):
        values = subject_choice.on_subject(index, prompt="my robot at sea", word="my robot", learned={})
        assert len(values["pictures"]) == 4 and all(Path(path).is_file() for path in values["pictures"])
        assert values["word"] == subject.word and values["prompt"] == f"{subject.word} at sea"
        assert "Learned before by DCO" in values["ready"]
        adapter = subject_choice.choose({}, values["subject"], "dco")
        assert (adapter.word, adapter.phrase, adapter.backend) == (subject.word, subject.phrase, "storybook")
        assert len(adapter.data) < 1.5 * 2**20
    asked = {name: LEARN[name] for name in ("pictures", "word", "backend")}
    proposed = list(tab.on_propose(services, **asked, phrase=""))[-1]
    assert proposed["phrase"] == SUBJECT.phrase and proposed["captions"] == "my robot, plain background, flat"
    assert len(proposed["crops"].value) == 1 and proposed["captions_fold"].open


def test_examples_name_the_chosen_subject(services: Services) -> None:
    rows = tab.load_examples()["examples"]
    named = tab.name_examples(rows, word="my whale")
    assert [button.value for button in named.values()] == [row["prompt"].replace("{word}", "my whale") for row in rows]
    prepared = tab.on_example(rows[0], word="my whale", learned={}, subject=subject_choice.list_subjects()[1].key)
    assert prepared["way"] == "learned" and prepared["prompt"].startswith("my whale")
    assert tab.on_example(rows[0], word="my cat", learned={}, subject="yours")["way"] == "instant"


def test_the_curve_has_a_line_from_the_second_step_on() -> None:
    empty = subject_result.draw_curve((0.7,), 10)
    assert "<svg" in empty and "<polyline" not in empty, "the room is taken at once, so that nothing moves later"
    assert "Loss 0.7 → 0.45" in subject_result.draw_curve((0.7, 0.2), 10)
    assert subject_result.draw_curve((0.7, 0.7), 2).count("<polyline") == 2, "a flat line is a line"


def test_words_of_the_subject_are_no_unknown_words() -> None:
    assert subject_runs.replace_word("my robot at sea", "my robot", "pink robot") == "pink robot at sea"
    assert subject_runs.replace_word("a boat", "", "pink robot") == "a boat"


def test_a_client_draws_from_one_picture_and_knows_nobody_else_s_subject(visitor: Callable[[], Client]) -> None:
    client = visitor()
    hidden = ("subject", "pictures")
    values = {name: value for name, value in DRAW.items() if name not in hidden} | {"num_steps": 1}
    picture = [{"image": handle_file(str(SUBJECT.paths[0])), "caption": None}]
    drawn = client.predict(**values | {"way": "instant"}, pictures=picture, api_name="/personalization")
    assert any("Done in" in str(output) for output in drawn)
    with pytest.raises(AppError, match="There is no picture of the subject"):
        client.predict(**values | {"way": "instant"}, pictures=[], api_name="/personalization")
    with pytest.raises(AppError, match="made for another model|no part that fits"):
        # The first prepared subject was learned on the shipped model, not on this test's tiny one.
        client.predict(**values, pictures=[], api_name="/personalization")
