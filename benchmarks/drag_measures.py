"""How a dragged picture is judged against the exact answer: where the thing is now, what it is, what else changed.

Three rulers find the thing: the scene parser by its box, features of the UNet's decoder in the manner of DragBench, and
drawings of the scene with the thing at many places along its way, of which the most similar one counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.drag_pairs import Edit, Truth, grow, place_along
from pipelines.cfg_batch import run_cond
from pipelines.images import encode, to_tensor
from pipelines.model import ModelBundle
from pipelines.scene_parser import MAX_OVERLAP, ParsedObject, ParsedScene, box_iou
from pipelines.schedules import add_noise, make_scheduler
from pipelines.seeding import draw_noise, make_generators
from pipelines.text_side import encode_prompt
from training.world.render import render

# Rounding to 8 bits alone makes this error: an untouched picture counts as no better, or its PSNR would have no end.
ROUNDING_MSE = 1 / 12
FEATURE_SNR = 2.0
NUM_NOISES, NOISE_SEED = 4, 5
GHOST_FRAC = 0.15
# What was left is judged where it can be told: not at the new outline's border, and where the answer looks different.
GHOST_GAP_PX, TELLING_LEVELS, MIN_LEFT_PX = 4, 24, 64
SSIM_WIDTH, SSIM_SIGMA = 11, 1.5
# Shares of the way at which the scene is drawn again: beyond both ends too.
PATH = np.arange(-2, 11) / 8
STROKE_PX = 3  # how far a person cuts around a thing's outline

Box = tuple[float, float, float, float]


def find_thing(edit: Edit, truth: Truth, parsed: ParsedScene) -> tuple[ParsedObject | None, bool]:
    """Find the dragged thing in a picture, and say whether class and colour are still right.

    Things that the edit leaves alone are no candidates. Of several, one of the right class and colour comes first, then
    one of the right class, then any; the one nearest to the exact answer.
    """
    thing = edit.thing
    stay = [other for number, other in enumerate(edit.before.objects) if number != edit.index]
    candidates = [
        found
        for found in parsed.objects
        if not any(
            found.kind == other.kind and box_iou(found.box_px, box) > MAX_OVERLAP
            for other, box in zip(stay, truth.others_px, strict=True)
        )
    ]

    def rank(found: ParsedObject) -> tuple[bool, bool, float]:
        is_kind = found.kind == thing.kind
        is_kept = is_kind and found.colour == thing.colour
        return (not is_kept, not is_kind, float(np.abs(np.subtract(found.box_px, truth.box_after)).mean()))

    best = min(candidates, key=rank, default=None)
    is_kept = best is not None and (best.kind, best.colour) == (thing.kind, thing.colour)
    return best, is_kept


def measure_distance(edit: Edit, box: Box, goal: Box) -> float:
    """Return how far the handles are from their targets by the box of the thing and the one it should have, px.

    A moved thing is where its box's middle is; a handle of the others where the side of the box is that it stands for.
    """
    if edit.sort == "moved":
        return float(np.hypot(*(find_centre(box) - find_centre(goal))))
    return float(np.mean([abs(box[h.side] - goal[h.side]) for h in edit.handles if h.side is not None]))


def measure_slip(edit: Edit, box: Box, goal: Box) -> float:
    """Return how far the side went that a stretched thing should have kept, px; NaN for other edits."""
    if edit.sort != "stretched":
        return float("nan")
    side = edit.handles[0].side
    assert side is not None
    return abs(box[(side + 2) % 4] - goal[(side + 2) % 4])


def find_centre(box: Box) -> np.ndarray:
    """Return the middle (x, y) of a box."""
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def measure_mse(picture: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Return the mean squared difference of two pictures (H, W, 3) uint8 on a mask, in levels squared."""
    if not where.any():
        return float("nan")
    return float(((picture[where].astype(np.float64) - other[where]) ** 2).mean())


def to_psnr_db(mse: float) -> float:
    """Turn a mean squared difference into decibels; no picture counts as nearer than rounding lets it be."""
    return float(10 * np.log10(255**2 / (mse + ROUNDING_MSE)))


