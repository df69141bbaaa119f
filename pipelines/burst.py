"""Merge several dark photographs of the same scene into one with less noise.

Each is moved onto the first one by phase correlation, and all are averaged in linear light, where noise averages out
and brightness does not change. What has moved in between counts less, so that it leaves no ghost.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
import torch.nn.functional as F

from pipelines.brightening import measure_noise
from pipelines.darkening import from_linear, to_linear
from pipelines.errors import UserError
from pipelines.guided_filter import box_mean

ALIGN_PX = 384  # longest side on which the shift is found; a second round refines it in full size
REFINE_PX = 512
COMPARE_PX = 64
# How alike two pictures of one scene are at least, once they lie on each other: 0 by chance, 1 the same. Of 42 dark
# drawn pictures under strong noise one was less alike to itself; to others all were below 0.12.
MIN_LIKENESS = 0.25
MIN_OVERLAP = 0.5  # of the picture: less is chance
# What differs by more than this many deviations of the noise has moved.
MOVED_DEVIATIONS = 3.0


def merge_burst(pictures: Sequence[torch.Tensor]) -> Generator[int, None, tuple[torch.Tensor, list[float]]]:
    """Merge pictures of one scene.

    Shapes:  each (3, H, W) in -1..1, all of one size; the generator returns the same.
    Returns: a generator of how many were merged, whose return value is the merged picture, and how far each was moved
             in px; 0 for the first, on which the others are laid.
    Raises:  UserError if one does not show the same scene.
    """
    first = pictures[0]
    linear = to_linear(first)
    total, weights = linear.clone(), torch.ones_like(linear[:1])
    deviation = max(measure_noise(first), 1.0) / (255 / 2)
    moves = [0.0]
    yield 1
    for index, picture in enumerate(pictures[1:], 2):
        if picture.shape != first.shape:
            raise UserError(
                f"Picture {index} has {picture.shape[2]} x {picture.shape[1]} px and the first one "
                f"{first.shape[2]} x {first.shape[1]}; choose pictures of one size."
            )
        shift = find_shift(first, picture)
        moved, seen = move(picture, shift)
        is_far = float(seen.mean()) < MIN_OVERLAP
        if is_far or measure_likeness(first, moved, seen) < MIN_LIKENESS:
            raise UserError(f"Picture {index} does not show the scene of the first one; take it out and try again.")
        moves.append(float(torch.tensor(shift).norm()))
        other = to_linear(moved)
        other = other * (linear.mean() / other.mean().clamp_min(1e-6)).clamp(0.25, 4)
        gap = box_mean((moved - first).mean(0, keepdim=True)[None], 2)[0].abs()
        # The mean of 25 px and 3 channels has a fifteenth of the noise, and both pictures have it.
        still = 1 / (1 + (gap / (MOVED_DEVIATIONS * deviation * 2**0.5 / 5)) ** 4)
        total += seen * still * other
        weights += seen * still
        yield index
    return from_linear(total / weights), moves


def find_shift(first: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Find how far a picture must be moved to lie on the first one.

    Shapes:  both (3, H, W) in -1..1.
    Returns: (down, right) in px, with parts of a px.
    Source:  Kuglin and Hines 1975, "The phase correlation image alignment method".
    """
    scale = min(1.0, ALIGN_PX / max(first.shape[1:]))
    sides = [max(1, round(side * scale)) for side in first.shape[1:]]
    small = [F.interpolate(one[None], sides, mode="area")[0] for one in (first, other)]
    coarse = correlate(*(one.mean(0) for one in small))
    shift = (coarse[0] * first.shape[1] / sides[0], coarse[1] * first.shape[2] / sides[1])
    if scale == 1:
        return shift
    # The same again in the middle at full size, from where the first round put it.
    down, right = round(shift[0]), round(shift[1])
    rolled = other.mean(0).roll((down, right), (0, 1))
    top, left = ((side - min(side, REFINE_PX)) // 2 for side in first.shape[1:])
    middle = (slice(top, top + REFINE_PX), slice(left, left + REFINE_PX))
    fine = correlate(first.mean(0)[middle], rolled[middle])
    is_near = max(abs(fine[0]), abs(fine[1])) <= 2 / scale
    return (down + fine[0], right + fine[1]) if is_near else shift


def correlate(first: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Find the shift of one grey picture onto another by the phases of their frequencies: (down, right) in px.

    Shapes:  both (h, w).
    Differs: high frequencies, which in the dark are noise, count less; the peak is refined by a parabola.
    """
    window = torch.outer(*(torch.hann_window(side + 2, periodic=False)[1:-1] for side in first.shape))
    spectra = [torch.fft.rfft2((one - one.mean()) * window) for one in (first, other)]
    cross = spectra[0] * spectra[1].conj()
    rows, columns = torch.fft.fftfreq(first.shape[0]), torch.fft.rfftfreq(first.shape[1])
    passed = torch.exp(-(rows[:, None].square() + columns.square()) / (2 * 0.12**2))
    peak = torch.fft.irfft2(cross / cross.abs().clamp_min(1e-9) * passed, s=first.shape)
    height, width = peak.shape
    row, column = divmod(int(peak.argmax()), width)
    down = row + _refine(peak[(row - 1) % height, column], peak[row, column], peak[(row + 1) % height, column])
    right = column + _refine(peak[row, (column - 1) % width], peak[row, column], peak[row, (column + 1) % width])
    return (down - height if down > height / 2 else down), (right - width if right > width / 2 else right)


def move(picture: torch.Tensor, shift: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Move (3, H, W) by (down, right) px; returns it, and (1, H, W) that is 1 where there was something to move."""
    if shift == (0.0, 0.0):
        return picture, torch.ones_like(picture[:1])
    height, width = picture.shape[1:]
    y = (torch.arange(height) + 0.5 - shift[0]) * 2 / height - 1
    x = (torch.arange(width) + 0.5 - shift[1]) * 2 / width - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]
    moved = F.grid_sample(picture[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    inside = (grid.abs() <= 1).all(-1).float()
    return moved.clamp(-1, 1), inside


def measure_likeness(first: torch.Tensor, moved: torch.Tensor, seen: torch.Tensor) -> float:
    """Correlate two pictures without their noise and their large-scale light, where both were seen; -1..1."""
    sides = [max(1, min(COMPARE_PX, side)) for side in first.shape[1:]]
    weight = F.interpolate(seen[None], sides, mode="area")[0, 0] > 0.99
    if not bool(weight.any()):
        return 0.0
    small = [F.interpolate(one.mean(0)[None, None], sides, mode="area") for one in (first, moved)]
    fine = [(one - box_mean(one, COMPARE_PX // 8))[0, 0][weight] for one in small]
    size = (fine[0].norm() * fine[1].norm()).item()
    if size < 1e-6:
        # Two pictures without anything to see are the same if they are equally bright.
        return 1.0 if abs(float(small[0].mean() - small[1].mean())) < 0.1 else 0.0
    return float(fine[0] @ fine[1]) / size


def _refine(before: torch.Tensor, here: torch.Tensor, after: torch.Tensor) -> float:
    """Find the top of the parabola through three neighbours, -0.5..0.5."""
    bend = float(before - 2 * here + after)
    return float(before - after) / (2 * bend) if bend < 0 else 0.0
