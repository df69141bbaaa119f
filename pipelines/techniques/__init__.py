"""The list of techniques, in display order; the only place that lists them."""

from __future__ import annotations

from pipelines.techniques.attend_and_excite import AttendAndExcite
from pipelines.techniques.cfg_rescale import CfgRescale
from pipelines.techniques.multi_diffusion import MultiDiffusion
from pipelines.techniques.rece import Rece
from pipelines.techniques.regional_attention import RegionalAttention
from pipelines.techniques.s_cfg import SCfg

TECHNIQUES = (CfgRescale, SCfg, AttendAndExcite, RegionalAttention, MultiDiffusion, Rece)
