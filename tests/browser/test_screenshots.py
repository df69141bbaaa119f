"""The pictures in the README: the shipped model on the real page, light and dark, wide and on a phone.

They are written to docs/screenshots only when LIMELIGHT_SCREENSHOTS=1 is set; without it the same way is walked and
the pictures go to a temporary folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image, ImageStat
from playwright.sync_api import Page

from tests.browser.conftest import Windows
from tests.browser.test_preview import look_at_model

# One process for the browser, so that it shares the machine with one other test at most.
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
PROMPT = "a red boat left of a white moon, night sky, watercolor"
VIEWS = (
    ("page-light-1280", "light", 1280, 860, ""),
    ("page-dark-1280", "dark", 1280, 860, ""),
    ("page-light-390", "light", 390, 844, ""),
    ("page-dark-390", "dark", 390, 844, ""),
    ("stage-dark-1920", "dark", 1920, 1080, "?stage=1"),
)
STYLE_VIEWS = (
    ("style-light-1280", "light", 1280, "Compare"),
    ("style-dark-1280", "dark", 1280, "Run"),
    ("style-light-390", "light", 390, "Run"),
)
DRAG_VIEWS = (
    ("drag-light-1280", "light", 1280),
    ("drag-dark-1280", "dark", 1280),
    ("drag-light-390", "light", 390),
)

ENLARGE_VIEWS = (
    ("enlarge-light-1280", "light", 1280, ""),
    ("enlarge-dark-1280", "dark", 1280, "a drawing of 72 px"),
    ("enlarge-light-390", "light", 390, ""),
)
LIGHT_VIEWS = (
    ("light-light-1280", "light", 1280, "Compare"),
    ("light-dark-1280", "dark", 1280, "Run"),
    ("light-light-390", "light", 390, "Run"),
)
PREVIEW_VIEWS = (
    ("preview-light-1280", "light", 1280),
    ("preview-dark-1280", "dark", 1280),
    ("preview-light-390", "light", 390),
)

SUBJECT_VIEWS = (
    ("subject-light-1280", "light", 1280, "Compare"),
    ("subject-dark-1280", "dark", 1280, "my robot in the desert, crayon"),
    ("subject-light-390", "light", 390, "Run"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the pictures go: into the project only when asked."""
    if os.environ.get("LIMELIGHT_SCREENSHOTS") != "1":
        return tmp_path
    FOLDER.mkdir(parents=True, exist_ok=True)
    return FOLDER


def draw(page: Page, button: str) -> None:
    """Run with the given button and wait until every picture on the page is decoded."""
    page.evaluate("document.querySelectorAll('.status').forEach(line => line.classList.add('old'))")
    page.get_by_role("button", name=button, exact=True).click()
    page.wait_for_selector(".status.done:not(.old)")
    # Pictures below the window are loaded when they come near.
    page.wait_for_function(
        "[...document.querySelectorAll('.stage-box img, .sketches img')].filter(image => image.offsetParent)"
        ".every(image => { image.loading = 'eager'; return image.complete && image.naturalWidth; })"
    )
    page.wait_for_function("!document.documentElement.classList.contains('running')")
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)


@pytest.mark.parametrize(("name", "scheme", "width_px", "height_px", "query"), VIEWS, ids=[view[0] for view in VIEWS])
def test_the_page_as_the_readme_shows_it(
    windows: Windows, folder: Path, name: str, scheme: str, *, width_px: int, height_px: int, query: str
) -> None:
    page = windows.open(query, width_px=width_px, height_px=height_px, scheme=scheme)
    page.fill(".prompt textarea", PROMPT)
    draw(page, "Run")
    page.screenshot(path=folder / f"{name}.png", full_page=width_px < 1920, animations="disabled")
    with Image.open(folder / f"{name}.png") as shot:
        assert shot.width == width_px
        brightness = ImageStat.Stat(shot.convert("L").crop((0, 0, width_px, 40))).mean[0]
        assert (brightness < 64) is (scheme == "dark")


def test_a_comparison_as_the_readme_shows_it(windows: Windows, folder: Path) -> None:
    page = windows.open(width_px=1280, height_px=860, scheme="light")
    page.fill(".prompt textarea", PROMPT)
    page.click(".settings .label-wrap")
    field = page.get_by_label("number input for Guidance")
    field.fill("12")
    field.press("Tab")
    page.click(".settings .label-wrap")
    draw(page, "Compare")
    page.screenshot(path=folder / "compare-light-1280.png", full_page=True, animations="disabled")
    assert page.locator(".fact.measure").count() >= 2


