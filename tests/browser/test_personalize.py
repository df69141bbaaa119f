"""The personalization tab in headless Chromium: choose, learn, stop, draw, save, upload, two visitors, a phone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import Windows
from tests.pictures import make_ramp

# One process for the browser, so that it shares the machine with one other test at most.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
MARK = "document.querySelectorAll('.status').forEach(line => line.classList.add('old'))"
TAB = ".subject-tab"
SHELF = f"{TAB} .style-shelf button.thumbnail-item"
PICTURES = f"{TAB} .subject-pictures .thumbnail-item img"
KNOWN = f"{TAB} .inputs .block.ready-box"


@pytest.fixture(autouse=True)
def own_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is saved in this test's own folder."""
    monkeypatch.setenv("LIMELIGHT_CACHE", str(tmp_path))


def open_tab(windows: Windows, *, width_px: int = 1280) -> Page:
    """Open the tab by its address."""
    page = windows.open("?tab=personalization", width_px=width_px, height_px=844)
    page.wait_for_selector(f"{TAB} .style-shelf button.selected")
    return page


def begin(page: Page, button: str) -> None:
    """Mark the lines under the pictures as old and press a button."""
    page.evaluate(MARK)
    page.locator(TAB).get_by_role("button", name=button, exact=True).click()


def finish(page: Page) -> str:
    """Wait until a new line says that a run has ended, and give it."""
    page.wait_for_selector(f"{TAB} .stage-box .status:not(.old):is(.done, .error)")
    page.wait_for_function("!document.documentElement.classList.contains('running')")
    return page.locator(f"{TAB} .stage-box .status:not(.old)").first.inner_text()


def press(page: Page, button: str) -> str:
    """Press a button and give the line that says how it ended."""
    begin(page, button)
    return finish(page)


def open_shelf(page: Page) -> None:
    """Open the saved subjects and wait until they are read."""
    page.locator(f"{TAB} .saved .label-wrap").click()
    expect(page.locator(f"{TAB} .saved .ready-box p")).to_have_count(1)


def save(page: Page, name: str) -> str:
    """Save what draws under a name."""
    page.locator(f"{TAB} .saved").get_by_label("Name").fill(name)
    return press(page, "Save")


def test_a_prepared_subject_is_drawn_compared_and_switched_off_at_once(windows: Windows) -> None:
    page = open_tab(windows)
    page.locator(SHELF).nth(1).click()
    expect(page.locator(f"{TAB} .prompt textarea")).to_have_value("my whale on the beach, watercolor")
    expect(page.locator(f"{TAB} .example").first).to_have_text("my whale on the beach, watercolor")
    expect(page.locator(KNOWN).first).to_contain_text("Learned before by DCO")
    assert "Done in" in press(page, "Run")
    expect(page.locator(f"{TAB} .arm-title h3")).to_have_text(["DCO + reward guidance"])
    assert "Done in" in press(page, "Compare")
    expect(page.locator(f"{TAB} .arm-title h3")).to_have_text(["Plain model", "DCO + reward guidance"])
    page.get_by_label("Off: plain model").check()
    assert "Done in" in press(page, "Run")
    expect(page.locator(f"{TAB} .arm-title h3")).to_have_text(["Plain model"])
    # The visitor's own word is no word that a model should know.
    expect(page.locator(f"{TAB} .unknown li")).to_have_count(0)
    page.locator(TAB).get_by_role("button", name="Drag this", exact=True).click()
    page.wait_for_function("location.search.includes('tab=drag')")
    expect(page.locator(".drag-tab .prompt textarea, .drag-tab textarea").first).to_have_value(
        "a red whale on the beach, watercolor"
    )


