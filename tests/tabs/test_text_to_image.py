"""The tab's handlers as plain functions on a tiny pipeline: run, compare, stop, restore, and every bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from pipelines import BackendUnavailable, TextToImageRequest, UserError, validate
from tabs import running, technique_picker
from tabs import text_to_image as tab
from tabs.shown import on_copy, on_reuse_seed
from tabs.wiring import Services

VALUES: dict[str, Any] = {
    "prompt": "a red boat above a blue house",
    "negative_prompt": "",
    "seed": "5",
    "num_steps": 3,
    "guidance_scale": 4.0,
    "sampler": "ddim",
    "size": "",
    "compare": True,
    "backend": "storybook",
    **technique_picker.to_widgets({}),
}
RESCALE: dict[str, Any] = {"cfg_rescale": {"strength": 0.7}}


def run(services: Services, **changes: Any) -> list[dict[str, Any]]:
    return list(tab.on_generate(services, **{**VALUES, **changes}))


def pick(choice: dict[str, Any]) -> dict[str, Any]:
    """Set the widgets of the picker."""
    return technique_picker.to_widgets(choice)


def shown(updates: list[dict[str, Any]], name: str) -> Any:
    return [update[name] for update in updates if name in update][-1]


def open_rgb(path: str) -> bytes:
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


def test_a_run_shows_its_steps_then_the_picture(services: Services) -> None:
    updates = run(services)
    steps = [update["trace"] for update in updates if update.get("trace")]
    assert steps[:2] == [(0, 3), (1, 3)] and steps[-1] == (3, 3) and steps == sorted(steps)
    assert [word for update in updates for word in [update.get("status", "")] if "step 1/3, " in word]
    assert "Done in" in shown(updates, "status")
    assert Path(shown(updates, "picture").value["path"]).suffix == ".png"
    assert shown(updates, "picture").alt_text == "Generated picture: a red boat above a blue house"
    request = shown(updates, "shown")
    assert request.prompt == VALUES["prompt"] and request.seed == 5 and not request.compare and not request.techniques
    assert "storybook" in shown(updates, "badge") and "s/step" in shown(updates, "badge")


def test_previews_change_and_say_what_they_are(services: Services) -> None:
    previews = [
        update["picture"] for update in run(services, num_steps=60) if "picture" in update and update.get("trace")
    ]
    assert len({open_rgb(preview.value["path"]) for preview in previews}) == len(previews) > 1
    assert previews[0].alt_text.startswith("Unfinished picture, step 1 of 60: a red boat")


def test_run_draws_what_is_picked_beside_plain_guidance(services: Services) -> None:
    assert not shown(run(services), "pair").visible
    updates = run(services, guidance_scale=9.0, **pick(RESCALE))
    assert "Left: plain guidance. Right: Guidance rescale." in shown(updates, "status")
    alone = run(services, guidance_scale=9.0, compare=False, **pick(RESCALE))
    assert not shown(alone, "pair").visible
    assert open_rgb(shown(alone, "picture").value["path"]) == open_rgb(shown(updates, "pair").value[1]["path"])


def test_compare_shows_both_pictures_and_both_numbers(services: Services) -> None:
    updates = run(services, guidance_scale=9.0, **pick(RESCALE))
    pair = shown(updates, "pair")
    assert pair.visible and not shown(updates, "picture").visible
    off, on = (open_rgb(side["path"]) for side in pair.value)
    assert off != on
    assert off == open_rgb(shown(run(services, guidance_scale=9.0), "picture").value["path"])
    assert shown(updates, "facts").count('class="fact measure"') >= 2


def test_comparing_with_nothing_picked_takes_the_first_technique(services: Services) -> None:
    updates = list(tab.on_compare(services, **VALUES))
    assert updates[0] == {"picked": ["cfg_rescale"]}
    assert "Right: Guidance rescale." in shown(updates, "status")


def test_a_stopped_run_leaves_the_model_free_and_the_next_run_equal(services: Services) -> None:
    stream = tab.on_generate(services, **VALUES)
    updates: list[dict[str, Any]] = []
    while not updates or updates[-1].get("trace") in (None, (0, 3)):
        updates.append(next(stream))
    stream.close()
    sentence = tab.on_stop(trace=shown(updates, "trace"))
    assert "Stopped at step 1 of 3; the unfinished picture stays" in sentence["stopped"] and sentence["trace"] is None
    model = services.models.get("storybook")
    assert model.lock.acquire(blocking=False)
    model.lock.release()
    assert "Done in" in shown(run(services), "status")


def test_stopping_before_the_first_step_says_so() -> None:
    assert "nothing was drawn yet" in tab.on_stop(trace=(0, 20))["stopped"]


def test_stopping_without_a_run_leaves_the_finished_picture_its_words() -> None:
    assert tab.on_stop(trace=None) == {}


def test_two_interleaved_visitors_get_their_own_pictures(services: Services) -> None:
    def finish(streams: dict[str, Iterator[dict[str, Any]]]) -> dict[str, bytes]:
        updates: dict[str, list[dict[str, Any]]] = {seed: [] for seed in streams}
        while streams:
            for seed, stream in list(streams.items()):
                update = next(stream, None)
                if update is None:
                    del streams[seed]
                else:
                    updates[seed].append(update)
        return {seed: open_rgb(shown(seen, "picture").value["path"]) for seed, seen in updates.items()}

    together = finish({seed: tab.on_generate(services, **{**VALUES, "seed": seed}) for seed in ("1", "2")})
    alone = {seed: open_rgb(shown(run(services, seed=seed), "picture").value["path"]) for seed in ("1", "2")}
    assert together == alone and alone["1"] != alone["2"]


def test_a_dropped_png_gives_the_same_pixels(services: Services) -> None:
    choice = {"regional_attention": {"weight": 7.5, "boxes": [BOX]}, **RESCALE}
    first = shown(run(services, seed="77", negative_prompt="green", size="96x64", **pick(choice)), "download")
    restored = tab.on_restore(dropped=first.value["path"])
    del restored["status"], restored["stopped"]
    again = run(services, **restored)
    assert open_rgb(shown(again, "pair").value[1]["path"]) == open_rgb(first.value["path"])
    assert restored["picked"] == ["cfg_rescale", "regional_attention"] and restored["layout"] == [BOX]
    assert restored["seed"] == "77" and restored["size"] == "96 x 64" and restored["cfg_rescale_strength"] == 0.7


def test_removing_the_dropped_file_changes_nothing() -> None:
    assert tab.on_restore(dropped=None) == {}


def test_seed_and_code_of_the_shown_picture(services: Services) -> None:
    request = shown(run(services), "shown")
    assert on_reuse_seed(shown=request) == {"seed": "5"}
    code = on_copy(shown=request)["python"]
    assert code.visible
    compile(code.value, "copied", "exec")
    assert "a red boat above a blue house" in code.value


def test_unknown_words_are_named_while_typing(services: Services) -> None:
    run(services)
    notice = running.on_prompt_changed(services, prompt="a red dragon", backend="storybook")["unknown"]
    assert "storybook does not know \u2018dragon\u2019" in notice
    assert running.on_prompt_changed(services, prompt="a red boat", backend="storybook") == {"unknown": ""}
    assert running.on_prompt_changed(services, prompt="a red dragon", backend="sdxl") == {"unknown": ""}


def test_examples_are_requests_that_run_offline() -> None:
    document = tab.load_examples()
    assert len(document["examples"]) >= 4
    for row in document["examples"]:
        request = validate(TextToImageRequest(**row))
        assert request.backend == ranges_default("backend")
        assert tab.on_example(row)["prompt"] == row["prompt"]


def ranges_default(name: str) -> Any:
    return TextToImageRequest.__dataclass_fields__[name].default


def test_how_it_works_has_all_its_parts() -> None:
    text = tab.EXPLANATION.read_text("utf-8")
    assert all(part in text for part in ("$$", "arXiv", "**What to try.**", "**Where it fails.**"))


BOX: dict[str, Any] = {"phrase": "a red boat", "x0": 0.1, "y0": 0.1, "x1": 0.6, "y1": 0.7}
BAD = (
    ({"prompt": ""}, "empty"),
    ({"prompt": "  \n "}, "empty"),
    ({"prompt": "qwx zzy"}, "knows no word"),
    ({"prompt": "\u7ea2\u8272\u7684\u8239"}, "knows no word"),
    ({"num_steps": 0}, "Steps 0 is too low"),
    ({"num_steps": "many"}, "Steps must be a number"),
    ({"guidance_scale": 1e9}, "Guidance 1000000000 is too high"),
    ({"guidance_scale": float("nan")}, "finite"),
    ({"seed": "-1"}, "Seed -1 is too low"),
    ({"seed": str(2**64)}, f"Seed {2**64} is too high"),
    ({"seed": "seven"}, "Seed must be a number"),
    ({"sampler": "euler"}, "Sampler 'euler' is not known"),
    ({"backend": "dalle"}, "Backend 'dalle' is not known"),
    ({"size": "huge"}, "Size 'huge' is no size"),
    ({"size": "9000 x 64"}, "Width 9000 is too high"),
    ({"picked": ["magic"]}, "Technique 'magic' is not known"),
    ({"picked": ["s_cfg"], "s_cfg_strength": 7}, "Evening out 7 is too high"),
    ({"picked": ["cfg_rescale", "s_cfg"]}, "Guidance rescale and S-CFG cannot run together"),
    ({"picked": ["regional_attention"], "layout": [BOX | {"x1": 1.5}]}, "reaches outside the picture"),
    ({"picked": ["regional_attention"], "layout": [BOX | {"x1": 0.1}]}, "is too small"),
    ({"picked": ["regional_attention"], "layout": [BOX | {"phrase": " "}]}, "has no phrase"),
    ({"picked": ["regional_attention"], "layout": [BOX] * 10}, "The layout has 10 boxes"),
    ({"picked": ["regional_attention"], "layout": "boxes"}, "in an unknown form"),
)


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[str(next(iter(row[0].items())))[:40] for row in BAD])
def test_a_bad_input_gets_one_sentence_and_the_next_run_works(
    services: Services, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        run(services, **changes)
    assert "\n" not in str(caught.value)
    assert "Done in" in shown(run(services, num_steps=1), "status")


def test_a_very_long_prompt_runs_and_says_what_was_left_out(services: Services) -> None:
    updates = run(services, prompt="a red boat " * 182)
    assert "longer than" in shown(updates, "notes")


@pytest.mark.parametrize("backend", ["sd15", "sdxl"])
def test_a_model_without_weights_and_network_says_what_to_do(services: Services, backend: str) -> None:
    with pytest.raises(BackendUnavailable, match="--model-path"):
        run(services, backend=backend)


def write_png(path: Path, **texts: str) -> str:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return str(path)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({}, "no settings"),
        ({"limelight": "{"}, "not written by Limelight"),
        ({"limelight": '{"version": 1, "request": {"prompt": "a", "num_steps": 1000000}}'}, "too high"),
        ({"limelight": '{"version": 1, "request": {"prompt": "a", "__class__": 1}}'}, "not written by Limelight"),
        ({"comment": "x" * 5_000_000}, "too large"),
    ],
)
def test_a_forged_png_gets_one_sentence(tmp_path: Path, texts: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tab.on_restore(dropped=write_png(tmp_path / "forged.png", **texts))
