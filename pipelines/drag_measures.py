"""What came of a drag: where the handles' surroundings are now, what changed outside, and pictures that explain it."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageFilter

from pipelines.cfg_batch import run_cond
from pipelines.drag_latents import to_latent_grid, watched_features
from pipelines.drag_points import DragPair
from pipelines.drag_task import DragTask
from pipelines.drag_things import choose_thing
from pipelines.drag_warp import Pull, list_places, to_cells
from pipelines.images import encode, to_tensor
from pipelines.model import ModelBundle, TextCond
from pipelines.scene_parser import ParsedScene
from pipelines.schedules import add_noise, make_scheduler
from pipelines.seeding import draw_noise, make_generators
from pipelines.types import Measure

# Where features of a picture are read: little noise, always the same.
FEATURE_TIMESTEP = 100
NOISE_SEED = 0
FEATHER_PX = 3
# A picture that is the same pixel by pixel has no finite PSNR.
SAME_DB = 99.0

Places = tuple[tuple[float, float], ...]


def read_drag_features(model: ModelBundle, latents: torch.Tensor, text: TextCond) -> torch.Tensor:
    """Read decoder features of a picture in little noise; latents (1, c, h, w), returns (1, f, h, w) float32.

    Source: Tang et al. 2023, DIFT, arXiv 2306.03881: such features match what belongs together in two pictures.
    """
    model.residence.place("unet")
    alpha_bar = float(make_scheduler("ddim", model.scheduler_config).alphas_cumprod[FEATURE_TIMESTEP])
    shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    noise = draw_noise(make_generators(NOISE_SEED, 1), shape, model.plan.device)
    with watched_features(model.unet) as seen:
        run_cond(model, add_noise(latents, noise, alpha_bar), FEATURE_TIMESTEP, text)
    return to_latent_grid(seen[0], (latents.shape[2], latents.shape[3]))


def measure_drag(
    model: ModelBundle, task: DragTask, before: Image.Image, after: Image.Image, *, region: Image.Image, text: TextCond
) -> tuple[Places, tuple[Measure, ...]]:
    """Find the handles again and measure a drag.

    Returns: places of the handles in px, and the measures: mean distance to the targets before and after, and how like
             the picture is outside of what was free to change.
    """
    with model.lock:
        places = find_handles(model, task, before, after, text)
    ways = [math.hypot(pair.target_x - x, pair.target_y - y) for pair, (x, y) in zip(task.pairs, places, strict=True)]
    start_px = sum(pair.length_px for pair in task.pairs) / len(task.pairs)
    outside = measure_outside(before, after, region)
    return places, (
        Measure("mean_distance_px", "Distance to the targets", start_px, sum(ways) / len(ways), "px"),
        Measure("outside_psnr_db", "Likeness outside (99: the same)", SAME_DB, outside, "dB"),
    )


def find_handles(model: ModelBundle, task: DragTask, before: Image.Image, after: Image.Image, text: TextCond) -> Places:
    """Find where what was under the handles is now, in px: by the parser where it knows the thing, else by features."""
    scenes = model.judge.parser.parse([before, after]) if model.judge else []
    features = None
    places = []
    for pair in task.pairs:
        pull = next(pull for pull in task.pulls if pair in pull.pairs)
        place = _follow_box(scenes[0], scenes[1], pair, pull) if scenes else None
        if place is None:
            features = features or _read_both(model, task, after, text)
            place = _match(*features, pair, (before.height, before.width))
        places.append(place)
    return tuple(places)


def _follow_box(before: ParsedScene, after: ParsedScene, pair: DragPair, pull: Pull) -> tuple[float, float] | None:
    """Find a handle at its old place within the box of its thing; None if either box is missing."""
    index = choose_thing(before, pair)
    if index is None:
        return None
    thing = before.objects[index]
    x0, y0, x1, y1 = thing.box_px
    [wanted] = pull.take(torch.tensor([[(x0 + x1) / 2, (y0 + y1) / 2]])).tolist()
    boxes = [other.box_px for other in after.objects if other.kind == thing.kind]
    if not boxes:
        return None
    u0, v0, u1, v1 = min(boxes, key=lambda b: math.hypot((b[0] + b[2]) / 2 - wanted[0], (b[1] + b[3]) / 2 - wanted[1]))
    along = (pair.handle_x - x0) / max(1.0, x1 - x0), (pair.handle_y - y0) / max(1.0, y1 - y0)
    return (u0 + along[0] * (u1 - u0), v0 + along[1] * (v1 - v0))


def _read_both(
    model: ModelBundle, task: DragTask, after: Image.Image, text: TextCond
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the features of both pictures."""
    latents = encode(model, to_tensor([after]))
    return read_drag_features(model, task.source.latents, text), read_drag_features(model, latents, text)


def _match(before: torch.Tensor, after: torch.Tensor, pair: DragPair, size_px: tuple[int, int]) -> tuple[float, float]:
    """Find the place whose features point the same way as the handle's did; features (1, f, h, w).

    Source: the evaluation of DragDiffusion, by DIFT features: argmax of the cosine over the whole picture.
    """
    height, width = before.shape[2:]
    column, row = (
        to_cells(torch.tensor([float(pair.handle_x), float(pair.handle_y)]), (height, width), size_px).round().long()
    )
    wanted = before[:, :, int(row.clamp(0, height - 1)), int(column.clamp(0, width - 1))]
    likeness = F.cosine_similarity(after, wanted[:, :, None, None], dim=1)
    places = list_places((height, width), size_px).view(-1, 2)
    x, y = places[int(likeness.argmax())].tolist()
    return (x, y)


def measure_outside(before: Image.Image, after: Image.Image, region: Image.Image) -> float:
    """Return the PSNR in dB outside of what was free to change; SAME_DB where no pixel differs."""
    held = np.asarray(region.convert("L")) == 0
    first, second = (np.asarray(picture.convert("RGB"), np.float64)[held] for picture in (before, after))
    error = float(np.mean((first - second) ** 2)) if held.any() else 0.0
    return SAME_DB if error == 0 else 10 * math.log10(255**2 / error)


def feather(mask: Image.Image) -> Image.Image:
    """Soften the border of a mask inwards: outside of it all stays exactly 0."""
    grey = mask.convert("L")
    soft = grey.filter(ImageFilter.MinFilter(2 * FEATHER_PX + 1)).filter(ImageFilter.GaussianBlur(FEATHER_PX / 2))
    return ImageChops.darker(soft, grey)


def composite(before: Image.Image, after: Image.Image, soft: Image.Image) -> Image.Image:
    """Lay a picture over another where a soft mask is white; where it is black, pixels stay the same bit for bit."""
    return Image.composite(after, before, soft)


def to_grey(levels: torch.Tensor) -> Image.Image:
    """Turn a map (H, W) of 0..1 into a grey picture."""
    return Image.fromarray((levels * 255).round().to(torch.uint8).cpu().numpy())


def draw_drag_sketches(
    picture: Image.Image, task: DragTask, region: Image.Image
) -> tuple[tuple[str, Image.Image], ...]:
    """Show what the handles hold, and what was free to change; the rest is dimmed."""
    held = torch.stack([pull.thing for pull in task.pulls]).amax(0)[0, 0]
    outline = to_grey(held)
    dim = picture.point(lambda level: level // 4)
    return (
        ("What the handles hold", Image.composite(picture, dim, outline)),
        ("What was free to change", Image.composite(picture, dim, region)),
    )
