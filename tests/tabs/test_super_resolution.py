"""The super-resolution tab's handlers as plain functions on tiny networks: run, stop, upload, restore, bad input."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from pipelines import SuperResolutionRequest, UserError, read_super_resolution_settings, specs, to_python
from pipelines.networks import Networks
from tabs import TABS, enlarge_inputs, enlarge_result, loupe
from tabs import super_resolution as tab
from tabs.shown import ENLARGE_TAB, on_copy, on_drag, on_enlarge
from tabs.wiring import Services
from tests.pictures import make_ramp
from training.world.render import render
from training.world.scene import is_held_out, sample_scene

CROWN = str(tab.PICTURES / "crown.png")
VALUES: dict[str, Any] = {
    "picture": CROWN,
    **enlarge_inputs.to_widgets(SuperResolutionRequest(scale=2.0, num_steps=4, num_images=2, seed=5)),
    "backend": "storybook",
}


def run(services: Services, **changes: Any) -> list[dict[str, Any]]:
    return list(tab.on_run(services, **{**VALUES, **changes}))


def shown(updates: list[dict[str, Any]], name: str) -> Any:
    return [update[name] for update in updates if name in update][-1]


def save(folder: Path, picture: Image.Image, name: str = "picture.png", **options: Any) -> str:
    picture.save(folder / name, **options)
    return str(folder / name)


def test_a_run_shows_tiles_then_slider_and_loupe(services: Services) -> None:
    updates = run(services, scale=2.5)
    lives = [update["live"].value for update in updates if "live" in update and update["live"].visible]
    assert "Unfinished picture, tile 1 of" in lives[-1] or "agreeing" in lives[-1]
    assert not shown(updates, "live").visible
    pair, path = shown(updates, "pair"), shown(updates, "path")
    assert pair.visible and "72 x 72 px, enlarged 2.5 times (Faithful)" in pair.label
    before, after = Image.open(pair.value[0]["path"]), Image.open(path)
    assert before.size == after.size == (180, 180) and before.tobytes() != after.tobytes()
    place = shown(updates, "loupe")
    assert (place["width"], place["height"], place["left"], place["right"]) == (180, 180, "Bicubic", "Faithful")
    assert 0 <= place["x"] < 180 and 0 <= place["y"] < 180
    facts = shown(updates, "facts")
    assert "72 x 72 px → 180 x 180 px" in facts and "dB" in facts and "of 255 levels" in facts
    assert "Done in" in shown(updates, "status") and "Right: Faithful" in shown(updates, "status")
    assert shown(updates, "trace") is None and shown(updates, "kept") is None
    assert not shown(updates, "reuse").interactive and shown(updates, "enlarge").interactive


def test_every_control_reaches_the_request() -> None:
    described = specs(SuperResolutionRequest)
    plain, _ = enlarge_inputs.to_request(VALUES)
    assert plain.picture is not None and plain.picture.size == (72, 72)
    for name in (*enlarge_inputs.PLAIN, "seed"):
        spec: Any = described[name]
        ends = spec.options if hasattr(spec, "options") else (spec.low, spec.high) if hasattr(spec, "low") else ("a",)
        other = next(end for end in ends if end != getattr(plain, name))
        changed, _ = enlarge_inputs.to_request({**VALUES, name: str(other) if name == "seed" else other})
        assert getattr(changed, name) == other, name
    # What has an effect in a mode is shown there, and every field in one mode at least.
    offered = {name for options in enlarge_inputs.OPTIONS.values() for name in options} | {"scale", "mode"}
    assert offered == {*enlarge_inputs.PLAIN, "seed"}
    assert list(enlarge_inputs.MODES) == list(described["mode"].options)  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", list(enlarge_inputs.MODES))
def test_a_mode_shows_what_it_can_be_told_and_nothing_else(mode: str) -> None:
    updates = enlarge_inputs.on_mode_changed(mode=mode)
    seen = {name.removesuffix(" group") for name, group in updates.items() if name != "about" and group.visible}
    options = enlarge_inputs.OPTIONS[mode]
    assert ("source" in seen) is ("source" in options) and ("damage" in seen) is ("blur_px" in options)
    assert ("words" in seen) is ("prompt" in options) and ("settings" in seen) is ("seed" in options)
    assert enlarge_inputs.MODES[mode][1] in updates["about"]


@pytest.mark.parametrize(
    ("mode", "changes"),
    [("detail", {"source": "camera"}), ("damage", {"blur_px": 1.0}), ("explore", {"prompt": "a red boat"})],
)
def test_every_mode_runs_and_its_png_brings_the_settings_back(
    services: Services, mode: str, changes: dict[str, Any]
) -> None:
    updates = run(services, mode=mode, **changes)
    path = shown(updates, "path")
    restored = tab.on_restore(dropped=path)
    asked = enlarge_inputs.to_request({**VALUES, "mode": mode, **changes})[0]
    expected = replace(asked, picture=None, num_images=1 if mode == "explore" else asked.num_images)
    assert read_super_resolution_settings(path) == expected
    assert {name: restored[name] for name in enlarge_inputs.PLAIN} == {
        name: getattr(expected, name) for name in enlarge_inputs.PLAIN
    }
    assert "super_resolution_stream(request" in to_python(expected) and shown(updates, "reuse").interactive


def test_explore_shows_every_answer_and_the_chosen_one_above(services: Services) -> None:
    updates = run(services, mode="explore", prompt="a red boat")
    answers = shown(updates, "answers")
    assert len(answers) == 2 and len(shown(updates, "sketches").value) == 2
    assert [answer.request.seed for answer in answers] == [5, 6]
    chosen = tab.on_answer(answers=answers, index=1)
    assert chosen["path"] == answers[1].path != shown(updates, "path") and chosen["shown"].seed == 6
    assert chosen["loupe"]["key"] != shown(updates, "loupe")["key"]


def test_a_stop_keeps_what_is_finished_in_full_size(services: Services) -> None:
    stream = tab.on_run(services, **VALUES)
    kept = None
    while kept is None:
        update = next(stream)
        kept = update.get("kept")
    stream.close()
    updates = tab.on_stop(trace=update["trace"], kept=kept)
    assert "what is finished stays" in updates["stopped"] and updates["pair"].visible and updates["kept"] is None
    assert Image.open(updates["path"]).size == (144, 144) and "Stopped" in updates["notes"]
    assert "nothing was finished yet" in tab.on_stop(trace=(0, 4), kept=None)["stopped"]
    assert "the unfinished picture stays" in tab.on_stop(trace=(2, 4), kept=None)["stopped"]
    assert tab.on_stop(trace=None, kept=None) == {}


def test_the_plan_says_before_a_run_what_comes_or_why_it_cannot(services: Services) -> None:
    def plan(**changes: Any) -> dict[str, Any]:
        values = {"size": (168, 104), "scale": 2.5, "mode": "faithful", "backend": "storybook", **changes}
        return enlarge_inputs.on_planned(services, **values)

    assert "168 x 104 px → 420 x 260 px" in plan()["plan"] and plan()["run"].interactive
    assert "32 x 32 px → 256 x 256 px" in plan(mode="explore", scale=8)["plan"]
    large = plan(size=(1600, 1200), scale=4.0)
    assert "choose a scale of at most 2.5" in large["plan"] and not large["run"].interactive
    assert plan(size=None)["plan"] == "" and plan(scale=None)["run"].interactive


def test_a_mode_without_weights_says_so_before_and_instead_of_a_run(services: Services, tmp_path: Path) -> None:
    empty = Networks(tmp_path)
    assert "`make train-sr-lite`" in empty.explain_missing("faithful")
    assert "`make train-sr-lite` and `make train-restorer`" in empty.explain_missing("detail")
    assert "`make train-sr-lite`" in empty.explain_missing("explore")
    store: Any = services.models.store()
    before, store._networks = store._networks, empty
    try:
        values: dict[str, Any] = {"size": (20, 20), "scale": 2.0, "backend": "storybook"}
        planned = enlarge_inputs.on_planned(services, mode="damage", **values)
        assert "`make train-restorer`" in planned["plan"] and not planned["run"].interactive
        with pytest.raises(UserError, match="weights of this mode are not here; run `make train-restorer`"):
            run(services, mode="damage", blur_px=1.0)
    finally:
        store._networks = before


def test_an_upload_is_looked_at(tmp_path: Path) -> None:
    looked = tab.on_picture(path=save(tmp_path, make_ramp(30, 20), "a.jpg"))
    assert looked["size"] == (30, 20) and looked["source"] == "camera" and not looked["pair"].visible
    assert tab.on_picture(path=save(tmp_path, make_ramp(30, 20)))["source"] == "clean"
    assert tab.on_picture(path=None)["size"] is None and tab.on_refused() == {"picture": None, "size": None}


def test_a_picture_is_sent_here_and_on(tmp_path: Path) -> None:
    request = SuperResolutionRequest(prompt="a red boat")
    sent = on_enlarge(path=CROWN, shown=request, sent={"tab": "", "path": "", "count": 3})["sent"]
    assert sent == {"tab": ENLARGE_TAB, "path": CROWN, "count": 4, "prompt": "a red boat"} and ENLARGE_TAB in [
        entry.NAME for entry in TABS
    ]
    assert tab.on_sent(sent=sent)["picture"] == CROWN and tab.on_sent(sent=sent)["size"] == (72, 72)
    assert tab.on_sent(sent={**sent, "tab": "drag"}) == {}
    assert tab.on_sent(sent=sent)["prompt"] == "a red boat"
    assert on_drag(path=CROWN, shown=request, sent=sent)["sent"]["prompt"] == "a red boat"
    assert on_copy(shown=request)["python"].visible


def make_bomb(folder: Path) -> str:
    """A PNG whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path = folder / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))))
    return str(path)


