"""The list of techniques, in display order, and the records that a choice of them stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.drag_task import DragTask
from pipelines.layout import Box
from pipelines.style_reference import StyleSource
from pipelines.techniques.acc_diffusion import AccDiffusion
from pipelines.techniques.attend_and_excite import AttendAndExcite
from pipelines.techniques.base import Technique
from pipelines.techniques.cfg_rescale import CfgRescale
from pipelines.techniques.draft_collage import DraftCollage
from pipelines.techniques.drag_diffusion import DragDiffusion
from pipelines.techniques.drag_noise import DragNoise
from pipelines.techniques.fast_drag import FastDrag
from pipelines.techniques.initno import InitNo
from pipelines.techniques.masked_subject import MaskedSubject
from pipelines.techniques.mulan import MuLan
from pipelines.techniques.multi_diffusion import MultiDiffusion
from pipelines.techniques.noise_collage import NoiseCollage
from pipelines.techniques.outpaint import Outpaint
from pipelines.techniques.picture_agreement import PictureAgreement
from pipelines.techniques.rece import Rece
from pipelines.techniques.regional_attention import RegionalAttention
from pipelines.techniques.reward_guidance import RewardGuidance
from pipelines.techniques.s_cfg import SCfg
from pipelines.techniques.sing_diffusion import SingDiffusion
from pipelines.techniques.style_aligned import StyleAligned
from pipelines.techniques.subject_lora import SubjectLora
from pipelines.techniques.visual_style import VisualStyle

TECHNIQUES = (
    CfgRescale,
    SCfg,
    AttendAndExcite,
    InitNo,
    SingDiffusion,
    RegionalAttention,
    NoiseCollage,
    DraftCollage,
    MuLan,
    MultiDiffusion,
    AccDiffusion,
    Rece,
)
# These need a picture, so they are offered by the tab that takes one.
STYLE_TECHNIQUES = (VisualStyle, StyleAligned)
PICTURE_TECHNIQUES = (*STYLE_TECHNIQUES, Outpaint, PictureAgreement)
# These also need handles and targets.
DRAG_TECHNIQUES = (FastDrag, DragNoise, DragDiffusion)

# These need a subject: an adapter that was learned, or a picture of it.
SUBJECT_TECHNIQUES = (RewardGuidance, SubjectLora, MaskedSubject)


def make_techniques(chosen: Mapping[str, Mapping[str, Any]]) -> tuple[Technique, ...]:
    """Make the records of a checked choice ({name: {option: value}}), in display order."""
    records: list[Technique] = []
    for technique in TECHNIQUES:
        if technique.name in chosen:
            options = dict(chosen[technique.name])
            if "boxes" in options:
                options["boxes"] = tuple(Box(**box) for box in options["boxes"])
            records.append(technique(**options))
    return tuple(records)


def make_style(chosen: Mapping[str, Mapping[str, Any]], references: tuple[StyleSource, ...]) -> tuple[Technique, ...]:
    """Make the record of a checked style technique ({name: {option: value}}, none or one) with its style pictures."""
    made = (style(references=references, **chosen[style.name]) for style in STYLE_TECHNIQUES if style.name in chosen)
    return tuple(made)


def make_drag(chosen: Mapping[str, Mapping[str, Any]], task: DragTask | None) -> FastDrag | DragNoise | DragDiffusion:
    """Make the record of a checked drag technique ({name: {option: value}}, exactly one) with what it is to drag."""
    made = (drag(task=task, **chosen[drag.name]) for drag in DRAG_TECHNIQUES if drag.name in chosen)
    return next(made)
