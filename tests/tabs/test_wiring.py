"""wire(): names checked at build time, values by keyword, one sentence after an error; and who may reach the page."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

import gradio as gr
import pytest
import torch
from PIL import Image

from pipelines import Progress, UserError
from tabs import wiring
from tabs.wiring import ModelLoader, UnderWay, make_listener, read_address, wire


def on_two(*, first: str, second: str) -> Iterator[dict[str, Any]]:
    """Yield both values in two updates."""
    yield {"left": first}
    yield {"right": second}


@pytest.fixture
def outputs() -> dict[str, gr.Textbox]:
    with gr.Blocks(analytics_enabled=False):
        return {"left": gr.Textbox(), "right": gr.Textbox()}


def test_values_arrive_by_name_and_updates_leave_by_name(outputs: dict[str, Any]) -> None:
    listener = make_listener(on_two, {"first": None, "second": None}, outputs)
    assert inspect.isgeneratorfunction(listener)
    assert list(listener("a", "b")) == [{outputs["left"]: "a"}, {outputs["right"]: "b"}]
    assert list(inspect.signature(listener).parameters) == ["first", "second"]


@pytest.mark.parametrize("names", [("second", "first"), ("first",), ("first", "second", "third")])
def test_names_that_do_not_match_fail_when_the_page_is_built(names: tuple[str, ...]) -> None:
    with gr.Blocks(analytics_enabled=False):
        button, box = gr.Button(), gr.Textbox()
        with pytest.raises(ValueError, match="on_two takes"):
            wire(button.click, on_two, dict.fromkeys(names, box), {"left": box})


def test_a_stop_waits_for_the_last_words_of_its_own_runs() -> None:
    watching, asked, go = UnderWay(), gr.Request(session_hash="ada"), threading.Event()

    def run(first: str) -> Iterator[str]:
        yield first
        go.wait(20)
        yield "last words"

    watched = watching.watch(run)
    assert list(inspect.signature(watched).parameters) == ["first", "request"]
    stream = watched("one", asked)
    assert next(stream) == "one"
    assert watching.wait("bob", [watched], 0.01) and watching.wait("ada", [run], 0.01)
    assert not watching.wait("ada", [watched], 0.01)
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.extend(stream))
    thread.start()
    go.set()
    assert watching.wait("ada", [watched], 20)
    thread.join()
    assert said == ["last words"]


def test_a_closed_run_is_not_under_way() -> None:
    watching, closed = UnderWay(), []

    def run() -> Iterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    watched = watching.watch(run)
    stream: Any = watched(gr.Request(session_hash="ada"))
    next(stream)
    stream.close()
    assert closed and watching.wait("ada", [watched], 0.01)


def test_a_stream_runs_in_the_one_thread_that_loads_models_and_is_closed_there() -> None:
    seen: list[str] = []

    def steps() -> Generator[int, None, None]:
        try:
            for step in range(9):
                seen.append(threading.current_thread().name)
                yield step
        finally:
            seen.append("closed in " + threading.current_thread().name)

    models = ModelLoader(lambda: None)  # type: ignore[arg-type,return-value]
    assert list(models.run(steps())) == list(range(9))
    stopped = models.run(steps())
    assert next(stopped) == 0
    stopped.close()
    assert {name.removeprefix("closed in ") for name in seen} == {"model_0"}
    assert len(seen) == 9 + 1 + 1 + 1


def test_loading_a_further_backend_holds_up_no_run() -> None:
    going_on = threading.Event()

    class Store:
        """A store whose second model takes until it is told to go on."""

        def loaded(self) -> tuple[str, ...]:
            return ("first",)

        def get(self, name: str) -> str:
            assert name == "first" or going_on.wait(20)
            return name

    models = ModelLoader(lambda: Store())  # type: ignore[arg-type,return-value]
    assert models.start("first").result(20) == "first"
    further = models.start("second")
    assert list(models.run(iter_of(3))) == [0, 1, 2] and not further.done()
    going_on.set()
    assert further.result(20) == "second"


def test_an_error_in_the_models_thread_reaches_the_handler() -> None:
    def fail() -> Generator[int, None, None]:
        yield 1
        raise UserError("no")

    stream = ModelLoader(lambda: None).run(fail())  # type: ignore[arg-type,return-value]
    assert next(stream) == 1
    with pytest.raises(UserError, match="no"):
        next(stream)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_gets_a_thread_of_its_own() -> None:
    models = ModelLoader(lambda: None)  # type: ignore[arg-type,return-value]
    assert list(models.run(iter_of(3))) == [0, 1, 2]
    child = multiprocessing.get_context("fork").Process(target=lambda: list(models.run(iter_of(3))), daemon=True)
    child.start()
    child.join(timeout=20)
    assert child.exitcode == 0


def iter_of(count: int) -> Generator[int, None, None]:
    """Yield the first numbers."""
    yield from range(count)


def test_controls_beyond_the_parameters_become_options(outputs: dict[str, Any]) -> None:
    def on_many(*, first: str, **options: str) -> dict[str, str]:
        return {"left": first, "right": ",".join(f"{name}={value}" for name, value in options.items())}

    listener = make_listener(on_many, {"first": None, "more": None, "most": None}, outputs)
    assert list(inspect.signature(listener).parameters) == ["first", "more", "most"]
    assert list(listener("a", "b", "c")) == [{outputs["left"]: "a", outputs["right"]: "more=b,most=c"}]
    with pytest.raises(ValueError, match="on_many takes"):
        make_listener(on_many, {"more": None, "first": None}, outputs)


def test_an_error_output_that_does_not_exist_fails_when_the_page_is_built(outputs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="error output"):
        make_listener(on_two, {"first": None, "second": None}, outputs, error_output="status")


def test_bound_arguments_are_no_controls(outputs: dict[str, Any]) -> None:
    def handler(service: str, *, first: str) -> dict[str, Any]:
        return {"left": service + first}

    listener = make_listener(partial(handler, "bound "), {"first": None}, outputs)
    assert list(listener("value")) == [{outputs["left"]: "bound value"}]
    assert listener.__name__ == "handler"


def test_a_user_error_becomes_one_sentence(outputs: dict[str, Any]) -> None:
    def on_wrong() -> Iterator[dict[str, Any]]:
        yield {"left": "begun"}
        raise UserError("Guidance <35> is too high; choose 0 to 20.")

    listener = make_listener(on_wrong, {}, outputs, error_output="right", describe_error="[{}]".format)
    run = listener()
    assert next(run) == {outputs["left"]: "begun"}
    assert next(run) == {outputs["right"]: "[Guidance <35> is too high; choose 0 to 20.]"}
    with pytest.raises(gr.Error) as caught:
        next(run)
    assert caught.value.message == "Guidance &lt;35&gt; is too high; choose 0 to 20."


def test_any_other_error_reaches_the_log_and_not_the_page(
    outputs: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def on_bug() -> dict[str, Any]:
        raise RuntimeError("secret detail")

    with caplog.at_level(logging.ERROR, logger="limelight"), pytest.raises(gr.Error) as caught:
        list(make_listener(on_bug, {}, outputs)())
    assert caught.value.message == wiring.NEUTRAL_SENTENCE
    assert "secret detail" in caplog.text and "Traceback" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_full_memory_is_told_with_what_helps(outputs: dict[str, Any], error: Exception) -> None:
    def on_large() -> dict[str, Any]:
        raise error

    with pytest.raises(gr.Error) as caught:
        list(make_listener(on_large, {}, outputs)())
    assert caught.value.message == wiring.MEMORY_SENTENCE


def test_an_update_of_an_unknown_output_is_a_bug(outputs: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(gr.Error):
        list(make_listener(lambda: {"middle": 1}, {}, outputs)())
    assert "updates ['middle']" in caplog.text


def test_stopping_closes_the_handler(outputs: dict[str, Any]) -> None:
    ended: list[str] = []

    def on_long() -> Iterator[dict[str, Any]]:
        try:
            while True:
                yield {"left": "step"}
        finally:
            ended.append("closed")

    run = make_listener(on_long, {}, outputs)()
    next(run)
    run.close()
    assert ended == ["closed"]


def test_events_that_use_a_model_share_one_queue(outputs: dict[str, Any]) -> None:
    with gr.Blocks(analytics_enabled=False) as page:
        boxes = {"first": gr.Textbox(), "second": gr.Textbox()}
        places = {"left": gr.Textbox(), "right": gr.Textbox()}
        wire(gr.Button().click, on_two, boxes, places, api_name="one", uses_model=True)
        wire(gr.Button().click, on_two, boxes, places, uses_model=True)
    functions = list(page.fns.values())
    assert {(fn.concurrency_id, fn.concurrency_limit) for fn in functions} == {(wiring.MODEL_QUEUE, 1)}
    assert [fn.api_visibility for fn in functions] == ["public", "private"]


def test_the_page_is_for_this_machine_by_default() -> None:
    assert read_address("", None, "") == {"server_name": "127.0.0.1", "server_port": None, "auth": None}
    assert read_address("localhost", None, "ada:secret")["auth"] == ("ada", "secret")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.20", "::"])
def test_a_public_address_needs_a_login(host: str) -> None:
    with pytest.raises(UserError, match="add --auth NAME:PASSWORD"):
        read_address(host, None, "")
    assert read_address(host, None, "ada:secret:with colon")["auth"] == ("ada", "secret:with colon")


@pytest.mark.parametrize("auth", ["ada", "ada:", ":secret"])
def test_a_login_without_name_or_password_is_refused(auth: str) -> None:
    with pytest.raises(UserError, match="NAME:PASSWORD"):
        read_address("0.0.0.0", None, auth)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    with pytest.raises(UserError, match="choose 1 to 65535"):
        read_address("", port, "")


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port}.*another --port"):
            read_address("", port, "")


def test_a_space_is_public_without_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "ada/limelight")
    assert read_address("", None, "") == {"server_name": "0.0.0.0", "server_port": None, "auth": None}


def test_steps_and_previews_come_at_the_pace_of_a_browser() -> None:
    preview = Image.new("RGB", (8, 8))
    stream = [Progress(step=step, num_steps=100, preview=preview) for step in range(1, 101)]
    times = iter(wiring.FRAME_S * step / 4 for step in range(1, 101))
    *paced, last, result = list(wiring.pace([*stream, "result"], clock=lambda: next(times)))
    assert result == "result" and last.step == 100 and last.preview
    assert paced[0].step == 1 and paced[0].preview
    assert 20 <= len(paced) <= 30
    assert all(item.preview for item in paced)


def test_a_slow_model_shows_every_step() -> None:
    preview = Image.new("RGB", (8, 8))
    stream = [Progress(step=step, num_steps=5, preview=preview) for step in range(1, 6)]
    times = iter(float(step) for step in range(5))
    assert list(wiring.pace(stream, clock=lambda: next(times))) == stream
