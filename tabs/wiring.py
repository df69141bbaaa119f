"""What connects a page to its handlers: `wire()`, the Stop button, the error boundary, and the model loader.

A handler is a plain function or generator that takes plain values by keyword and yields or returns a dict
{output name: value}. It knows no gradio event, so a test calls it directly. Only this file handles errors.
"""

from __future__ import annotations

import html
import inspect
import logging
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from threading import Condition, Lock
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import gradio as gr
from gradio.utils import get_space

from pipelines import Progress, UserError, collect_no_garbage

if TYPE_CHECKING:
    from pipelines import ModelStore

logger = logging.getLogger("limelight")

MODEL_QUEUE = "model"
MAX_WAITING = 24
POLL_S = 0.2
FRAME_S = 0.15
STOP_PATIENCE_S = 60  # as long as gradio waits for a step that is being computed
MAX_PORT = 65535
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MEMORY_SENTENCE = (
    "This run needs more memory than there is; ask for fewer or smaller pictures, or start with --offload."
)
NEUTRAL_SENTENCE = "Something went wrong on our side; the log of the server says what. Please try again."
Updates = dict[str, Any]
Handler = Callable[..., "Iterator[Updates] | Updates"]
Item = TypeVar("Item")


class ModelLoader:
    """Load and run models in one thread of its own, so that the page is on screen before torch is imported.

    One thread is enough, as loading and drawing are serial anyway; and it draws faster than one thread of many that
    have called torch: on two cores a picture took 1.3 instead of 1.8 s, and 1.05 s in a program without other threads.
    """

    def __init__(self, make_store: Callable[[], ModelStore]) -> None:
        self._make_store = make_store
        self._store: ModelStore | None = None
        self._begin()
        # A ZeroGPU Space runs each marked function in a fork of this process, where threads and held locks are lost.
        if hasattr(os, "register_at_fork"):  # Windows has no fork
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._later = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model-later")
        self._lock = Lock()

    def start(self, backend: str) -> Future[Any]:
        """Begin to load a backend, or hand out what is loaded; returns at once.

        A further backend loads beside the first, or it would hold up the run of another visitor, and its Stop.
        """
        is_first = self._store is None or not self._store.loaded()
        return (self._pool if is_first else self._later).submit(self.get, backend)

    def run(self, stream: Generator[Item, None, None]) -> Generator[Item, None, None]:
        """Pass a stream on, each step of it done in the model's thread; closing this one closes it too."""
        try:
            while found := self._pool.submit(take, stream).result():
                yield found[0]
        finally:
            self._pool.submit(stream.close).result()

    def store(self) -> ModelStore:
        """Give the store behind the loader; the first call imports torch."""
        with self._lock:
            if self._store is None:
                self._store = self._make_store()
            return self._store

    def get(self, backend: str) -> Any:
        """Give one loaded model; waits for it (the provider that capabilities ask)."""
        if self.is_ready(backend):
            return self.store().get(backend)
        with collect_no_garbage():
            return self.store().get(backend)

    def networks(self) -> Any:
        """Give the networks for photographs (the provider that super-resolution asks)."""
        return self.store().networks()

    def is_ready(self, backend: str) -> bool:
        """Tell whether the model is in memory, so that asking for it takes no time."""
        return self._store is not None and backend in self._store.loaded()


class UnderWay:
    """Know whose runs are under way, so that what a Stop says comes after a run's last words.

    Gradio takes a run's end and the Stop's own answer as two requests: under load a step that was being computed was
    told after the answer, and hid what the Stop had kept.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._runs: list[tuple[str | None, Any]] = []

    @contextmanager
    def mark(self, visitor: str | None, run: Any) -> Iterator[None]:
        """Say that a run of a visitor is under way."""
        entry = (visitor, run)
        with self._changed:
            self._runs.append(entry)
        try:
            yield
        finally:
            with self._changed:
                self._runs.remove(entry)
                self._changed.notify_all()

    def wait(self, visitor: str | None, runs: Sequence[Any], patience_s: float) -> bool:
        """Wait until none of these runs of a visitor is under way; False if that takes too long."""

        def is_over() -> bool:
            return not any(owner == visitor and run in runs for owner, run in self._runs)

        with self._changed:
            return self._changed.wait_for(is_over, patience_s)

    def watch(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a listener, so that it is marked for whoever runs it; gradio adds the request as last value."""

        @wraps(run)
        def watched(*values: Any) -> Iterator[Any]:
            *given, request = values
            with self.mark(request.session_hash, watched), closing(run(*given)) as updates:
                yield from updates

        parameters = inspect.signature(run).parameters.values()
        request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
        watched.__signature__ = inspect.Signature([*parameters, request])  # type: ignore[attr-defined]
        watched.__annotations__ = {"request": gr.Request}
        return watched


