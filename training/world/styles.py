"""The eight styles: how outlines become paint.

A style is one function from a canvas and a list of strokes-to-be (`Shape`) to paint on that canvas; the hidden
`Look` sets line width, hatching angle, rounding and grain. Shapes arrive in picture pixels, back to front.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import skia

from training.world.scene import Look

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """One outline in picture pixels with its colour; `layer` is "backdrop", "main" or "part"."""

    path: skia.Path
    rgb: RGB
    layer: str = "backdrop"
    is_line: bool = False


def mix(a: RGB, b: RGB, frac: float) -> RGB:
    """Return the colour `frac` (0..1) of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * frac, a[1] + (b[1] - a[1]) * frac, a[2] + (b[2] - a[2]) * frac)


WHITE: RGB = (255, 255, 255)
INK: RGB = (34, 32, 40)


def shift_palette(rgb: RGB, palette_shift: float) -> RGB:
    """Turn a colour slightly warmer or cooler: the hidden palette parameter.

    Units: rgb 0..255; palette_shift -1..1 moves red and blue by up to 5 % and saturation by up to 8 %.
    """
    warm = (
        min(255.0, rgb[0] * (1 + 0.05 * palette_shift)),
        rgb[1],
        min(255.0, rgb[2] * (1 - 0.05 * palette_shift)),
    )
    hue, light, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in warm))
    red, green, blue = colorsys.hls_to_rgb(hue, light, min(1.0, saturation * (1 + 0.08 * palette_shift)))
    return (red * 255, green * 255, blue * 255)


def _paint(rgb: RGB, alpha: float = 1.0, *, line_px: float = 0.0, is_smooth: bool = True) -> skia.Paint:
    paint = skia.Paint(AntiAlias=is_smooth, Color=skia.Color(*(round(c) for c in rgb), round(255 * alpha)))
    if line_px:
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(line_px)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
    return paint


def _blurred(paint: skia.Paint, sigma_px: float) -> skia.Paint:
    paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, sigma_px))
    return paint


def _detail_px(look: Look) -> float:
    return 2.5 + 2.5 * look.stroke


def _paint_flat(canvas: skia.Canvas, shapes: list[Shape], look: Look) -> None:
    for shape in shapes:
        if shape.is_line:
            canvas.drawPath(shape.path, _paint(shape.rgb, line_px=_detail_px(look)))
            continue
        canvas.drawPath(shape.path, _paint(shape.rgb))
        if shape.layer == "main":
            canvas.drawPath(shape.path, _paint(mix(shape.rgb, INK, 0.35), line_px=1.5 + look.stroke))


def _paint_line_art(canvas: skia.Canvas, shapes: list[Shape], look: Look) -> None:
    """Ink outlines on paper: the backdrop hardly tinted, the objects with a clear wash of their colour."""
    width = 2.6 + 2.4 * look.stroke
    for shape in shapes:
        if shape.layer == "backdrop":
            canvas.drawPath(shape.path, _paint(mix(shape.rgb, WHITE, 0.74)))
            canvas.drawPath(shape.path, _paint(mix(shape.rgb, INK, 0.45), line_px=2.0))
        elif shape.is_line:
            canvas.drawPath(shape.path, _paint(INK, line_px=width))
        else:
            canvas.drawPath(shape.path, _paint(mix(shape.rgb, WHITE, 0.14)))
            canvas.drawPath(shape.path, _paint(INK, line_px=width if shape.layer == "main" else width * 0.7))


def _paint_pixel(canvas: skia.Canvas, shapes: list[Shape], look: Look) -> None:
    """Hard edges on a coarse grid; the caller has scaled the canvas down and will enlarge it again."""
    for shape in shapes:
        if shape.is_line:
            canvas.drawPath(shape.path, _paint(shape.rgb, line_px=5.0, is_smooth=False))
            continue
        if shape.layer == "main":
            dark = mix(shape.rgb, INK, 0.3 + 0.4 * look.stroke)
            canvas.drawPath(shape.path, _paint(dark, line_px=7.0, is_smooth=False))
        canvas.drawPath(shape.path, _paint(shape.rgb, is_smooth=False))


def _paint_watercolor(canvas: skia.Canvas, shapes: list[Shape], look: Look) -> None:
    """Thin paint that gathers at wobbly edges; the mottling is added afterwards."""
    wobble = skia.DiscretePathEffect.Make(14, 2.2 + 1.6 * look.rounding)
    for shape in shapes:
        if shape.is_line:
            canvas.drawPath(shape.path, _paint(mix(shape.rgb, WHITE, 0.2), line_px=_detail_px(look)))
            continue
        thin = mix(shape.rgb, WHITE, 0.3 if shape.layer == "backdrop" else 0.1)
        fill = _paint(thin, 0.94)
        fill.setPathEffect(wobble)
        canvas.drawPath(shape.path, fill)
        if shape.layer != "backdrop":
            edge = _paint(mix(shape.rgb, INK, 0.25), 0.5, line_px=2 + 2 * look.stroke)
            edge.setPathEffect(wobble)
            canvas.drawPath(shape.path, edge)


