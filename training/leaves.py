"""Dead leaves: pictures of overlapping textured things, so that networks for real photographs need no photograph.

Like photographs they have edges at every size, texture and parts out of focus.
Every picture is a function of its seed, drawn at twice the size and averaged, because hard edges would teach steps.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import skia

PICTURE_PX = 256
SUPERSAMPLING = 2
CANVAS_PX = PICTURE_PX * SUPERSAMPLING
NUM_TEXTURES = 96
TEXTURE_PX = 256
NUM_PAINTS = 7  # textures that one picture mixes
# Radii on the canvas follow r^-3 between these.
MIN_RADIUS_PX, MAX_RADIUS_PX = 3.0, 260.0
_TO_XYZ_WHITE = np.array([0.9505, 1.0, 1.089])
_XYZ_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])


def draw_leaves(seed: int) -> np.ndarray:
    """Draw one picture of dead leaves.

    Shapes:  returns (PICTURE_PX, PICTURE_PX, 3) uint8.
    Source:  Achddou, Gousseau and Ladjal 2023 (dead leaves with texture and depth of field); the compared code is
             rachddou/DeadLeavesPlus, whose radii, textures and depths this follows.
    Differs: colours come from palettes drawn in Lab instead of from photographs; shapes are painted back to front
             with antialiasing; textures are a bank of grey waves and noises that each picture recolours.
    """
    rng = np.random.default_rng([seed, 31])
    palette = draw_palette(rng)
    paints = [_make_paint(palette, rng) for _ in range(NUM_PAINTS)]
    surface = skia.Surface(CANVAS_PX, CANVAS_PX)
    canvas = surface.getCanvas()
    _fill(canvas, skia.Path().addRect(skia.Rect.MakeWH(CANVAS_PX, CANVAS_PX)), paints, palette, rng)
    count = int(np.exp(rng.uniform(np.log(60), np.log(2500))))
    least = float(np.exp(rng.uniform(np.log(MIN_RADIUS_PX), np.log(20.0))))
    kinds = rng.dirichlet([0.7, 0.7, 1.0, 0.6])
    _scatter(canvas, count, least, kinds, (paints, palette), rng=rng)
    if rng.random() < 0.35:  # what lies behind the focus
        _blur(surface, 5.0 * rng.power(0.5) * SUPERSAMPLING)
        _scatter(canvas, max(4, count // int(rng.integers(2, 12))), least, kinds, (paints, palette), rng=rng)
    return average(to_array(surface), rng)


def draw_palette(rng: np.random.Generator) -> np.ndarray:
    """Draw the base colours of one picture.

    Shapes:  returns (n, 3) float64 sRGB in 0..255, n from 4 to 8.
    """
    count = int(rng.integers(4, 9))
    kind = rng.random()
    chroma = np.clip(rng.exponential(18.0, count), 0, 80)
    if kind < 0.1:
        chroma = rng.uniform(40, 80, count)
    elif kind < 0.25:
        chroma = rng.uniform(0, 3, count)
    hue = rng.uniform(0, 2 * np.pi, count)
    lightness = rng.beta(1.3, 1.3, count) * 100
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], 1)
    return lab_to_rgb(lab)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """Turn CIE Lab (n, 3) into sRGB 0..255 (n, 3); what the screen cannot show is cut off."""
    y = (lab[:, 0] + 16) / 116
    xyz = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], 1)
    xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29)) * _TO_XYZ_WHITE
    light = np.clip(xyz @ _XYZ_TO_RGB.T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def average(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn a canvas into the picture: the mean of each block, sometimes through a lens that is a little soft."""
    side = canvas.shape[0] // SUPERSAMPLING
    blocks = canvas.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING, 3).astype(np.float32).mean((1, 3))
    if rng.random() < 0.4:
        blocks = soften(blocks, float(rng.uniform(0.3, 1.0)))
    return np.clip(np.rint(blocks), 0, 255).astype(np.uint8)


def soften(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    """Blur (H, W, c) with a Gaussian, edges mirrored."""
    reach = max(1, int(np.ceil(3 * sigma_px)))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if axis == other else (0, 0) for other in range(3)]
        wide = np.pad(picture, pad, mode="symmetric")
        length = picture.shape[axis]
        parts = (tap * wide.take(range(k, k + length), axis) for k, tap in enumerate(taps))
        picture = sum(parts, start=np.zeros_like(picture))
    return picture


def to_array(surface: skia.Surface) -> np.ndarray:
    """Read a surface as (H, W, 3) uint8."""
    return surface.toarray(colorType=skia.kRGBA_8888_ColorType)[..., :3]


