"""Batches that a second process draws while the first one trains.

A batch stays a function of its step alone, so what is drawn ahead is what would have been drawn in turn.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Generic, TypeVar

import torch

Batch = TypeVar("Batch")
NUM_AHEAD = 4


class DrawnAhead(Generic[Batch]):
    """Hand out `draw(step, batch_size)`; with `is_ahead` the next steps are drawn meanwhile by a process of their own.

    `draw` must be a function that another process can import.
    """

    def __init__(self, draw: Callable[[int, int], Batch], *, is_ahead: bool) -> None:
        self._draw = draw
        self._pool: ProcessPoolExecutor | None = None
        if is_ahead:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker)
        self._ahead: dict[tuple[int, int], Future[Batch]] = {}

    def get(self, step: int, batch_size: int) -> Batch:
        """Return the batch of this step, and have the next ones drawn."""
        if self._pool is None:
            return self._draw(step, batch_size)
        for key in ((step + offset, batch_size) for offset in range(NUM_AHEAD)):
            if key not in self._ahead:
                self._ahead[key] = self._pool.submit(self._draw, *key)
        return self._ahead.pop((step, batch_size)).result()

    def close(self) -> None:
        """End the second process, if there is one."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the training is killed; its queue alone would not notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
