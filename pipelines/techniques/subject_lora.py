"""A subject's adapter, switched on in the whole model: how DreamBooth's side paths are drawn with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

from pipelines.lora import Lora, side_paths
from pipelines.model import ModelBundle
from pipelines.params import ranged, validate
from pipelines.techniques.base import Hooks
from pipelines.types import RunInfo


@dataclass(frozen=True)
class SubjectLora:
    """Draw with an adapter in every row of every pass.

    Units:   weight multiplies what the side paths add; 0 is the model alone, bit for bit.
    Points:  patch (side paths beside layers of the UNet).
    Source:  Hu et al. 2021, LoRA, arXiv 2106.09685; fitted as in DreamBooth, Ruiz et al. 2022, arXiv 2208.12242.
    """

    name: ClassVar[str] = "subject_lora"
    title: ClassVar[str] = "LoRA"
    source: ClassVar[str] = "Ruiz et al. 2022, DreamBooth; Hu et al. 2021, LoRA"
    points: ClassVar[tuple[str, ...]] = ("patch",)
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    lora: Lora | None = None
    weight: float = ranged(1.0, 0.0, 2.0, 0.05, label="Weight", help="How much of the adapter is added.")

    @classmethod
    def neutral(cls) -> SubjectLora:
        """Make the record that changes nothing."""
        return cls(weight=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Say what cannot be heard."""
        validate(self)
        if self.weight and self.lora is None:
            run.note(f"{self.title} has no subject, so nothing changes; learn or load one.")
        yield _LoraHooks(self)


class _LoraHooks(Hooks):
    """Attach the side paths for one step at a time."""

    def __init__(self, technique: SubjectLora) -> None:
        self.technique = technique

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Give the UNet its side paths."""
        technique = self.technique
        if technique.lora is None or not technique.weight:
            return nullcontext()
        return side_paths(model.unet, replace(technique.lora, scale=technique.lora.scale * technique.weight))
