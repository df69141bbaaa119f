"""The drag tab's handlers as plain functions on a tiny pipeline: draw, drag, stop, upload, restore, every bad input."""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageDraw

from pipelines import DragPair, DragProgress, DragRequest, UserError, read_drag_settings, to_python, write_mask
from tabs import TABS, drag_inputs, drag_picture, drag_result, style_prompting, text_to_image
from tabs import drag_editing as tab
from tabs.drag_picture import Source
from tabs.shown import DRAG_TAB, on_copy, on_drag, on_reuse_seed, on_use_as_style
from tabs.wiring import Services
from training.world.render import render
from training.world.scene import is_held_out, sample_scene

STAR = tab.PICTURES / "star_and_heart.png"
PAIR = {"handle_x": 136, "handle_y": 190, "target_x": 100, "target_y": 190}
SMALL = {"handle_x": 20, "handle_y": 30, "target_x": 40, "target_y": 30}
ROW = {"picture": STAR.name, "prompt": "a pink star", "alt": "a star", "pairs": [PAIR]}
SOURCE = tab.read_row(ROW)[1]
VALUES: dict[str, Any] = {
    **drag_inputs.to_widgets(DragRequest(prompt="a pink star", seed=5, num_steps=4)),
    "points": tab.show_row(ROW),
    "source": SOURCE,
    "backend": "storybook",
}


def run(services: Services, **changes: Any) -> list[dict[str, Any]]:
    return list(tab.on_run(services, **{**VALUES, **changes}))


def ask(**changes: Any) -> DragRequest:
    values = {**VALUES, **changes}
    return drag_inputs.to_request(values, values["source"])


def shown(updates: list[dict[str, Any]], name: str) -> Any:
    return [update[name] for update in updates if name in update][-1]


def mark(**changes: Any) -> dict[str, Any]:
    """The canvas with something else set on it."""
    return {**VALUES["points"], **changes}


def paint(*box: int) -> str:
    """A mask that frees one rectangle."""
    mask = Image.new("L", (256, 256))
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return write_mask(mask)


def test_a_run_shows_the_handles_on_their_way_then_before_and_after(services: Services) -> None:
    updates = run(services)
    travels = [update["travel"].value for update in updates if "travel" in update and update["travel"].visible]
    # The tiny model draws at a quarter of the size: the border between two pixels stays where it is.
    assert 'x1="34.1" y1="47.6" x2="25.1" y2="47.6"' in travels[0] and "9 px to go" in travels[0]
    assert not shown(updates, "travel").visible
    pair = shown(updates, "pair")
    assert pair.visible and pair.label == "a pink star, dragged by one pair"
    path = shown(updates, "path")
    before, after = pair.value[0]["path"], Image.open(path)
    assert after.size == (64, 64) and after.tobytes() != Image.open(before).tobytes()
    assert "was resized to 64 px" in shown(updates, "notes") or shown(updates, "shown").pairs == ask().pairs
    assert "Done in" in shown(updates, "status") and shown(updates, "trace") is None
    assert "Distance" in shown(updates, "facts") and "dB" in shown(updates, "facts")
    assert len(shown(updates, "sketches").value) == 2
    assert "storybook" in shown(updates, "badge") and shown(updates, "kept") is None


def test_every_control_reaches_the_request() -> None:
    plain = ask()
    assert plain.pairs == (DragPair(136, 190, 100, 190),) and plain.picture == SOURCE.picture
    for name, option, spec in drag_inputs.list_options():
        values = {**VALUES, "technique": name}
        widget = drag_inputs.option_key(name, option)
        given = values[widget]
        ends = spec.options if hasattr(spec, "options") else (spec.low, spec.high)
        other = next(end for end in ends if end != given)
        assert ask(technique=name, **{widget: other}).techniques[name][option] == other
    changes = {"prompt": "a star", "pull": "move", "fit": True, "num_steps": 5, "seed": "6", "technique": "drag_noise"}
    for widget, value in {**changes, "points": mark(mask=paint(80, 140, 220, 230))}.items():
        assert ask(**{widget: value}) != plain, widget