UNDER_WAY = UnderWay()


@dataclass(frozen=True)
class Services:
    """What the page hands to every tab: the models, the widgets of the header, and what one tab sends to another."""

    models: ModelLoader
    backend: gr.Dropdown
    badge: gr.HTML
    sent: gr.State
    # How a tab wires its sending: through the queue, as gradio tells the change of a state only after queued events.
    sending: ClassVar[Mapping[str, Any]] = MappingProxyType({"concurrency_limit": None, "show_progress": "hidden"})


def send(last: Mapping[str, Any], tab: str, path: str, **words: str) -> dict[str, Any]:
    """Address a picture to a tab, with words about it; the count makes the same one, sent again, a new value."""
    return {"tab": tab, "path": path, "count": last["count"] + 1, **words}


def take(stream: Iterator[Item]) -> tuple[Item, ...]:
    """Take the next item out of a stream; nothing after the last one."""
    return tuple(islice(stream, 1))


def wait_for(pending: Future[Any]) -> Iterator[float]:
    """Yield the seconds waited, every now and then, until the future is done; a Stop can end it in between."""
    waited_s = 0.0
    while not pending.done():
        yield waited_s
        wait([pending], timeout=POLL_S)
        waited_s += POLL_S


def pace(stream: Iterable[Any], *, clock: Callable[[], float] = monotonic) -> Iterator[Any]:
    """Pass a stream on at the pace of a browser: the first and the last step always, others when there is time.

    Every update is a message and every preview a file to encode and fetch; a fast model would bury the page in them,
    and its Stop button would wait behind them.
    """
    told_s = float("-inf")
    for item in stream:
        if isinstance(item, Progress) and item.step < item.num_steps:
            now_s = clock()
            if now_s - told_s < FRAME_S:
                continue
            told_s = now_s
        yield item


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Ask for a GPU while the function runs, on a Hugging Face ZeroGPU Space; elsewhere change nothing.

    The package `spaces` exists only there, so it is never a requirement; a Space refuses to start without a marked
    function. It marks generators too, and keeps their signature.
    """
    if find_spec("spaces") is None:
        return function
    return import_module("spaces").GPU(function)


def wire(
    triggers: Any,
    handler: Handler,
    controls: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    api_name: str | None = None,
    error_output: str | None = None,
    describe_error: Callable[[str], Any] = str,
    uses_model: bool = False,
    **event: Any,
) -> Any:
    """Connect one or several triggers to a handler and check the names at build time.

    `uses_model` puts the event into the one queue that all visitors share. After an error the output named
    `error_output` shows `describe_error(sentence)`; further options go to gradio's event.
    """
    run = make_listener(handler, controls, outputs, error_output=error_output, describe_error=describe_error)
    if uses_model:
        run = UNDER_WAY.watch(on_gpu(run))
        event = {"concurrency_id": MODEL_QUEUE, "concurrency_limit": 1, **event}
    event.setdefault("api_visibility", "public" if api_name else "private")
    listen = partial(gr.on, triggers) if isinstance(triggers, list) else triggers
    return listen(
        fn=run,
        inputs=list(controls.values()),
        outputs=list(outputs.values()),
        api_name=api_name,
        **event,
    )


def wire_stop(
    button: gr.Button, runs: Sequence[Any], handler: Handler, controls: Mapping[str, Any], outputs: Mapping[str, Any]
) -> Any:
    """Let a button end the given runs at once; the handler then says what was kept.

    It speaks only after their last words, on the server and in the browser, and by the queue's way without waiting
    there: the browser hears every event on its own, and the run's last words would otherwise overwrite these.
    """
    listeners = [run.fn for run in runs]

    def wait_for_end(request: gr.Request) -> None:
        if not UNDER_WAY.wait(request.session_hash, listeners, STOP_PATIENCE_S):
            logger.warning("a stopped run is still under way after %d s", STOP_PATIENCE_S)

    quick: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    # Gradio ends runs once the event that is to end them is through, so that this one must not wait.
    told = button.click(end_runs, None, None, cancels=list(runs), **quick)
    rested = told.then(wait_for_end, None, None, **quick).then(None, js="() => limelight.rest()")
    return wire(rested.then, handler, controls, outputs, concurrency_limit=None, show_progress="hidden")


def end_runs() -> None:
    """Do nothing: gradio ends the runs."""


def wire_end(runs: Sequence[Any], script: str) -> None:
    """Run a line of the page's script when a run has ended, well or not."""
    for run in runs:
        run.success(None, js=script)
        run.failure(None, js=script)


