"""One line of progress on the error stream, so that a long measurement is seen to move."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def count(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Yield the items one by one and keep "label 7/20, 12 s left" on the error stream up to date."""
    start = time.monotonic()
    for done, item in enumerate(items):
        left = (time.monotonic() - start) / done * (len(items) - done) if done else 0.0
        print(f"\r{label}: {done}/{len(items)}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
        yield item
    seconds = time.monotonic() - start
    print(f"\r{label}: {len(items)}/{len(items)} in {seconds:.0f} s      ", file=sys.stderr, flush=True)