def test_learning_is_stopped_drawn_and_saved_and_the_shelf_outlives_a_reload(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    begin(page, "Learn")
    expect(page.locator(KNOWN).first).to_contain_text("Learned by DCO in")
    expect(page.locator(f"{TAB} .curve .mean")).to_be_visible()
    page.locator(TAB).get_by_role("button", name="Stop learning", exact=True).click()
    expect(page.locator(f"{TAB} .status.stopped")).to_contain_text("what was learned so far can be drawn and saved")
    steps = re.search(r"in (\d+) steps", page.locator(KNOWN).first.inner_text())
    assert steps and 1 <= int(steps[1]) < 110
    assert "Done in" in press(page, "Run")
    page.locator(TAB).get_by_role("button", name="Copy as Python", exact=True).click()
    expect(page.locator(f"{TAB} .result .cm-content")).to_contain_text("read_adapter")
    open_shelf(page)
    assert "name is empty" in save(page, "")
    assert "Saved as 'Robby'" in save(page, "Robby")
    assert "already an adapter 'robby'" in save(page, "robby")
    page.reload()
    page.wait_for_selector(".badge.ready")
    open_shelf(page)
    expect(page.locator(f"{TAB} .saved .thumbnail-item img")).to_have_count(1)
    page.evaluate(MARK)
    page.locator(f"{TAB} .saved .thumbnail-item").click()
    assert "'Robby' is ready; call it 'my robot'." in finish(page)
    expect(page.locator(KNOWN).first).to_contain_text(f"in {steps[1]} steps")
    with page.expect_download() as waiting:
        begin(page, "Download")
        page.locator(f"{TAB} .saved a[download]").first.click()
    assert waiting.value.suggested_filename == "Robby.safetensors"
    waiting.value.save_as(tmp_path / "mine.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04\x95" + b"junk" * 20)
    box = f"{TAB} .saved input[type=file]"
    page.evaluate(MARK)
    page.set_input_files(box, tmp_path / "pickle.safetensors")
    assert "is a pickle" in finish(page)


def test_two_visitors_never_see_each_other_s_subjects(windows: Windows) -> None:
    one, other = open_tab(windows), open_tab(windows)
    open_shelf(one)
    assert "Saved as 'Robby'" in save(one, "Robby")
    open_shelf(other)
    expect(other.locator(f"{TAB} .saved .block.ready-box")).to_contain_text("Nothing is saved yet")
    assert "Saved as 'Robby'" in save(other, "Robby"), "the same name, another shelf"
    other.locator(SHELF).nth(1).click()
    expect(other.locator(f"{TAB} .prompt textarea")).to_have_value(re.compile("my whale"))
    begin(one, "Delete")
    expect(one.locator(f"{TAB} .saved .block.ready-box")).to_contain_text("Nothing is saved yet")
    other.reload()
    other.wait_for_selector(".badge.ready")
    open_shelf(other)
    expect(other.locator(f"{TAB} .saved .thumbnail-item img")).to_have_count(1)


def test_uploads_are_looked_at_cropped_and_captioned(windows: Windows, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 50)
    page = open_tab(windows)
    upload = f"{TAB} .subject-pictures input[type=file]"
    page.evaluate(MARK)
    page.set_input_files(upload, broken)
    expect(page.locator(f"{TAB} .stage-box .status.error:not(.old)")).to_contain_text("This picture is damaged")
    expect(page.locator(PICTURES)).to_have_count(4)
    make_ramp(16).save(tmp_path / "tiny.png")
    page.evaluate(MARK)
    page.set_input_files(upload, tmp_path / "tiny.png")
    expect(page.locator(f"{TAB} .stage-box .status.error:not(.old)")).to_contain_text("too small")
    folder = Path(__file__).resolve().parents[2] / "assets" / "examples" / "subject"
    mixed = []
    for name in ("robot_2", "whale_2"):
        mixed.append(tmp_path / f"{name}.webp")
        Image.open(folder / f"{name}.png").convert("RGB").save(mixed[-1], quality=95)
    page.evaluate(MARK)
    page.set_input_files(upload, mixed)
    assert "all pictures must show the same thing" in finish(page)
    expect(page.locator(PICTURES)).to_have_count(2)
    expect(page.locator(KNOWN).first).to_contain_text("Not learned yet")
    page.locator(f"{TAB} .subject-pictures .delete-button").last.click()
    expect(page.locator(PICTURES)).to_have_count(1)
    # What cannot be learned from opens nothing; the visitor looks for the captions.
    page.locator(f"{TAB} .captions .label-wrap").click()
    assert "Cropped and captioned: 1." in press(page, "Propose captions")
    expect(page.get_by_label("Captions, one line per picture")).to_have_value(re.compile("^my robot, "))
    expect(page.get_by_label("Common name")).to_have_value("pink robot")
    expect(page.locator(f"{TAB} .captions .sketches img")).to_have_count(1)
    assert "press Learn, or draw with Instant" in press(page, "Run")


def test_a_phone_draws_an_example_without_scrolling_sideways(windows: Windows) -> None:
    page = open_tab(windows, width_px=390)
    assert "Done in" in press(page, "my robot in the snow, clay")
    expect(page.locator(f"{TAB} .arm-title h3")).to_have_text(["DCO + reward guidance"])
    page.get_by_label("Instant, one picture").check()
    assert "Done in" in press(page, "Compare")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    buttons = ("Learn", "Stop learning", "Run", "Compare", "Stop", "Download PNG", "Reuse seed", "Copy as Python")
    for name in (*buttons, "Use as style", "Drag this", "Enlarge"):
        box = page.locator(TAB).get_by_role("button", name=name, exact=True).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 40, name


def test_the_stage_shows_large_letters(windows: Windows) -> None:
    page = windows.open("?tab=personalization&stage=1", width_px=1920, height_px=1080)
    page.wait_for_selector(f"{TAB} .style-shelf button.selected")
    expect(page.locator(f"{TAB} .settings").first).to_be_hidden()
    assert page.locator(f"{TAB} .part h2").first.evaluate("head => parseFloat(getComputedStyle(head).fontSize)") >= 22
    assert page.evaluate("document.documentElement.scrollWidth") <= 1920
