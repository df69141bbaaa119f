"""The low-light tab's handlers as plain functions on tiny networks: run, compare, stop, burst, darken, bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from pipelines import LowLightRequest, UserError, read_low_light_settings, specs, to_python
from pipelines.networks import Networks
from tabs import TABS, light_inputs, light_result
from tabs import low_light as tab
from tabs.shown import LIGHT_TAB, on_light
from tabs.wiring import Services
from tests.pictures import make_ramp
from tests.tabs.test_super_resolution import make_bomb, make_odd, save, shown

DUCK = str(tab.PICTURES / "duck.png")
VALUES: dict[str, Any] = {
    "picture": DUCK,
    "burst": None,
    "truth": "",
    **light_inputs.to_widgets(LowLightRequest(method="lime", seed=5)),
    "backend": "storybook",
}
DARKENING: dict[str, Any] = {"light_frac": 0.1, "grain": 0.5, "lamps": 0, "seed": "3"}


def run(services: Services, **changes: Any) -> list[dict[str, Any]]:
    return list(tab.on_run(services, **{**VALUES, **changes}))


def make_dark(folder: Path, size: tuple[int, int] = (40, 30), name: str = "dark.png") -> str:
    return save(folder, make_ramp(*size).point(lambda level: level // 5), name)


def test_a_run_shows_a_first_view_then_slider_histogram_and_numbers(services: Services, tmp_path: Path) -> None:
    updates = run(services, picture=make_dark(tmp_path), method="diffusion", detail_frac=0.5)
    lives = [update["live"].value for update in updates if "live" in update and update["live"].visible]
    assert any("Unfinished picture, first view" in live for live in lives)
    pair, path = shown(updates, "pair"), shown(updates, "path")
    assert pair.visible and "40 x 30 px, lit by Diffusion" in pair.label
    assert Image.open(path).size == (40, 30)
    place = shown(updates, "loupe")
    assert (place["width"], place["left"], place["right"], place["is_small"]) == (40, "Before", "After", True)
    assert "<svg" in shown(updates, "chart") and "was added" in shown(updates, "facts")
    assert "Done in" in shown(updates, "status") and shown(updates, "trace") is None
    assert shown(updates, "view").visible and shown(updates, "reuse").interactive
    assert "Brightness after each pass" in shown(updates, "notes")


def test_the_slider_shows_three_pairs(services: Services) -> None:
    updates = run(services)
    arm = shown(updates, "arm")
    seen = {name: tab.on_view(view=name, arm=arm) for name in light_result.VIEWS}
    paths = [tuple(side["path"] for side in view["pair"].value) for view in seen.values()]
    assert len({side for pair in paths for side in pair}) == 4 and paths[2][0] == paths[0][1]
    assert seen["added"]["loupe"]["right"] == "Added" and len({view["loupe"]["key"] for view in seen.values()}) == 3
    assert tab.on_view(view="added", arm=None) == {}


def test_every_control_reaches_the_request() -> None:
    described = specs(LowLightRequest)
    plain, _ = light_inputs.to_request(VALUES)
    assert plain.picture is not None and plain.picture.size == (256, 256)
    for name in (*light_inputs.PLAIN, "seed"):
        spec: Any = described[name]
        ends = spec.options if hasattr(spec, "options") else (spec.low, spec.high) if hasattr(spec, "low") else (True,)
        other = next(end for end in ends if end != getattr(plain, name))
        changed, _ = light_inputs.to_request({**VALUES, name: str(other) if name == "seed" else other})
        assert getattr(changed, name) == other, name
    assert set(light_inputs.METHODS) == set(described["method"].options)  # type: ignore[union-attr]


@pytest.mark.parametrize("method", list(light_inputs.METHODS))
def test_a_method_shows_what_it_can_be_told_and_its_png_brings_it_back(
    services: Services, tmp_path: Path, method: str
) -> None:
    changed = light_inputs.on_method_changed(method=method)
    seen = {name.removesuffix(" group") for name, group in changed.items() if name != "about" and group.visible}
    assert seen == set(light_inputs.OPTIONS[method]) and escape(light_inputs.METHODS[method][1]) in changed["about"]
    updates = run(services, picture=make_dark(tmp_path), method=method, brightness=0.3)
    path = shown(updates, "path")
    restored = tab.on_restore(dropped=path)
    asked = light_inputs.to_request({**VALUES, "method": method, "brightness": 0.3})[0]
    expected = replace(asked, picture=None)
    assert read_low_light_settings(path) == expected and restored["method"] == method and restored["brightness"] == 0.3
    code = to_python(expected)
    assert "low_light_stream(request" in code and 'picture=Image.open("picture.png")' in code
    compile(to_python(asked), "copied", "exec")


def test_all_methods_are_compared_and_a_click_puts_one_on_the_stage(services: Services, tmp_path: Path) -> None:
    updates = list(tab.on_compare(services, **{**VALUES, "picture": make_dark(tmp_path)}))
    arms = shown(updates, "arms")
    captions = [picture["caption"] for picture in shown(updates, "sketches").value]
    assert len(arms) == 4 and {text.split(",")[0] for text in captions} == {
        title for title, *_ in light_inputs.METHODS.values()
    }
    chosen = tab.on_arm(arms=arms, index=0)
    assert chosen["path"] != shown(updates, "path") and chosen["shown"].method == arms[0].request.method != "lime"
    assert read_low_light_settings(chosen["path"]).method == arms[0].request.method


def test_a_stop_keeps_the_first_view(services: Services, tmp_path: Path) -> None:
    stream = tab.on_run(services, **{**VALUES, "picture": make_dark(tmp_path), "method": "diffusion"})
    kept = None
    while kept is None:
        update = next(stream)
        kept = update.get("kept")
    stream.close()  # type: ignore[attr-defined]
    updates = tab.on_stop(trace=update["trace"], kept=kept)
    assert "what is there stays" in updates["stopped"] and updates["pair"].visible and "Stopped" in updates["notes"]
    assert "nothing was lit yet" in tab.on_stop(trace=(0, 4), kept=None)["stopped"]
    assert tab.on_stop(trace=None, kept=None) == {}


def test_a_picture_that_is_not_dark_comes_back_and_the_page_says_so(services: Services, tmp_path: Path) -> None:
    path = save(tmp_path, make_ramp(30))
    assert "not a dark picture" in tab.on_picture(path=path)["picture_notes"]
    assert "a dark picture" in tab.on_picture(path=DUCK)["picture_notes"]
    updates = run(services, picture=path)
    assert "Not dark: the picture comes back unchanged" in shown(updates, "status")
    assert "switch on Light it anyway" in shown(updates, "notes") and "was added" not in shown(updates, "facts")
    assert Image.open(shown(updates, "path")).tobytes() == Image.open(path).tobytes()
    assert "Done in" in shown(run(services, picture=path, force=True), "status")


def test_a_picture_is_darkened_and_measured_against(services: Services, tmp_path: Path) -> None:
    path = save(tmp_path, make_ramp(48))
    darkened = tab.on_darken(picture=path, truth="", **DARKENING)
    assert darkened["truth"] == path and Image.open(darkened["picture"]).size == (48, 48)
    # Once more darkens the bright one again, not the dark one further.
    again = tab.on_darken(picture=darkened["picture"], truth=path, **DARKENING)
    assert Image.open(again["picture"]).tobytes() == Image.open(darkened["picture"]).tobytes()
    updates = run(services, picture=darkened["picture"], truth=path)
    assert "nearness to the bright original" in shown(updates, "facts")
    assert tab.on_picture(path=path)["truth"] == ""
    with pytest.raises(UserError, match="There is no picture to darken"):
        tab.on_darken(picture=None, truth="", **DARKENING)
    with pytest.raises(UserError, match="Light that is left 0 is too low"):
        tab.on_darken(picture=path, truth="", **{**DARKENING, "light_frac": 0})


def make_clip(folder: Path, count: int, name: str = "clip.webp") -> str:
    frames = [make_ramp(40, 30).point(lambda level: level // 6)] * count
    # Equal frames would be stored as one.
    different = [frame.copy() for frame in frames]
    for index, frame in enumerate(different):
        frame.putpixel((index, 0), (9, 0, 9))
    return save(folder, different[0], name, save_all=True, append_images=different[1:], lossless=True)


def test_photos_of_one_scene_or_a_clip_are_merged(services: Services, tmp_path: Path) -> None:
    clip = make_clip(tmp_path, 4)
    told = tab.on_burst(paths=[clip])
    assert "4 pictures; Run lays them on each other first" in told["burst_notes"] and told["picture"]
    assert "4 pictures were merged" in shown(run(services, burst=[clip], picture=told["picture"]), "notes")
    photos = [make_dark(tmp_path, name=f"{index}.png") for index in range(3)]
    assert "3 pictures were merged" in shown(run(services, burst=photos, picture=None), "notes")
    assert tab.on_burst(paths=None) == {"burst_notes": ""} and tab.on_burst_refused() == {"burst": None}
    assert tab.on_picture(path=DUCK)["burst"] is None


def test_a_clip_that_is_none_gets_one_sentence(services: Services, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    bad = {
        (str(tmp_path / "film.mp4"),): "cannot be read as a picture",
        (DUCK,): "one picture and no clip; choose several photos",
        (DUCK, str(tmp_path / "film.mp4")): "cannot be read as a picture",
        (DUCK, make_dark(tmp_path)): "Picture 2 has 40 x 30 px and the first one 256 x 256",
        (DUCK,) * 17: "These are 17 pictures; choose at most 16",
        (DUCK, str(tab.PICTURES / "street.png")): "Picture 2 does not show the scene of the first one",
        (make_bomb(tmp_path), DUCK): "far too many pixels",
    }
    for paths, sentence in bad.items():
        with pytest.raises(UserError, match=sentence) as caught:
            run(services, burst=list(paths))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "size", "mode", "note"),
    [
        ("grey", (24, 16), "L", ""),
        ("transparent", (24, 16), "RGBA", ""),
        ("16-bit", (24, 16), "L", ""),
        ("CMYK", (24, 16), "RGB", "CMYK"),
        ("rotated", (16, 24), "RGB", ""),
        ("1x1", (1, 1), "RGB", ""),
        ("16x4000", (16, 4000), "RGB", ""),
        ("animated", (24, 16), "RGB", "2 frames"),
    ],
)
def test_a_rare_picture_is_lit_rightly(
    services: Services, tmp_path: Path, kind: str, *, size: tuple[int, int], mode: str, note: str
) -> None:
    updates = run(services, picture=make_odd(tmp_path, kind), force=True, brightness=0.8)
    with Image.open(shown(updates, "path")) as picture:
        assert picture.size == size and picture.mode == mode
    assert note in shown(updates, "notes")


def test_a_picture_that_cannot_be_used_gets_one_sentence(services: Services, tmp_path: Path) -> None:
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
    with pytest.raises(UserError, match="black everywhere"):
        run(services, picture=save(tmp_path, Image.new("RGB", (20, 20))))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"picture": None}, "There is no picture yet"),
        ({"brightness": 0.9}, "Brightness 0.9 is too high; choose 0.02 to 0.8"),
        ({"method": "magic"}, "Method 'magic'"),
        ({"seed": "seven"}, "Seed must be a number"),
        ({"colour": None}, "Colour"),
    ],
)
def test_a_bad_input_gets_one_sentence(services: Services, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        run(services, **changes)
    assert "\n" not in str(caught.value)


def test_a_method_without_weights_says_so(services: Services, tmp_path: Path) -> None:
    store: Any = services.models.store()
    before, store._networks = store._networks, Networks(tmp_path)
    try:
        with pytest.raises(UserError, match="weights of this mode are not here; run `make train-curve-net`"):
            run(services, method="curve")
        assert "Done in" in shown(run(services, method="lime"), "status")
    finally:
        store._networks = before


def test_a_picture_is_sent_here() -> None:
    sent = on_light(path=DUCK, sent={"tab": "", "path": "", "count": 3})["sent"]
    assert sent == {"tab": LIGHT_TAB, "path": DUCK, "count": 4} and LIGHT_TAB in [entry.NAME for entry in TABS]
    assert tab.on_sent(sent=sent)["picture"] == DUCK and tab.on_sent(sent={**sent, "tab": "drag"}) == {}


def test_examples_are_requests_and_all_their_files_are_used(services: Services) -> None:
    document = tab.load_examples()
    used = set()
    for row in document["examples"]:
        request, _ = light_inputs.to_request({**tab.on_example(row), "backend": "storybook"})
        assert len(request.burst) == (8 if "clip" in row else 0)
        used |= {row[key] for key in ("picture", "clip", "truth") if key in row}
    assert used == {path.name for path in tab.PICTURES.iterdir()}
    assert {row.get("method", "diffusion") for row in document["examples"]} >= {"diffusion", "lime", "retinex"}
    clip = next(row for row in document["examples"] if "clip" in row)
    filled = tab.on_example(clip)
    merged = run(services, burst=filled["burst"], picture=filled["picture"])
    assert "8 pictures were merged" in shown(merged, "notes")


def test_the_chart_shows_both_histograms() -> None:
    chart = light_result.draw_chart((1.0, 0.0), (0.25, 0.75))
    assert chart.count("<polygon") == 2 and 'aria-label="How many pixels' in chart
    assert light_result.draw_chart((1.0, 0.0), (1.0, 0.0)).count("points") == 2


def test_how_it_works_has_all_its_parts() -> None:
    text = tab.EXPLANATION.read_text("utf-8")
    assert all(part in text for part in ("$$", "arXiv", "**What to try.**", "**Where it fails.**", "was added"))
    assert all(f"**{title}**" in text for title, *_ in light_inputs.METHODS.values())


def test_a_real_client_lights_and_is_told_what_is_wrong(visitor: Callable[[], Client], tmp_path: Path) -> None:
    client = visitor()
    # Whether the bright original is known is the page's own memory, no field of the interface.
    values = {**{name: value for name, value in VALUES.items() if name != "truth"}, "picture": handle_file(DUCK)}
    outputs = client.predict(**values, api_name="/low_light")
    pairs = [output["value"] for output in outputs if isinstance(output, dict) and "value" in output]
    pair = next(value for value in pairs if isinstance(value, list | tuple) and len(value) == 2)
    before, after = (np.asarray(Image.open(side).convert("RGB"), dtype=float).mean() for side in pair)
    assert after > 1.5 * before
    with pytest.raises(AppError, match="Brightness 9 is too high"):
        client.predict(**{**values, "brightness": 9}, api_name="/low_light")
    (tmp_path / "broken.png").write_bytes(b"junk")
    with pytest.raises(AppError, match="cannot be read as a picture"):
        client.predict(path=handle_file(str(tmp_path / "broken.png")), api_name="/light_upload")
