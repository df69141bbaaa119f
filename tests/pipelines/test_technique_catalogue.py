"""What the page reads of the techniques' source is what the techniques themselves say."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from pipelines import UserError, catalogue, specs
from pipelines.denoise import refuse_misfits
from pipelines.model import ModelBundle
from pipelines.technique_catalogue import check_techniques
from pipelines.techniques import TECHNIQUES, make_techniques


def test_the_catalogue_says_what_the_classes_say() -> None:
    assert list(catalogue()) == [technique.name for technique in TECHNIQUES]
    for technique in TECHNIQUES:
        entry = catalogue()[technique.name]
        assert (entry.title, entry.source, entry.points) == (technique.title, technique.source, technique.points)
        assert entry.specs == specs(technique)
        assert entry.wants_boxes == ("boxes" in inspect.signature(technique).parameters)
        assert entry.summary.endswith(".")
        assert entry.page_sampler == getattr(technique, "page_sampler", "")
        assert entry.elsewhere == getattr(technique, "elsewhere", "")


def test_a_technique_that_needs_a_first_order_sampler_names_one_for_the_page(tiny_sd: ModelBundle) -> None:
    for technique in TECHNIQUES:
        if technique.needs_first_order:
            refuse_misfits(tiny_sd, catalogue()[technique.name].page_sampler, [technique()])


def test_reading_the_catalogue_loads_no_torch() -> None:
    code = "import sys; from pipelines import catalogue; assert catalogue(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_choice_becomes_records_in_display_order() -> None:
    box = {"phrase": "a cat", "x0": 0, "y0": 0.1, "x1": 0.5, "y1": 1}
    chosen = check_techniques({"regional_attention": {"boxes": [box]}, "cfg_rescale": {"strength": 1}})
    rescale, regional = make_techniques(chosen)
    assert rescale.strength == 1.0 and isinstance(rescale.strength, float)  # type: ignore[attr-defined]
    assert regional.boxes[0].phrase == "a cat" and regional.boxes[0].y1 == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("s_cfg", "must be named with their options"),
        ({"magic": {}}, "Technique 'magic' is not known; choose one of cfg_rescale"),
        ({"s_cfg": 1}, "options of S-CFG must be named values"),
        ({"s_cfg": {"power": 1}}, "S-CFG has no option 'power'; its options: strength."),
        ({"s_cfg": {"strength": 2}}, "Evening out 2 is too high"),
        ({"s_cfg": {"boxes": []}}, "no option 'boxes'"),
        ({"regional_attention": {"boxes": [1]}}, "boxes of Regional attention are in an unknown form"),
        ({"regional_attention": {"boxes": {"phrase": "a"}}}, "unknown form"),
        ({"regional_attention": {"boxes": [{"phrase": "a", "x0": "0", "y0": 0, "x1": 1, "y1": 1}]}}, "unknown form"),
    ],
)
def test_a_wrong_choice_gets_one_sentence(chosen: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_techniques(chosen)
