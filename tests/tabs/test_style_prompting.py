"""The style tab's handlers as plain functions on a tiny pipeline: run, compare, blend, extend, and every bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from pipelines import StyleRequest, UserError, read_style_settings, to_python, validate
from tabs import TABS, style_inputs, text_to_image
from tabs import style_prompting as tab
from tabs.shown import STYLE_TAB, on_copy, on_reuse_seed, on_use_as_style
from tabs.wiring import Services
from training.world.render import render
from training.world.scene import is_held_out, sample_scene

STYLES = style_inputs.list_styles()
FIRST, SECOND = str(STYLES[0].path), str(STYLES[1].path)
VALUES: dict[str, Any] = {
    **style_inputs.to_widgets(
        StyleRequest("a red boat", seed=5, num_steps=2, num_images=2, guidance_scale=4.0, sampler="ddim")
    ),
    "reference": FIRST,
    "second": None,
    "technique": "visual_style",
    "backend": "storybook",
}


def run(services: Services, handler: Any = tab.on_generate, **changes: Any) -> list[dict[str, Any]]:
    return list(handler(services, **{**VALUES, **changes}))


def shown(updates: list[dict[str, Any]], name: str) -> Any:
    return [update[name] for update in updates if name in update][-1]


def pictures(updates: list[dict[str, Any]], index: int = 0) -> list[bytes]:
    """The pixels of one row."""
    paths = [item["image"]["path"] for item in shown(updates, f"images_{index}").value]
    return [Image.open(path).convert("RGB").tobytes() for path in paths]


def visible(updates: list[dict[str, Any]]) -> list[bool]:
    return [shown(updates, f"arm_{index}").visible for index in range(3)]


def test_a_run_shows_the_style_picture_beside_what_was_drawn(services: Services) -> None:
    updates = run(services)
    assert "Done in" in shown(updates, "status") and "step 2/2" in str([update.get("status") for update in updates])
    assert visible(updates) == [True, False, False] and shown(updates, "sheet").visible
    assert not shown(updates, "picture").visible and not shown(updates, "title_0").visible
    first, second = pictures(updates)
    assert first != second
    assert [item["caption"] for item in shown(updates, "images_0").value] == [
        "a red boat; Visual Style Prompting, seed 5",
        "a red boat; Visual Style Prompting, seed 6",
    ]
    assert [caption for _, caption in shown(updates, "references")] == ["Style picture"]
    facts = shown(updates, "facts")
    assert "Inversion error of the style picture" in facts and " dB" in facts and "Colours away" in facts
    assert len(shown(updates, "sketches").value) == 3
    assert shown(updates, "trace") is None and "storybook" in shown(updates, "badge")


def test_compare_shows_three_rows_with_their_numbers(services: Services) -> None:
    updates = run(services, tab.on_compare)
    assert visible(updates) == [True, True, True]
    titles = [shown(updates, f"title_{index}") for index in range(3)]
    names = ("Words only", "StyleAligned", "Visual Style Prompting")
    assert all(title.visible and name in title.value for title, name in zip(titles, names))
    assert all("Colours away from the style picture" in title.value for title in titles)
    rows = [pictures(updates, index) for index in range(3)]
    assert len({row[0] for row in rows}) == 3 and rows[2] == pictures(run(services))
    assert 'class="fact measure"' not in shown(updates, "facts")


def test_each_row_of_a_comparison_holds_the_settings_that_drew_it(services: Services) -> None:
    updates = run(services, tab.on_compare)
    saved = [shown(updates, f"images_{index}").value[1]["image"]["path"] for index in range(3)]
    requests = [read_style_settings(path) for path in saved]
    assert [list(request.techniques) for request in requests] == [[], ["style_aligned"], ["visual_style"]]
    assert all(request.seed == 6 and request.num_images == 1 and not request.compare for request in requests)


def test_every_control_reaches_the_request() -> None:
    """What an option does to the pictures is measured with the techniques."""
    both = {**VALUES, "second": SECOND}
    plain, _ = style_inputs.to_request(both, is_compared=False)
    for name, option, spec in style_inputs.list_options():
        values = {**both, "technique": name}
        widget = style_inputs.option_key(name, option)
        given = (
            not values[widget]
            if isinstance(values[widget], bool)
            else (spec.low, spec.high)[values[widget] == spec.low]
        )
        request, _ = style_inputs.to_request({**values, widget: given}, is_compared=False)
        assert request.techniques[name][option] == given != values[widget], widget
    changes = {
        "technique": "style_aligned",
        "read_by": "inversion",
        "extend": "left",
        "negative_prompt": "fog",
        "seed": "6",
    }
    changes |= {"num_steps": 3, "guidance_scale": 1.0, "sampler": "unipc", "num_images": 1, "second_prompt": "a star"}
    for widget, value in changes.items():
        assert style_inputs.to_request({**both, widget: value}, is_compared=False)[0] != plain, widget


def test_a_second_style_is_blended_also_across_the_picture(services: Services) -> None:
    both = {"second": SECOND}
    ways = ({"visual_style_blend": 0.0}, {"visual_style_blend": 0.5}, {"visual_style_is_across": True})
    every = [run(services, **both, num_images=1, **way) for way in ways]
    assert len({pictures(updates)[0] for updates in every}) == 3
    assert pictures(every[0])[0] == pictures(run(services))[0]
    updates = every[1]
    assert [caption for _, caption in shown(updates, "references")] == ["Style picture", "Second style picture"]
    assert "Inversion error of the second one" in shown(updates, "facts")


def test_the_blend_shows_only_while_there_is_something_to_blend_with() -> None:
    for second, words, is_shown in ((None, "", False), (SECOND, "", True), (None, "a star", True), (None, " ", False)):
        assert tab_visible(style_inputs.on_second_changed(second=second, second_prompt=words)) == [is_shown]
    values = {**VALUES, "second": None, "visual_style_blend": 0.7}
    request, _ = style_inputs.to_request(values, is_compared=False)
    assert "blend" not in request.techniques["visual_style"]


def tab_visible(updates: dict[str, Any]) -> list[bool]:
    return [update.visible for update in updates.values()]


def test_only_the_controls_of_the_chosen_technique_show() -> None:
    groups = style_inputs.on_technique_changed(technique="style_aligned")
    assert {name for name, group in groups.items() if group.visible} == {"style_aligned folded"}
    assert len(groups) == 3


def test_an_extension_is_wide_and_keeps_the_picture(services: Services) -> None:
    updates = run(services, extend="both", num_images=1)
    path = shown(updates, "images_0").value[0]["image"]["path"]
    with Image.open(path) as drawn:
        assert drawn.width == 3 * drawn.height
    assert shown(updates, "images_0").columns == 1


def test_words_for_a_style_picture_win_over_a_picture(services: Services) -> None:
    updates = run(services, reference_prompt="a blue star")
    (_, caption), *rest = shown(updates, "references")
    assert caption == "Style picture, drawn: a blue star" and not rest
    assert shown(updates, "shown").reference is None
    assert "drawing the style picture" in str([update.get("status") for update in updates])


def test_what_is_kept_of_an_upload_is_what_the_model_saw(services: Services) -> None:
    request = shown(run(services, reference_prompt="a blue star", second=SECOND), "shown")
    side = services.models.get("storybook").spec.image_px
    assert request.reference is None and request.second.size == (side, side)
    code = to_python(request)
    compile(code, "copied", "exec")
    assert 'Image.open("second.png")' in code and "reference=" not in code
    copied = on_copy(shown=request)["python"]
    assert copied.visible and copied.value == code.strip()
    assert on_reuse_seed(shown=request) == {"seed": "5"}


def test_a_stopped_run_leaves_the_model_free(services: Services) -> None:
    stream = tab.on_compare(services, **VALUES)
    while (next(stream).get("trace") or (0, 0))[0] == 0:
        pass
    stream.close()
    assert tab.on_stop(trace=(1, 6))["stopped"]
    assert not services.models.get("storybook").lock.locked()
    assert "Done in" in shown(run(services), "status")


def test_picking_an_example_clears_the_words() -> None:
    updates = style_inputs.on_shelf("reference", 2)
    assert updates["reference_prompt"] == "" and updates["reference_shelf"].selected_index == 2
    assert updates["reference"].tobytes() == STYLES[2].open().tobytes()


def save(folder: Path, name: str, picture: Image.Image, **options: Any) -> str:
    picture.save(folder / name, **options)
    return str(folder / name)


def test_an_upload_is_looked_at_before_the_run_and_its_notes_come_along(services: Services, tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (80, 60), colour) for colour in ((255, 0, 0, 90), (0, 0, 255, 90))]
    odd = save(tmp_path, "odd.png", frames[0], save_all=True, append_images=frames[1:])
    updates = style_inputs.on_uploaded("reference", path=odd)
    assert "transparent" in updates["reference_notes"] and "animated" in updates["reference_notes"]
    assert updates["reference_shelf"].selected_index is None and updates["reference_prompt"] == ""
    grey = save(tmp_path, "grey.png", Image.new("L", (64, 64), 90))
    notes = shown(run(services, reference=odd, second=grey), "notes")
    assert "transparent" in notes and "no colours" in notes
    assert style_inputs.on_uploaded("second", path=None)["second_notes"] == ""
    assert style_inputs.on_refused("second")["second"] is None


def make_bad_files(folder: Path) -> dict[str, str]:
    """Write the uploads that cannot be used, by the sentence that each gets."""
    broken, words = folder / "broken.png", folder / "words.png"
    broken.write_bytes(STYLES[0].path.read_bytes()[:3000])
    words.write_bytes(b"not a picture")
    return {
        "which is too small": save(folder, "tiny.png", Image.new("RGB", (8, 8))),
        "at most 16 megapixels": save(folder, "huge.png", Image.new("1", (6000, 3000))),
        "which is too long": save(folder, "long.png", Image.new("RGB", (2000, 40))),
        "is damaged": str(broken),
        "cannot be read as a picture": str(words),
        "no longer here": str(folder / "gone.png"),
    }


def test_a_reference_that_cannot_be_used_gets_one_sentence(services: Services, tmp_path: Path) -> None:
    for sentence, path in make_bad_files(tmp_path).items():
        with pytest.raises(UserError, match=sentence) as caught:
            run(services, second=path)
        with pytest.raises(UserError, match=sentence):
            style_inputs.on_uploaded("second", path=path)
        assert "\n" not in str(caught.value)


BAD = (
    ({"prompt": " "}, "The prompt is empty"),
    ({"prompt": "qwx zzy"}, "knows no word"),
    ({"reference": None}, "There is no style picture"),
    ({"reference": None, "reference_prompt": 7}, "must be text"),
    ({"visual_style_strength": 3}, "Strength 3 is too high"),
    ({"visual_style_depth": 0}, "Depth 0 is too low"),
    ({"technique": "magic"}, "Technique 'magic' is not known"),
    ({"extend": "up"}, "Extend 'up' is not known"),
    ({"num_images": 9}, "Pictures 9 is too high"),
    ({"seed": "seven"}, "Seed must be a number"),
    ({"backend": "dalle"}, "Backend 'dalle' is not known"),
)


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[str(next(iter(row[0].items())))[:40] for row in BAD])
def test_a_bad_input_gets_one_sentence(services: Services, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        run(services, **changes)
    assert "\n" not in str(caught.value)


def test_a_dropped_png_brings_all_settings_back_but_the_picture(services: Services) -> None:
    first = run(services, visual_style_depth=2, extend="left", num_images=1)
    path = shown(first, "download").value["path"]
    restored = tab.on_restore(dropped=path)
    del restored["status"], restored["stopped"]
    assert restored["visual_style_depth"] == 2 and restored["extend"] == "left" and "reference" not in restored
    assert pictures(run(services, **restored)) == pictures(first)
    assert tab.on_restore(dropped=None) == {}
    with pytest.raises(UserError, match="drawn in the tab Style prompting"):
        text_to_image.on_restore(dropped=path)


def test_a_picture_of_the_first_tab_becomes_the_style_picture() -> None:
    sent = on_use_as_style(path=FIRST, sent={"tab": "", "path": "", "count": 3})["sent"]
    assert sent == {"tab": tab.NAME, "path": FIRST, "count": 4}
    updates = tab.on_sent(sent=sent)
    assert updates["reference"] == FIRST and updates["reference_prompt"] == ""
    assert tab.on_sent(sent={**sent, "tab": "elsewhere"}) == {}
    assert on_use_as_style(path=SECOND, sent=sent)["sent"]["count"] == 5
    assert STYLE_TAB in [module.NAME for module in TABS]


def test_examples_are_requests_that_run_offline() -> None:
    rows = tab.load_examples()["examples"]
    assert len(rows) >= 4
    for row in rows:
        values = tab.on_example(row)
        request = validate(StyleRequest(**{name: row[name] for name in row if name not in tab.ROW_KEYS}))
        assert values["prompt"] == request.prompt and "backend" not in values
        assert (values["reference"] is None) is ("style" not in row) is bool(request.reference_prompt)
        assert (values["second"] is None) is ("second_style" not in row) is not values["second_fold"].open
    assert any(row.get("extend", "no") != "no" for row in rows)
    assert any(row.get("techniques", {}).get("visual_style", {}).get("is_across") for row in rows)


def test_the_shelf_holds_one_picture_of_every_style_as_its_seed_draws_it() -> None:
    rows = style_inputs.json.loads(style_inputs.LISTING.read_text("utf-8"))["styles"]
    for row, style in zip(rows, STYLES):
        scene = sample_scene(row["seed"])
        assert scene.style == style.name and not is_held_out(scene)
        assert style.path.stat().st_size < 40_000 and style.alt.startswith(style.name)
        assert all(thing.kind in style.alt for thing in scene.objects)
        # Drawing programs of other machines round edges differently by a level or two.
        difference = abs(render(scene).rgb.astype(int) - style_inputs.Image.open(style.path).convert("RGB"))
        assert difference.mean() < 1
    assert len({style.name for style in STYLES}) == 8


def test_how_it_works_has_all_its_parts() -> None:
    text = tab.EXPLANATION.read_text("utf-8")
    assert all(part in text for part in ("$$", "arXiv", "**What to try.**", "**Where it fails.**", "inversion error"))


def test_a_visitor_draws_compares_and_is_told_what_is_wrong(page: gr.Blocks, visitor: Callable[[], Client]) -> None:
    client = visitor()
    fields = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/style_prompting"]
    names = [field["parameter_name"] for field in fields["parameters"]]
    values = {**{name: VALUES[name] for name in names}, "reference": handle_file(FIRST)}
    done = client.submit(**values, api_name="/style_prompting").result()
    assert "Done in" in str(done)
    with pytest.raises(AppError, match="There is no style picture"):
        client.predict(**{**values, "reference": None}, api_name="/style_prompting")
