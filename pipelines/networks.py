"""The networks for photographs that ship with Limelight: loaded at their first use, then kept.

They are no backends: they are small, always there, and the same whatever model draws. Nobody patches them, so that two
runs at once need no lock.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from pipelines.backends import PROJECT_DIR
from pipelines.curve_net import CurveNet, load_curve_net
from pipelines.restorer import Restorer, load_restorer
from pipelines.runtime import RunOptions, make_plan
from pipelines.sr_lite import SrLite, load_sr_lite
from pipelines.turntable import Turntable, load_turntable

if TYPE_CHECKING:
    from pipelines.zero_teacher import ZeroTeacher

ASSETS = PROJECT_DIR / "assets"
# Which networks a mode of a tab runs, with the command that makes their weights.
_RECIPES = {
    "sr_lite": "make train-sr-lite",
    "restorer": "make train-restorer",
    "curve_net": "make train-curve-net",
    "turntable": "make train-turntable",
}
_NEEDED = {
    "faithful": ("sr_lite",),
    "detail": ("sr_lite", "restorer"),
    "damage": ("restorer",),
    "views": ("turntable",),
    "polish": ("turntable",),
    "explore": ("sr_lite",),
    "curve": ("curve_net",),
    "retinex": ("curve_net",),
    "diffusion": ("curve_net", "restorer"),
}
Network = TypeVar("Network", bound=torch.nn.Module)


class Networks:
    """Hand out the enlarger, the restorer, the curve network and the turntable."""

    def __init__(self, folder: Path = ASSETS, *, options: RunOptions | None = None) -> None:
        self._folder, self._options = folder, options or RunOptions()
        self._build_lock = threading.Lock()
        self._enlarger: SrLite | None = None
        self._restorer: Restorer | None = None
        self._turntable: Turntable | ZeroTeacher | None = None
        self._curve_net: CurveNet | None = None

    @property
    def enlarger(self) -> SrLite:
        """Return the any-scale enlarger.

        Raises: BackendUnavailable if its files are missing or broken.
        """
        with self._build_lock:
            if self._enlarger is None:
                self._enlarger = to_fast_layout(load_sr_lite(self._folder / "sr_lite"))
            return self._enlarger

    @property
    def restorer(self) -> Restorer:
        """Return the restorer.

        Raises: BackendUnavailable if its files are missing or broken.
        """
        with self._build_lock:
            if self._restorer is None:
                self._restorer = to_fast_layout(load_restorer(self._folder / "restorer"))
            return self._restorer

    @property
    def curve_net(self) -> CurveNet:
        """Return the network that lights dark pictures by curves.

        Raises: BackendUnavailable if its files are missing or broken.
        """
        with self._build_lock:
            if self._curve_net is None:
                self._curve_net = to_fast_layout(load_curve_net(self._folder / "curve_net"))
            return self._curve_net

    @property
    def turntable(self) -> Turntable | ZeroTeacher:
        """Return the turntable, or the large network that was configured in its place.

        Raises: BackendUnavailable if its files are missing or broken.
        """
        with self._build_lock:
            if self._turntable is None:
                if self._options.teacher_path:
                    from pipelines.zero_teacher import load_zero_teacher

                    plan, folder = make_plan(self._options), Path(self._options.teacher_path)
                    self._turntable = load_zero_teacher(folder, device=plan.device, dtype=plan.dtype)
                else:
                    self._turntable = load_turntable(self._folder / "turntable")
            return self._turntable

    def explain_missing(self, mode: str) -> str:
        """Say in one sentence why a mode of a tab cannot run; empty if it can. Loads nothing."""
        needed = [name for name in _NEEDED.get(mode, ()) if not (self._options.teacher_path and name == "turntable")]
        missing = [name for name in needed if not (self._folder / name / "model.safetensors").is_file()]
        commands = " and ".join(f"`{_RECIPES[name]}`" for name in missing)
        return f"The weights of this mode are not here; run {commands}, or choose another mode." if missing else ""


class NetworkProvider(Protocol):
    """Hand out the networks for photographs; `cache.ModelStore` is the real one."""

    def networks(self) -> Networks:
        """Return the networks, loaded or not."""
        ...


def to_fast_layout(network: Network) -> Network:
    """Put the weights into the order in which convolutions on a CPU read pixels."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
