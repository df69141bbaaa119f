"""The 3D tab in headless Chromium: a model stands upright, lit and coloured; its files, its slider, bad pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_MS, Windows

# One process for the browser, so that it shares the machine with one other test at most.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
TAB = ".preview-tab"
MARK = "document.querySelectorAll('.status').forEach(line => line.classList.add('old'))"
LOOKS = 40


def open_tab(windows: Windows, *, width_px: int = 1280, is_touch: bool = False, method: str = "Inflate") -> Page:
    """Open the tab by its address, wait for its first picture, and choose a method."""
    page = windows.open("?tab=preview", width_px=width_px, height_px=844, is_touch=is_touch)
    page.wait_for_function("document.querySelector('.preview-tab .enlarge-picture img')?.naturalWidth > 0")
    page.locator(f"{TAB} .picker label", has_text=method).first.click()
    return page


def give(page: Page, picture: Image.Image, folder: Path) -> None:
    """Upload a picture."""
    picture.save(folder / "object.png")
    page.set_input_files(f"{TAB} .enlarge-picture input[type=file]", folder / "object.png")
    page.wait_for_function(
        "size => document.querySelector('.preview-tab .enlarge-picture img')?.naturalWidth === size", arg=picture.width
    )


def begin(page: Page, name: str = "Run") -> None:
    """Mark the lines under the pictures as old and press a button that starts or stops a run."""
    page.evaluate(MARK)
    page.locator(TAB).get_by_role("button", name=name, exact=True).click()


def finish(page: Page) -> str:
    """Wait until a new line says that a run has ended, and give it."""
    page.wait_for_selector(f"{TAB} .stage-box .status:not(.old):is(.done, .error)")
    page.wait_for_function("!document.documentElement.classList.contains('running')")
    return page.locator(f"{TAB} .stage-box .status:not(.old)").first.inner_text()


def draw_totem() -> Image.Image:
    """Draw a green head on a red body."""
    picture = Image.new("RGB", (200, 200), "white")
    pen = ImageDraw.Draw(picture)
    pen.ellipse([50, 90, 150, 190], fill="red")
    pen.ellipse([65, 15, 135, 100], fill="green")
    return picture


def look_at_model(page: Page) -> np.ndarray:
    """Return what the viewer shows, (H, W, 3), once it shows something coloured."""
    box = page.locator(f"{TAB} .model canvas")
    box.wait_for()
    for _ in range(LOOKS):
        shown = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("RGB")).astype(int)
        if (np.ptp(shown, axis=2) > 60).mean() > 0.03:
            return shown
        page.wait_for_timeout(500)
    raise AssertionError("the viewer shows nothing coloured")


@pytest.mark.parametrize(("width_px", "is_touch"), [(1280, False), (390, True)], ids=["1280", "390 by touch"])
def test_a_model_stands_upright_lit_and_coloured(
    windows: Windows, tmp_path: Path, *, width_px: int, is_touch: bool
) -> None:
    page = open_tab(windows, width_px=width_px, is_touch=is_touch)
    give(page, draw_totem(), tmp_path)
    begin(page)
    assert finish(page).startswith("Done in")
    shown = look_at_model(page)
    red, green, blue = shown[..., 0], shown[..., 1], shown[..., 2]
    is_red, is_green = (red > green + 60) & (red > blue + 60), (green > red + 40) & (green > blue + 40)
    height = len(shown)
    assert is_red.mean() > 0.02 and is_green.mean() > 0.01
    rows = np.arange(height)[:, None] / height
    tops = [(rows * part).sum() / part.sum() for part in (is_green, is_red)]
    assert tops[0] + 0.1 < tops[1]  # the head is above
    assert red[is_red].mean() > 110  # lit: without a material of its own it would be nearly black
    inside = np.argwhere(is_red | is_green)
    assert inside[:, 0].min() > 0.02 * height and inside[:, 0].max() < 0.98 * height  # all of it is seen
    assert np.ptp(inside[:, 0]) > 0.4 * height
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    for name in ("Run", "Stop", "Download GLB", "Download OBJ", "Download clip"):
        box = page.locator(TAB).get_by_role("button", name=name, exact=True).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width_px and box["height"] >= 40, name


def test_a_round_is_turned_by_its_slider_and_files_are_taken_away(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    begin(page)
    finish(page)
    view = page.locator(f"{TAB} .round-view")
    before = view.screenshot()
    page.locator(f"{TAB} .round input").fill("6")
    page.wait_for_function("getComputedStyle(document.querySelector('.round-view')).backgroundPositionX !== '0%'")
    assert view.screenshot() != before
    for name, kind in (("Download GLB", "glb"), ("Download OBJ", "obj"), ("Download clip", "webp")):
        with page.expect_download() as download:
            page.locator(TAB).get_by_role("button", name=name, exact=True).click()
        path = tmp_path / f"file.{kind}"
        download.value.save_as(path)
        assert download.value.suggested_filename.endswith(kind)
        if kind == "webp":
            assert Image.open(path).n_frames == 24  # type: ignore[attr-defined]
        else:
            mesh = trimesh.load(path, force="mesh")
            assert mesh.is_watertight and 1.2 < np.ptp(mesh.vertices, axis=0).max() < 2.0


def test_a_bad_picture_gets_one_sentence_and_the_next_run_works(windows: Windows, tmp_path: Path) -> None:
    page = open_tab(windows)
    give(page, Image.new("RGB", (100, 100), "black"), tmp_path)
    begin(page)
    assert "No object stands out from its background here" in finish(page)
    expect(page.locator(f"{TAB} .model")).to_be_hidden(timeout=PATIENCE_MS)
    page.locator(f"{TAB} button.example", has_text="transparent picture").click()
    page.wait_for_selector(f"{TAB} .stage-box .status.done")
    look_at_model(page)


def paint(page: Page, canvas: str, way: list[tuple[float, float]]) -> None:
    """Draw a stroke over a paint canvas, through places in shares of its field."""
    field = page.locator(f"{canvas} .paint-field")
    field.scroll_into_view_if_needed()
    box = field.bounding_box()
    assert box and box["width"] > 100
    for index, (x, y) in enumerate(way):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def test_an_outline_is_corrected_and_a_model_recoloured(windows: Windows) -> None:
    page = open_tab(windows)
    page.locator(f"{TAB} .preview-cutout .label-wrap").click()
    page.wait_for_selector(f"{TAB} .preview-cutout .paint[data-empty='false']")
    page.locator(f"{TAB} .preview-cutout .paint-mode[data-mode='erase']").click()
    page.locator(f"{TAB} .preview-cutout .paint-brush").fill("25")
    paint(page, f"{TAB} .preview-cutout", [(0.1, 0.3), (0.9, 0.3), (0.9, 0.1), (0.1, 0.1)])  # off with its head
    begin(page)
    finish(page)
    before = look_at_model(page)
    page.get_by_text("Recolour: paint on a view").click()
    page.wait_for_selector(f"{TAB} .result .paint[data-empty='false']")
    page.locator(f"{TAB} label", has_text="All of that colour").click()
    paint(page, f"{TAB} .result", [(0.45, 0.5), (0.55, 0.5), (0.55, 0.55)])
    page.locator(TAB).get_by_role("button", name="Recolour", exact=True).click()
    expect(page.locator(f"{TAB} .result .block.choice-notes")).to_contain_text("Recoloured", timeout=PATIENCE_MS)
    for _ in range(LOOKS):
        after = look_at_model(page)
        is_red = (after[..., 0] > after[..., 1] + 60) & (after[..., 0] > after[..., 2] + 60)
        if is_red.mean() > 0.05:
            break
        page.wait_for_timeout(500)
    assert is_red.mean() > 0.05 and not (before[..., 0] > before[..., 1] + 60).any()


def test_views_are_there_while_the_model_is_fitted_and_a_stop_keeps_the_best(windows: Windows) -> None:
    page = open_tab(windows, method="Views + fit")
    begin(page)
    page.wait_for_selector(f"{TAB} .round-view[aria-label^='The drawn views']")
    page.wait_for_selector(f"{TAB} .model:visible")  # the first shape
    begin(page, "Stop")
    page.wait_for_selector(f"{TAB} .status.stopped")
    assert "the best model so far stays" in page.inner_text(f"{TAB} .status.stopped")
    look_at_model(page)
    expect(page.locator(f"{TAB} .sketches img")).to_have_count(9, timeout=PATIENCE_MS)
    expect(page.locator(TAB).get_by_role("button", name="Download GLB", exact=True)).to_be_enabled()


def test_words_become_a_picture_and_the_picture_a_model(windows: Windows) -> None:
    page = open_tab(windows)
    before = page.locator(f"{TAB} .enlarge-picture img").first.get_attribute("src")
    page.fill(f"{TAB} .preview-words textarea", "a red robot, plain background")
    begin(page, "Draw")
    assert "Drawn." in finish(page)
    expect(page.locator(f"{TAB} .enlarge-picture img").first).not_to_have_attribute("src", before or "")
    begin(page)
    assert "Done in" in finish(page)
    shown = look_at_model(page)
    is_red = (shown[..., 0] > shown[..., 1] + 60) & (shown[..., 0] > shown[..., 2] + 60)
    assert is_red.mean() > 0.03
