"""Pictures from outside: checked by their header before anything is decoded, then made plain RGB.

The only place that opens a visitor's file as a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_MB = 10
MAX_MEGAPIXELS = 16
MIN_SIDE_PX = 32
MAX_RATIO = 8
PAPER = (255, 255, 255)
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
        notes.append("The picture has no colours, so none can be taken from it.")
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
