"""Generators that report progress and return a value: how one passes another on."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Value = TypeVar("Value")
Item = TypeVar("Item")


def follow(stream: Generator[object, None, Value], item: Item) -> Generator[Item, None, Value]:
    """Yield `item` each time a stream yields anything; return what the stream returns."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value
        yield item
