"""The list of techniques, in display order; the only place that lists them."""

from __future__ import annotations

from pipelines.techniques.cfg_rescale import CfgRescale

TECHNIQUES = (CfgRescale,)