def make_odd(folder: Path, kind: str) -> str:
    """A picture of a kind that uploads rarely have."""
    ramp = make_ramp(24, 16)
    if kind == "16-bit":
        levels = np.asarray(ramp.convert("L"), dtype=np.uint16) * 257
        return save(folder, Image.fromarray(levels))
    if kind == "rotated":
        exif = Image.Exif()
        exif[274] = 6
        return save(folder, ramp, "a.jpg", exif=exif)
    if kind == "animated":
        frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "blue")]
        return save(folder, frames[0], "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    if kind == "1x1":
        return save(folder, ramp.resize((1, 1)))
    if kind == "16x4000":
        return save(folder, ramp.resize((16, 4000)))
    mode = {"grey": "L", "transparent": "RGBA", "CMYK": "CMYK"}[kind]
    return save(folder, ramp.convert(mode), "a.jpg" if kind == "CMYK" else "a.png")


@pytest.mark.parametrize(
    ("kind", "scale", "size", "mode", "note"),
    [
        ("grey", 2.0, (48, 32), "L", ""),
        ("transparent", 2.0, (48, 32), "RGBA", ""),
        ("16-bit", 2.0, (48, 32), "L", "16 bits"),
        ("CMYK", 2.0, (48, 32), "RGB", "CMYK"),
        ("rotated", 2.0, (32, 48), "RGB", ""),
        ("1x1", 8.0, (8, 8), "RGB", ""),
        ("16x4000", 1.0, (16, 4000), "RGB", ""),
        ("animated", 2.0, (48, 32), "RGB", "2 frames"),
    ],
)
def test_a_rare_picture_is_enlarged_rightly(
    services: Services, tmp_path: Path, kind: str, *, scale: float, size: tuple[int, int], mode: str, note: str
) -> None:
    updates = run(services, picture=make_odd(tmp_path, kind), scale=scale)
    with Image.open(shown(updates, "path")) as picture:
        assert picture.size == size and picture.mode == mode
    assert note in shown(updates, "notes")


def test_a_picture_that_cannot_be_read_gets_one_sentence(services: Services, tmp_path: Path) -> None:
    whole = Path(save(tmp_path, make_ramp(64))).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    bad = {
        str(tmp_path / "cut.png"): "is damaged and cannot be read to its end",
        str(tmp_path / "text.png"): "cannot be read as a picture",
        str(tmp_path / "gone.png"): "is no longer here",
        make_bomb(tmp_path): "far too many pixels; choose one of at most 16 megapixels",
    }
    for path, sentence in bad.items():
        for call in (lambda path=path: tab.on_picture(path=path), lambda path=path: run(services, picture=path)):
            with pytest.raises(UserError, match=sentence) as caught:
                call()
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"picture": None}, "There is no picture yet"),
        ({"scale": 9}, "Scale 9 is too high; choose 1 to 8"),
        ({"scale": None}, "Scale"),
        ({"mode": "magic"}, "Mode 'magic'"),
        ({"seed": "seven"}, "Seed must be a number"),
        ({"mode": "damage", "scale": 1}, "No damage is described"),
        ({"mode": "explore", "prompt": " "}, "Exploring needs words"),
        ({"mode": "damage", "missing": "transparent"}, "not transparent anywhere"),
    ],
)
def test_a_bad_input_gets_one_sentence(services: Services, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        run(services, **changes)
    assert "\n" not in str(caught.value)


def test_the_loupe_opens_where_the_pictures_differ_most() -> None:
    left = Image.new("RGB", (300, 90), "white")
    right = left.copy()
    right.paste("black", (200, 30, 212, 34))
    x, y = loupe.find_difference(left, right)
    assert 195 <= x <= 215 and 28 <= y <= 36
    assert loupe.find_difference(left.resize((1, 1)), right.resize((1, 1))) == (0, 0)


def test_lost_pixels_do_not_count_as_disagreement(services: Services, tmp_path: Path) -> None:
    picture = Image.new("RGB", (24, 16), (200, 200, 200))
    picture.paste((0, 0, 0), (4, 4, 10, 10))
    updates = run(services, picture=save(tmp_path, picture), mode="damage", missing="black", scale=1)
    assert "Damaged again as described, the result differs" in shown(updates, "facts")
    lost = np.zeros((16, 24), dtype=bool)
    lost[4:10, 4:10] = True
    result = Image.open(shown(updates, "path")).convert("RGB")
    gap = (np.asarray(result, dtype=float) - np.asarray(picture, dtype=float))[~lost]
    levels = max(np.sqrt(np.square(gap).mean()), 255 / 10 ** (99 / 20))
    assert f"from your picture by {enlarge_result.write_levels(20 * np.log10(255 / levels))}" in shown(updates, "facts")


def test_agreement_is_told_in_levels() -> None:
    assert enlarge_result.write_levels(48.13) == "1.0" and enlarge_result.write_levels(99) == "less than 0.1"


def test_examples_are_requests_and_their_pictures_are_drawn_by_us() -> None:
    document = tab.load_examples()
    assert {row.get("mode", "faithful") for row in document["examples"]} == set(enlarge_inputs.MODES)
    for row in document["examples"]:
        values = {**tab.on_example(row), "backend": "storybook"}
        request, _ = enlarge_inputs.to_request(values)
        assert request.picture is not None and max(request.picture.size) <= 168
    for name, seed in document["seeds"].items():
        scene = sample_scene(seed)
        assert not is_held_out(scene)
        if name in ("icon.png", "crown.png"):
            kept = Image.open(tab.PICTURES / name).convert("RGB")
            drawn = Image.fromarray(render(scene).rgb).resize(kept.size, Image.Resampling.BICUBIC)
            # Drawing programs of other machines round edges differently by a level or two.
            assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(kept, dtype=int)).mean() < 1
    assert {row["picture"] for row in document["examples"]} == {path.name for path in tab.PICTURES.iterdir()}


