"""The one object of a picture without its background, and its place in the frame of the 3D preview.

Transparency says what the object is, or a painted mask; else the colours along the picture's border do, and an edge
search decides the pixels between sure object and sure background. Nobody needs a network for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import sobel
from skimage.segmentation import watershed

from pipelines.errors import UserError
from pipelines.turntable_camera import FRONT_FRAC
from pipelines.uploads import to_plain

WORK_PX = 320
MIN_SIDE_PX = 16
MIN_OBJECT_PX = 8
# Lab units: what is this close to a border colour is background, what is this far is not.
NEAR, FAR = 9.0, 22.0
NUM_BORDER_COLOURS = 6
# Shares of the largest part's area, and of its size: a part this large and this near belongs to the object.
MIN_PART_FRAC, MAX_GAP_FRAC = 0.01, 0.16
MIN_AREA_FRAC, MAX_AREA_FRAC = 0.004, 0.9
# A hole's share of the object, and its wall as a share of its own size.
MIN_HOLE_FRAC, MAX_WALL_FRAC = 0.01, 0.75
_CHANGE = "paint over the object, or choose a picture of one object on a plain background"


@dataclass(frozen=True, eq=False)
class Cutout:
    """Hold an object and its mask.

    Shapes: rgb (H, W, 3) float32 in 0..1, mask (H, W) float32 in 0..1; notes are sentences for the user.
    """

    rgb: np.ndarray
    mask: np.ndarray
    notes: tuple[str, ...] = ()


def cut_out(picture: Image.Image, *, painted: Image.Image | None = None) -> Cutout:
    """Find the object of a picture; its longer side is brought to at most WORK_PX first.

    Units:  painted is a grey picture of the same shape, white where the object is; it decides alone.
    Raises: UserError with one sentence if there is no object, or if the picture is too small.
    """
    if min(picture.size) < MIN_SIDE_PX:
        width, height = picture.size
        raise UserError(
            f"This picture has {width} x {height} px, which is too small; choose one of at least {MIN_SIDE_PX} x "
            f"{MIN_SIDE_PX} px."
        )
    rgba = _shrink(picture.convert("RGBA"))
    values = np.asarray(rgba, np.float32) / np.float32(255)
    rgb, alpha = values[..., :3], values[..., 3]
    if painted is not None:
        mask = np.asarray(painted.convert("L").resize(rgba.size, Image.Resampling.BILINEAR), np.float32) / 255
        return _check(rgb, mask, "The painted mask is empty; paint over the object.", is_chosen=True)
    if (alpha < 0.5).mean() > 0.01:
        return _check(rgb, alpha, "This picture is transparent everywhere; choose one that shows an object.")
    rgb = rgb * alpha[..., None] + 1 - alpha[..., None]
    mask = find_object(rgb)
    return _check(rgb, mask, f"No object stands out from its background here; {_CHANGE}.")


def show_cutout(picture: Image.Image) -> tuple[Image.Image, Image.Image | None, tuple[str, ...]]:
    """Say what would be taken for the object of a picture.

    Returns: the picture in RGB on white, as large as it is looked at, its mask in grey, None if nothing is found, and
             what there is to say about it.
    """
    plain = to_plain(picture)
    try:
        cutout = cut_out(plain)
    except UserError as error:
        return _lay_on_white(_shrink(plain.convert("RGBA"))), None, (str(error),)
    mask = Image.fromarray(np.rint(cutout.mask * 255).astype(np.uint8))
    return _lay_on_white(_shrink(plain.convert("RGBA"))), mask, cutout.notes


def _lay_on_white(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def find_object(rgb: np.ndarray) -> np.ndarray:
    """Tell what is not background; shapes as in `Cutout`.

    Differs: no graph cut: a watershed on the edges between sure object and sure background gives the same rim here.
    """
    lab = rgb2lab(ndimage.gaussian_filter(rgb, (0.6, 0.6, 0))).astype(np.float32)
    colours = _find_border_colours(lab)
    distance = np.sqrt(((lab[:, :, None] - colours) ** 2).sum(-1).min(2))
    # Shading on a plain background drifts; a border colour only counts where it is connected to the border.
    is_near = distance < NEAR
    labels, _ = ndimage.label(is_near)
    on_border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    sure_ground = np.isin(labels, on_border[on_border > 0])
    sure_ground |= _find_holes(is_near & ~sure_ground, sure_ground)
    sure_object = ndimage.binary_erosion(distance > FAR, iterations=1) & ~sure_ground
    if not sure_object.any():
        return np.zeros(distance.shape, np.float32)
    edges = sum(sobel(lab[..., channel]) for channel in range(3))
    markers = np.where(sure_object, 2, 0) + np.where(sure_ground & ~sure_object, 1, 0)
    found = watershed(edges, markers) == 2
    # Narrow gaps, such as light lines of a drawing, are bridged; beyond the border the picture goes on as it ends.
    bridge = max(1, round(0.02 * np.sqrt(found.sum())))
    closed = ndimage.binary_closing(np.pad(found, bridge, mode="edge"), iterations=bridge)
    return closed[bridge:-bridge, bridge:-bridge].astype(np.float32)


def _find_border_colours(lab: np.ndarray) -> np.ndarray:
    """Return the colours (k, 3) along the border, without those that one object cut off by one side adds."""
    height, width = lab.shape[:2]
    thick = max(1, min(height, width) // 64)
    sides = [lab[:thick].mean(0), lab[:, -thick:].mean(1), lab[-thick:].mean(0), lab[:, :thick].mean(1)]
    ring, where = np.concatenate(sides), np.concatenate([np.full(len(side), k) for k, side in enumerate(sides)])
    is_corner = np.concatenate([_mark_corners(len(side)) for side in sides])
    colours, owner = _group(ring, NUM_BORDER_COLOURS)
    kept = []
    for index in range(len(colours)):
        mine = owner == index
        if not mine.any():
            continue
        # An object that leaves the picture does so through one side, between its corners.
        if len(np.unique(where[mine])) > 1 or is_corner[mine].any():
            kept.append(colours[index])
    return np.array(kept if kept else colours, np.float32)


def _group(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Group colours (n, 3): begin with those furthest apart, then move to the means; returns centres and owners."""
    centres = [values[0]]
    for _ in range(count - 1):
        gaps = np.min([((values - centre) ** 2).sum(1) for centre in centres], 0)
        if gaps.max() < (NEAR / 2) ** 2:
            break
        centres.append(values[gaps.argmax()])
    for _ in range(8):
        owner = np.argmin([((values - centre) ** 2).sum(1) for centre in centres], 0)
        centres = [values[owner == k].mean(0) if (owner == k).any() else centres[k] for k in range(len(centres))]
    return np.array(centres), owner


