"""The store builds once, drops the least recently used, and recovers from a failed build."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pipelines import BackendUnavailable, ModelStore
from pipelines.model import ModelBundle
from pipelines.runtime import RunOptions, RunPlan

OPTIONS = RunOptions(device="cpu", dtype="fp32")


@pytest.fixture
def bundles(tiny_storybook: ModelBundle, tiny_sd: ModelBundle, tiny_sdxl: ModelBundle) -> dict[str, ModelBundle]:
    return {"storybook": tiny_storybook, "sd15": tiny_sd, "sdxl": tiny_sdxl}


def test_the_least_recently_used_goes_first(bundles: dict[str, ModelBundle]) -> None:
    built: list[str] = []

    def load(name: str, plan: RunPlan) -> ModelBundle:
        built.append(name)
        return bundles[name]

    budget_mb = bundles["storybook"].size_mb + bundles["sdxl"].size_mb + bundles["sd15"].size_mb - 1e-3
    store = ModelStore(OPTIONS, load=load, budget_mb=budget_mb)
    for name in ("storybook", "sd15", "storybook"):
        assert store.get(name) is bundles[name]
    assert store.loaded() == ("sd15", "storybook")
    store.get("sdxl")
    assert store.loaded() == ("storybook", "sdxl")
    store.get("sd15")
    assert built == ["storybook", "sd15", "sdxl", "sd15"]
    store.clear()
    assert store.loaded() == ()


def test_a_model_larger_than_the_budget_is_still_handed_out(bundles: dict[str, ModelBundle]) -> None:
    store = ModelStore(OPTIONS, load=lambda name, plan: bundles[name], budget_mb=0.0)
    assert store.get("sd15") is bundles["sd15"]
    assert store.loaded() == ("sd15",)


def test_visitors_who_come_at_once_wait_for_one_build(bundles: dict[str, ModelBundle]) -> None:
    built, gate, got = [], threading.Event(), []

    def load(name: str, plan: RunPlan) -> ModelBundle:
        built.append(name)
        gate.wait(10)
        return bundles[name]

    store = ModelStore(OPTIONS, load=load, budget_mb=1e6)
    visitors = [threading.Thread(target=lambda: got.append(store.get("sd15"))) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    gate.set()
    for visitor in visitors:
        visitor.join(10)
    assert built == ["sd15"] and got == [bundles["sd15"]] * 4


def test_a_failed_build_is_tried_again(bundles: dict[str, ModelBundle]) -> None:
    answers: list[Any] = [BackendUnavailable("no weights"), bundles["sd15"]]

    def load(name: str, plan: RunPlan) -> ModelBundle:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    store = ModelStore(OPTIONS, load=load)
    with pytest.raises(BackendUnavailable, match="no weights"):
        store.get("sd15")
    assert store.get("sd15") is bundles["sd15"]


def test_an_unknown_name_is_refused_before_anything_is_built(load_store: Callable[..., ModelStore]) -> None:
    with pytest.raises(BackendUnavailable, match="Backend 'dalle' is not known"):
        load_store().get("dalle")