def make_listener(
    handler: Handler,
    controls: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    error_output: str | None = None,
    describe_error: Callable[[str], Any] = str,
) -> Callable[..., Any]:
    """Wrap a handler for gradio: values by keyword, updates by name, and the error boundary around both.

    Always a generator with parameters named like the controls, because gradio streams nothing else and names the API's
    fields after them. Controls beyond the handler's own parameters go into its `**options`, if it has such.
    Raises ValueError when the names do not match.
    """
    parameters = list(inspect.signature(handler).parameters.values())
    takes_more = any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    own = [parameter.name for parameter in parameters if parameter.kind != inspect.Parameter.VAR_KEYWORD]
    names = list(controls)
    if own != (names[: len(own)] if takes_more else names):
        raise ValueError(f"{describe(handler)} takes {own}, but the controls are {names}")
    if error_output is not None and error_output not in outputs:
        raise ValueError(f"{describe(handler)}: the error output {error_output!r} is not among {list(outputs)}")

    def listener(*values: Any) -> Iterator[dict[Any, Any]]:
        try:
            with closing(iterate(handler(**dict(zip(names, values))))) as updates:
                for update in updates:
                    yield to_gradio(handler, update, outputs)
        except UserError as error:
            sentence = str(error)
        except Exception as error:
            logger.exception("%s failed", describe(handler))
            sentence = MEMORY_SENTENCE if is_out_of_memory(error) else NEUTRAL_SENTENCE
        else:
            return
        if error_output is not None:
            yield {outputs[error_output]: describe_error(sentence)}
        # The toast renders HTML, and the sentence may quote what the visitor typed.
        raise gr.Error(html.escape(sentence, quote=False), print_exception=False)

    listener.__name__ = listener.__qualname__ = describe(handler)
    listener.__doc__ = inspect.getdoc(getattr(handler, "func", handler))
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    listener.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    return listener


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a device or the machine ran out of memory; torch's own error by its name, as torch may be absent."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint(("OutOfMemoryError", "MemoryError"))


def iterate(updates: Iterator[Updates] | Updates) -> Generator[Updates, None, None]:
    """Treat one dict like a stream of one, and close the handler's own stream with this one."""
    if isinstance(updates, dict):
        yield updates
        return
    with closing(updates) as stream:  # type: ignore[type-var]
        yield from stream


def to_gradio(handler: Handler, update: Updates, outputs: Mapping[str, Any]) -> dict[Any, Any]:
    """Replace output names by widgets; an unknown name is a bug of the handler."""
    unknown = [name for name in update if name not in outputs]
    if unknown:
        raise ValueError(f"{describe(handler)} updates {unknown}, but the outputs are {list(outputs)}")
    if not update:
        # gradio takes an empty dict for a value, not for "nothing changes".
        return {widget: gr.skip() for widget in outputs.values()}
    return {outputs[name]: value for name, value in update.items()}


def describe(handler: Handler) -> str:
    """Name a handler, also when its first arguments are already bound."""
    return str(getattr(getattr(handler, "func", handler), "__name__", handler))


def read_address(host: str, port: int | None, auth: str) -> dict[str, Any]:
    """Turn --host, --port and --auth into launch options; a public address without a login is refused.

    A Hugging Face Space is public on purpose and has no other way in: there, and only there, no login is needed.
    """
    name, _, password = auth.partition(":")
    if auth and not (name and password):
        raise UserError("--auth needs a name and a password; write --auth NAME:PASSWORD.")
    login = (name, password) if auth else None
    if get_space() is not None and not host:
        return {"server_name": "0.0.0.0", "server_port": port, "auth": login}
    host = host or LOOPBACK[0]
    if host not in LOOPBACK and login is None:
        raise UserError(f"{host} can be reached by others; add --auth NAME:PASSWORD, or leave --host out.")
    check_port(host, port)
    return {"server_name": host, "server_port": port, "auth": login}


def check_port(host: str, port: int | None) -> None:
    """Refuse a port that cannot be opened, before the page is built."""
    if port is None:
        return
    if not 1 <= port <= MAX_PORT:
        raise UserError(f"Port {port} does not exist; choose 1 to {MAX_PORT}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"Port {port} on {host} cannot be opened ({error.strerror}); choose another --port."
            ) from error