def _mark_corners(count: int) -> np.ndarray:
    place = np.arange(count)
    return (place < max(1, count // 20)) | (place >= count - max(1, count // 20))


def _find_holes(enclosed: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Tell the holes of an object, such as a handle's, from its spots in the background's colour, such as eyes.

    A hole is large for the wall between it and the outside; an eye lies deep inside.
    """
    labels, count = ndimage.label(enclosed)
    if not count:
        return np.zeros_like(enclosed)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    wall = ndimage.minimum(ndimage.distance_transform_edt(~ground), labels, np.arange(count + 1))
    is_hole = (areas > MIN_HOLE_FRAC * (~ground).sum()) & (wall < MAX_WALL_FRAC * np.sqrt(areas))
    is_hole[0] = False
    return is_hole[labels]


def _check(rgb: np.ndarray, mask: np.ndarray, sentence: str, *, is_chosen: bool = False) -> Cutout:
    """Keep one object, and say what was left out or is missing.

    Raises: UserError with `sentence` if there is nothing.
    """
    solid = mask > 0.5
    area = solid.mean()
    if area < MIN_AREA_FRAC and not (is_chosen and area > 0):
        raise UserError(sentence)
    if area > MAX_AREA_FRAC:
        raise UserError(f"The object fills this picture to its edges, so its outline is not known; {_CHANGE}.")
    kept, left_out = _keep_main(solid)
    rows, columns = np.nonzero(kept.any(1))[0], np.nonzero(kept.any(0))[0]
    if max(np.ptp(rows), np.ptp(columns)) + 1 < MIN_OBJECT_PX:
        raise UserError(f"The object is only {max(np.ptp(rows), np.ptp(columns)) + 1} px large; choose a larger one.")
    notes = []
    if left_out:
        things = "one more thing" if left_out == 1 else f"{left_out} more things"
        notes.append(f"The picture shows {things}; the largest object was taken. Paint the mask to choose another.")
    border = np.concatenate([kept[0], kept[-1], kept[:, 0], kept[:, -1]])
    if border.mean() > 0.01:
        notes.append("The object is cut off by the picture's edge; the model ends there too.")
    return Cutout(rgb, np.where(kept, mask, 0).astype(np.float32), tuple(notes))


def _keep_main(solid: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the largest part with what floats close to it, and how many other large parts there are."""
    labels, count = ndimage.label(solid, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    main = int(areas.argmax())
    kept = labels == main
    reach = MAX_GAP_FRAC * np.sqrt(areas[main])
    rest = [part for part in np.argsort(-areas) if part not in (0, main) and areas[part] > MIN_PART_FRAC * areas[main]]
    left_out = 0
    for part in rest:
        gap = ndimage.distance_transform_edt(~kept)[labels == part].min()
        if gap <= max(2.0, reach):
            kept |= labels == part
        elif areas[part] > 0.15 * areas[main]:
            left_out += 1
    return kept, left_out


def _shrink(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    factor = WORK_PX / max(width, height)
    if factor >= 1:
        return picture
    return picture.resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.BOX)


def frame_object(cutout: Cutout, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Put an object on white, centred, its longer side FRONT_FRAC of the picture.

    Returns: rgb (size_px, size_px, 3) and mask (size_px, size_px), float32 in 0..1.
    """
    rows, columns = (np.nonzero((cutout.mask > 0.5).any(axis))[0] for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(bottom - top, right - left) / FRONT_FRAC
    x, y = (left + right) / 2 - side / 2, (top + bottom) / 2 - side / 2
    box = (x, y, x + side, y + side)
    # Outside the picture is nothing: a wide margin keeps the box inside.
    margin = int(np.ceil(side))
    rgb = np.pad(cutout.rgb * cutout.mask[..., None] + 1 - cutout.mask[..., None], ((margin,) * 2,) * 2 + ((0, 0),))
    rgb[:margin], rgb[-margin:], rgb[:, :margin], rgb[:, -margin:] = 1, 1, 1, 1
    layers = [*np.moveaxis(rgb, 2, 0), np.pad(cutout.mask, margin)]
    moved = tuple(edge + margin for edge in box)
    method = Image.Resampling.BICUBIC if side < size_px else Image.Resampling.BOX
    framed = [
        np.asarray(Image.fromarray(layer.astype(np.float32)).resize((size_px, size_px), method, box=moved))
        for layer in layers
    ]
    return np.clip(np.stack(framed[:3], -1), 0, 1), np.clip(framed[3], 0, 1)
