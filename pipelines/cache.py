"""Loaded models under a memory budget: built once, shared, least recently used dropped first.

Thread-safe; two visitors who ask for the same model at once wait for one build.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from pipelines.backends import find_spec, load_backend
from pipelines.model import ModelBundle
from pipelines.networks import Networks
from pipelines.runtime import RunOptions, RunPlan, make_plan, memory_budget_mb, release_memory

Load = Callable[[str, RunPlan], ModelBundle]


class ModelStore:
    """Hand out loaded models by backend name; every bundle carries its own run lock.

    Units: budget_mb None takes the runtime's budget of the device; a single model may exceed the budget.
    """

    def __init__(
        self, options: RunOptions | None = None, *, load: Load = load_backend, budget_mb: float | None = None
    ) -> None:
        self.options = options or RunOptions()
        self._load = load
        self._budget_mb = budget_mb
        self._bundles: OrderedDict[str, ModelBundle] = OrderedDict()
        self._building: dict[str, threading.Lock] = {}
        self._table_lock = threading.Lock()
        self._networks = Networks(options=self.options)

    def get(self, name: str) -> ModelBundle:
        """Return the bundle of a backend, building it at the first call.

        Raises: BackendUnavailable with one sentence if it cannot be loaded; the next call tries again.
        """
        spec = find_spec(name)
        with self._table_lock:
            build_lock = self._building.setdefault(name, threading.Lock())
        with build_lock:
            found = self._touch(name)
            if found is not None:
                return found
            plan = make_plan(self.options, vae_fp16_safe=spec.vae_fp16_safe)
            bundle = self._load(name, plan)
            self._keep(name, bundle)
            return bundle

    def networks(self) -> Networks:
        """Return the networks for photographs, which load at their first use and stay."""
        return self._networks

    def loaded(self) -> tuple[str, ...]:
        """Name the models in memory, least recently used first."""
        with self._table_lock:
            return tuple(self._bundles)

    def clear(self) -> None:
        """Drop every model; runs that are under way keep theirs until they end."""
        with self._table_lock:
            devices = {bundle.plan.device for bundle in self._bundles.values()}
            self._bundles.clear()
        for device in devices:
            release_memory(device)

    def _touch(self, name: str) -> ModelBundle | None:
        """Look a bundle up and mark it as used now."""
        with self._table_lock:
            if name in self._bundles:
                self._bundles.move_to_end(name)
            return self._bundles.get(name)

    def _keep(self, name: str, bundle: ModelBundle) -> None:
        """Store a bundle and drop the least recently used others that no longer fit the budget."""
        budget_mb = memory_budget_mb(bundle.plan.device) if self._budget_mb is None else self._budget_mb
        with self._table_lock:
            self._bundles[name] = bundle
            while len(self._bundles) > 1 and sum(kept.size_mb for kept in self._bundles.values()) > budget_mb:
                self._bundles.popitem(last=False)
        release_memory(bundle.plan.device)