def measure_ssim(picture: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Return the mean structural similarity of two pictures' luma on a mask.

    Source: Wang et al. 2004, IEEE Transactions on Image Processing 13(4), with its Gaussian window.
    """
    weights = (0.299, 0.587, 0.114)
    a, b = (torch.from_numpy(one.astype(np.float64) @ weights)[None, None] for one in (picture, other))
    line = torch.exp(-((torch.arange(SSIM_WIDTH) - SSIM_WIDTH // 2) ** 2) / (2 * SSIM_SIGMA**2)).double()
    line = line / line.sum()
    window = torch.outer(line, line)[None, None]

    def blur(field: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(field, [SSIM_WIDTH // 2] * 4, mode="reflect"), window)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, shared = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    field = (2 * mean_a * mean_b + c1) * (2 * shared + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(field[0, 0].numpy()[where].mean())


def measure_ghost(truth: Truth, picture: np.ndarray) -> float:
    """Return how much of the place that the thing left still looks like the thing, 0..1; NaN where it left none.

    A pixel looks like the thing if its colour is nearer to the picture before than to the exact answer.
    """
    before, after = truth.before.astype(np.float64), truth.after.astype(np.float64)
    differs = np.abs(before - after).max(-1) > TELLING_LEVELS
    left = truth.thing_before & ~grow(truth.thing_after, GHOST_GAP_PX) & differs
    if left.sum() < MIN_LEFT_PX:
        return float("nan")
    to_before, to_after = (((picture - one) ** 2).sum(-1)[left] for one in (before, after))
    return float((to_before < to_after).mean())


def paste(edit: Edit, truth: Truth) -> Image.Image:
    """Cut the thing out, take it where it should be, lay it over the picture: what needs no model."""
    matrix = np.linalg.inv(np.array(edit.matrix))
    offset = -matrix @ np.array(edit.shift_px)
    to_source = (*matrix[0], offset[0], *matrix[1], offset[1])
    size = truth.picture.size
    moved = truth.picture.transform(size, Image.Transform.AFFINE, to_source, Image.Resampling.BICUBIC)
    cut = Image.fromarray(grow(truth.thing_before, STROKE_PX).astype(np.uint8) * 255)
    return Image.composite(
        moved, truth.picture, cut.transform(size, Image.Transform.AFFINE, to_source, Image.Resampling.BILINEAR)
    )


def draw_path(edit: Edit, mask: np.ndarray) -> np.ndarray:
    """Draw what a mask shows with the thing at every share of the way of PATH; (steps, pixels, 3) uint8."""
    return np.stack([render(place_along(edit, float(frac))).rgb[mask] for frac in PATH])


def measure_path(path: np.ndarray, picture: np.ndarray, mask: np.ndarray) -> float:
    """Return how much of the way the thing has still to go, 0 arrived, 1 not moved, by the drawing most like it.

    No network is asked. Between two drawings the least squares error is taken from a parabola through three of them.
    """
    errors = ((path.astype(np.float32) - picture[mask].astype(np.float32)) ** 2).mean((1, 2))
    best = int(errors.argmin())
    place = float(PATH[best])
    if 0 < best < len(PATH) - 1:
        low, middle, high = (float(error) for error in errors[best - 1 : best + 2])
        bend = low - 2 * middle + high
        place += float(PATH[1] - PATH[0]) * 0.5 * (low - high) / bend if bend > 0 else 0.0
    return abs(1 - place)


class FeatureRuler:
    """Find again what was under a handle, by features of the UNet's decoder.

    Source:  the mean distance of DragBench (Shi et al. 2023, arXiv 2306.14435) with the features of Tang et al. 2023,
             DIFT, arXiv 2306.03881: at the signal-to-noise ratio FEATURE_SNR, averaged over noises, compared by cosine
             over the whole picture.
    Differs: the features come from the model that drags.
    """

    def __init__(self, model: ModelBundle) -> None:
        self.model = model
        alpha_bar = make_scheduler("ddim", model.scheduler_config).alphas_cumprod
        self.timestep = int((alpha_bar / (1 - alpha_bar) - FEATURE_SNR).abs().argmin())
        self.alpha_bar = float(alpha_bar[self.timestep])

    @torch.no_grad()
    def read(self, picture: Image.Image, prompt: str) -> torch.Tensor:
        """Return features of unit length for every pixel, (c, H, W)."""
        model, size = self.model, picture.size
        latents = encode(model, to_tensor([picture]))
        shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        noise = draw_noise(make_generators(NOISE_SEED, NUM_NOISES), shape, model.plan.device)
        noisy = add_noise(latents.expand_as(noise), noise, self.alpha_bar)
        text = encode_prompt(model, prompt, size_px=size)
        seen: list[torch.Tensor] = []
        model.residence.place("unet")
        # The second block of the decoder, as in DragBench.
        handle = model.unet.up_blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            run_cond(model, noisy, self.timestep, text)
        finally:
            handle.remove()
        features = seen[0].float().mean(0, keepdim=True)
        pixels = F.interpolate(features, size=(size[1], size[0]), mode="bilinear", align_corners=False)
        return F.normalize(pixels[0], dim=0)

    @staticmethod
    def pick(edit: Edit, features: torch.Tensor) -> torch.Tensor:
        """Take the features under the handles, (handles, c)."""
        return torch.stack([features[:, int(handle.y), int(handle.x)] for handle in edit.handles])

    @staticmethod
    def measure(edit: Edit, wanted: torch.Tensor, features: torch.Tensor) -> float:
        """Return the mean distance from where the wanted features (handles, c) are found to the targets, px."""
        best = torch.einsum("kc,chw->khw", wanted, features).flatten(1).argmax(1)
        width = features.shape[2]
        places = [(int(one) % width, int(one) // width) for one in best]
        pairs = zip(places, edit.handles, strict=True)
        return float(np.mean([np.hypot(x - handle.target_x, y - handle.target_y) for (x, y), handle in pairs]))


def correlate(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Return the rank correlation of two rulers (Spearman's); 0 where one of them says the same of everything."""
    # Equal values share the middle of their ranks.
    ranks = [np.searchsorted(np.sort(one), one, side) for one in (a, b) for side in ("left", "right")]
    if any(np.ptp(one) == 0 for one in (a, b)):
        return 0.0
    return float(np.corrcoef(ranks[0] + ranks[1], ranks[2] + ranks[3])[0, 1])
