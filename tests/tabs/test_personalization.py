"""The personalization tab's handlers as plain functions on a tiny pipeline: learn, stop, draw, save, and bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines import LearnRequest, SubjectRequest, UserError, specs
from tabs import TABS, subject_inputs, subject_result, subject_shelf
from tabs import personalization as tab
from tabs.technique_picker import option_key
from tabs.wiring import Services

SUBJECT = subject_inputs.list_subjects()[0]
LEARN: dict[str, Any] = {
    **{f"learn_{name}": specs(LearnRequest)[name].default for name in subject_inputs.LEARNED},  # type: ignore[union-attr]
    "learn_num_steps": 2,
    "learn_rank": 2,
    "learn_seed": "3",
    "pictures": [str(SUBJECT.paths[0])],
    "word": SUBJECT.word,
    "phrase": SUBJECT.phrase,
    "captions": "",
    "objective": "dco",
    "sample_prompt": "",
    "backend": "storybook",
}
DRAW: dict[str, Any] = {
    **{option_key(name, option): spec.default for name, option, spec in subject_inputs.list_options()},
    **{name: specs(SubjectRequest)[name].default for name in subject_inputs.DRAWN},  # type: ignore[union-attr]
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


def shown(updates: list[dict[str, Any]], name: str) -> Any:
    return [update[name] for update in updates if name in update][-1]


def learn(services: Services, learned: Any = None, **changes: Any) -> list[dict[str, Any]]:
    return list(tab.on_learn(services, learned=learned or {}, **{**LEARN, **changes}))


def titles(updates: list[dict[str, Any]]) -> list[str]:
    rows = [shown(updates, f"title_{index}") for index in range(subject_result.MAX_ARMS)
            if any(f"title_{index}" in update for update in updates)]  # fmt: skip
    return [row.value.split("</h3>")[0].removeprefix("<h3>") for row in rows]


def test_learn_draw_and_compare(services: Services) -> None:
    updates = learn(services)
    learned = shown(updates, "learned")
    assert set(learned) == {"dco"} and learned["dco"].num_steps == 2 and learned["dco"].word == "my robot"
    assert "<polyline" in shown(updates, "curve") and len(shown(updates, "sketches").value) >= 1
    assert "Learned" in shown(updates, "status") and shown(updates, "captions").startswith("my robot")
    both = shown(learn(services, learned, objective="dreambooth"), "learned")
    assert set(both) == {"dco", "dreambooth"}
    drawn = list(tab.on_draw(services, learned=both, **DRAW))
    assert titles(drawn) == ["DCO + reward guidance"] and "Done in" in shown(drawn, "status")
    compared = list(tab.on_compare(services, learned=both, **DRAW))
    assert titles(compared) == ["Plain model", "DCO + reward guidance", "DreamBooth"]
    assert titles(list(tab.on_instant(services, learned={}, **DRAW))) == ["Instant"]
    other = shown(learn(services, both, word="robby"), "learned")
    assert set(other) == {"dco"}, "another subject does not mix with the one before"


def test_a_stopped_run_leaves_what_was_learned(services: Services) -> None:
    stream = tab.on_learn(services, learned={}, **{**LEARN, "learn_num_steps": 50})
    for updates in stream:
        if "learned" in updates:
            break
    stream.close()  # type: ignore[attr-defined]
    drawn = list(tab.on_draw(services, learned=updates["learned"], **DRAW))
    assert "Done in" in shown(drawn, "status")


def test_saved_chosen_renamed_downloaded_deleted_and_brought(services: Services) -> None:
    learned = shown(learn(services), "learned")
    owner = subject_shelf.on_arrive(owner="")["owner"]
    asked = {"owner": owner, "learned": learned, "objective": "dco"}
    saved = subject_shelf.on_save(**asked, name="Robby")
    assert saved["saved"].value == "Robby" and len(saved["thumbnails"].value) == 1
    assert subject_shelf.on_arrive(owner=owner)["saved"].choices == [("Robby", "Robby")]
    stranger = subject_shelf.on_arrive(owner="")
    assert stranger["owner"] != owner and stranger["saved"].choices == []
    subject_shelf.on_rename(owner=owner, saved="Robby", name="Bobby")
    chosen = subject_shelf.on_choose(owner=owner, saved="Bobby")
    assert chosen["word"] == "my robot" and chosen["learned"]["dco"].name == "Bobby"
    file = subject_shelf.on_download(**asked, saved="Bobby")["file"].value["path"]
    brought = subject_shelf.on_bring(brought=file)
    assert brought["learned"]["dco"].data == chosen["learned"]["dco"].data
    assert subject_shelf.on_delete(owner=owner, saved="Bobby")["saved"].choices == []
    for wrong, words in (
        (lambda: subject_shelf.on_save(**asked, name=" "), "name is empty"),
        (lambda: subject_shelf.on_choose(owner=owner, saved=None), "choose one of the list"),
        (lambda: subject_shelf.on_choose(owner=owner, saved="Bobby"), "no saved adapter"),
        (lambda: subject_shelf.on_choose(owner="guess", saved="Bobby"), "reload it"),
        (lambda: subject_shelf.on_save(owner=owner, learned={}, objective="dco", name="x"), "press Learn"),
    ):
        with pytest.raises(UserError, match=words):
            wrong()


def test_bad_input_is_one_sentence(services: Services, tmp_path: Path) -> None:
    tiny, broken, pickled = tmp_path / "tiny.png", tmp_path / "broken.png", tmp_path / "subject.safetensors"
    Image.new("RGB", (16, 16)).save(tiny)
    broken.write_bytes(b"no picture")
    pickled.write_bytes(b"\x80\x04\x95\x00")
    for changes, words in (
        ({"pictures": []}, "no picture of the subject"),
        ({"pictures": LEARN["pictures"] * 50}, "50 pictures are too many"),
        ({"pictures": LEARN["pictures"] * 7}, "7 pictures are too many"),
        ({"pictures": [str(tiny)]}, "too small"),
        ({"pictures": [str(broken)]}, "cannot be read as a picture"),
        ({"word": ""}, "has no name"),
        ({"captions": "a robot"}, "does not name"),
        ({"learn_num_steps": 0}, "too low"),
        ({"learn_seed": "luck"}, "must be a number"),
    ):
        with pytest.raises(UserError, match=words):
            learn(services, **changes)
    with pytest.raises(UserError, match="pickle"):
        subject_shelf.on_bring(brought=str(pickled))
    with pytest.raises(UserError, match="press Learn"):
        list(tab.on_draw(services, learned={}, **DRAW))
    with pytest.raises(UserError, match="prompt is empty"):
        list(tab.on_instant(services, learned={}, **{**DRAW, "prompt": " "}))


def test_prepared_subjects_are_complete_and_captions_are_proposed(services: Services) -> None:
    assert tab in TABS and len(tab.load_examples()["examples"]) >= 4
    for index, subject in enumerate(subject_inputs.list_subjects()):
        values = tab.on_subject(index)
        assert len(values["pictures"]) == 4 and all(Path(path).is_file() for path in values["pictures"])
        assert values["word"] == subject.word and values["learned"] == {}
    asked = {name: LEARN[name] for name in ("pictures", "word", "backend")}
    proposed = list(tab.on_propose(services, **asked, phrase=""))[-1]
    assert proposed["phrase"] == SUBJECT.phrase and proposed["captions"] == "my robot, plain background, flat"
    assert tab.on_uploaded(pictures=asked["pictures"])["captions"] == ""


def test_the_curve_is_drawn_from_the_second_step_on() -> None:
    assert subject_result.draw_curve((0.7,), 10) == ""
    assert "Loss 0.7 → 0.2" in subject_result.draw_curve((0.7, 0.2), 10)
    assert "<polyline" in subject_result.draw_curve((0.7, 0.7), 2), "a flat line is a line"
