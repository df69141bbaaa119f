"""Shared fixtures: no network, tiny pipelines of the real classes, the shipped model, and a provider of models."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

# Before any import of the hub's client: a test that forgets to name a folder fails at once instead of waiting.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from pipelines.backends import find_spec, load_backend
from pipelines.cache import ModelStore
from pipelines.model import ModelBundle
from pipelines.runtime import RunOptions, make_plan
from tests.tiny_models import save_tiny

# Tiny layers are faster on one thread, and results do not depend on how work is shared out.
torch.set_num_threads(1)

_LOOPBACK = ("127.0.0.1", "::1", "localhost", "0.0.0.0")


class NetworkBlocked(OSError):
    """Say which host a test tried to reach."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests reach this machine only; any other host looks like a cable that is not plugged in."""
    real_connect, real_resolve = socket.socket.connect, socket.getaddrinfo

    def connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in _LOOPBACK:
            raise NetworkBlocked(f"tests have no network: {address[0]}")
        real_connect(self, address)

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (None, "", *_LOOPBACK) and host != socket.gethostname():
            raise socket.gaierror(f"tests have no network: {host}")
        return real_resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests probe apart from what a developer's own starts have found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMELIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass
class OneModel:
    """Provide one bundle under every name and remember what was asked for."""

    bundle: ModelBundle
    asked: list[str] = field(default_factory=list)

    def get(self, name: str) -> ModelBundle:
        find_spec(name)
        self.asked.append(name)
        return self.bundle


@pytest.fixture(scope="session")
def provide() -> Callable[[ModelBundle], OneModel]:
    """Wrap a bundle into an object with get()."""
    return OneModel


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Save tiny pipelines on demand, each once: tiny_folder(layout, prediction) -> folder."""
    made: dict[tuple[str, str], Path] = {}

    def get(layout: str, prediction: str) -> Path:
        key = (layout, prediction)
        if key not in made:
            made[key] = save_tiny(tmp_path_factory.mktemp(f"tiny_{layout}_{prediction}"), layout, prediction)
        return made[key]

    return get


def load_tiny(folder: Path, backend: str, **options: Any) -> ModelBundle:
    """Load a tiny folder with the real loader, in fp32 on the CPU unless told otherwise."""
    asked = {"device": "cpu", "dtype": "fp32", "offline": True, "model_path": str(folder), **options}
    return load_backend(backend, make_plan(RunOptions(**asked)))


@pytest.fixture(scope="session")
def tiny_storybook(tiny_folder: Callable[[str, str], Path]) -> ModelBundle:
    """The shipped model's layout: whole words, 8 latent channels, v-prediction, zero terminal SNR."""
    return load_tiny(tiny_folder("storybook", "v"), "storybook")


@pytest.fixture(scope="session")
def tiny_sd(tiny_folder: Callable[[str, str], Path]) -> ModelBundle:
    """Stable Diffusion 1.5's layout, eps-prediction."""
    return load_tiny(tiny_folder("sd", "eps"), "sd15")


@pytest.fixture(scope="session")
def tiny_sd_v(tiny_folder: Callable[[str, str], Path]) -> ModelBundle:
    """Stable Diffusion's layout, v-prediction with zero terminal SNR."""
    return load_tiny(tiny_folder("sd", "v"), "sd15")


@pytest.fixture(scope="session")
def tiny_sdxl(tiny_folder: Callable[[str, str], Path]) -> ModelBundle:
    """SDXL's layout: two text encoders, pooled state, time ids; eps-prediction."""
    return load_tiny(tiny_folder("sdxl", "eps"), "sdxl")


@pytest.fixture(params=["tiny_sd", "tiny_sd_v", "tiny_sdxl", "tiny_storybook"])
def tiny_model(request: pytest.FixtureRequest) -> ModelBundle:
    """Every layout and both predictions, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def storybook() -> Iterator[ModelBundle]:
    """The shipped model, loaded once, in fp32."""
    store = ModelStore(RunOptions(device="cpu", dtype="fp32", offline=True))
    yield store.get("storybook")
    store.clear()


@pytest.fixture
def tiny_models(tiny_storybook: ModelBundle) -> OneModel:
    """A provider that hands out the tiny storybook under every backend name."""
    return OneModel(tiny_storybook)


@pytest.fixture(scope="session")
def load_tiny_as() -> Callable[..., ModelBundle]:
    """Load a folder as a backend: load_tiny_as(folder, backend, **run options)."""
    return load_tiny


@pytest.fixture
def load_store() -> Callable[..., ModelStore]:
    """Make an empty store that runs on the CPU: load_store(**run options)."""

    def make(**options: Any) -> ModelStore:
        return ModelStore(RunOptions(**{"device": "cpu", "dtype": "fp32", **options}))

    return make
