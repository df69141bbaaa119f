"""What the turntable learns from: solids seen from the front, from eight sides, and what inflating makes of them.

Drawing a solid takes longer than training on it once, so that examples are drawn once, kept in a file beside the run,
and held in memory. A batch is a function of its step.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipelines.inflate import inflate
from pipelines.mesh import draw_mesh
from pipelines.residual_shift import KAPPA
from pipelines.turntable import CHANNELS, NUM_VIEWS, VIEW_PX
from pipelines.turntable_camera import ZIGZAG
from training.world.scene import FIRST_HELD_OUT_SEED
from training.world.solid_views import frame, render_views
from training.world.solids import make_body, sample_solid

FIRST_SEED = 900_000_000
# Held-out seeds that nothing else uses: what the choice between two recipes may look at.
CHECK_SEED = FIRST_HELD_OUT_SEED + 1_100_000_000
PICTURE_PX = 128
FORMAT = 1  # part of the file's name: a change of the examples must not meet an old file
# Pictures of an example: the front, the views, the inflated body's views.
NUM_PICTURES = 1 + 2 * NUM_VIEWS


@dataclass(frozen=True)
class TurntableBatch:
    """Objects seen from all sides.

    Shapes: picture (b, CHANNELS, H, H); clean, guess, noisy (b, NUM_VIEWS, CHANNELS, H, H), in about -1..1; eta (b,).
    """

    picture: torch.Tensor
    clean: torch.Tensor
    guess: torch.Tensor
    noisy: torch.Tensor
    eta: torch.Tensor


def draw_example(seed: int) -> np.ndarray:
    """Draw the example of a seed: (NUM_PICTURES, VIEW_PX, VIEW_PX, CHANNELS) uint8, colours on white and the mask."""
    body = frame(make_body(sample_solid(seed, split="all" if seed >= FIRST_HELD_OUT_SEED else "train")))
    front = render_views(body, [(0.0, 0.0)], PICTURE_PX)
    views = render_views(body, ZIGZAG, VIEW_PX)
    drawn, cover = draw_mesh(inflate(front.rgb[0], front.mask[0]), ZIGZAG, VIEW_PX)
    factor = PICTURE_PX // VIEW_PX
    small = [
        layer.reshape(1, VIEW_PX, factor, VIEW_PX, factor, -1).mean((2, 4))
        for layer in (front.rgb, front.mask[..., None])
    ]
    rgb = np.concatenate([small[0], views.rgb, drawn])
    mask = np.concatenate([small[1], views.mask[..., None], cover[..., None]])
    return np.clip(np.rint(np.concatenate([rgb, mask], -1) * 255), 0, 255).astype(np.uint8)


def load_examples(folder: Path, count: int, first_seed: int = FIRST_SEED) -> np.ndarray:
    """Return the examples of `count` seeds: (count, NUM_PICTURES, ...) uint8, drawn where the file has none.

    Units: the file grows: what an earlier, smaller call drew is kept, also when this one is stopped half-way.
    """
    path = folder / f"solids_{FORMAT}_{first_seed}.npy"
    done = np.load(path) if path.exists() else np.empty((0, NUM_PICTURES, VIEW_PX, VIEW_PX, CHANNELS), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    start, part = time.monotonic(), path.with_suffix(".part.npy")
    while len(done) < count:
        more = range(len(done), min(count, len(done) + 200))
        done = np.concatenate([done, np.stack([draw_example(first_seed + index) for index in more])])
        np.save(part, done)
        part.replace(path)
        print(f"{len(done)} of {count} solids, {time.monotonic() - start:.0f} s", file=sys.stderr)
    return done[:count]


def make_turntable_batch(examples: np.ndarray, batch_size: int, rng: np.random.Generator) -> TurntableBatch:
    """Pick examples, exchange their colours, and go a random way along the chain.

    Differs: red, green and blue change places, which makes six objects of one; white, grey and shadow stay.
    """
    chosen = examples[np.sort(rng.choice(len(examples), batch_size, replace=len(examples) < batch_size))]
    values = torch.from_numpy(chosen).permute(0, 1, 4, 2, 3).float() / (255 / 2) - 1
    for row in range(batch_size):
        values[row] = values[row][:, [*rng.permutation(3).tolist(), 3]]
    picture, clean, guess = values[:, 0], values[:, 1 : 1 + NUM_VIEWS], values[:, 1 + NUM_VIEWS :]
    # Most of the draws lie at the start of the chain, where the noisy views tell nothing and everything is decided.
    is_early = rng.random(batch_size) < 0.7
    root = np.where(is_early, rng.uniform(0.9, 0.995, batch_size), rng.uniform(0.1, 0.9, batch_size))
    eta = torch.from_numpy((root**2).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
    return TurntableBatch(picture, clean, guess, mix(clean, guess, noise, eta), eta)


def mix(clean: torch.Tensor, guess: torch.Tensor, noise: torch.Tensor, eta: torch.Tensor) -> torch.Tensor:
    """Go along the chain: (1 - eta) clean + eta guess + KAPPA sqrt(eta) noise; eta (b,)."""
    column = eta[:, None, None, None, None]
    return (1 - column) * clean + column * guess + KAPPA * column.sqrt() * noise
