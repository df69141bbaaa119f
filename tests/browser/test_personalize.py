"""The personalization tab in headless Chromium: choose a subject, learn, draw, save, a broken upload, a phone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Windows

# One process for the browser, so that it shares the machine with one other test at most.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
MARK = "document.querySelectorAll('.status').forEach(line => line.classList.add('old'))"
TAB = ".subject-tab"


@pytest.fixture(autouse=True)
def own_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is saved in this test's own folder."""
    monkeypatch.setenv("LIMELIGHT_CACHE", str(tmp_path))


def open_tab(windows: Windows, *, width_px: int = 1280) -> Page:
    """Open the tab by its address and set how little is learned and drawn."""
    page = windows.open("?tab=personalization", width_px=width_px, height_px=844)
    page.wait_for_selector(f"{TAB} .style-shelf button.selected")
    set_number(page, "Settings of learning", "Learning steps", 2)
    set_number(page, "Settings", "Steps", 2)
    return page


def set_number(page: Page, fold: str, label: str, value: int) -> None:
    """Set a number that is folded away."""
    opener = page.locator(f"{TAB} .settings .label-wrap").get_by_text(fold, exact=True)
    opener.click()
    field = page.locator(TAB).get_by_label(f"number input for {label}", exact=True)
    expect(field).to_have_value(re.compile(r"\d"))
    # The folded part is built when it opens; a value written before that is done is lost.
    page.wait_for_timeout(300)
    field.fill(str(value))
    field.press("Tab")
    expect(page.locator(TAB).get_by_label(f"range slider for {label}", exact=True)).to_have_value(str(value))
    opener.click()


def press(page: Page, button: str) -> str:
    """Press a button that starts a run, wait until a new line says that it has ended, and give that."""
    page.evaluate(MARK)
    page.locator(TAB).get_by_role("button", name=button, exact=True).click()
    page.wait_for_selector(f"{TAB} .status:not(.old):is(.done, .error)")
    page.wait_for_function("!document.documentElement.classList.contains('running')")
    return page.locator(f"{TAB} .status:not(.old)").first.inner_text()


def test_learn_another_subject_draw_it_and_save_it(windows: Windows) -> None:
    page = open_tab(windows)
    page.locator(f"{TAB} .style-shelf button.thumbnail-item").nth(1).click()
    expect(page.locator(f"{TAB} .prompt textarea")).to_have_value("my whale on the beach, watercolor")
    assert "press Learn" in press(page, "Run"), "nothing is learned yet"
    assert "Learned 'my whale'" in press(page, "Learn")
    expect(page.locator(f"{TAB} .curve polyline")).to_be_visible()
    expect(page.locator(f"{TAB} .sketches img").first).to_be_visible()
    assert "Done in" in press(page, "Compare")
    expect(page.locator(f"{TAB} .arm-title h3")).to_have_text(["Plain model", "DCO + reward guidance"])
    # The visitor's own word is no word that a model should know.
    expect(page.locator(f"{TAB} .unknown li")).to_have_count(0)
    page.locator(TAB).get_by_role("button", name="Copy as Python", exact=True).click()
    expect(page.locator(f"{TAB} .result .cm-content")).to_contain_text("read_adapter", timeout=30_000)
    page.locator(f"{TAB} .saved .label-wrap").click()
    page.locator(f"{TAB} .saved").get_by_label("Name").fill("Moby")
    assert "Saved as 'Moby'" in press(page, "Save")
    page.reload()
    page.wait_for_selector(".badge.ready")
    page.locator(f"{TAB} .saved .label-wrap").click()
    expect(page.locator(f"{TAB} .saved .thumbnail-item img")).to_have_count(1, timeout=30_000)


def test_a_broken_upload_gets_one_sentence(windows: Windows, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 50)
    page = open_tab(windows)
    page.locator(f"{TAB} .subject-files .icon-button-wrapper button").last.click()
    page.set_input_files(f"{TAB} .subject-files input[type=file]", broken)
    expect(page.locator(f"{TAB} .stage-box .status.error")).to_contain_text("This picture is damaged", timeout=30_000)
    assert "This picture is damaged" in press(page, "Learn")


def test_a_phone_draws_an_example_at_once_without_scrolling_sideways(windows: Windows) -> None:
    page = open_tab(windows, width_px=390)
    assert "Done in" in press(page, "it in the snow, clay")
    expect(page.locator(f"{TAB} .arm-title h3")).to_have_text(["Instant"])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("Learn", "Run", "Compare", "Instant", "Stop", "Download PNG", "Reuse seed", "Copy as Python"):
        box = page.locator(TAB).get_by_role("button", name=name, exact=True).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 40, name
