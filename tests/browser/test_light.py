"""The low-light tab in headless Chromium: light, slide, see what was added, darken, stop; wide and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_MS, Windows
from tests.pictures import make_ramp

# One process for the browser, so that it shares the machine with one other test at most.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
MARK = "document.querySelectorAll('.status').forEach(line => line.classList.add('old'))"
TAB = ".light-tab"
FACTS = f"{TAB} .block.facts-box"
NOTES = f"{TAB} .block.notes-box"


def open_tab(windows: Windows, *, width_px: int = 1280, is_touch: bool = False) -> Page:
    """Open the tab by its address and wait for its first picture."""
    page = windows.open("?tab=light", width_px=width_px, height_px=844, is_touch=is_touch)
    page.wait_for_function("document.querySelector('.light-picture img')?.naturalWidth > 0")
    return page


def begin(page: Page, name: str = "Run") -> None:
    """Mark the lines under the pictures as old and press a button that starts or stops a run."""
    page.evaluate(MARK)
    page.locator(TAB).get_by_role("button", name=name, exact=True).click()


def finish(page: Page) -> str:
    """Wait until a new line says that a run has ended, and give it."""
    page.wait_for_selector(f"{TAB} .stage-box .status:not(.old):is(.done, .error)")
    page.wait_for_function("!document.documentElement.classList.contains('running')")
    return page.locator(f"{TAB} .stage-box .status:not(.old)").first.inner_text()


def name_sources(page: Page) -> list[str]:
    """List the files that the slider shows."""
    return [str(image.get_attribute("src")).rsplit("/", 1)[1] for image in page.locator(f"{TAB} .pair img").all()]


@pytest.mark.parametrize(("width_px", "is_touch"), [(1280, False), (390, True)], ids=["1280", "390 by touch"])
def test_a_dark_picture_is_lit_and_seen_in_three_ways(windows: Windows, *, width_px: int, is_touch: bool) -> None:
    page = open_tab(windows, width_px=width_px, is_touch=is_touch)
    begin(page)
    assert "Left: before. Right: Diffusion." in finish(page)
    expect(page.locator(f"{TAB} .pair img")).to_have_count(2)
    alts = [str(image.get_attribute("alt")) for image in page.locator(f"{TAB} .pair img").all()]
    assert alts[0].startswith("Before: ") and alts[1].startswith("After: ") and "256 x 256 px, lit by" in alts[1]
    assert "limelight-before.png" in name_sources(page)
    expect(page.locator(f"{TAB} .chart svg polygon")).to_have_count(2)
    expect(page.locator(FACTS)).to_contain_text("nearness to the bright original")
    expect(page.locator(FACTS)).to_contain_text("was added")
    view = page.locator(f"{TAB} .light-view")
    for title, file in (("Only brightened", "limelight-brightened.png"), ("Where detail", "limelight-added.png")):
        view.locator("label", has_text=title).click()
        page.wait_for_function(
            "file => [...document.querySelectorAll('.light-tab .pair img')].some(image => image.src.includes(file))",
            arg=file,
        )
    left, right = (
        page.locator(f"{TAB} .pair").evaluate("(pair, side) => getComputedStyle(pair, side).content", side)
        for side in ("::before", "::after")
    )
    assert (left, right) == ('"After"', '"Added"')
    # A picture of 256 px is seen enlarged by the slider itself.
    expect(page.locator(f"{TAB} .loupe")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    for name in ("Run", "Compare", "Stop", "Download PNG", "Copy as Python", "Use as style", "Enlarge"):
        box = page.locator(TAB).get_by_role("button", name=name, exact=True).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width_px and box["height"] >= 40, name


def test_all_methods_side_by_side_and_one_is_chosen(windows: Windows) -> None:
    page = open_tab(windows)
    begin(page, "Compare")
    finish(page)
    shelf = page.locator(f"{TAB} .sketches button.thumbnail-item")
    expect(shelf).to_have_count(4)
    page.locator(f"{TAB} .sketches button.thumbnail-item", has_text="LIME").click()
    expect(page.locator(FACTS)).to_contain_text("LIME", timeout=PATIENCE_MS)


def test_a_bright_picture_comes_back_is_darkened_and_measured(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    make_ramp(120, 90).save(tmp_path / "bright.png")
    page.set_input_files(f"{TAB} .light-picture input[type=file]", tmp_path / "bright.png")
    notes = page.locator(f"{TAB} .inputs .block.choice-notes").first
    expect(notes).to_contain_text("not a dark picture", timeout=PATIENCE_MS)
    begin(page)
    assert "Not dark: the picture comes back unchanged." in finish(page)
    expect(page.locator(NOTES)).to_contain_text("switch on Light it anyway")
    page.locator(f"{TAB} .light-darkroom .label-wrap").click()
    page.locator(TAB).get_by_role("button", name="Darken the picture", exact=True).click()
    expect(notes).to_contain_text("0.1 of the light is left", timeout=PATIENCE_MS)
    begin(page)
    assert "Left: before" in finish(page)
    expect(page.locator(FACTS)).to_contain_text("nearness to the bright original")


def test_a_clip_is_merged_and_one_photo_is_none(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    page.locator(f"{TAB} .light-burst .label-wrap").click()
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), (9, 9, 20)).save(photo)
    page.set_input_files(f"{TAB} .light-burst input[type=file]", photo)
    told = page.locator(f"{TAB} .light-burst .block.choice-notes")
    expect(told).to_contain_text("This is one picture and no clip", timeout=PATIENCE_MS)
    page.locator(f"{TAB} button.example", has_text="shaky clip").click()
    page.wait_for_selector(f"{TAB} .stage-box .status.done")
    expect(page.locator(NOTES)).to_contain_text("8 pictures were merged")


def test_stop_keeps_what_is_lit(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    make_ramp(1400, 1000).point(lambda level: level // 6).save(tmp_path / "large.png")
    page.set_input_files(f"{TAB} .light-picture input[type=file]", tmp_path / "large.png")
    notes = page.locator(f"{TAB} .inputs .block.choice-notes").first
    expect(notes).to_contain_text("a dark picture", timeout=PATIENCE_MS)
    begin(page)
    page.wait_for_selector(f"{TAB} .live img")
    begin(page, "Stop")
    page.wait_for_selector(f"{TAB} .status.stopped")
    assert "what is there stays" in page.inner_text(f"{TAB} .status.stopped")
    expect(page.locator(f"{TAB} .pair img")).to_have_count(2)


def test_a_drawn_picture_is_sent_here(windows: Windows) -> None:
    page = windows.open()
    page.fill(".prompt textarea", "a red boat, pixel art")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_selector(".status.done")
    page.get_by_role("button", name="Light up", exact=True).first.click()
    page.wait_for_function("location.search.includes('tab=light')")
    expect(page.locator(f"{TAB} .inputs .block.choice-notes").first).to_contain_text(
        "dark picture", timeout=PATIENCE_MS
    )
