"""The style tab in headless Chromium: choose a style, draw, compare, stop, a broken upload, a picture sent over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Windows

# One process for the browser, so that it shares the machine with one other test at most.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
MARK = "document.querySelectorAll('.status').forEach(line => line.classList.add('old'))"
TAB = ".style-tab"


def open_tab(windows: Windows, num_steps: int, num_images: int = 2, *, width_px: int = 1280) -> Page:
    """Open the tab by its address and set how much is drawn."""
    page = windows.open("?tab=style", width_px=width_px, height_px=844)
    page.wait_for_selector(f"{TAB} .style-shelf button.selected")
    page.click(f"{TAB} .settings .label-wrap")
    for label, value in (("Steps", num_steps), ("Pictures", num_images)):
        field = page.locator(TAB).get_by_label(f"number input for {label}")
        expect(field).to_have_value(re.compile(r"\d"))
        # The folded part is built when it opens; a value written before that is done is lost.
        page.wait_for_timeout(300)
        field.fill(str(value))
        field.press("Tab")
        expect(page.locator(TAB).get_by_label(f"range slider for {label}")).to_have_value(str(value))
    page.click(f"{TAB} .settings .label-wrap")
    return page


def begin(page: Page, button: str) -> None:
    """Mark the lines under the pictures as old and press a button that starts a run."""
    page.evaluate(MARK)
    page.locator(TAB).get_by_role("button", name=button, exact=True).click()


def finish(page: Page) -> str:
    """Wait until a new line says that a run has ended, and give it."""
    page.wait_for_selector(f"{TAB} .status:not(.old):is(.done, .error)")
    page.wait_for_function("!document.documentElement.classList.contains('running')")
    return page.locator(f"{TAB} .status:not(.old)").first.inner_text()


def test_draw_in_another_style_then_compare(windows: Windows) -> None:
    page = open_tab(windows, 2)
    page.get_by_role("button", name=re.compile("line art: ")).first.click()
    expect(page.locator(f"{TAB} .style-shelf button.selected")).to_have_attribute("title", re.compile("^line art"))
    page.fill(f"{TAB} .prompt textarea", "a fish")
    begin(page, "Run")
    assert "Done in" in finish(page)
    drawn = page.locator(f"{TAB} .style-arm:visible .thumbnail-item img")
    expect(drawn).to_have_count(2)
    expect(drawn.first).to_have_attribute("alt", re.compile("^a fish; Visual Style Prompting, seed"))
    expect(page.locator(f"{TAB} .style-pictures img")).to_have_count(1)
    expect(page.locator(f"{TAB} .facts")).to_contain_text("Inversion error of the style picture")
    captions = page.locator(f"{TAB} .sketches .caption-label")
    expect(captions).to_have_count(3)
    assert all(node.evaluate("n => n.scrollWidth <= n.clientWidth + 1") for node in captions.all())
    begin(page, "Compare")
    assert "Words only, StyleAligned, Visual Style Prompting" in finish(page)
    titles = page.locator(f"{TAB} .arm-title h3")
    expect(titles).to_have_text(["Words only", "StyleAligned", "Visual Style Prompting"])
    expect(page.locator(f"{TAB} .style-arm:visible .thumbnail-item img")).to_have_count(6)
    assert page.locator(f"{TAB} .arm-title .fact.measure").count() >= 6


def test_stop_keeps_the_unfinished_picture_and_the_next_run_works(windows: Windows) -> None:
    page = open_tab(windows, 50, 1)
    begin(page, "Run")
    page.wait_for_function(
        "tab => /step [1-9]/.test(document.querySelector(`${tab} .status:not(.old)`)?.innerText)", arg=TAB
    )
    begin(page, "Stop")
    page.wait_for_selector(f"{TAB} .status.stopped")
    assert "the unfinished picture stays" in page.inner_text(f"{TAB} .status.stopped")
    page.get_by_role("button", name=re.compile("a cat, in the style")).click()
    expect(page.locator(f"{TAB} .prompt textarea")).to_have_value("a cat")
    expect(page.locator(f"{TAB} .style-shelf button.selected")).to_have_count(0)


def test_a_broken_upload_gets_one_sentence_and_leaves_no_mark(windows: Windows, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 50)
    page = open_tab(windows, 2, 1)
    page.click(f"{TAB} .style-place [aria-label='Remove Image'], {TAB} .style-place [title='Remove Image']")
    page.set_input_files(f"{TAB} .style-place input[type=file]", broken)
    expect(page.locator(f"{TAB} .choice-notes .status")).to_contain_text("This picture is damaged")
    expect(page.locator(f"{TAB} .style-place img")).to_have_count(0)
    expect(page.locator(f"{TAB} .style-shelf button.selected")).to_have_count(0)
    begin(page, "Run")
    assert "There is no style picture" in finish(page)
    page.get_by_role("button", name=re.compile("clay: ")).first.click()
    begin(page, "Run")
    assert "Done in" in finish(page)


def test_a_picture_of_the_first_tab_becomes_the_style_picture(windows: Windows) -> None:
    page = windows.open()
    page.fill(".prompt textarea", "a red boat, pixel art")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_selector(".status.done")
    drawn = page.locator(".picture img").first.get_attribute("src")
    page.get_by_role("button", name="Use as style").click()
    page.wait_for_selector(f"{TAB} .style-place img:visible")
    assert page.locator(f"{TAB} .style-place img").get_attribute("src") == drawn
    expect(page.locator(f"{TAB} .style-shelf button.selected")).to_have_count(0)
    page.wait_for_function("location.search.includes('tab=style')")


def test_a_phone_shows_the_tab_without_scrolling_sideways(windows: Windows) -> None:
    page = open_tab(windows, 2, width_px=390)
    begin(page, "Compare")
    finish(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("Run", "Compare", "Stop", "Download PNG", "Reuse seed", "Copy as Python", "Use as style"):
        box = page.locator(TAB).get_by_role("button", name=name, exact=True).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 40