def test_a_stop_keeps_the_best_state(services: Services) -> None:
    stream = tab.on_run(services, **{**VALUES, "num_steps": 20})
    kept = None
    while kept is None:
        kept = next(stream).get("kept")
    stream.close()
    assert not services.models.get("storybook").lock.locked()
    updates = tab.on_stop(trace=(1, 20), kept=kept)
    assert "px to go; the best picture so far stays" in updates["stopped"]
    assert updates["pair"].visible and updates["download"].interactive and updates["kept"] is None
    assert not updates["copy"].interactive and updates["drag"].interactive and updates["shown"] == kept.request
    with Image.open(updates["path"]) as picture:
        assert picture.tobytes() == kept.state.tobytes()
    assert "before anything was pulled" in tab.on_stop(trace=(0, 4), kept=None)["stopped"]
    assert tab.on_stop(trace=None, kept=None) == {"trace": None}


def test_a_picture_is_drawn_and_then_dragged_as_one_run_would(services: Services) -> None:
    updates = list(tab.on_draw(services, prompt="a red boat", seed="3", backend="storybook", points=None))
    assert not updates[0]["pair"].visible
    source, points = shown(updates, "source"), shown(updates, "points")
    assert source.picture.size == (points["width"], points["height"]) == (64, 64)
    assert points["alt"] == "Picture to be dragged: a red boat" and points["pairs"] == []
    picture = Image.open(io.BytesIO(b64decode(points["picture"].partition(",")[2])))
    assert picture.size == (64, 64)
    previews = [update["points"] for update in updates if "points" in update][:-1]
    assert previews and not any(preview["key"] for preview in previews)
    same = {"prompt": "a red boat", "seed": "3", "source": source, "points": {**points, "pairs": [SMALL]}}
    after = shown(run(services, **same), "path")
    request, is_drawn = read_drag_settings(after)
    assert is_drawn and request.picture is None and request.seed == 3
    from pipelines import drag_stream

    *_, whole = drag_stream(request, services.models)
    assert whole.original.tobytes() == source.picture.tobytes()
    assert whole.image.tobytes() == Image.open(after).tobytes()
    changed = shown(run(services, **{**same, "seed": "4"}), "path")
    assert read_drag_settings(changed)[1] is False


def test_points_without_picture_have_it_drawn_by_the_run(services: Services) -> None:
    points = drag_inputs.wait_for_picture(ask(points=mark(pairs=[SMALL])))
    assert points["picture"] == "" and points["pairs"] == [SMALL]
    updates = run(services, source=Source(), points=points)
    assert shown(updates, "points")["pairs"] == [SMALL] and shown(updates, "source").drawn
    assert "Drawing the picture" in str([update.get("status") for update in updates])
    assert shown(updates, "pair").visible


def test_a_dropped_png_brings_points_mask_and_settings_back(services: Services) -> None:
    first = run(services, points=mark(mask=paint(60, 140, 220, 230)), technique="fast_drag", fast_drag_strength=0.5)
    path = shown(first, "download").value["path"]
    restored = tab.on_restore(dropped=path)
    assert "upload its picture again" in restored["status"] and restored["source"] == Source()
    assert restored["fast_drag_strength"] == 0.5 and restored["points"]["pairs"] == [PAIR]
    source, placed = drag_picture.place_picture(str(STAR), "storybook", restored["points"])
    assert placed["points"]["mask"] == restored["points"]["mask"] == paint(60, 140, 220, 230)
    values = {name: restored[name] for name in VALUES if name in restored and name not in ("points", "source")}
    again = run(services, **values, source=source, points=placed["points"])
    assert Image.open(shown(again, "path")).tobytes() == Image.open(path).tobytes()
    assert tab.on_restore(dropped=None) == {}
    with pytest.raises(UserError, match="drawn in the tab Drag editing"):
        text_to_image.on_restore(dropped=path)


