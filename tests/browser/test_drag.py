"""The drag tab in headless Chromium: click, move, paint, run, slide, stop; by mouse, by finger and by keyboard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_MS, Windows

# One process for the browser, so that it shares the machine with one other test at most.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
MARK = "document.querySelectorAll('.status').forEach(line => line.classList.add('old'))"
TAB = ".drag-tab"
FIELD = f"{TAB} .drag-field"


def open_tab(windows: Windows, *, width_px: int = 1280, is_touch: bool = False) -> Page:
    """Open the tab by its address and wait for its first picture."""
    page = windows.open("?tab=drag", width_px=width_px, height_px=844, is_touch=is_touch)
    page.wait_for_function("document.querySelector('.drag-picture')?.naturalWidth > 0")
    return page


def clear(page: Page) -> None:
    """Take the example's own points away."""
    page.locator(TAB).get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator(f"{TAB} .drag-point")).to_have_count(0)


def find_spot(page: Page, x: int, y: int) -> tuple[float, float]:
    """Return where on the screen the middle of a picture's pixel is shown."""
    page.locator(FIELD).scroll_into_view_if_needed()
    box = page.locator(FIELD).bounding_box()
    assert box is not None
    return box["x"] + (x + 0.5) / 256 * box["width"], box["y"] + (y + 0.5) / 256 * box["height"]


def click(page: Page, x: int, y: int) -> None:
    """Click a pixel of the picture, with a finger where there is one."""
    place = find_spot(page, x, y)
    if page.evaluate("navigator.maxTouchPoints"):
        page.touchscreen.tap(*place)
    else:
        page.mouse.click(*place)


