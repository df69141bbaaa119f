"""The super-resolution tab in headless Chromium: upload, run, slide, look closely, stop; by mouse, finger and keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_MS, Windows
from tests.pictures import make_ramp

# One process for the browser, so that it shares the machine with one other test at most.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
MARK = "document.querySelectorAll('.status').forEach(line => line.classList.add('old'))"
# Asked again and again: whether the pictures are there and lie where they lay the last time.
STILL = """path => {
    const pair = document.querySelector(path), images = [...pair.querySelectorAll("img")];
    const area = image => Object.values(image.getBoundingClientRect().toJSON()).join();
    const place = [pair, ...images].map(area).join(" ");
    const isStill = place === pair.dataset.place, { width, height } = pair.getBoundingClientRect();
    pair.dataset.place = place;
    const shape = image => image.naturalHeight / image.naturalWidth;
    const fits = image => image.complete && Math.abs(width / height * shape(image) - 1) < 0.03;
    return isStill && images.length === 2 && images.every(fits);
}"""
TAB = ".enlarge-tab"
VIEW = f"{TAB} .loupe-view"
FACTS = f"{TAB} .block.facts-box"
PLAN = f"{TAB} .block.plan-box"


def open_tab(windows: Windows, *, width_px: int = 1280, is_touch: bool = False) -> Page:
    """Open the tab by its address and wait for its first picture."""
    page = windows.open("?tab=enlarge", width_px=width_px, height_px=844, is_touch=is_touch)
    page.wait_for_function("document.querySelector('.enlarge-picture img')?.naturalWidth > 0")
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


def give(page: Page, path: Path, words: str = "") -> None:
    """Upload a picture in the place of the one that is there, and wait for what is said about it."""
    page.set_input_files(f"{TAB} .enlarge-picture input[type=file]", path)
    if words:
        expect(page.locator(PLAN)).to_contain_text(words, timeout=PATIENCE_MS)


def look(page: Page, side: int) -> str:
    """Read where a side of the loupe looks."""
    return str(page.locator(VIEW).nth(side).evaluate("view => view.style.backgroundPosition"))


def find_pair(page: Page) -> dict[str, float]:
    """Wait until the slider lies still in the shape of its pictures, on the screen, and tell where; gradio draws it in
    several goes, and a place that was read too early lies beside what was meant."""
    page.locator(f"{TAB} .pair").scroll_into_view_if_needed()
    page.wait_for_function(STILL, arg=f"{TAB} .pair", polling=100)
    box = page.locator(f"{TAB} .pair").bounding_box()
    assert box
    return {name: float(value) for name, value in box.items()}


@pytest.mark.parametrize(("width_px", "is_touch"), [(1280, False), (390, True)], ids=["1280", "390 by touch"])
def test_a_picture_is_enlarged_compared_and_looked_at_closely(
    windows: Windows, *, width_px: int, is_touch: bool
) -> None:
    page = open_tab(windows, width_px=width_px, is_touch=is_touch)
    expect(page.locator(PLAN)).to_have_text("168 x 104 px → 672 x 416 px")
    begin(page)
    assert "Left: bicubic. Right: Faithful." in finish(page)
    expect(page.locator(f"{TAB} .pair img")).to_have_count(2)
    alts = [str(image.get_attribute("alt")) for image in page.locator(f"{TAB} .pair img").all()]
    assert alts[0].startswith("Bicubic: ") and alts[1].startswith("Enlarged: ") and "168 x 104 px" in alts[1]
    pair = find_pair(page)
    expect(page.locator(VIEW)).to_have_count(2)
    sources = [str(page.locator(VIEW).nth(side).get_attribute("data-source")) for side in (0, 1)]
    assert "bicubic" in sources[0] and sources[0] != sources[1]
    assert look(page, 0) == look(page, 1)
    before = look(page, 0)
    place = (pair["x"] + pair["width"] * 0.12, pair["y"] + pair["height"] * 0.2)
    if is_touch:
        page.touchscreen.tap(*place)
    else:
        page.mouse.move(*place)
    page.wait_for_function(
        "([view, old]) => document.querySelector(view).style.backgroundPosition !== old", arg=[VIEW, before]
    )
    assert look(page, 0) == look(page, 1)
    facts = page.locator(FACTS)
    expect(facts).to_contain_text("dB")
    expect(facts).to_contain_text(re.compile(r"differs from your picture by [\w. ]+ of 255 levels"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    for name in ("Run", "Stop", "Download PNG", "Copy as Python", "Use as style", "Drag this", "Enlarge"):
        box = page.locator(TAB).get_by_role("button", name=name, exact=True).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width_px and box["height"] >= 40, name


def test_the_loupe_is_pinned_moved_by_keys_and_enlarged(windows: Windows) -> None:
    page = open_tab(windows)
    begin(page)
    finish(page)
    pair = find_pair(page)
    hint = page.locator(f"{TAB} .loupe-hint")
    page.mouse.click(pair["x"] + pair["width"] * 0.8, pair["y"] + pair["height"] * 0.6)
    expect(hint).to_contain_text(re.compile(r"Pinned at 53\d, 2[45]\d px"))
    pinned = look(page, 1)
    page.mouse.move(pair["x"] + 40, pair["y"] + 40)
    assert look(page, 1) == pinned
    page.locator(f"{TAB} .loupe-views").press("ArrowLeft")
    assert look(page, 1) != pinned and look(page, 0) == look(page, 1)
    page.locator(TAB).get_by_role("button", name="4:1", exact=True).press("Enter")
    size = page.locator(VIEW).first.evaluate("view => view.style.backgroundSize")
    assert size == f"{672 * 4}px {416 * 4}px"
    divider = page.locator(f"{TAB} .pair [role=slider]")
    before = divider.bounding_box()
    divider.press("ArrowRight")
    after = divider.bounding_box()
    assert before and after and after["x"] > before["x"] + 10


def test_a_broken_upload_gets_one_sentence_and_a_good_one_is_planned(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 50)
    give(page, broken)
    notes = page.locator(f"{TAB} .inputs .block.choice-notes .status").first
    expect(notes).to_contain_text("This picture is damaged", timeout=PATIENCE_MS)
    expect(page.locator(f"{TAB} .enlarge-picture img")).to_have_count(0)
    begin(page)
    assert "There is no picture yet" in finish(page)
    make_ramp(60, 40).save(tmp_path / "good.jpg")
    page.set_input_files(f"{TAB} .enlarge-picture input[type=file]", tmp_path / "good.jpg")
    expect(page.locator(PLAN)).to_contain_text("60 x 40 px → 240 x 160 px", timeout=PATIENCE_MS)
    expect(page.get_by_label("From a camera, or a JPEG")).to_be_checked()
    field = page.get_by_label("number input for Scale")
    field.fill("2.5")
    field.press("Tab")
    expect(page.locator(PLAN)).to_contain_text("150 x 100 px", timeout=PATIENCE_MS)
    page.locator(PLAN).click()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(f"{TAB} .stage-box .status.done")
    expect(page.locator(FACTS)).to_contain_text("150 x 100 px")


def test_too_large_is_said_before_a_run(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    Image.new("RGB", (1600, 900), "teal").save(tmp_path / "large.png")
    give(page, tmp_path / "large.png", "choose a scale of at most 2.5")
    expect(page.locator(TAB).get_by_role("button", name="Run", exact=True)).to_be_disabled()


def test_stop_keeps_the_tiles_that_are_finished(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    # Large enough that a busy machine is told to stop before it has finished.
    make_ramp(800).save(tmp_path / "ramp.png")
    give(page, tmp_path / "ramp.png", "800 x 800 px → 3200 x 3200 px")
    begin(page)
    page.wait_for_selector(f"{TAB} .live img")
    page.wait_for_function(
        "/tile [0-9]+ of/.test(document.querySelector('.enlarge-tab .stage-box .status:not(.old)')?.innerText)"
    )
    begin(page, "Stop")
    page.wait_for_selector(f"{TAB} .status.stopped")
    assert "what is finished stays" in page.inner_text(f"{TAB} .status.stopped")
    expect(page.locator(f"{TAB} .pair img")).to_have_count(2)
    expect(page.locator(FACTS)).to_contain_text("3200 x 3200 px")


def test_a_drawn_picture_is_sent_here(windows: Windows) -> None:
    page = windows.open()
    page.fill(".prompt textarea", "a red boat, pixel art")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_selector(".status.done")
    page.get_by_role("button", name="Enlarge", exact=True).first.click()
    expect(page.locator(PLAN)).to_contain_text("256 x 256 px → 1024 x 1024 px", timeout=PATIENCE_MS)
    page.wait_for_function("location.search.includes('tab=enlarge')")
