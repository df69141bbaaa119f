"""Pictures and masks from outside: checked by their header before anything is decoded, then made plain RGB or grey.

The only place that opens a visitor's file as a picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from pipelines.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_MB = 10
MAX_MEGAPIXELS = 16
MIN_SIDE_PX = 32
MAX_RATIO = 8
PAPER = (255, 255, 255)
BYTE_LEVELS, WORD_LEVELS = 255, 65535
MAX_FRAMES = 16  # of a short clip, and pictures of a burst
MAX_MASK_CHARS = 400_000
_MASK_START = "data:image/png;base64,"
_MASK_SENTENCE = "The mask cannot be read; clear it and paint it again."
_ALLOWED = "choose a PNG, JPEG or WebP picture"


@dataclass(frozen=True)
class Upload:
    """Hold an uploaded picture, and sentences about what had to be changed; is_lossy says that its file is a JPEG."""

    picture: Image.Image
    notes: tuple[str, ...]
    is_lossy: bool = False


def read_picture(path: str | Path) -> Upload:
    """Open an uploaded picture that a model is to look at.

    Returns: the first frame in RGB, upright, on white paper where it was transparent.
    Raises:  UserError with one sentence if the file is gone, too large, too small, too long, broken, or no picture.
    """
    upload = _open(path, _check_sides)
    picture, notes = upload.picture, list(upload.notes)
    if has_alpha(picture):
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (*PAPER, 255)), picture.convert("RGBA"))
        notes.append("The picture is transparent; it was laid on white paper.")
    elif picture.mode == "L":
        notes.append("The picture has no colours.")
    return Upload(picture.convert("RGB"), tuple(notes), upload.is_lossy)


def read_pictures(paths: Sequence[str | Path]) -> tuple[Upload, ...]:
    """Open several uploaded pictures.

    Raises: UserError as `read_picture`, naming the file where there are several.
    """
    uploads = []
    for path in paths:
        try:
            uploads.append(read_picture(path))
        except UserError as error:
            raise UserError(f"{Path(path).name}: {error}" if len(paths) > 1 else str(error)) from error
    return tuple(uploads)


def read_photo(path: str | Path) -> Upload:
    """Open an uploaded picture that is to stay what it is: of any shape, grey, or transparent.

    Returns: the first frame, upright, as L, LA, RGB or RGBA of 8 bits.
    Raises:  UserError with one sentence if the file is gone, too large, broken, or no picture.
    """
    return _open(path, _check_area)


def read_dark_photo(path: str | Path) -> Upload:
    """Open an uploaded dark picture: as `read_photo`, but 16 bits stay, because in the dark they hold the picture.

    Returns: the first frame, upright, as L, LA, RGB, RGBA or of 16 bits.
    Raises:  UserError as `read_photo`.
    """
    return _open(path, _check_area, keeps_depth=True)


def read_burst(paths: Sequence[str | Path]) -> tuple[Image.Image, ...]:
    """Open several pictures of one scene: single photos, or one short clip, which is an animated picture.

    Returns: the pictures, upright, or the frames of the clip, at most MAX_FRAMES of it.
    Raises:  UserError with one sentence if there is one picture only, or a file is no picture.
    """
    if len(paths) > MAX_FRAMES:
        raise UserError(f"These are {len(paths)} pictures; choose at most {MAX_FRAMES} of one scene.")
    if len(paths) != 1:
        return tuple(read_dark_photo(path).picture for path in paths)
    upload = _open(paths[0], _check_area, keeps_depth=True, formats=(*FORMATS, "GIF"))
    with Image.open(paths[0], formats=(*FORMATS, "GIF")) as file:
        if getattr(file, "n_frames", 1) == 1:
            raise UserError("This is one picture and no clip; choose several photos of the scene, or an animated one.")
        frames = [to_plain(frame.copy()) for frame in islice(ImageSequence.Iterator(file), MAX_FRAMES)]
    return (upload.picture, *frames[1:])


def has_alpha(picture: Image.Image) -> bool:
    """Tell whether a picture may be transparent somewhere."""
    return "A" in picture.getbands() or "transparency" in picture.info


def to_plain(picture: Image.Image) -> Image.Image:
    """Bring a picture of any mode to L, LA, RGB or RGBA of 8 bits.

    Differs: Pillow cuts 16 bits off at 255, which makes such pictures white; here they are scaled.
    """
    if picture.mode.startswith("I") or picture.mode == "F":
        levels = np.asarray(picture, dtype=np.float64) / (WORD_LEVELS / BYTE_LEVELS)
        return Image.fromarray(np.clip(np.rint(levels), 0, BYTE_LEVELS).astype(np.uint8))
    if has_alpha(picture):
        return picture if picture.mode == "LA" else picture.convert("RGBA")
    return picture.convert("L") if picture.mode in ("1", "L") else picture.convert("RGB")


def _open(
    path: str | Path,
    check: Callable[[int, int], None],
    *,
    keeps_depth: bool = False,
    formats: tuple[str, ...] = FORMATS,
) -> Upload:
    """Open a file whose sides, as its header states them, pass a check."""
    if not Path(path).is_file():
        raise UserError("This picture is no longer here, because it was uploaded long ago; choose it again.")
    size_mb = Path(path).stat().st_size / 2**20
    if size_mb > MAX_MB:
        raise UserError(f"This file has {size_mb:.0f} MB; choose a picture of at most {MAX_MB} MB.")
    try:
        with Image.open(path, formats=formats) as file:
            check(*file.size)
            frames = getattr(file, "n_frames", 1)
            is_lossy = file.format == "JPEG"
            has_words = file.format == "PNG" and _count_bits(path) == 16
            picture = ImageOps.exif_transpose(file)
            picture.load()
    except UnidentifiedImageError as error:
        raise UserError(f"This file cannot be read as a picture; {_ALLOWED}.") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"This picture has far too many pixels; choose one of at most {MAX_MEGAPIXELS} megapixels."
        ) from error
    # What a file with a good header but damaged data raises.
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"This picture is damaged and cannot be read to its end; {_ALLOWED} that opens.") from error
    notes = [f"The picture is animated ({frames} frames); its first frame was used."] if frames > 1 else []
    is_deep = picture.mode.startswith("I") or picture.mode == "F"
    if is_deep and not keeps_depth:
        notes.append("The picture has 16 bits per pixel; it was brought to 8.")
    elif has_words and not is_deep:
        notes.append(
            "The picture has 16 bits per colour, of which the upper 8 are used; as a grey picture it keeps all."
        )
    elif picture.mode == "CMYK":
        notes.append("The picture is made for print (CMYK); its colours were turned into those of a screen.")
    return Upload(picture if is_deep and keeps_depth else to_plain(picture), tuple(notes), is_lossy)


def _count_bits(path: str | Path) -> int:
    """Read from the header of a PNG how many bits a colour has: Pillow reads 16 as 8 and does not tell."""
    with Path(path).open("rb") as file:
        return file.read(25)[-1]


def _check_area(width: int, height: int) -> None:
    """Refuse a picture of more pixels than can be held."""
    if width * height > MAX_MEGAPIXELS * 10**6:
        raise UserError(f"This picture has {width} x {height} px; choose one of at most {MAX_MEGAPIXELS} megapixels.")


def _check_sides(width: int, height: int) -> None:
    """Refuse a picture by the size that its header states."""
    size = f"This picture has {width} x {height} px"
    if min(width, height) < MIN_SIDE_PX:
        raise UserError(f"{size}, which is too small; choose one of at least {MIN_SIDE_PX} x {MIN_SIDE_PX} px.")
    _check_area(width, height)
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UserError(
            f"{size}, which is too long; choose one whose long side is at most {MAX_RATIO} times the short one."
        )


def read_mask(address: Any) -> Image.Image:
    """Open a painted mask, a PNG written out as data address.

    Returns: a grey picture of 0 and 255; white may move.
    Raises:  UserError with one sentence if it is anything else.
    """
    return _read_painted(address, lambda file: file.convert("L").point(lambda level: 255 * (level > 127)))


def read_strokes(address: Any) -> Image.Image:
    """Open strokes in colours, a PNG written out as data address.

    Returns: a picture in RGBA, transparent where nothing was painted.
    Raises:  UserError as `read_mask`.
    """
    return _read_painted(address, lambda file: file.convert("RGBA"))


def _read_painted(address: Any, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Open what was painted, checked before it is decoded."""
    if not isinstance(address, str) or not address.startswith(_MASK_START) or len(address) > MAX_MASK_CHARS:
        raise UserError(_MASK_SENTENCE)
    try:
        data = base64.b64decode(address.removeprefix(_MASK_START), validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as file:
            _check_sides(*file.size)
            return convert(file)
    # Among them binascii.Error and what a broken PNG raises.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(_MASK_SENTENCE) from error


def write_mask(mask: Image.Image) -> str:
    """Write a mask out as data address, which `read_mask` reads back."""
    data = io.BytesIO()
    mask.convert("L").point(lambda level: 255 * (level > 127)).convert("1").save(data, "PNG", optimize=True)
    return _MASK_START + base64.b64encode(data.getvalue()).decode("ascii")