@lru_cache(maxsize=1)
def list_textures() -> np.ndarray:
    """Make the bank of grey textures: (NUM_TEXTURES, TEXTURE_PX, TEXTURE_PX) float32, mean 0, deviation 1, periodic."""
    rng = np.random.default_rng(37)
    rows = [make_noise(rng, (0.4, 2.4)) if rng.random() < 0.72 else _make_waves(rng) for _ in range(NUM_TEXTURES)]
    return np.stack([(row - row.mean()) / (row.std() + 1e-6) for row in rows]).astype(np.float32)


def make_noise(rng: np.random.Generator, slopes: tuple[float, float]) -> np.ndarray:
    """Make noise whose spectrum falls as 1/f^slope, often longer in one direction, sometimes thresholded softly.

    Shapes: returns (TEXTURE_PX, TEXTURE_PX) float64, periodic. Units: slopes is the range of the slope.
    """
    slope = rng.uniform(*slopes)
    spectrum = np.fft.fft2(rng.normal(size=(TEXTURE_PX, TEXTURE_PX)))
    fy, fx = np.meshgrid(np.fft.fftfreq(TEXTURE_PX), np.fft.fftfreq(TEXTURE_PX), indexing="ij")
    stretch, angle = np.exp(rng.uniform(0, np.log(8))) if rng.random() < 0.4 else 1.0, rng.uniform(0, np.pi)
    along = np.cos(angle) * fx + np.sin(angle) * fy
    across = np.cos(angle) * fy - np.sin(angle) * fx
    frequency = np.sqrt((along * stretch) ** 2 + across**2 + 1e-6)
    frequency[0, 0] = np.inf
    noise = np.fft.ifft2(spectrum / frequency**slope).real
    noise /= noise.std()
    return np.tanh(noise * rng.uniform(1, 5) + rng.normal()) if rng.random() < 0.3 else noise


def _make_waves(rng: np.random.Generator) -> np.ndarray:
    """Make stripes or a grid of them, warped a little, from soft to nearly square."""
    place = np.arange(TEXTURE_PX) / TEXTURE_PX * 2 * np.pi
    y, x = np.meshgrid(place, place, indexing="ij")
    total = np.zeros_like(x)
    for _ in range(int(rng.integers(1, 3))):
        kx, ky = rng.integers(-28, 29, 2)
        bend = rng.uniform(0, 1.5) * np.sin(x * rng.integers(1, 4) + y * rng.integers(-3, 4) + rng.uniform(0, 6))
        total += np.sin(kx * x + ky * y + bend + rng.uniform(0, 6))
    return np.tanh(total * rng.uniform(0.5, 6) + 0.4 * rng.normal())


def _make_paint(palette: np.ndarray, rng: np.random.Generator) -> skia.Image:
    """Colour a texture of the bank: between two colours, with a second texture of less weight."""
    bank = list_textures()
    first, second = bank[rng.integers(NUM_TEXTURES)], bank[rng.integers(NUM_TEXTURES)]
    a, b = palette[rng.integers(len(palette), size=2)]
    strength = np.exp(rng.uniform(np.log(0.04), np.log(0.5)))
    swing = (b - a) * strength + rng.normal(0, 10, 3) * strength
    other = rng.normal(0, 14, 3) * strength + rng.normal(0, 14) * strength
    rgb = a + first[..., None] * swing + second[..., None] * other
    rgba = np.full((TEXTURE_PX, TEXTURE_PX, 4), 255, np.uint8)
    rgba[..., :3] = np.clip(rgb, 0, 255)
    return skia.Image.fromarray(rgba, colorType=skia.kRGBA_8888_ColorType)


def _scatter(
    canvas: skia.Canvas,
    count: int,
    least_px: float,
    kinds: np.ndarray,
    paint: tuple[list[skia.Image], np.ndarray],
    *,
    rng: np.random.Generator,
) -> None:
    """Paint `count` shapes whose radii follow r^-3 from least_px on."""
    low, high = MAX_RADIUS_PX**-2, least_px**-2
    for radius in rng.uniform(low, high, count) ** -0.5:
        x, y = rng.uniform(-0.5 * radius, CANVAS_PX + 0.5 * radius, 2)
        path = _make_shape(int(rng.choice(4, p=kinds)), x, y, float(radius), rng)
        _fill(canvas, path, *paint, rng, radius=float(radius))


