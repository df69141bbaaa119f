"""What the page needs to know of every technique, read from their source: importing them would import torch.

The page is on screen before torch is loaded, and its sliders come from the same fields as the techniques' own checks.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.params import KEY, Described, check_value, choice, flag, ranged, text

FOLDER = Path(__file__).with_name("techniques")
TEXT_TECHNIQUES, STYLE_TECHNIQUES, DRAG_TECHNIQUES = "TECHNIQUES", "STYLE_TECHNIQUES", "DRAG_TECHNIQUES"
SUBJECT_TECHNIQUES = "SUBJECT_TECHNIQUES"
_MAKERS = {maker.__name__: maker for maker in (ranged, choice, flag, text)}
_LINE_CHARS = 300


@dataclass(frozen=True)
class TechniqueEntry:
    """Describe one technique: names, what it does in one sentence, its paper, and its described fields.

    Units: wants_boxes tells that it has a field `boxes`, a layout; points as in `techniques.base`; page_sampler is the
           sampler that the page chooses for it, "" if any will do; elsewhere says what it lacks with other models than
           the shipped one.
    """

    name: str
    title: str
    source: str
    summary: str
    points: tuple[str, ...]
    specs: Mapping[str, Described] = field(default_factory=dict)
    wants_boxes: bool = False
    page_sampler: str = ""
    elsewhere: str = ""


@cache
def catalogue(listing: str = TEXT_TECHNIQUES) -> Mapping[str, TechniqueEntry]:
    """List the techniques of one of the tuples in `techniques/__init__.py` by name, in display order."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and (entry := _read_class(node)):
                found[node.name] = entry
    tuples = {
        ast.unparse(node.targets[0]): node.value.elts
        for node in ast.parse((FOLDER / "__init__.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
    }
    entries = [found[item.id] for item in tuples[listing] if isinstance(item, ast.Name)]
    return {entry.name: entry for entry in entries}


def check_style(chosen: Any) -> dict[str, dict[str, Any]]:
    """Check which technique takes the style from a picture: none or one, as in `check_techniques`."""
    checked = check_techniques(chosen, STYLE_TECHNIQUES)
    if len(checked) > 1:
        titles = " and ".join(catalogue(STYLE_TECHNIQUES)[name].title for name in checked)
        raise UserError(f"{titles} both change the same attention; choose one of them.")
    return checked


def check_drag(chosen: Any) -> dict[str, dict[str, Any]]:
    """Check which technique pulls: exactly one, as in `check_techniques`."""
    checked = check_techniques(chosen, DRAG_TECHNIQUES)
    if len(checked) != 1:
        titles = ", ".join(entry.title for entry in catalogue(DRAG_TECHNIQUES).values())
        raise UserError(f"{len(checked)} ways of dragging are chosen; choose one of {titles}.")
    return checked


def check_subject(chosen: Any) -> dict[str, dict[str, Any]]:
    """Check the options of the techniques that draw a subject; which of them is used follows from the subject."""
    return check_techniques(chosen, SUBJECT_TECHNIQUES)


def check_techniques(chosen: Any, listing: str = TEXT_TECHNIQUES) -> dict[str, dict[str, Any]]:
    """Check a choice of techniques: {name: {option: value}}; options that are left out keep their defaults.

    Returns: the choice in display order, numbers as their fields want them.
    Raises:  UserError with the value and what to do.
    """
    if not isinstance(chosen, Mapping):
        raise UserError('Techniques must be named with their options, for example {"s_cfg": {}}; choose them again.')
    known = catalogue(listing)
    for name, options in chosen.items():
        if name not in known:
            raise UserError(f"Technique {str(name)[:40]!r} is not known; choose one of {', '.join(known)}.")
        if not isinstance(options, Mapping):
            raise UserError(f"The options of {known[name].title} must be named values; choose it again.")
    return {name: _check_options(known[name], chosen[name]) for name in known if name in chosen}


def _check_options(entry: TechniqueEntry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of one technique; boxes are checked by the layout, once it is drawn."""
    checked = {}
    for name, value in options.items():
        if name == "boxes" and entry.wants_boxes:
            checked[name] = [dict(box) for box in _as_boxes(entry, value)]
        elif name in entry.specs:
            checked[name] = check_value(name, value, entry.specs[name])
        else:
            known = ", ".join([*entry.specs, *(["boxes"] if entry.wants_boxes else [])]) or "none"
            raise UserError(f"{entry.title} has no option {str(name)[:40]!r}; its options: {known}.")
    return checked


def _as_boxes(entry: TechniqueEntry, value: Any) -> Iterator[Mapping[str, Any]]:
    """Pass on plain boxes of the right form."""
    sides = ("x0", "y0", "x1", "y1")
    for box in value if isinstance(value, list | tuple) else [None]:
        if (
            not isinstance(box, Mapping)
            or set(box) != {"phrase", *sides}
            or not isinstance(box["phrase"], str)
            or not all(isinstance(box[side], int | float) for side in sides)
        ):
            raise UserError(f"The boxes of {entry.title} are in an unknown form; draw them again.")
        yield box


def _read_class(node: ast.ClassDef) -> TechniqueEntry | None:
    """Read a technique's class; None if the class is something else."""
    values = {
        item.target.id: item.value
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None
    }
    if not {"name", "title", "source", "points"} <= set(values):
        return None
    name, title, source, points = (ast.literal_eval(values[key]) for key in ("name", "title", "source", "points"))
    specs = {key: spec for key, value in values.items() if (spec := _read_spec(value))}
    summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")[:_LINE_CHARS]
    page = {key: ast.literal_eval(values[key]) for key in ("page_sampler", "elsewhere") if key in values}
    return TechniqueEntry(name, title, source, summary, points, specs, "boxes" in values, **page)


def _read_spec(value: ast.expr) -> Described | None:
    """Read `ranged(1.0, 0.0, ...)` and its kin, whose arguments are written out."""
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name) or value.func.id not in _MAKERS:
        return None
    words = {word.arg: ast.literal_eval(word.value) for word in value.keywords if word.arg}
    made = _MAKERS[value.func.id](*map(ast.literal_eval, value.args), **words)
    spec: Described = made.metadata[KEY]
    return spec
