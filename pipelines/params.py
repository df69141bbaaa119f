"""Ranges of settings as field metadata: the one place where a number's limits are written.

Sliders, validation, API fields and README tables are derived from these records; nothing is ever clamped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pipelines.errors import UserError

KEY = "limelight"
_Record = TypeVar("_Record")


@dataclass(frozen=True)
class Range:
    """Describe a number: default, lowest, highest, step of its slider; a default of None means "may be left out"."""

    default: float | int | None
    low: float | int
    high: float | int
    step: float | int
    unit: str = ""
    label: str = ""
    help: str = ""

    @property
    def is_integer(self) -> bool:
        """Tell whether only whole numbers are allowed (the step is a whole number)."""
        return isinstance(self.step, int)


@dataclass(frozen=True)
class Choice:
    """Describe a pick from a fixed list of strings."""

    default: str
    options: tuple[str, ...]
    label: str = ""
    help: str = ""


@dataclass(frozen=True)
class Text:
    """Describe a line of text and how many characters it may have."""

    default: str | None
    max_chars: int
    label: str = ""
    help: str = ""


@dataclass(frozen=True)
class Flag:
    """Describe an on/off switch."""

    default: bool
    label: str = ""
    help: str = ""


@dataclass(frozen=True)
class Checked:
    """Describe a value with a form of its own: `check` returns it as it should be, or raises UserError."""

    check: Callable[[Any], Any]
    label: str = ""
    help: str = ""


Described = Range | Choice | Text | Flag
Spec = Described | Checked


def _field(spec: Described) -> Any:
    """Make the dataclass field that carries `spec`; a text without default stays a required field."""
    default = dataclasses.MISSING if isinstance(spec, Text) and spec.default is None else spec.default
    return dataclasses.field(default=default, metadata={KEY: spec})


def ranged(
    default: float | int | None,
    low: float | int,
    high: float | int,
    step: float | int,
    *,
    unit: str = "",
    label: str = "",
    help: str = "",
) -> Any:
    """Declare a numeric field.

    Units:   whatever `unit` says; `low` and `high` are both allowed values.
    Returns: a dataclass field with a Range in its metadata.
    """
    return _field(Range(default, low, high, step, unit, label, help))


def choice(default: str, options: tuple[str, ...], *, label: str = "", help: str = "") -> Any:
    """Declare a field that is one of `options`."""
    return _field(Choice(default, options, label, help))


def text(default: str | None, max_chars: int, *, label: str = "", help: str = "") -> Any:
    """Declare a text field; a default of None makes the field required."""
    return _field(Text(default, max_chars, label, help))


def flag(default: bool, *, label: str = "", help: str = "") -> Any:
    """Declare an on/off field."""
    return _field(Flag(default, label, help))


def checked(make_default: Callable[[], Any], check: Callable[[Any], Any], *, label: str = "", help: str = "") -> Any:
    """Declare a field whose value has a form of its own."""
    return dataclasses.field(default_factory=make_default, metadata={KEY: Checked(check, label, help)})


def specs(record_cls: type) -> dict[str, Spec]:
    """List every described field of a record class, in field order."""
    return {f.name: f.metadata[KEY] for f in dataclasses.fields(record_cls) if KEY in f.metadata}


def ranges(record_cls: type) -> dict[str, Range | Choice]:
    """List the fields of a record class that a slider or a menu can show."""
    return {name: spec for name, spec in specs(record_cls).items() if isinstance(spec, (Range, Choice))}


def validate(record: _Record) -> _Record:
    """Check every described field of a dataclass record.

    Returns: the record; whole numbers that arrived as floats (20.0) are returned as int, nothing else changes.
    Raises:  UserError with the value, the allowed values and what to do.
    """
    changed: dict[str, Any] = {}
    for name, spec in specs(type(record)).items():
        value = getattr(record, name)
        result = check_value(name, value, spec)
        # repr tells 1 from 1.0, also deep inside.
        if repr(result) != repr(value):
            changed[name] = result
    return dataclasses.replace(record, **changed) if changed else record  # type: ignore[type-var]


def check_value(name: str, value: Any, spec: Spec) -> Any:
    """Return the value as its field wants it.

    Raises: UserError with the value, the allowed values and what to do.
    """
    label = spec.label or name.replace("_", " ").capitalize()
    if isinstance(spec, Checked):
        return spec.check(value)
    if isinstance(spec, Range):
        return _check_number(label, value, spec)
    if isinstance(spec, Choice):
        if value not in spec.options:
            raise UserError(f"{label} {_quote(value)} is not known; choose one of {', '.join(spec.options)}.")
    elif isinstance(spec, Text):
        if not isinstance(value, str):
            raise UserError(f"{label} must be text, not {_quote(value)}; write it out in words.")
        if len(value) > spec.max_chars:
            raise UserError(f"{label} has {len(value)} characters; shorten it to at most {spec.max_chars}.")
    elif not isinstance(value, bool):
        raise UserError(f"{label} must be on or off, not {_quote(value)}; use true or false.")
    return value


def _check_number(label: str, value: Any, spec: Range) -> float | int | None:
    """Return a finite number inside the range, as int where only whole numbers are allowed."""
    allowed = f"choose {spec.low:g} to {_plain(spec.high)}" + (f" {spec.unit}" if spec.unit else "")
    if value is None and spec.default is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{label} must be a number, not {_quote(value)}; {allowed}.")
    # Huge integers do not fit into a float, so finiteness is only asked of floats.
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{label} must be a finite number, not {value}; {allowed}.")
    if value < spec.low:
        raise UserError(f"{label} {_plain(value)} is too low; {allowed}.")
    if value > spec.high:
        raise UserError(f"{label} {_plain(value)} is too high; {allowed}.")
    if not spec.is_integer:
        return float(value)
    if value != int(value):
        raise UserError(f"{label} {_plain(value)} is not a whole number; {allowed}.")
    return int(value)


def _plain(value: Any) -> str:
    """Write a number without exponent where that is readable; whole numbers may be too large for a float."""
    if value != int(value):
        return f"{float(value):g}"
    return str(int(value)) if abs(value) < 10**21 else f"{'-' if value < 0 else ''}1e{int(math.log10(abs(value)))}"


def _quote(value: Any) -> str:
    """Show a wrong value in at most 40 characters."""
    shown = repr(value[:40] if isinstance(value, str) else value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