def test_an_upload_is_fitted_and_its_points_are_px_of_what_is_shown(tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.linear_gradient("L").resize((400, 300)).convert("RGBA").save(wide)
    updates = tab.on_uploaded(path=str(wide), backend="storybook", points=VALUES["points"])
    assert "middle square" in updates["picture_notes"] and updates["prompt"] == ""
    assert (updates["points"]["width"], updates["points"]["height"]) == updates["source"].picture.size == (256, 256)
    assert updates["points"]["pairs"] == [] and not updates["pair"].visible
    assert tab.on_uploaded(path=None, backend="storybook", points={}) == {}


def test_a_picture_is_sent_with_its_words() -> None:
    request = ask()
    sent = on_drag(path=str(STAR), shown=request, sent={"tab": "", "path": "", "count": 3})["sent"]
    assert sent == {"tab": tab.NAME, "path": str(STAR), "count": 4, "prompt": "a pink star"}
    updates = tab.on_sent(sent=sent, backend="storybook")
    assert updates["prompt"] == "a pink star" and updates["source"].picture.tobytes() == SOURCE.picture.tobytes()  # type: ignore[union-attr]
    assert tab.on_sent(sent={**sent, "tab": "elsewhere"}, backend="storybook") == {}
    assert on_use_as_style(path=str(STAR), sent=sent)["sent"]["tab"] == style_prompting.NAME
    assert DRAG_TAB in [module.NAME for module in TABS]


def test_settings_become_code_and_seed() -> None:
    request = replace(ask(), mask=Image.new("L", (256, 256)))
    code = to_python(request)
    compile(code, "copied", "exec")
    assert "DragPair(handle_x=136" in code and 'Image.open("picture.png")' in code and 'Image.open("mask.png")' in code
    assert on_copy(shown=request)["python"].visible and on_reuse_seed(shown=request) == {"seed": "5"}


def test_the_way_of_a_handle_is_drawn_in_px_of_the_picture() -> None:
    request = ask(points=mark(pairs=[PAIR, {**PAIR, "handle_y": 60, "target_y": 60}]))
    state = Image.new("RGB", (256, 256))
    progress = DragProgress(0, 4, handles=((120.0, 189.0), (100.0, 60.0)), left_px=10.2, state=state)
    drawn = drag_result.draw_travel(progress, request)
    assert 'viewBox="0 0 256 256"' in drawn and 'cx="120.5" cy="189.5"' in drawn and ">2</text>" in drawn
    assert 'aria-label="Unfinished picture, 10 px to go: a pink star"' in drawn
    step = drag_result.show_step(progress, request=request)
    assert "10 px to go" in step["status"] and step["kept"].left_px == 10.2


def test_only_the_chosen_method_shows_its_controls() -> None:
    groups = drag_inputs.on_technique_changed(technique="drag_noise")
    assert {name for name, group in groups.items() if group.visible} == {"drag_noise", "drag_noise options"}


MANY = [{**PAIR, "handle_y": 20 + index, "target_y": 20 + index} for index in range(17)]
BAD = (
    ({"points": mark(pairs=[])}, "There is no pair yet"),
    ({"points": None, "source": Source()}, "There is no picture and no pair yet"),
    ({"points": mark(pairs=[PAIR, {"handle_x": 3, "handle_y": 4}])}, "Handle 2 has no target yet"),
    ({"points": mark(pairs=[{**PAIR, "target_x": 136}])}, "the same place"),
    ({"points": mark(pairs=[{**PAIR, "handle_x": 300}])}, "outside the picture"),
    ({"points": mark(pairs=[{**PAIR, "handle_x": "a"}])}, "unknown form"),
    ({"points": mark(pairs="all")}, "unknown form"),
    ({"points": mark(pairs=MANY)}, "There are 17 pairs; use at most 16"),
    ({"points": mark(mask=paint(0, 0, 30, 30))}, "outside the mask"),
    ({"points": mark(mask=paint(0, 0, 255, 255))}, "covers everything"),
    ({"points": mark(mask=paint(300, 300, 301, 301))}, "marks nothing"),
    ({"points": mark(mask="data:image/png;base64,AAAA")}, "The mask cannot be read"),
    ({"points": mark(mask=["a"])}, "The mask cannot be read"),
    ({"points": mark(key="another")}, "no longer here"),
    ({"technique": "magic"}, "'magic' is not known"),
    ({"pull": "up"}, "Pull 'up' is not known"),
    ({"fast_drag_strength": 3}, "Strength 3 is too high"),
    ({"seed": "seven"}, "Seed must be a number"),
    ({"num_steps": 1}, "Steps 1 is too low"),
    ({"prompt": 7}, "must be text"),
)


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_a_bad_input_gets_one_sentence(services: Services, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        run(services, **changes)
    assert "\n" not in str(caught.value)


def test_a_mask_of_another_size_gets_one_sentence(services: Services) -> None:
    with pytest.raises(UserError, match="mask") as caught:
        run(services, points=mark(mask=write_mask(Image.new("L", (64, 64), 255))))
    assert "\n" not in str(caught.value)


def test_a_corrupt_upload_gets_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(STAR.read_bytes()[:3000])
    with pytest.raises(UserError, match="is damaged"):
        tab.on_uploaded(path=str(broken), backend="storybook", points={})


def test_examples_are_requests_that_run_offline() -> None:
    rows = tab.load_examples()["examples"]
    assert len(rows) >= 4 and any(len(row["pairs"]) > 1 for row in rows)
    for row in rows:
        updates = tab.on_example(row, backend="storybook")
        values = {**updates, "backend": "storybook"}
        request = drag_inputs.to_request(values, updates["source"])
        assert request.pairs and (request.picture is None) is ("picture" not in row)
        assert request.picture is not None or request.prompt


def test_the_pictures_of_the_examples_are_scenes_of_the_world() -> None:
    document = tab.load_examples()
    for name, seed in document["seeds"].items():
        scene = sample_scene(seed)
        assert not is_held_out(scene)
        # Drawing programs of other machines round edges differently by a level or two.
        assert abs(render(scene).rgb.astype(int) - Image.open(tab.PICTURES / name).convert("RGB")).mean() < 1


def test_how_it_works_has_all_its_parts() -> None:
    text = tab.EXPLANATION.read_text("utf-8")
    assert all(part in text for part in ("$$", "arXiv", "**What to try.**", "**Where it fails.**", "inversion error"))


def test_visitors_keep_their_own_pictures_and_points(page: gr.Blocks, visitor: Callable[[], Client]) -> None:
    ada, bob = visitor(), visitor()
    fields = ada.view_api(return_format="dict", print_info=False)["named_endpoints"]["/drag_editing"]
    names = [field["parameter_name"] for field in fields["parameters"]]
    values = {name: VALUES[name] for name in names} | {"points": {"pairs": [PAIR]}}
    bob.predict(
        path=handle_file(str(tab.PICTURES / "house.png")), backend="storybook", points={}, api_name="/drag_upload"
    )
    jobs = [client.submit(**values, api_name="/drag_editing") for client in (ada, bob)]
    befores = [find_before(job.result()) for job in jobs]
    start = Image.open(tab.PICTURES / tab.load_examples()["start"]["picture"]).convert("RGB")
    house = Image.open(tab.PICTURES / "house.png").convert("RGB")
    for before, picture in zip(befores, (start, house)):
        small = picture.resize(before.size, Image.Resampling.LANCZOS)
        assert before.tobytes() == small.tobytes()
    with pytest.raises(AppError, match="There is no pair yet"):
        ada.predict(**{**values, "points": {"pairs": []}}, api_name="/drag_editing")


def find_before(outputs: Any) -> Image.Image:
    """The left picture of the slider, which is the only output with two."""
    values = [output["value"] if isinstance(output, dict) and "value" in output else output for output in outputs]
    before = next(value[0] for value in values if isinstance(value, list | tuple) and len(value) == 2)
    return Image.open(before).convert("RGB")
