"""Scene record -> picture and exact truth (boxes, masks, class and colour maps), deterministic per record.

Drawn with skia on the CPU; the style functions put the paint on, this file places the objects and adds what
belongs to the whole picture (rounding, mottling, grain, coarse grid).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import skia

from training.world.backdrop import make_backdrop
from training.world.kinds import make_parts
from training.world.scene import CANVAS_PX, COLOURS, KINDS, Look, Scene, SceneObject
from training.world.styles import INK, PAINTERS, RGB, WHITE, Shape, canvas_colour, mix, shift_palette

PIXEL_ART_PX = 4

COLOUR_RGB: dict[str, RGB] = {
    "red": (218, 44, 48),
    "orange": (246, 136, 32),
    "yellow": (250, 212, 52),
    "green": (52, 156, 66),
    "teal": (24, 166, 164),
    "blue": (44, 94, 218),
    "purple": (134, 66, 192),
    "pink": (248, 132, 182),
    "brown": (124, 78, 46),
    "black": (40, 40, 46),
    "white": (247, 247, 245),
    "grey": (140, 144, 152),
}
_FIXED_TONES: dict[str, RGB] = {
    "white": (250, 250, 250),
    "ink": (36, 36, 44),
    "glass": (186, 222, 240),
    "wood": (142, 98, 62),
    "cream": (250, 230, 186),
}


@dataclass(frozen=True)
class Rendered:
    """A picture with its boxes.

    Shapes: rgb (H, W, 3) uint8. Units: boxes_px one (x0, y0, x1, y1) per object, end-exclusive, on the canvas.
    """

    rgb: np.ndarray
    boxes_px: tuple[tuple[int, int, int, int], ...]


def render(scene: Scene) -> Rendered:
    """Draw a scene.

    Returns: the picture and the boxes of its objects, in the order of the record.
    """
    rng = np.random.default_rng([scene.seed, 7])
    base, layers = make_backdrop(scene.background, scene.light, rng)
    shift = scene.look.palette_shift
    shapes = [Shape(path, shift_palette(rgb, shift)) for path, rgb in layers]
    for thing in scene.objects:
        shapes += _object_shapes(thing, scene.look)
    canvas_rgb = canvas_colour(shift_palette(base, shift), scene.style)
    rgb = _draw(shapes, canvas_rgb, scene)
    boxes = tuple(_find_box(thing) for thing in scene.objects)
    return Rendered(_finish(rgb, scene, rng), boxes)


def draw_masks(scene: Scene, cells: int = CANVAS_PX) -> np.ndarray:
    """Draw where each object is visible, at any resolution.

    Shapes:  returns (k, cells, cells) bool, one mask per object; what a later object hides is not counted.
    """
    owner = _draw_owner(scene, cells)
    return np.stack([owner == index for index in range(len(scene.objects))])


def draw_truth_maps(scene: Scene, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw class and colour of every cell: the exact target of truth alignment.

    Shapes:  two (cells, cells) uint8 maps; 0 = backdrop, else 1 + index into KINDS / COLOURS.
    """
    owner = _draw_owner(scene, cells)
    kinds = np.array([1 + KINDS.index(thing.kind) for thing in scene.objects] + [0], np.uint8)
    colours = np.array([1 + COLOURS.index(thing.colour) for thing in scene.objects] + [0], np.uint8)
    return kinds[owner], colours[owner]


def _draw_owner(scene: Scene, cells: int) -> np.ndarray:
    """Return (cells, cells) int with the index of the front object per cell, -1 for the backdrop."""
    pixels = np.zeros((cells, cells, 4), np.uint8)
    canvas = skia.Surface(pixels).getCanvas()
    canvas.clear(skia.ColorBLACK)
    canvas.scale(cells / CANVAS_PX, cells / CANVAS_PX)
    for index, thing in enumerate(scene.objects):
        paint = skia.Paint(AntiAlias=False, Color=skia.Color(index + 1, 0, 0))
        for path, _tone, is_line in _placed_parts(thing):
            if not is_line:
                canvas.drawPath(path, paint)
    return np.maximum(pixels[..., 0], pixels[..., 2]).astype(np.int64) - 1


def _placed_parts(thing: SceneObject) -> list[tuple[skia.Path, str, bool]]:
    """Return (outline in picture pixels, tone, is_line) for each part of an object."""
    matrix = skia.Matrix.Translate(thing.x_px, thing.y_px)
    matrix.preRotate(thing.tilt_deg)
    matrix.preScale(thing.size_px / 2 * thing.stretch[0], thing.size_px / 2 * thing.stretch[1])
    placed = []
    for part in make_parts(thing.kind, thing.identity):
        part.path.transform(matrix)  # in place: the parts were made for this call
        placed.append((part.path, part.tone, part.is_line))
    return placed


