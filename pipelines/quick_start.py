"""What makes a start quick; imports the standard library only, so that it can stand before every other import."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collect_no_garbage() -> Iterator[None]:
    """Let nothing be collected inside, and never look again at what was built there.

    Importing gradio, torch and diffusers makes a million objects that stay for good: looking through them again and
    again takes a second and a half of the start, and later a pause in the middle of a run.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
