"""Batches of the restorer: for each picture a task, what the task's damage left of it, and how far the chain is.

The task of lost detail starts from what the any-scale enlarger makes of a reduced picture, which is where the page
starts too. A batch is a function of its step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipelines.backprojection import project
from pipelines.darkening import blur
from pipelines.images import compress
from pipelines.residual_shift import KAPPA, LAST_ETA_ROOT
from pipelines.restorer import NUM_STRENGTHS, TASKS, Task
from pipelines.sr_lite import SrLite
from training.degradations import CameraDamage, add_noise, photograph, reduce_cleanly, sample_camera
from training.light_data import CONTEXT_PX, lose_light
from training.restoration_data import cut

CROP_PX = 72
CAMERA_FRAC = 0.3  # of the pictures whose detail was lost to a camera instead of to a clean reduction
UNTOLD_FRAC = 0.2
# What a batch of pictures is split into.
TASK_SHARES = {
    "detail": 0.34,
    "light": 0.36,
    "prior": 0.22,
    "denoise": 0.03,
    "deblur": 0.015,
    "file": 0.015,
    "identity": 0.02,
}
LAST_FRAC = 0.6  # of the dark pictures stand at the last level, where the page starts and often ends
STILL_FRAC = 0.75  # of those have no noise of the chain: it tells nothing there, and the page leaves it out
RELIEF_FRAC = 0.4  # of the dark pictures show fine relief all over, where there is any
DARK_NOISE_TOLD_FRAC = 0.5  # of the dark pictures say how noisy they are; the page tells the gain alone
# ln of the noise that a plain denoiser meets: median 0.25 in -1..1, nine of ten between 0.03 and 2.
LOG_SIGMA_MEAN, LOG_SIGMA_SPREAD = -1.4, 1.25


@dataclass(frozen=True)
class RestorerBatch:
    """Pictures of several tasks.

    Shapes: noisy, damaged, clean (b, 3, CROP_PX, CROP_PX) in about -1..1; sigma, share (b,).
    """

    noisy: torch.Tensor
    damaged: torch.Tensor
    clean: torch.Tensor
    sigma: torch.Tensor
    share: torch.Tensor
    task: Task


def make_restorer_batch(
    pictures: np.ndarray,
    enlarger: SrLite,
    batch_size: int,
    rng: np.random.Generator,
    *,
    reliefs: np.ndarray | None = None,
    only: str = "",
) -> RestorerBatch:
    """Cut pictures (n, PICTURE_PX, PICTURE_PX, 3) uint8, damage each of them its own way, and add noise.

    Shapes: reliefs as pictures; a part of the dark pictures is cut out of them.
    Units:  `only` names the one task of all pictures, for comparing recipes of that task.
    """
    shares = {only: 1.0} if only else TASK_SHARES
    names = rng.choice(list(shares), batch_size, p=list(shares.values()))
    clean = torch.stack([cut(pictures[rng.integers(len(pictures))], CROP_PX, rng) for _ in range(batch_size)])
    damaged, strengths = torch.zeros_like(clean), torch.zeros(batch_size, NUM_STRENGTHS)
    lost = [index for index, name in enumerate(names) if name == "detail"]
    if lost:
        damaged[lost], strengths[lost, 0] = lose_detail(clean[lost], enlarger, rng)
    for index, name in enumerate(names):
        if name == "light":
            source = pictures if reliefs is None or rng.random() >= RELIEF_FRAC else reliefs
            wide = cut(source[rng.integers(len(source))], CONTEXT_PX, rng)
            clean[index], damaged[index], strengths[index] = lose_light(wide, CROP_PX, rng)
        elif name not in ("detail", "prior"):
            damaged[index], strengths[index] = damage(clean[index], str(name), rng)
    is_prior = torch.tensor([name == "prior" for name in names])
    root = torch.from_numpy(rng.uniform(0.05, 1.0, batch_size).astype(np.float32))
    is_last = torch.from_numpy((names == "light") & (rng.random(batch_size) < LAST_FRAC))
    root = torch.where(is_last, LAST_ETA_ROOT, root)
    normal = torch.from_numpy(rng.normal(size=batch_size).astype(np.float32))
    sigma = torch.where(is_prior, (LOG_SIGMA_MEAN + LOG_SIGMA_SPREAD * normal).exp().clamp(0.005, 20.0), KAPPA * root)
    share = torch.where(is_prior, 0.0, root.square())
    noise = torch.from_numpy(rng.normal(size=clean.shape).astype(np.float32))
    told = torch.from_numpy((rng.random((batch_size, 1)) >= UNTOLD_FRAC).astype(np.float32)).repeat(1, NUM_STRENGTHS)
    is_light = torch.from_numpy(names == "light")
    told[is_light, 0] *= torch.from_numpy(rng.random(int(is_light.sum())) < DARK_NOISE_TOLD_FRAC).float()
    is_still = is_last & torch.from_numpy(rng.random(batch_size) < STILL_FRAC)
    # Without noise nothing of the clean picture may be left in the noisy one: it could be read off exactly.
    columns = (
        torch.where(is_still, 1.0, share)[:, None, None, None],
        torch.where(is_still, 0.0, sigma)[:, None, None, None],
    )
    noisy = (1 - columns[0]) * clean + columns[0] * damaged + columns[1] * noise
    task = Task(torch.tensor([TASKS.index(str(name)) for name in names]), strengths, told)
    return RestorerBatch(noisy, damaged, clean, sigma, share, task)


@torch.no_grad()
def lose_detail(clean: torch.Tensor, enlarger: SrLite, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce pictures (b, 3, H, H) by one scale and enlarge them again, as the page does.

    Returns: the enlarged pictures, and (b,) the camera's noise as a strength.
    """
    scale = rng.uniform(1.5, 4.5) if rng.random() < 0.8 else rng.uniform(4.5, 8.0)
    side = clean.shape[-1]
    size = (round(side / scale),) * 2
    small, noise = [], []
    for picture in clean:
        is_camera = rng.random() < CAMERA_FRAC
        camera = sample_camera(rng)
        small.append(photograph(picture, size, camera, rng) if is_camera else reduce_cleanly(picture[None], size)[0])
        noise.append(camera.noise_levels / 50 if is_camera else 0.0)
    stack, is_noisy = torch.stack(small), torch.tensor([value > 0 for value in noise])
    large = enlarger(stack, (side, side), is_noisy.float())
    exact = project(large, stack)
    return torch.where(is_noisy[:, None, None, None], large, exact).clamp(-1, 1), torch.tensor(noise)


def damage(clean: torch.Tensor, task: str, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Damage one picture (3, H, W) at its own size; returns it and its strengths (NUM_STRENGTHS,).

    Raises: ValueError for a task that is not about damage at the picture's own size.
    """
    noise_levels = float(50 * rng.beta(1.0, 1.8)) if task == "denoise" else float(rng.uniform(0, 3))
    blur_px = float(rng.uniform(0.4, 4.0)) if task == "deblur" else 0.0
    quality = int(rng.integers(10, 90)) if task == "file" else 0
    if task == "identity":
        return clean, torch.zeros(NUM_STRENGTHS)
    if task not in ("denoise", "deblur", "file"):
        raise ValueError(f"task {task!r} has no damage of its own")
    camera = CameraDamage(0.0, noise_levels, float(rng.integers(2)) * float(rng.random()), quality)
    picture = add_noise(blur(clean, blur_px, blur_px), camera, rng)
    picture = compress(picture, quality) if quality else picture
    return picture, torch.tensor([noise_levels / 50, blur_px / 4, 1 - quality / 100 if quality else 0.0, 0.0])
