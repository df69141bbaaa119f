"""Pictures for tests of what takes one: small, without the world that needs drawing."""

from __future__ import annotations

from PIL import Image


def make_ramp(width_px: int, height_px: int | None = None) -> Image.Image:
    """Make a picture whose three channels rise in different directions."""
    side = Image.linear_gradient("L").resize((width_px, height_px or width_px))
    turned = Image.linear_gradient("L").rotate(90).resize(side.size)
    return Image.merge("RGB", (side, turned, side.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))
