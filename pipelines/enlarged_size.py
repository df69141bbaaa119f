"""How large an enlarged picture becomes, and how large it may: known before a run, and before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.backends import DEFAULT_BACKEND, find_spec

MAX_SIDE_PX = 4096
MAX_GUIDED_SIDE_PX = 1024


@dataclass(frozen=True)
class SizePlan:
    """Hold what is enlarged to what, as (width, height) in px, and one sentence if that is too large."""

    before: tuple[int, int]
    after: tuple[int, int]
    problem: str = ""


def plan_size(size_px: tuple[int, int], scale: float, mode: str, backend: str = DEFAULT_BACKEND) -> SizePlan:
    """Say how large a picture becomes, and why that is too large.

    Units:   size_px is (width, height); the backend matters only where it draws, and then its own size decides.
    Returns: the plan; its problem names the largest scale that fits.
    """
    if mode == "explore":
        side = find_spec(backend).image_px
        few = round(side / scale)
        return SizePlan((few, few), (side, side))
    width, height = (max(1, round(side * scale)) for side in size_px)
    limit_px = MAX_GUIDED_SIDE_PX if mode == "damage" else MAX_SIDE_PX
    if max(width, height) <= limit_px:
        return SizePlan(size_px, (width, height))
    fits = int(10 * limit_px / max(size_px)) / 10
    advice = f"choose a scale of at most {fits:g}" if fits >= 1 else f"choose one of at most {limit_px} px"
    return SizePlan(size_px, (width, height), f"This picture would become {width} x {height} px; {advice}.")
