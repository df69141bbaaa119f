"""The pictures of one process stay until it lets them go, whatever another one on the same machine does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import gradio as gr
import pytest
from gradio_client import Client
from PIL import Image

import app
from pipelines import ImageResult, TextToImageRequest
from tabs import files, look, technique_picker
from tabs.wiring import ModelLoader, read_address

RUN: dict[str, Any] = {
    "prompt": "a red boat above a blue house",
    "negative_prompt": "",
    "seed": "5",
    "num_steps": 1,
    "guidance_scale": 4.0,
    "sampler": "ddim",
    "size": "",
    "compare": False,
    "backend": "storybook",
    **technique_picker.to_widgets({}),
}


def test_every_run_of_the_app_has_its_own_folder_and_takes_it_along(folder: Path) -> None:
    result = ImageResult((Image.new("RGB", (8, 8)),), (), 5, 1.0, (), (), TextToImageRequest("a red boat"))
    kept = Path(files.save_png(result))
    with files.own_folder() as own:
        also = Path(files.save_png(result))
        assert also.is_relative_to(own) and also.name == kept.name and also != kept
    assert not own.exists() and kept.is_file() and kept.is_relative_to(folder)


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_what_the_machine_says_about_the_folder_holds_again_afterwards(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is None:
        monkeypatch.delenv(files.FOLDER_VARIABLE)
    else:
        monkeypatch.setenv(files.FOLDER_VARIABLE, str(tmp_path / before))
    said = os.environ.get(files.FOLDER_VARIABLE)
    with files.own_folder() as own:
        assert os.environ[files.FOLDER_VARIABLE] == str(own)
        assert before is None or own.parent == (tmp_path / before).resolve()
    assert os.environ.get(files.FOLDER_VARIABLE) == said


def test_a_second_app_that_stops_takes_no_picture_from_the_first(page: gr.Blocks, tiny_loader: ModelLoader) -> None:
    ours = draw(page)
    with files.own_folder():
        other = app.build_app(tiny_loader)
        other.launch(**read_address("", None, ""), **look.launch_options(is_stage=False), prevent_thread_lock=True)
        theirs = draw(other)
        other.close()
    assert urlopen(ours).status == 200
    assert Path(ours).parts[-2:] == Path(theirs).parts[-2:], "not the same picture: this test shows nothing"


def draw(page: gr.Blocks) -> str:
    """Let a visitor of the page draw the one picture; returns its address."""
    client = Client(page.local_url, verbose=False, analytics_enabled=False, download_files=False)
    return str(client.predict(**RUN, api_name="/text_to_image")[0]["value"]["url"])
