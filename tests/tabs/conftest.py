"""A page on loopback with a tiny pipeline of the real classes behind it, and a client that talks to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client

import app
from pipelines.cache import ModelStore
from pipelines.networks import Networks
from pipelines.runtime import RunOptions
from tabs import files, header, look
from tabs.wiring import ModelLoader, Services, read_address
from tests.tiny_models import save_tiny_networks


class TinyStore(ModelStore):
    """The page's own store, with networks for photographs from another folder."""

    def __init__(self, options: RunOptions, folder: Path) -> None:
        super().__init__(options)
        self._networks = Networks(folder)


@pytest.fixture(scope="session")
def tiny_loader(tiny_folder: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> ModelLoader:
    """The page's own loader over the page's own store; only storybook has a folder, the others have no network."""
    networks = save_tiny_networks(tmp_path_factory.mktemp("networks"))
    options = RunOptions(
        device="cpu",
        dtype="fp32",
        offline=True,
        model_path=str(tiny_folder("storybook", "v")),
        model_path_for="storybook",
    )
    return ModelLoader(lambda: TinyStore(options, networks))


@pytest.fixture(scope="session")
def services(tiny_loader: ModelLoader) -> Services:
    """What a tab's handlers get, with the header's widgets of a page that is not served."""
    with gr.Blocks(analytics_enabled=False):
        return header.build(tiny_loader, [("storybook", "storybook")], "storybook")


@pytest.fixture(scope="session", autouse=True)
def folder() -> Iterator[Path]:
    """The pictures of this process, as `app.main` keeps them: test runs side by side take nothing from each other."""
    with files.own_folder() as own:
        yield own


@pytest.fixture(scope="module")
def page(tiny_loader: ModelLoader) -> Iterator[gr.Blocks]:
    """The whole page, served on a free port of this machine."""
    built = app.build_app(tiny_loader)
    built.launch(**read_address("", None, ""), **look.launch_options(is_stage=False), prevent_thread_lock=True)
    yield built
    built.close()


@pytest.fixture
def visitor(page: gr.Blocks) -> Callable[[], Client]:
    """Open the page once more: visitor() -> a client with its own session."""
    return lambda: Client(page.local_url, verbose=False, analytics_enabled=False)