def drag(page: Page, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Press the mouse on one pixel of the picture and let go on another."""
    page.mouse.move(*find_spot(page, *start))
    page.mouse.down()
    page.mouse.move(*find_spot(page, *end), steps=6)
    page.mouse.up()


def read_points(page: Page) -> list[list[int]]:
    """Read the points off the labels that screen readers speak."""
    labels = [str(node.get_attribute("aria-label")) for node in page.locator(f"{TAB} .drag-point").all()]
    return [[int(number) for number in re.findall(r"\d+", label)] for label in labels]


def begin(page: Page, name: str = "3. Run") -> None:
    """Mark the lines under the pictures as old and press a button that starts or stops a run."""
    page.evaluate(MARK)
    page.locator(TAB).get_by_role("button", name=name, exact=True).click()


def finish(page: Page) -> str:
    """Wait until a new line says that a run has ended, and give it."""
    page.wait_for_selector(f"{TAB} .status:not(.old):is(.done, .error)")
    page.wait_for_function("!document.documentElement.classList.contains('running')")
    return page.locator(f"{TAB} .status:not(.old)").first.inner_text()


@pytest.mark.parametrize(("width_px", "is_touch"), [(1280, False), (390, True)], ids=["1280", "390 by touch"])
def test_two_points_are_clicked_seen_run_and_compared(windows: Windows, *, width_px: int, is_touch: bool) -> None:
    page = open_tab(windows, width_px=width_px, is_touch=is_touch)
    clear(page)
    expect(page.locator(f"{TAB} .drag-hint")).to_have_text("Click what should move, then where it should go.")
    click(page, 136, 190)
    expect(page.locator(f"{TAB} .drag-hint")).to_have_text("Now click where point 1 should go.")
    click(page, 100, 188)
    assert read_points(page) == [[1, 136, 190], [1, 100, 188]]
    expect(page.locator(f"{TAB} .drag-arrows line")).to_have_count(2)
    field = page.locator(FIELD).bounding_box()
    assert field and page.evaluate("document.documentElement.scrollWidth") <= width_px
    begin(page)
    page.wait_for_selector(f"{TAB} .travel svg[aria-label*='px to go'] circle.now")
    assert "Left: before. Right: after." in finish(page)
    # The line below the stage may be there before the slider has its pictures.
    expect(page.locator(f"{TAB} .pair img")).to_have_count(2)
    alts = [str(image.get_attribute("alt")) for image in page.locator(f"{TAB} .pair img").all()]
    assert alts[0].startswith("Before: ") and alts[1].startswith("After: ") and "star" in alts[0]
    assert slide(page, is_touch=is_touch) < -30
    expect(page.locator(f"{TAB} .facts")).to_contain_text("px")
    for name in ("3. Run", "Stop", "Download PNG", "Reuse seed", "Copy as Python", "Use as style", "Drag on"):
        box = page.locator(TAB).get_by_role("button", name=name, exact=True).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width_px and box["height"] >= 40, name


def slide(page: Page, *, is_touch: bool) -> float:
    """Pull the divider to the left; returns by how many px of the screen it went."""
    divider = page.locator(f"{TAB} .pair [role=slider]")
    divider.scroll_into_view_if_needed()
    before = divider.bounding_box()
    assert before is not None
    x, y = before["x"] + before["width"] / 2, before["y"] + before["height"] / 2
    if is_touch:
        swipe(page, (x, y), (x - 60, y))
    else:
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 60, y, steps=5)
        page.mouse.up()
    after = divider.bounding_box()
    assert after is not None
    return after["x"] - before["x"]


def swipe(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Move one finger over the screen."""
    session = page.context.new_cdp_session(page)
    for kind, share in [("touchStart", 0.0), *(("touchMove", step / 5) for step in range(1, 6)), ("touchEnd", 1.0)]:
        place = {axis: a + share * (b - a) for axis, a, b in zip("xy", start, end)}
        points: list[dict[str, Any]] = [] if kind == "touchEnd" else [place]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_points_are_moved_deleted_and_undone(windows: Windows) -> None:
    page = open_tab(windows)
    clear(page)
    drag(page, (60, 50), (90, 50))
    click(page, 200, 220)
    click(page, 200, 250)
    assert read_points(page) == [[1, 60, 50], [1, 90, 50], [2, 200, 220], [2, 200, 250]]
    drag(page, (90, 50), (90, 120))
    assert read_points(page)[1] == [1, 90, 120]
    page.locator(TAB).get_by_role("button", name="Delete pair 1", exact=True).click()
    assert read_points(page) == [[1, 200, 220], [1, 200, 250]]
    undo = page.locator(TAB).get_by_role("button", name="Undo", exact=True)
    undo.click()
    undo.click()
    assert read_points(page)[1] == [1, 90, 50]
    undo.click()
    assert read_points(page) == [[1, 60, 50], [1, 90, 50], [2, 200, 220]]


def test_a_finger_moves_a_point_and_scrolls_beside_it(windows: Windows) -> None:
    page = open_tab(windows, width_px=390, is_touch=True)
    clear(page)
    click(page, 60, 60)
    click(page, 120, 60)
    swipe(page, find_spot(page, 120, 60), find_spot(page, 150, 130))
    assert read_points(page) == [[1, 60, 60], [1, 150, 130]]
    before = page.evaluate("scrollY")
    swipe(page, find_spot(page, 220, 200), find_spot(page, 220, 80))
    page.wait_for_function("before => scrollY > before + 40", arg=before)
    assert len(read_points(page)) == 2


def test_everything_by_keyboard(windows: Windows) -> None:
    page = open_tab(windows)
    clear(page)
    page.locator(TAB).get_by_role("button", name="Add a pair", exact=True).press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("Handle 1 at 102, 77 px")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert read_points(page) == [[1, 112, 76], [1, 153, 77]]
    page.locator(TAB).get_by_role("button", name="As numbers").press("Enter")
    page.get_by_label("y of target 1, px").fill("190")
    page.keyboard.press("Tab")
    target = page.locator(f"{TAB} .drag-point.target")
    expect(target).to_have_attribute("aria-label", re.compile("153, 190"))
    target.press("Delete")
    expect(target).to_have_count(0)
    assert read_points(page) == []


def test_the_mask_is_painted_rubbed_out_and_kept_with_the_points(windows: Windows) -> None:
    page = open_tab(windows)
    hint = page.locator(f"{TAB} .drag-hint")
    page.locator(TAB).get_by_role("button", name="Mask", exact=True).click()
    page.get_by_label("Brush").fill("40")
    drag(page, (60, 190), (220, 190))
    expect(hint).to_contain_text("Mask: 12 % of the picture may move.")
    page.locator(TAB).get_by_role("button", name="Erase", exact=True).click()
    drag(page, (150, 190), (240, 190))
    expect(hint).not_to_contain_text("Mask: 12 %")
    page.locator(TAB).get_by_role("button", name="Undo", exact=True).click()
    expect(hint).to_contain_text("Mask: 12 %")
    assert len(read_points(page)) == 4
    page.locator(TAB).get_by_role("button", name="Clear mask", exact=True).click()
    expect(hint).not_to_contain_text("Mask:")
    drag(page, (30, 30), (60, 30))
    begin(page)
    assert "outside" in finish(page)


def test_a_wrong_canvas_gets_one_sentence_and_the_next_run_works(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    clear(page)
    begin(page)
    assert "no pair yet" in finish(page)
    click(page, 100, 100)
    begin(page)
    assert "Handle 1 has no target yet" in finish(page)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 50)
    page.set_input_files(f"{TAB} .drag-source input[type=file]", broken)
    expect(page.locator(f"{TAB} .choice-notes .status")).to_contain_text("This picture is damaged", timeout=PATIENCE_MS)
    assert read_points(page) == [[1, 100, 100]]
    click(page, 130, 100)
    begin(page)
    assert "Done in" in finish(page)


def test_an_upload_is_fitted_and_stop_keeps_the_best_state(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    Image.linear_gradient("L").resize((300, 200)).convert("RGB").save(tmp_path / "wide.png")
    page.set_input_files(f"{TAB} .drag-source input[type=file]", tmp_path / "wide.png")
    expect(page.locator(f"{TAB} .choice-notes").first).to_contain_text("middle square", timeout=PATIENCE_MS)
    expect(page.locator(f"{TAB} .drag-point")).to_have_count(0)
    expect(page.locator(f"{TAB} .drag-picture")).to_have_attribute("alt", "Your picture, to be dragged")
    click(page, 100, 100)
    click(page, 140, 100)
    page.get_by_label("DragDiffusion").check()
    # As many rounds as there are, so that the run does not end by itself before it is stopped.
    page.click(f"{TAB} .settings .label-wrap")
    rounds = page.get_by_label("number input for Rounds").locator("visible=true")
    rounds.fill("160")
    rounds.press("Tab")
    begin(page)
    page.wait_for_function("/[0-9]+ px to go/.test(document.querySelector('.drag-tab .status:not(.old)')?.innerText)")
    begin(page, "Stop")
    page.wait_for_selector(f"{TAB} .status.stopped")
    assert "the best picture so far stays" in page.inner_text(f"{TAB} .status.stopped")
    expect(page.locator(f"{TAB} .pair img")).to_have_count(2)


def test_a_drawn_picture_is_sent_here_with_its_words(windows: Windows) -> None:
    page = windows.open()
    page.fill(".prompt textarea", "a red boat, pixel art")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_selector(".status.done")
    page.get_by_role("button", name="Drag this").first.click()
    page.wait_for_selector(f"{TAB} .drag-picture:visible")
    expect(page.locator(f"{TAB} .drag-source textarea")).to_have_value("a red boat, pixel art")
    expect(page.locator(f"{TAB} .drag-point")).to_have_count(0)
    page.wait_for_function("location.search.includes('tab=drag')")


def test_two_visitors_see_their_own_points_and_pictures(windows: Windows) -> None:
    ada, bob = open_tab(windows), open_tab(windows)
    clear(ada)
    click(ada, 136, 190)
    click(ada, 110, 190)
    bob.locator("button.example", has_text="neon heart").first.click()
    ada.evaluate(MARK)
    begin(ada)
    expect(bob.locator(f"{TAB} .drag-point")).to_have_count(8)
    finish(ada)
    bob.wait_for_selector(f"{TAB} .status.done")
    assert read_points(ada) == [[1, 136, 190], [1, 110, 190]]
    alts = [str(page.locator(f"{TAB} .pair img").first.get_attribute("alt")) for page in (ada, bob)]
    assert "star" in alts[0] and "red heart" in alts[1]
