"""The examples of a tab, which are data: rows of request fields, and the values that the tab starts with."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any


def read_examples(
    path: Path, request: type[Any], row_keys: Collection[str] = (), *, without: Collection[str] = ()
) -> dict[str, Any]:
    """Read examples and start values; a row may set the fields of a request, apart from some, and its own keys.

    Returns: {"start": row, "examples": [row, ...]}.
    Raises:  ValueError if a row sets what does not exist, so that a renamed field is noticed when the app starts.
    """
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    known = {*(field.name for field in fields(request)), *row_keys} - set(without)
    unknown = [name for row in (document["start"], *document["examples"]) for name in row if name not in known]
    if unknown:
        raise ValueError(f"{path.name} sets {unknown}, which a request does not have")
    return document