def _paint_neon(canvas: skia.Canvas, shapes: list[Shape], look: Look) -> None:
    """Glowing tubes in the dark."""
    dark: RGB = (14, 12, 26)
    width = 4.0 + 2.5 * look.stroke
    for shape in shapes:
        if shape.layer == "backdrop":
            canvas.drawPath(shape.path, _paint(mix(shape.rgb, dark, 0.8)))
            canvas.drawPath(shape.path, _paint(mix(shape.rgb, dark, 0.5), line_px=3.0))
            continue
        if shape.layer == "part":
            thin = _paint(mix(shape.rgb, dark, 0.3), line_px=width * 0.7)
            canvas.drawPath(shape.path, thin)
            continue
        canvas.drawPath(shape.path, _paint(mix(shape.rgb, dark, 0.72)))
        canvas.drawPath(shape.path, _blurred(_paint(shape.rgb, 0.75, line_px=width * 2.4), 5))
        canvas.drawPath(shape.path, _paint(mix(shape.rgb, WHITE, 0.22), line_px=width))


def _paint_clay(canvas: skia.Canvas, shapes: list[Shape], look: Look) -> None:
    """Soft bodies lit from one side: inner shade and highlight, and a shadow on what is behind."""
    angle = math.radians(look.angle_deg)
    lit_x, lit_y = 5 * math.cos(angle), -5 * abs(math.sin(angle)) - 2
    for shape in shapes:
        if shape.is_line:
            canvas.drawPath(shape.path, _paint(shape.rgb, line_px=_detail_px(look) + 1.5))
            continue
        if shape.layer == "main":
            shadow = _blurred(_paint(INK, 0.28), 6)
            canvas.save()
            canvas.translate(-lit_x, 7)
            canvas.drawPath(shape.path, shadow)
            canvas.restore()
        canvas.drawPath(shape.path, _paint(shape.rgb))
        _shade_inside(canvas, shape, (lit_x, lit_y), 0.5 if shape.layer == "main" else 0.22)


def _shade_inside(canvas: skia.Canvas, shape: Shape, lit: tuple[float, float], strength: float) -> None:
    canvas.save()
    canvas.clipPath(shape.path, doAntiAlias=True)
    for sign, tone in ((1.0, mix(shape.rgb, INK, 0.6)), (-1.0, mix(shape.rgb, WHITE, 0.75))):
        canvas.save()
        canvas.translate(sign * lit[0], sign * lit[1])
        canvas.drawPath(shape.path, _blurred(_paint(tone, strength, line_px=13), 6))
        canvas.restore()
    canvas.restore()


def _paint_crayon(canvas: skia.Canvas, shapes: list[Shape], look: Look) -> None:
    """Wax hatching over a pale fill, with a rough outline."""
    for shape in shapes:
        pale = mix(shape.rgb, WHITE, 0.42 if shape.layer == "backdrop" else 0.2)
        if shape.is_line:
            canvas.drawPath(shape.path, _paint(shape.rgb, line_px=_detail_px(look) + 1))
            continue
        canvas.drawPath(shape.path, _paint(pale))
        if shape.layer != "part":
            _hatch(canvas, shape, look)
        if shape.layer == "main":
            edge = _paint(mix(shape.rgb, INK, 0.25), line_px=2.5 + 2 * look.stroke)
            edge.setPathEffect(skia.DiscretePathEffect.Make(9, 1.4))
            canvas.drawPath(shape.path, edge)


def _hatch(canvas: skia.Canvas, shape: Shape, look: Look) -> None:
    bounds = shape.path.getBounds()
    reach = math.hypot(bounds.width(), bounds.height()) / 2 + 4
    spacing = 11.0 if shape.layer == "backdrop" else 9.0
    tone = shape.rgb if shape.layer == "main" else mix(shape.rgb, WHITE, 0.22)
    paint = _paint(tone, line_px=spacing * (0.5 + 0.2 * look.stroke))
    canvas.save()
    canvas.clipPath(shape.path, doAntiAlias=True)
    canvas.translate(bounds.centerX(), bounds.centerY())
    canvas.rotate(look.angle_deg)
    offset = -reach
    while offset < reach:
        canvas.drawLine(-reach, offset, reach, offset, paint)
        offset += spacing
    canvas.restore()


def _paint_papercut(canvas: skia.Canvas, shapes: list[Shape], look: Look) -> None:
    """Sheets of paper stacked with soft shadows; objects keep a pale cut edge."""
    drop = 3.0 + 3.0 * look.stroke
    for shape in shapes:
        if shape.is_line:
            canvas.drawPath(shape.path, _paint(shape.rgb, line_px=_detail_px(look) + 1))
            continue
        if shape.layer != "part":
            canvas.save()
            canvas.translate(drop * 0.6, drop)
            canvas.drawPath(shape.path, _blurred(_paint(INK, 0.38), drop * 0.8))
            canvas.restore()
        if shape.layer == "main":
            canvas.drawPath(shape.path, _paint(mix(shape.rgb, WHITE, 0.72), line_px=5 + 2 * look.rounding))
        canvas.drawPath(shape.path, _paint(shape.rgb))


PAINTERS: dict[str, Callable[[skia.Canvas, list[Shape], Look], None]] = {
    "flat": _paint_flat,
    "line art": _paint_line_art,
    "pixel art": _paint_pixel,
    "watercolor": _paint_watercolor,
    "neon": _paint_neon,
    "clay": _paint_clay,
    "crayon": _paint_crayon,
    "papercut": _paint_papercut,
}


def canvas_colour(rgb: RGB, style: str) -> RGB:
    """Return what the empty canvas of a style looks like under the backdrop's base colour (RGB 0..255)."""
    if style == "line art":
        return mix(rgb, WHITE, 0.8)
    if style == "neon":
        return mix(rgb, (14, 12, 26), 0.9)
    return mix(rgb, WHITE, {"watercolor": 0.32, "crayon": 0.4}.get(style, 0.0))