def tone_rgb(tone: str, colour: str) -> RGB:
    """Return what a tone is in an object of this colour; RGB 0..255."""
    if tone in _FIXED_TONES:
        return _FIXED_TONES[tone]
    main = COLOUR_RGB[colour]
    if tone == "main":
        return main
    if tone == "shade":
        return mix(main, WHITE, 0.25) if colour == "black" else mix(main, INK, 0.25)
    if tone == "tint":
        return mix(main, WHITE, 0.35) if colour != "white" else mix(main, INK, 0.1)
    if tone == "mark":
        return mix(main, WHITE, 0.3) if colour in ("black", "brown", "blue", "purple") else mix(main, INK, 0.3)
    return (244, 240, 232) if colour in ("black", "brown", "purple", "blue") else INK


def _object_shapes(thing: SceneObject, look: Look) -> list[Shape]:
    shapes = []
    for path, tone, is_line in _placed_parts(thing):
        is_own = tone in ("main", "shade")
        is_second = tone == "mark" and thing.identity.mark_colour
        rgb = COLOUR_RGB[thing.identity.mark_colour] if is_second else tone_rgb(tone, thing.colour)
        rgb = shift_palette(rgb, look.palette_shift)
        shapes.append(Shape(path, rgb, "main" if is_own else "part", is_line))
    return shapes


def _draw(shapes: list[Shape], canvas_rgb: RGB, scene: Scene) -> np.ndarray:
    coarse = PIXEL_ART_PX if scene.style == "pixel art" else 1
    edge = CANVAS_PX // coarse
    pixels = np.zeros((edge, edge, 4), np.uint8)
    canvas = skia.Surface(pixels, colorType=skia.kRGBA_8888_ColorType).getCanvas()
    canvas.clear(skia.Color(*(round(c) for c in canvas_rgb)))
    canvas.scale(1 / coarse, 1 / coarse)
    PAINTERS[scene.style](canvas, shapes, scene.look)
    rgb = pixels[..., :3]
    return rgb if coarse == 1 else rgb.repeat(coarse, 0).repeat(coarse, 1)


def _finish(rgb: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Add mottling (watercolor) and paper grain (crayon, watercolor) from a fixed bank of smooth noise."""
    strength = {"watercolor": 0.03 + 0.05 * scene.look.grain, "crayon": 0.01 + 0.03 * scene.look.grain}.get(scene.style)
    if strength is None:
        return np.ascontiguousarray(rgb)
    noise = _smooth_noise()
    top, left = rng.integers(0, noise.shape[0] - CANVAS_PX, 2)
    field = noise[top : top + CANVAS_PX, left : left + CANVAS_PX, None] * strength
    picture = rgb.astype(np.float32)
    picture += np.where(field > 0, 255 - picture, picture) * field
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _smooth_noise() -> np.ndarray:
    """Return a (640, 640) float32 field, mean 0, standard deviation 1, without detail below about 16 px."""
    rng = np.random.default_rng(20_26)
    total = np.zeros((640, 640), np.float32)
    for edge, weight in ((10, 1.0), (20, 0.7), (40, 0.4)):
        small = skia.Image.fromarray(_to_rgba(rng.random((edge, edge), np.float32)))
        big = small.resize(640, 640, skia.SamplingOptions(skia.CubicResampler.CatmullRom()))
        total += weight * (big.toarray()[..., 0].astype(np.float32) / 255)
    return (total - total.mean()) / total.std()


def _to_rgba(grey: np.ndarray) -> np.ndarray:
    level = np.rint(grey * 255).astype(np.uint8)
    return np.stack([level, level, level, np.full_like(level, 255)], -1)


def _find_box(thing: SceneObject) -> tuple[int, int, int, int]:
    bounds = [path.computeTightBounds() for path, _tone, _is_line in _placed_parts(thing)]
    left, top = min(b.left() for b in bounds), min(b.top() for b in bounds)
    right, bottom = max(b.right() for b in bounds), max(b.bottom() for b in bounds)
    low, high = np.clip([left, top], 0, CANVAS_PX - 1), np.clip([right, bottom], 1, CANVAS_PX)
    return (int(low[0]), int(low[1]), int(np.ceil(high[0])), int(np.ceil(high[1])))
