"""The page through a real client on loopback: run, stop in the middle, run again; visitors; bad input; limits."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from pipelines import catalogue
from tabs import TABS, technique_picker, wiring

Open = Callable[[], Client]
VALUES: dict[str, Any] = {
    "prompt": "a red boat above a blue house",
    "negative_prompt": "",
    "seed": "5",
    "num_steps": 2,
    "guidance_scale": 4.0,
    "sampler": "ddim",
    "size": "",
    "compare": True,
    "backend": "storybook",
    **technique_picker.to_widgets({}),
}


def draw(client: Client, **changes: Any) -> Any:
    return client.predict(**{**VALUES, **changes}, api_name="/text_to_image")


def find_png(outputs: Any) -> str:
    """The picture, which comes first: a file with its settings inside."""
    return str(outputs[0]["value"])


def test_the_fields_of_the_api_are_the_names_of_the_request(page: gr.Blocks, visitor: Open) -> None:
    described = visitor().view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(described) == {
        *("/text_to_image", "/read_settings", "/propose_layout", "/style_prompting"),
        *("/drag_editing", "/drag_draw", "/drag_upload", "/personalization"),
        *("/super_resolution", "/enlarge_upload"),
        *("/preview_3d", "/preview_upload"),
        *("/low_light", "/low_light_compare", "/light_upload", "/darken"),
    }
    assert [field["parameter_name"] for field in described["/text_to_image"]["parameters"]] == list(VALUES)


def test_run_stop_in_the_middle_run_again(visitor: Open) -> None:
    client = visitor()
    first = find_png(draw(client))
    job = client.submit(**{**VALUES, "num_steps": 100}, api_name="/text_to_image")
    stream = iter(job)
    next(stream)
    job.cancel()
    again = find_png(draw(client))
    assert Image.open(first).convert("RGB").tobytes() == Image.open(again).convert("RGB").tobytes()


def test_two_visitors_at_once_share_one_queue_and_nothing_else(visitor: Open) -> None:
    ada, bob = visitor(), visitor()
    jobs = [
        client.submit(**{**VALUES, "seed": seed}, api_name="/text_to_image")
        for client, seed in ((ada, "1"), (bob, "2"))
    ]
    names = [Path(find_png(job.result())).name for job in jobs]
    assert names == ["limelight-1.png", "limelight-2.png"]


def test_a_downloaded_png_restores_its_settings(visitor: Open) -> None:
    client = visitor()
    path = find_png(draw(client, seed="4294967295", picked=["cfg_rescale"], compare=False))
    restored = client.predict(dropped=handle_file(path), api_name="/read_settings")
    assert restored[0] == VALUES["prompt"] and "4294967295" in restored and ["cfg_rescale"] in restored


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"num_steps": 0}, "Steps 0 is too low; choose 1 to 100."),
        ({"guidance_scale": 1e9}, "Guidance 1000000000 is too high; choose 0 to 20."),
        ({"seed": "<b>seven</b>"}, "&lt;b&gt;seven"),
        ({"backend": "sd15"}, "--model-path"),
    ],
)
def test_a_bad_input_gets_one_sentence_and_the_next_run_works(
    visitor: Open, changes: dict[str, Any], sentence: str
) -> None:
    client = visitor()
    with pytest.raises(AppError) as caught:
        draw(client, **changes)
    assert sentence in str(caught.value) and "Traceback" not in str(caught.value)
    assert find_png(draw(client, num_steps=1))


def test_a_file_that_is_no_png_is_refused(visitor: Open, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(AppError, match="not a PNG"):
        visitor().predict(dropped=handle_file(str(path)), api_name="/read_settings")


def test_the_page_keeps_its_limits(page: gr.Blocks) -> None:
    model_events = [fn for fn in page.fns.values() if fn.concurrency_id == wiring.MODEL_QUEUE]
    assert len(model_events) >= 6 and all(fn.concurrency_limit == 1 for fn in model_events)
    assert page._queue.max_size == wiring.MAX_WAITING
    assert page.max_file_size == 10 * 2**20
    assert page.delete_cache is not None
    assert not page.share and not page.analytics_enabled and not page.run_history
    assert page.server_name == "127.0.0.1"


def test_stop_ends_every_run_of_the_tab(page: gr.Blocks) -> None:
    runs = {fn._id for fn in page.fns.values() if fn.concurrency_id == wiring.MODEL_QUEUE}
    ended = {target for fn in page.fns.values() for target in fn.cancels}
    assert runs == ended


def test_every_tab_has_an_address() -> None:
    names = [tab.NAME for tab in TABS]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and " " not in name for name in names)


def test_a_layout_is_proposed_from_the_prompt(visitor: Open) -> None:
    boxes = visitor().predict(prompt="a red boat left of a white moon", api_name="/propose_layout")
    assert [box["phrase"] for box in boxes] == ["a red boat", "a white moon"] and boxes[0]["x1"] <= boxes[1]["x0"]


def test_picking_a_technique_sets_a_sampler_that_suits_it_and_otherwise_leaves_it() -> None:
    def choose(picked: list[str], sampler: str) -> str:
        return technique_picker.on_pick(picked=picked, sampler=sampler)["sampler"]

    assert choose([], "unipc") == choose(["s_cfg"], "unipc") == "unipc"
    assert choose(["mulan"], "dpmpp_2m") == "ddim"
    assert choose(["sing_diffusion", "s_cfg"], "ddim") == "ddim_short"
    assert choose(["sing_diffusion", "mulan"], "unipc") == "ddim_short"
    assert choose(["mulan", "sing_diffusion"], "ddim") == "ddim"


def test_what_a_technique_lacks_with_other_models_is_told_before_a_run() -> None:
    for entry in catalogue().values():
        assert escape(entry.elsewhere) in technique_picker.describe(entry)
    assert "rougher" in technique_picker.describe(catalogue()["sing_diffusion"])
