"""Pictures of a subject as a visitor sees what will be learned: cropped, with everything but the subject dimmed."""

from __future__ import annotations

import math

import torch.nn.functional as F
from PIL import Image

from pipelines.images import to_images, to_tensor
from pipelines.subject_pictures import SubjectPictures

DIMMED = 0.35


def dim_surroundings(subject: SubjectPictures) -> tuple[Image.Image, ...]:
    """Dim what does not belong to the subject.

    Returns: one picture each; as they are where nothing outlines the subject.
    """
    if subject.masks is None:
        return subject.pictures
    pixels = to_tensor(subject.pictures)
    masks = F.interpolate(subject.masks.float().cpu(), size=pixels.shape[2:], mode="bilinear", align_corners=False)
    weight = DIMMED + (1 - DIMMED) * masks
    # -1 is black.
    return tuple(to_images((pixels + 1) * weight - 1))


def make_sheet(pictures: tuple[Image.Image, ...], side_px: int) -> Image.Image:
    """Lay pictures out in a square of rows and columns.

    Units: side_px of the sheet.
    """
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    cell_px = side_px // columns
    sheet = Image.new("RGB", (side_px, side_px))
    top = (side_px - rows * cell_px) // 2
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        small = picture.resize((cell_px, cell_px), Image.Resampling.LANCZOS)
        sheet.paste(small, (column * cell_px, top + row * cell_px))
    return sheet