@pytest.mark.skipif(
    os.environ.get("LIMELIGHT_SCREENSHOTS") != "1", reason="test_style.py walks the same way with fewer steps"
)
@pytest.mark.parametrize(("name", "scheme", "width_px", "button"), STYLE_VIEWS, ids=[view[0] for view in STYLE_VIEWS])
def test_the_style_tab_as_the_readme_shows_it(
    windows: Windows, folder: Path, name: str, scheme: str, *, width_px: int, button: str
) -> None:
    page = windows.open("?tab=style", width_px=width_px, height_px=860, scheme=scheme)
    page.wait_for_selector(".style-shelf button.selected")
    draw(page, button)
    page.screenshot(path=folder / f"{name}.png", full_page=True, animations="disabled")
    assert page.locator(".style-arm:visible").count() == (3 if button == "Compare" else 1)


@pytest.mark.skipif(os.environ.get("LIMELIGHT_SCREENSHOTS") != "1", reason="test_drag.py walks the same way")
@pytest.mark.parametrize(("name", "scheme", "width_px"), DRAG_VIEWS, ids=[view[0] for view in DRAG_VIEWS])
def test_the_drag_tab_as_the_readme_shows_it(
    windows: Windows, folder: Path, name: str, scheme: str, *, width_px: int
) -> None:
    page = windows.open("?tab=drag", width_px=width_px, height_px=860, scheme=scheme)
    page.wait_for_function("document.querySelector('.drag-picture')?.naturalWidth > 0")
    draw(page, "3. Run")
    page.screenshot(path=folder / f"{name}.png", full_page=True, animations="disabled")
    assert page.locator(".drag-tab .pair img").count() == 2


@pytest.mark.skipif(os.environ.get("LIMELIGHT_SCREENSHOTS") != "1", reason="test_enlarge.py walks the same way")
@pytest.mark.parametrize(
    ("name", "scheme", "width_px", "example"), ENLARGE_VIEWS, ids=[view[0] for view in ENLARGE_VIEWS]
)
def test_the_super_resolution_tab_as_the_readme_shows_it(
    windows: Windows, folder: Path, name: str, scheme: str, *, width_px: int, example: str
) -> None:
    page = windows.open("?tab=enlarge", width_px=width_px, height_px=860, scheme=scheme)
    page.wait_for_function("document.querySelector('.enlarge-picture img')?.naturalWidth > 0")
    if example:
        page.locator(".enlarge-tab button.example", has_text=example).click()
        page.wait_for_selector(".enlarge-tab .status.done")
    draw(page, "Run")
    page.screenshot(path=folder / f"{name}.png", full_page=True, animations="disabled")
    assert page.locator(".enlarge-tab .pair img").count() == 2


@pytest.mark.skipif(os.environ.get("LIMELIGHT_SCREENSHOTS") != "1", reason="test_personalize.py walks the same way")
@pytest.mark.parametrize(
    ("name", "scheme", "width_px", "button"), SUBJECT_VIEWS, ids=[view[0] for view in SUBJECT_VIEWS]
)
def test_the_personalization_tab_as_the_readme_shows_it(
    windows: Windows, folder: Path, name: str, scheme: str, *, width_px: int, button: str
) -> None:
    page = windows.open("?tab=personalization", width_px=width_px, height_px=860, scheme=scheme)
    page.wait_for_selector(".style-shelf button.selected")
    draw(page, button)
    page.screenshot(path=folder / f"{name}.png", full_page=True, animations="disabled")
    assert page.locator(".subject-tab .stage-box img:visible").count() == (2 if button == "Compare" else 1)


@pytest.mark.skipif(os.environ.get("LIMELIGHT_SCREENSHOTS") != "1", reason="test_light.py walks the same way")
@pytest.mark.parametrize(("name", "scheme", "width_px", "button"), LIGHT_VIEWS, ids=[view[0] for view in LIGHT_VIEWS])
def test_the_low_light_tab_as_the_readme_shows_it(
    windows: Windows, folder: Path, name: str, scheme: str, *, width_px: int, button: str
) -> None:
    page = windows.open("?tab=light", width_px=width_px, height_px=860, scheme=scheme)
    page.wait_for_function("document.querySelector('.light-picture img')?.naturalWidth > 0")
    draw(page, button)
    page.screenshot(path=folder / f"{name}.png", full_page=True, animations="disabled")
    assert page.locator(".light-tab .pair img").count() == 2


@pytest.mark.skipif(os.environ.get("LIMELIGHT_SCREENSHOTS") != "1", reason="test_preview.py walks the same way")
@pytest.mark.parametrize(("name", "scheme", "width_px"), PREVIEW_VIEWS, ids=[view[0] for view in PREVIEW_VIEWS])
def test_the_3d_tab_as_the_readme_shows_it(
    windows: Windows, folder: Path, name: str, scheme: str, *, width_px: int
) -> None:
    page = windows.open("?tab=preview", width_px=width_px, height_px=860, scheme=scheme)
    page.wait_for_function("document.querySelector('.preview-tab .enlarge-picture img')?.naturalWidth > 0")
    draw(page, "Run")
    look_at_model(page)
    page.screenshot(path=folder / f"{name}.png", full_page=True)
    assert page.locator(".preview-tab .round-view").count() == 1
