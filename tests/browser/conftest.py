"""Headless Chromium on a page of this machine; every request is written down, and none may leave the machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

import app
from pipelines.cache import ModelStore
from pipelines.runtime import read_options
from tabs import files, look
from tabs.wiring import ModelLoader, read_address

FLAGS = (
    *("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Solid models are drawn by software here.
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    # On a busy machine they may take longer than the browser allows, which then draws no more of them for this page.
    *("--disable-gpu-watchdog", "--disable-gpu-process-crash-limit", "--disable-domain-blocking-for-3d-apis"),
)
PATIENCE_MS = 120_000


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests; each test opens its own window. On a busy machine everything takes its time."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Windows:
    """Open windows on one page, remember what they asked for, and close them."""

    browser: Browser
    address: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    def open(
        self,
        query: str = "",
        *,
        width_px: int = 1280,
        height_px: int = 800,
        scheme: Any = "light",
        is_touch: bool = False,
    ) -> Page:
        """Open a window, with a finger instead of a mouse if asked, and wait until the model is ready."""
        context = self.browser.new_context(
            viewport={"width": width_px, "height": height_px},
            color_scheme=scheme,
            accept_downloads=True,
            has_touch=is_touch,
        )
        context.set_default_timeout(PATIENCE_MS)
        self.contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.address + query)
        page.wait_for_selector(".badge.ready")
        return page

    def outside(self) -> list[str]:
        """List what was asked of other machines."""
        return [url for url in self.asked if urlsplit(url).hostname not in ("127.0.0.1", None)]


@pytest.fixture(scope="session")
def served() -> Iterator[gr.Blocks]:
    """The page as `python app.py --offline` serves it, with the shipped model, on a free port of this machine."""
    with files.own_folder():
        page = app.build_app(ModelLoader(lambda: ModelStore(read_options(offline=True))))
        page.launch(**read_address("", None, ""), **look.launch_options(is_stage=False), prevent_thread_lock=True)
        yield page
        page.close()


@pytest.fixture
def windows(chromium: Browser, served: gr.Blocks) -> Iterator[Windows]:
    """Windows on the page; afterwards nothing may have been asked of another machine, and no script failed."""
    opened = Windows(chromium, served.local_url)
    yield opened
    for context in opened.contexts:
        context.close()
    assert opened.outside() == []
    assert opened.complaints == []
