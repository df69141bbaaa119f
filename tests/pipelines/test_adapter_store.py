"""Adapters on disk: one file says it all, visitors never mix, and nothing is lost when something is refused."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.adapter_store import MAX_ADAPTERS, AdapterStore, make_owner
from pipelines.adapters import MAX_NAME_CHARS, Adapter, pack_adapter, read_adapter, rename_adapter
from pipelines.errors import UserError
from pipelines.lora import adapt
from pipelines.lora_files import read_lora, write_lora
from pipelines.model import ModelBundle
from tests.loras import make_loud_lora
from tests.pictures import make_ramp
from tests.pipelines.test_lora import predict


@pytest.fixture
def adapter(tiny_storybook: ModelBundle) -> Adapter:
    """An adapter with words and a picture."""
    about = Adapter(b"", "my boat", "red boat", "storybook", "dco", 7, thumbnail=make_ramp(256))
    return pack_adapter(make_loud_lora(tiny_storybook), about)


def test_one_file_says_it_all(adapter: Adapter, tmp_path: Path, tiny_storybook: ModelBundle) -> None:
    saved = AdapterStore(tmp_path, make_owner()).save(adapter, "  Boat   of mine ")
    assert saved.name == "Boat of mine" and saved.thumbnail is not None and max(saved.thumbnail.size) == 96
    again = read_adapter(saved.data)
    assert (again.word, again.phrase, again.backend, again.objective, again.num_steps) == (
        *("my boat", "red boat", "storybook", "dco"),
        7,
    )
    lora, _ = read_lora(saved.data, tiny_storybook)
    drawn = predict(adapt(tiny_storybook, make_loud_lora(tiny_storybook)))
    assert torch.equal(predict(adapt(tiny_storybook, lora)), drawn), "the same pixels after a restart"


def test_a_file_from_elsewhere_says_nothing_and_can_be_saved(tmp_path: Path, tiny_sd: ModelBundle) -> None:
    foreign = read_adapter(write_lora(make_loud_lora(tiny_sd), {"limelight.thumbnail": "no picture"}))
    assert (foreign.word, foreign.objective, foreign.thumbnail) == ("", "", None)
    store = AdapterStore(tmp_path, make_owner())
    store.save(replace(foreign, word="it", phrase="boat"), "found")
    assert store.load("found").word == "it"


def test_saved_listed_renamed_deleted(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, make_owner())
    assert store.list() == ()
    for name in ("b", "A", "c"):
        store.save(adapter, name)
    assert [one.name for one in store.list()] == ["A", "b", "c"]
    assert store.rename("b", "B").name == "B" and store.rename("c", "d").name == "d"
    assert [one.name for one in AdapterStore(tmp_path, make_owner()).list()] == []
    store.delete("A")
    assert [one.name for one in store.list()] == ["B", "d"]
    assert rename_adapter(adapter, "x").word == "my boat"


def test_visitors_never_mix(adapter: Adapter, tmp_path: Path) -> None:
    mine, yours = AdapterStore(tmp_path, make_owner()), AdapterStore(tmp_path, make_owner())
    mine.save(adapter, "boat")
    yours.save(replace(adapter, word="your boat"), "boat")
    assert mine.load("boat").word == "my boat" and yours.load("boat").word == "your boat"
    yours.delete("boat")
    assert [one.name for one in mine.list()] == ["boat"] and yours.list() == ()
    for owner in ("", "..", "../" + "a" * 29, "A" * 32, None):
        with pytest.raises(UserError, match="reload it"):
            AdapterStore(tmp_path, owner)  # type: ignore[arg-type]


def test_what_is_refused_is_one_sentence_and_loses_nothing(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, make_owner())
    store.save(adapter, "boat")
    store.save(adapter, "other")
    before = store.list()
    for name, words in (
        ("", "is empty"),
        ("   ", "is empty"),
        ("BOAT", "already an adapter"),
        ("a/b", "holds one of the signs"),
        ("..\\x", "holds one of the signs"),
        ("x\x00y", "holds one of the signs"),
        ("n" * (MAX_NAME_CHARS + 1), "shorten it"),
    ):
        with pytest.raises(UserError, match=words):
            store.save(adapter, name)
        with pytest.raises(UserError, match=words):
            store.rename("other", name)
    for missing in (store.load, store.delete):
        with pytest.raises(UserError, match="no saved adapter"):
            missing("nobody")
    (store.folder / "broken.safetensors").write_bytes(b"junk")
    assert store.list() == before


def test_a_full_disk_loses_nothing(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, make_owner())
    store.save(adapter, "boat")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="disk is full"):
            store.save(adapter, "second")
        with pytest.raises(UserError, match="disk is full"):
            store.rename("boat", "third")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [one.name for one in store.list()] == ["boat"]
    assert [path.suffix for path in store.folder.iterdir()] == [".safetensors"]


def test_there_is_an_end_to_it(adapter: Adapter, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, make_owner())
    small = replace(adapter, thumbnail=Image.new("RGB", (4, 4)))
    for index in range(MAX_ADAPTERS):
        store.save(small, f"boat {index}")
    with pytest.raises(UserError, match="delete one first"):
        store.save(small, "one more")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_device_without_room_is_said_and_leaves_nothing_behind(
    adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AdapterStore(tmp_path, make_owner())
    store.save(adapter, "boat")
    monkeypatch.setattr("pipelines.adapter_store.secrets.token_hex", lambda _: "0")
    for name in ("second", "third"):
        store._find(name).with_suffix(".0.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device.*still on this page"):
        store.save(adapter, "second")
    with pytest.raises(UserError, match="disk is full"):
        store.rename("boat", "third")
    assert [one.name for one in store.list()] == ["boat"]
    assert not store._find("second").with_suffix(".0.part").is_symlink(), "the half-written file is gone"
