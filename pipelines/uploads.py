"""Pictures and masks from outside: checked by their header before anything is decoded, then made plain RGB or grey.

The only place that opens a visitor's file as a picture.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_MB = 10
MAX_MEGAPIXELS = 16
MIN_SIDE_PX = 32
MAX_RATIO = 8
PAPER = (255, 255, 255)
MAX_MASK_CHARS = 400_000
_MASK_START = "data:image/png;base64,"
_MASK_SENTENCE = "The mask cannot be read; clear it and paint it again."
_ALLOWED = "choose a PNG, JPEG or WebP picture"


@dataclass(frozen=True)
class Upload:
    """Hold an uploaded picture as RGB, and sentences about what had to be changed."""

    picture: Image.Image
    notes: tuple[str, ...]


def read_picture(path: str | Path) -> Upload:
    """Open an uploaded picture.

    Returns: the first frame, upright, on white paper where it was transparent.
    Raises:  UserError with one sentence if the file is gone, too large, too small, too long, broken, or no picture.
    """
    if not Path(path).is_file():
        raise UserError("This picture is no longer here, because it was uploaded long ago; choose it again.")
    size_mb = Path(path).stat().st_size / 2**20
    if size_mb > MAX_MB:
        raise UserError(f"This file has {size_mb:.0f} MB; choose a picture of at most {MAX_MB} MB.")
    try:
        with Image.open(path, formats=FORMATS) as file:
            _check_sides(*file.size)
            frames = getattr(file, "n_frames", 1)
            picture = ImageOps.exif_transpose(file)
            picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"This file cannot be read as a picture; {_ALLOWED}.") from error
    # What a file with a good header but damaged data raises.
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"This picture is damaged and cannot be read to its end; {_ALLOWED} that opens.") from error
    notes = [f"The picture is animated ({frames} frames); its first frame was used."] if frames > 1 else []
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (*PAPER, 255)), picture.convert("RGBA"))
        notes.append("The picture is transparent; it was laid on white paper.")
    elif picture.mode in ("1", "L", "I;16", "I", "F"):
        notes.append("The picture has no colours.")
    return Upload(picture.convert("RGB"), tuple(notes))


def _check_sides(width: int, height: int) -> None:
    """Refuse a picture by the size that its header states."""
    size = f"This picture has {width} x {height} px"
    if min(width, height) < MIN_SIDE_PX:
        raise UserError(f"{size}, which is too small; choose one of at least {MIN_SIDE_PX} x {MIN_SIDE_PX} px.")
    if width * height > MAX_MEGAPIXELS * 10**6:
        raise UserError(f"{size}; choose one of at most {MAX_MEGAPIXELS} megapixels.")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UserError(
            f"{size}, which is too long; choose one whose long side is at most {MAX_RATIO} times the short one."
        )


def read_mask(address: Any) -> Image.Image:
    """Open a painted mask, a PNG written out as data address.

    Returns: a grey picture of 0 and 255; white may move.
    Raises:  UserError with one sentence if it is anything else.
    """
    if not isinstance(address, str) or not address.startswith(_MASK_START) or len(address) > MAX_MASK_CHARS:
        raise UserError(_MASK_SENTENCE)
    try:
        data = base64.b64decode(address.removeprefix(_MASK_START), validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as file:
            _check_sides(*file.size)
            return file.convert("L").point(lambda level: 255 * (level > 127))
    # Among them binascii.Error and what a broken PNG raises.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(_MASK_SENTENCE) from error


def write_mask(mask: Image.Image) -> str:
    """Write a mask out as data address, which `read_mask` reads back."""
    data = io.BytesIO()
    mask.convert("L").point(lambda level: 255 * (level > 127)).convert("1").save(data, "PNG", optimize=True)
    return _MASK_START + base64.b64encode(data.getvalue()).decode("ascii")