def _make_shape(kind: int, x: float, y: float, radius: float, rng: np.random.Generator) -> skia.Path:
    """Make a disc, a turned box, a ragged blob, or a thin blade."""
    path = skia.Path()
    if kind == 0:
        return path.addOval(skia.Rect.MakeLTRB(x - radius, y - radius, x + radius, y + radius))
    turn = rng.uniform(0, 2 * np.pi)
    if kind == 1:
        aspect = rng.uniform(0.3, 1.0)
        corners = np.array([[-1, -aspect], [1, -aspect], [1, aspect], [-1, aspect]]) * radius
    elif kind == 2:
        num = int(rng.integers(5, 24))
        angles = np.sort(rng.uniform(0, 2 * np.pi, num))
        reach = radius * rng.uniform(0.45, 1.2, num)
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None]
    else:
        thin = rng.uniform(0.03, 0.25)
        ends = np.linspace(-1.6, 1.6, 7)
        bow = rng.uniform(-0.6, 0.6) * (1 - (ends / 1.6) ** 2)
        width = thin * (1 - (np.abs(ends) / 1.7) ** 2)
        corners = np.concatenate([np.stack([ends, bow + width], 1), np.stack([ends, bow - width], 1)[::-1]]) * radius
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = [skia.Point(float(px), float(py)) for px, py in corners @ rotation + (x, y)]
    if kind == 2 and rng.random() < 0.5:
        middles = [(a + b) * 0.5 for a, b in zip(points, points[1:] + points[:1])]
        path.moveTo(middles[-1])
        for point, middle in zip(points, middles):
            path.quadTo(point, middle)
        return path
    return path.addPoly(points, True)


def _fill(
    canvas: skia.Canvas,
    path: skia.Path,
    paints: list[skia.Image],
    palette: np.ndarray,
    rng: np.random.Generator,
    *,
    radius: float = CANVAS_PX,
) -> None:
    """Fill a path with a texture or one colour, then sometimes shade it from one side."""
    if radius > 12 and rng.random() < 0.85:
        _cover(canvas, path, paints[rng.integers(len(paints))], rng)
    else:
        jitter = np.clip(palette[rng.integers(len(palette))] + rng.normal(0, 12, 3), 0, 255)
        canvas.drawPath(path, skia.Paint(AntiAlias=True, Color=skia.Color(*(int(v) for v in jitter))))
    if radius > 16 and rng.random() < 0.5:
        bounds = path.getBounds()
        angle = rng.uniform(0, 2 * np.pi)
        half = skia.Point(float(np.cos(angle) * radius), float(np.sin(angle) * radius))
        centre = skia.Point(bounds.centerX(), bounds.centerY())
        tone = 0 if rng.random() < 0.6 else 255
        colours = [
            skia.ColorSetARGB(int(rng.uniform(20, 160)), tone, tone, tone),
            skia.ColorSetARGB(0, tone, tone, tone),
        ]
        shade = skia.Paint(AntiAlias=True)
        shade.setShader(skia.GradientShader.MakeLinear([centre - half, centre + half], colours))
        canvas.drawPath(path, shade)


def _cover(canvas: skia.Canvas, path: skia.Path, paint: skia.Image, rng: np.random.Generator) -> None:
    """Lay a texture over a path, turned and scaled at random.

    Differs: tiles under a clip instead of a shader, because skia-python copies a shader's picture with each use.
    """
    matrix = skia.Matrix().setRotate(float(rng.uniform(0, 360)))
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(2.5))))
    matrix.postScale(scale, scale * float(rng.uniform(0.7, 1.4)))
    matrix.postTranslate(*(float(v) for v in rng.uniform(0, TEXTURE_PX, 2)))
    inverse = skia.Matrix()
    if not matrix.invert(inverse):
        raise ValueError(f"a texture cannot be laid with {matrix}")
    screen = skia.Rect.MakeWH(CANVAS_PX, CANVAS_PX)
    seen = path.getBounds()
    if not seen.intersect(screen):
        return
    bounds = inverse.mapRect(seen)
    canvas.save()
    canvas.clipPath(path, doAntiAlias=True)
    canvas.concat(matrix)
    sampling = skia.SamplingOptions(skia.FilterMode.kLinear)
    for row in range(int(bounds.top() // TEXTURE_PX), int(bounds.bottom() // TEXTURE_PX) + 1):
        for column in range(int(bounds.left() // TEXTURE_PX), int(bounds.right() // TEXTURE_PX) + 1):
            canvas.drawImage(paint, column * TEXTURE_PX, row * TEXTURE_PX, sampling)
    canvas.restore()


def _blur(surface: skia.Surface, sigma_px: float) -> None:
    """Blur all that is on the surface."""
    if sigma_px < 0.3:
        return
    paint = skia.Paint()
    paint.setImageFilter(skia.ImageFilters.Blur(sigma_px, sigma_px, skia.TileMode.kMirror))
    surface.getCanvas().drawImage(surface.makeImageSnapshot(), 0, 0, skia.SamplingOptions(), paint)
