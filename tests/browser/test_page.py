"""What a visitor does, in headless Chromium: type, watch, stop, compare, download, drop back, with mouse and keys."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tabs.text_to_image import load_examples
from tests.browser.conftest import PATIENCE_MS, Windows

# One process for the browser, so that it shares the machine with one other test at most.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
PROMPT = "a red boat above a blue house"
START_SEED = str(load_examples()["start"]["seed"])
MAX_WRITES = 10
MARK = "document.querySelector('.status').classList.add('old')"


def set_steps(page: Page, num_steps: int) -> None:
    """Open the settings and write the number of steps."""
    page.click(".settings .label-wrap")
    field, bar = page.get_by_label("number input for Steps"), page.get_by_label("range slider for Steps")
    expect(field).to_have_value("20")
    # The folded part is built when it opens; a value written before that is done is lost, and is written again.
    for _ in range(MAX_WRITES):
        field.fill(str(num_steps))
        field.press("Tab")
        page.wait_for_timeout(200)
        if bar.input_value() == field.input_value() == str(num_steps):
            break
    expect(bar).to_have_value(str(num_steps))


def begin(page: Page, button: str = "Run") -> None:
    """Mark the line under the picture as old and press a button that starts a run."""
    page.evaluate(MARK)
    page.get_by_role("button", name=button, exact=True).click()


def finish(page: Page) -> str:
    """Wait until a new line says that a run has ended, and give it."""
    page.wait_for_selector(".status:not(.old):is(.done, .error)")
    page.wait_for_function("!document.documentElement.classList.contains('running')")
    return page.inner_text(".status")


def pixels(page: Page, selector: str = ".picture img") -> bytes:
    """Fetch what an <img> shows and decode it."""
    source = page.locator(selector).first.get_attribute("src")
    body = page.request.get(str(source)).body()
    return Image.open(io.BytesIO(body)).convert("RGB").tobytes()


def test_type_watch_stop_and_run_again(windows: Windows) -> None:
    page = windows.open()
    page.fill(".prompt textarea", PROMPT)
    set_steps(page, 100)
    begin(page)
    page.wait_for_function("/step [1-9]/.test(document.querySelector('.status').innerText)")
    expect(page.locator(".status")).to_have_text(re.compile(r"step \d+/100, [\d.]+ s left"))
    first = page.locator(".picture img").get_attribute("src")
    page.wait_for_function("old => document.querySelector('.picture img').src !== old", arg=first)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_selector(".status.stopped")
    assert re.search(r"Stopped at step \d+ of 100; the unfinished picture stays", page.inner_text(".status.stopped"))
    expect(page.locator(".status:visible")).to_have_count(1)
    assert str(page.locator(".picture img").get_attribute("alt")).startswith("Unfinished picture, step")
    page.get_by_label("number input for Steps").fill("2")
    page.get_by_label("number input for Steps").press("Tab")
    begin(page)
    assert "Done in" in finish(page)
    assert page.locator(".picture img").get_attribute("alt") == f"Generated picture: {PROMPT}"


def test_compare_shows_off_and_on_with_the_measured_numbers(windows: Windows) -> None:
    page = windows.open()
    set_steps(page, 3)
    begin(page, "Compare")
    assert "Left: plain guidance. Right: Guidance rescale." in finish(page)
    expect(page.locator(".pair img")).to_have_count(2)
    assert page.locator(".fact.measure").count() >= 2
    assert page.locator(".fact.measure s").count() == page.locator(".fact.measure b").count()
    page.wait_for_function("[...document.querySelectorAll('.pair img')].every(image => image.naturalWidth > 0)")
    alts = [str(image.get_attribute("alt")) for image in page.locator(".pair img").all()]
    assert alts[0].startswith("Off: ") and alts[1].startswith("On: ") and all("red boat" in alt for alt in alts)
    divider = page.locator(".pair [role=slider]")
    middle = divider.bounding_box()
    divider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    moved = divider.bounding_box()
    assert middle and moved and moved["x"] < middle["x"] - 40
    expect(page.get_by_label("number input for Guidance rescale")).to_be_visible()
    page.get_by_label("Guidance rescale", exact=True).uncheck()
    begin(page)
    finish(page)
    expect(page.locator(".pair")).to_be_hidden()


def test_boxes_drawn_on_the_canvas_reach_the_picture(windows: Windows) -> None:
    page = windows.open()
    page.fill(".prompt textarea", "a boat and a moon, night sky")
    set_steps(page, 2)
    page.get_by_label("Regional attention", exact=True).check()
    page.get_by_role("button", name="Fill from the prompt").click()
    expect(page.locator(".layout-box")).to_have_count(2)
    expect(page.get_by_label("Phrase of box 2")).to_have_value("a moon")
    page.get_by_role("button", name="Remove box 2").click()
    field = page.locator(".layout-field").bounding_box()
    assert field is not None
    page.mouse.move(field["x"] + 0.6 * field["width"], field["y"] + 0.1 * field["height"])
    page.mouse.down()
    page.mouse.move(field["x"] + 0.9 * field["width"], field["y"] + 0.5 * field["height"], steps=4)
    page.mouse.up()
    page.get_by_label("Phrase of box 2").fill("a white moon")
    expect(page.get_by_label("left of box 2, in percent of the picture")).to_have_value("60")
    begin(page)
    assert "Right: Regional attention." in finish(page)
    expect(page.locator(".sketches img").first).to_be_visible()
    assert "Boxes filled" in page.inner_text(".facts")


def test_a_downloaded_png_dropped_back_gives_the_same_pixels(windows: Windows, tmp_path: Path) -> None:
    page = windows.open()
    page.fill(".prompt textarea", PROMPT)
    set_steps(page, 3)
    page.click("button.dice")
    seed = page.locator(".seed input, .seed textarea").first
    expect(seed).not_to_have_value(START_SEED)
    chosen = seed.input_value()
    begin(page)
    finish(page)
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download PNG").click()
    path = tmp_path / caught.value.suggested_filename
    caught.value.save_as(path)
    assert path.name == f"limelight-{chosen}.png"

    other = windows.open()
    other.click(".settings .label-wrap")
    other.click(".restore .label-wrap")
    other.set_input_files(".restore input[type=file]", path)
    other.wait_for_selector(".status.done")
    expect(other.locator(".prompt textarea")).to_have_value(PROMPT)
    expect(other.locator(".seed input, .seed textarea").first).to_have_value(chosen)
    begin(other)
    assert "Done in" in finish(other)
    with Image.open(path) as first:
        assert pixels(other) == first.convert("RGB").tobytes()


def test_the_page_works_by_keyboard_alone(windows: Windows) -> None:
    page = windows.open()
    page.focus(".prompt textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Control+Enter")
    finish(page)
    assert page.locator(".picture img").get_attribute("alt") == f"Generated picture: {PROMPT}"
    reached = []
    page.focus(".prompt textarea")
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''"))
    assert reached[:3] == ["Run", "Compare", "Stop"]
    page.focus(".settings .label-wrap")
    page.keyboard.press("Enter")
    field = page.get_by_label("number input for Steps")
    field.fill("100")
    page.evaluate(MARK)
    field.press("Control+Enter")
    page.wait_for_function("/step [0-9]+.100/.test(document.querySelector('.status:not(.old)')?.innerText)")
    page.keyboard.press("Escape")
    page.wait_for_selector(".status.stopped")


def test_an_example_runs_with_one_click(windows: Windows) -> None:
    page = windows.open()
    assert page.locator("button.example").count() >= 4
    chosen = page.locator("button.example").nth(1)
    page.evaluate(MARK)
    chosen.click()
    finish(page)
    expect(page.locator(".prompt textarea")).to_have_value(chosen.inner_text())


def test_unknown_words_are_named_while_typing(windows: Windows) -> None:
    page = windows.open()
    page.locator(".prompt textarea").fill("a red dragon <b>")
    expect(page.locator(".unknown")).to_contain_text("storybook does not know \u2018dragon\u2019", timeout=PATIENCE_MS)
    assert page.locator(".unknown b b").count() == 0


def test_a_bad_input_shows_one_sentence_and_the_next_run_works(windows: Windows) -> None:
    page = windows.open()
    page.fill(".prompt textarea", "   ")
    begin(page)
    assert "The prompt is empty" in finish(page)
    expect(page.get_by_test_id("toast-body")).to_contain_text("The prompt is empty")
    page.fill(".prompt textarea", PROMPT)
    begin(page)
    assert "Done in" in finish(page)


def test_code_and_seed_of_the_shown_picture(windows: Windows) -> None:
    page = windows.open()
    set_steps(page, 2)
    begin(page)
    finish(page)
    page.click("button.dice")
    seed = page.locator(".seed input, .seed textarea").first
    expect(seed).not_to_have_value(START_SEED)
    page.get_by_role("button", name="Reuse seed").click()
    expect(seed).to_have_value(START_SEED)
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator(".result .cm-content")).to_contain_text("from diffusers import")
    expect(page.locator("#limelight-say")).not_to_be_empty()


def test_the_address_opens_tab_and_stage(windows: Windows) -> None:
    page = windows.open("?stage=1&tab=text-to-image")
    assert "stage" in str(page.evaluate("document.documentElement.className"))
    expect(page.locator(".settings")).to_be_hidden()
    letters = page.locator(".prompt textarea").evaluate("node => parseFloat(getComputedStyle(node).fontSize)")
    assert letters >= 24
    page.get_by_role("tab", name="Text to image").click()
    assert "tab=text-to-image" in page.url and "stage=1" in page.url
    wrong = windows.open("?tab=nonsense")
    expect(wrong.get_by_test_id("toast-body")).to_contain_text("There is no tab")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(windows: Windows, scheme: str) -> None:
    page = windows.open(width_px=390, height_px=844, scheme=scheme)
    set_steps(page, 2)
    begin(page)
    finish(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.body.classList.contains('dark')") is (scheme == "dark")
    for name in ("Run", "Compare", "Stop", "Download PNG", "Reuse seed", "Copy as Python"):
        box = page.get_by_role("button", name=name, exact=True).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 40


def test_light_and_dark_at_a_click(windows: Windows) -> None:
    page = windows.open()
    background = (
        "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.querySelector('h1')).color"
    )
    light = page.evaluate(background)
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(background) != light
