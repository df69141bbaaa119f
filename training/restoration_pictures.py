"""What the networks for real photographs learn from: leaves, drawn scenes, lettering and line art, smooth skies.

No photograph is among them, because photographs are the test. Drawing takes longer than training on a picture once,
so that the pictures are drawn once, kept in a file beside the run, and held in memory.
"""

from __future__ import annotations

import string
import sys
import time
from pathlib import Path

import numpy as np
import skia
from PIL import Image, ImageDraw, ImageFont

from training.leaves import CANVAS_PX, PICTURE_PX, average, draw_leaves, draw_palette, to_array
from training.world.render import render
from training.world.scene import FIRST_HELD_OUT_SEED, sample_scene

FIRST_SEED = 700_000_000
# Held-out seeds that nothing else uses: what the choice between two recipes may look at.
CHECK_SEED = FIRST_HELD_OUT_SEED + 1_300_000_000
LEAVES_FRAC, SCENES_FRAC, LETTERS_FRAC = 0.62, 0.18, 0.12  # the rest are skies
FORMAT = 1  # part of the file's name: a change of the pictures must not meet an old file


def draw_picture(seed: int) -> np.ndarray:
    """Draw the picture of a seed: (PICTURE_PX, PICTURE_PX, 3) uint8."""
    rng = np.random.default_rng([seed, 41])
    kind = rng.random()
    if kind < LEAVES_FRAC:
        return draw_leaves(seed)
    if kind < LEAVES_FRAC + SCENES_FRAC:
        return render(sample_scene(seed, split="all" if seed >= FIRST_HELD_OUT_SEED else "train")).rgb
    if kind < LEAVES_FRAC + SCENES_FRAC + LETTERS_FRAC:
        return draw_letters(rng) if rng.random() < 0.6 else draw_lines(rng)
    return draw_sky(rng)


def draw_letters(rng: np.random.Generator) -> np.ndarray:
    """Draw lines of invented words, turned a little, on paper that is not lit evenly."""
    ink, paper = draw_palette(rng)[:2]
    if rng.random() < 0.7:
        paper, ink = 255 - rng.uniform(0, 70) - rng.uniform(0, 12, 3), rng.uniform(0, 80) + rng.uniform(0, 12, 3)
    page = Image.new("L", (CANVAS_PX * 2, CANVAS_PX * 2), 0)
    pen, y = ImageDraw.Draw(page), 0.0
    size_px = float(np.exp(rng.uniform(np.log(14), np.log(90))))
    letters = np.array(list(string.ascii_letters + string.digits + "    .,;-"))
    while y < page.height:
        font = ImageFont.load_default(size_px)
        pen.text((-20.0, y), "".join(rng.choice(letters, 120)), fill=255, font=font)
        y += size_px * rng.uniform(1.05, 1.5)
        if rng.random() < 0.15:
            size_px = float(np.exp(rng.uniform(np.log(14), np.log(90))))
    page = page.rotate(float(rng.normal(0, 5)), Image.Resampling.BICUBIC, center=(CANVAS_PX, CANVAS_PX))
    edge = CANVAS_PX // 2
    cover = np.asarray(page.crop((edge, edge, edge + CANVAS_PX, edge + CANVAS_PX)), np.float32)[..., None] / 255
    canvas = (paper + cover * (ink - paper)) * _draw_light(rng, CANVAS_PX)
    return average(np.clip(canvas, 0, 255).astype(np.uint8), rng)


def draw_lines(rng: np.random.Generator) -> np.ndarray:
    """Draw strokes, grids, fans and rings of thin lines."""
    palette = draw_palette(rng)
    surface = skia.Surface(CANVAS_PX, CANVAS_PX)
    canvas = surface.getCanvas()
    canvas.clear(skia.Color(*(int(v) for v in palette[0])))
    for _ in range(int(rng.integers(3, 30))):
        paint = skia.Paint(AntiAlias=True, Style=skia.Paint.kStroke_Style)
        paint.setStrokeWidth(float(np.exp(rng.uniform(np.log(1.2), np.log(12)))))
        paint.setColor(skia.Color(*(int(v) for v in palette[rng.integers(len(palette))])))
        x, y = (float(v) for v in rng.uniform(0, CANVAS_PX, 2))
        kind = rng.integers(4)
        path = skia.Path()
        if kind == 0:
            points = rng.uniform(-0.2, 1.2, (4, 2)) * CANVAS_PX
            path.moveTo(*points[0].tolist()).cubicTo(*points[1:].ravel().tolist())
        elif kind == 1:
            for radius in np.arange(1, rng.integers(2, 12)) * rng.uniform(6, 30):
                path.addCircle(x, y, float(radius))
        elif kind == 2:
            for angle in np.linspace(0, np.pi, int(rng.integers(4, 40))):
                dx, dy = float(np.cos(angle) * 200), float(np.sin(angle) * 200)
                path.moveTo(x - dx, y - dy).lineTo(x + dx, y + dy)
        else:
            turn = rng.uniform(0, np.pi)
            gap, across = rng.uniform(5, 30), np.array([np.cos(turn), np.sin(turn)])
            along = np.array([-across[1], across[0]]) * rng.uniform(40, 300)
            for k in range(int(rng.integers(3, 25))):
                middle = np.array([x, y]) + across * gap * k
                path.moveTo(*(middle - along).tolist()).lineTo(*(middle + along).tolist())
        canvas.drawPath(path, paint)
    return average(to_array(surface), rng)


def draw_sky(rng: np.random.Generator) -> np.ndarray:
    """Draw smooth colour that changes slowly, with a few soft clouds: what shows banding first."""
    palette = draw_palette(rng)
    weights = np.stack([_draw_light(rng, PICTURE_PX)[..., 0] for _ in range(3)])
    weights = np.exp(weights * rng.uniform(2, 12))
    canvas = np.einsum("kyx,kc->yxc", weights / weights.sum(0), palette[:3])
    if rng.random() < 0.3:
        canvas = canvas + rng.normal(0, rng.uniform(0.3, 2.0), canvas.shape)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _draw_light(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Draw a smooth field around 1: (side, side, 1)."""
    place = np.linspace(0, 2 * np.pi, side_px)
    y, x = np.meshgrid(place, place, indexing="ij")
    total = np.zeros_like(x)
    for _ in range(3):
        kx, ky = rng.normal(0, 0.6, 2)
        total += np.sin(kx * x + ky * y + rng.uniform(0, 6))
    return (1 + 0.08 * total)[..., None]


def load_pictures(folder: Path, count: int, first_seed: int = FIRST_SEED) -> np.ndarray:
    """Return the pictures of `count` seeds: (count, PICTURE_PX, PICTURE_PX, 3) uint8, drawn where the file has none.

    Units: the file grows: what an earlier, smaller call drew is kept.
    """
    path = folder / f"pictures_{FORMAT}_{first_seed}.npy"
    done = np.load(path) if path.exists() else np.empty((0, PICTURE_PX, PICTURE_PX, 3), np.uint8)
    if len(done) < count:
        start = time.monotonic()
        new = np.empty((count - len(done), *done.shape[1:]), np.uint8)
        for index in range(len(new)):
            new[index] = draw_picture(first_seed + len(done) + index)
            if (index + 1) % 200 == 0:
                print(f"{index + 1} of {len(new)} pictures, {time.monotonic() - start:.0f} s", file=sys.stderr)
        done = np.concatenate([done, new])
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        np.save(part, done)
        part.replace(path)
    return done[:count]