def test_how_it_works_has_all_its_parts() -> None:
    text = tab.EXPLANATION.read_text("utf-8")
    assert all(part in text for part in ("$$", "arXiv", "**What to try.**", "**Where it fails.**", "agreement"))
    assert all(f"**{title}**" in text for title, *_ in enlarge_inputs.MODES.values())


def test_a_real_client_enlarges_and_is_told_what_is_wrong(visitor: Callable[[], Client], tmp_path: Path) -> None:
    client = visitor()
    values = {**VALUES, "picture": handle_file(CROWN)}
    outputs = client.predict(**values, api_name="/super_resolution")
    pairs = [value for value in (find_value(output) for output in outputs) if isinstance(value, list | tuple)]
    assert Image.open(next(pair for pair in pairs if len(pair) == 2)[1]).size == (144, 144)
    with pytest.raises(AppError, match="Scale 9 is too high"):
        client.predict(**{**values, "scale": 9}, api_name="/super_resolution")
    (tmp_path / "broken.png").write_bytes(b"junk")
    with pytest.raises(AppError, match="cannot be read as a picture"):
        client.predict(path=handle_file(str(tmp_path / "broken.png")), api_name="/enlarge_upload")


def find_value(output: Any) -> Any:
    """What an output shows, updated or not."""
    return output["value"] if isinstance(output, dict) and "value" in output else output
