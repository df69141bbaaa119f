"""Pictures of a subject, made ready with the scene parser's help: cropped to the thing, outlined and captioned.

Captions name everything but the subject's own marks: what they name is not learned as part of the subject. Where no
parser knows the model's world, the pictures are taken whole and the captions are short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipelines.drag_things import outline
from pipelines.errors import UserError
from pipelines.images import fit_square
from pipelines.model import ModelBundle
from pipelines.scene_parser import ParsedObject, ParsedScene
from pipelines.uploads import MIN_SIDE_PX

MAX_PICTURES = 6
# A thing that is smaller than this share of its picture's side is brought nearer, until it takes up the second share.
NEAR_SHARES = (0.35, 0.55)
OUTLINED = 0.3
# A thing that fills its picture gets so much room on every side, as a share of the longer one, to be recognised.
ROOM_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class SubjectPictures:
    """Hold pictures that are ready to be learned.

    Shapes: masks (n, 1, h, w) in latent cells, 1 where the subject is, None where no parser outlines it; outlines
            (1, 1, H, W) 0..1 of each picture in pixels, None where the subject was not found.
    Units:  pictures are squares of the model's own size; boxes_px where the subject stands in each, None if unknown;
            phrase is the subject's common name; captions name it by the user's word.
    """

    pictures: tuple[Image.Image, ...]
    masks: torch.Tensor | None
    boxes_px: tuple[tuple[float, float, float, float] | None, ...]
    phrase: str
    captions: tuple[str, ...]
    notes: tuple[str, ...]
    outlines: tuple[torch.Tensor | None, ...] = ()


def check_pictures(pictures: Sequence[Image.Image]) -> None:
    """Refuse what cannot be learned from.

    Raises: UserError with one sentence.
    """
    if not pictures:
        raise UserError(f"There is no picture of the subject; give one to {MAX_PICTURES}.")
    if len(pictures) > MAX_PICTURES:
        raise UserError(f"{len(pictures)} pictures are too many; choose the best {MAX_PICTURES}.")
    for number, picture in enumerate(pictures, 1):
        if min(picture.size) < MIN_SIDE_PX:
            raise UserError(
                f"Picture {number} has {picture.width} x {picture.height} px, which is too small; choose one of at "
                f"least {MIN_SIDE_PX} x {MIN_SIDE_PX} px."
            )


@torch.no_grad()
def prepare_pictures(
    model: ModelBundle, pictures: Sequence[Image.Image], word: str, phrase: str = ""
) -> SubjectPictures:
    """Crop, outline and caption pictures of one subject.

    Units:   phrase is its common name, "" to have it found by the parser.
    Raises:  UserError if there is nothing to learn from, or the pictures show different things.
    """
    check_pictures(pictures)
    if model.judge is None:
        return _prepare_whole(model, pictures, word, phrase)
    parser = model.judge.parser
    scenes = parser.parse(list(pictures))
    wanted = model.judge.read(phrase) if phrase else None
    kind = wanted.kind if wanted else _vote(scenes)
    notes: list[str] = []
    things = _find_all(scenes, kind, wanted.colour if wanted else None, notes)
    crops = []
    for number, (picture, thing) in enumerate(zip(pictures, things), 1):
        crop, deed = crop_to(picture, thing.box_px if thing else None, model.spec.image_px)
        crops.append(crop)
        notes += [f"Picture {number} {deed}."] if deed else []
    located = [parser.locate(crop) for crop in crops]
    found = [_largest(scene, thing.kind if thing else kind) for (scene, _), thing in zip(located, things)]
    side_px, side_cells = model.spec.image_px, model.spec.image_px // model.spec.px_per_cell
    outlines = [
        outline(scene, cells, parser, (side_px, side_px), scene.objects.index(thing)) if thing else None
        for (scene, cells), thing in zip(located, found)
    ]
    masks = [_mark_cells(whole, side_cells) for whole in outlines]
    phrase = phrase.strip() or _call(found, kind, notes)
    captions = tuple(_describe(scene, thing, word) for (scene, _), thing in zip(located, found))
    boxes = tuple(thing.box_px if thing else None for thing in found)
    return SubjectPictures(tuple(crops), torch.cat(masks), boxes, phrase, captions, tuple(notes), tuple(outlines))


def _prepare_whole(model: ModelBundle, pictures: Sequence[Image.Image], word: str, phrase: str) -> SubjectPictures:
    """Take pictures as they are, where nobody can say what they show."""
    if not phrase.strip():
        raise UserError('Say what the subject is in plain words, for example "toy robot".')
    crops, notes = [], []
    for number, picture in enumerate(pictures, 1):
        crop, deed = fit_square(picture, model.spec.image_px)
        crops.append(crop)
        notes += [f"Picture {number} {deed}."] if deed else []
    captions = tuple(f"a photo of {word}" for _ in crops)
    return SubjectPictures(tuple(crops), None, (None,) * len(crops), phrase.strip(), captions, tuple(notes))


def _vote(scenes: Sequence[ParsedScene]) -> str:
    """Return the kind that is in most pictures; of those the one that is largest on average.

    Raises: UserError if nothing is found in any picture.
    """
    votes: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for scene in scenes:
        for kind in {thing.kind for thing in scene.objects}:
            votes[kind] += 1
            largest = _largest(scene, kind)
            sizes[kind] += round(_area(largest)) if largest else 0
    if not votes:
        raise UserError('No thing was recognised in the pictures; say what it is, for example "robot".')
    return max(votes, key=lambda kind: (votes[kind], sizes[kind]))


def _find_all(
    scenes: Sequence[ParsedScene], kind: str, colour: str | None, notes: list[str]
) -> list[ParsedObject | None]:
    """Find the subject in every picture; None, with a note, where it is not recognised.

    Units:   colour is the one that the user named, None if nobody did; a thing of it may be the subject misread.
    Raises:  UserError if some pictures show it and another one shows other things only. Where none does, the pictures
             are not of the parser's world, and what they show is the user's word.
    """
    things = [_largest(scene, kind) for scene in scenes]
    is_known = any(things)
    for index, scene in enumerate(scenes):
        if things[index] is not None:
            continue
        alike = max((thing for thing in scene.objects if thing.colour == colour), key=_area, default=None)
        if alike is not None:
            things[index] = alike
            notes.append(f"The {kind} in picture {index + 1} looks like a {alike.kind}; if it is one, take it out.")
        elif scene.objects and is_known:
            other = max(scene.objects, key=_area)
            raise UserError(
                f"Picture {index + 1} shows a {other.colour} {other.kind} and no {kind}; all pictures must show the "
                "same thing, so take it out."
            )
        else:
            notes.append(f"No {kind} was recognised in picture {index + 1}, so it is learned as a whole.")
    return things


def _largest(scene: ParsedScene, kind: str) -> ParsedObject | None:
    return max((thing for thing in scene.objects if thing.kind == kind), key=_area, default=None)


def _area(thing: ParsedObject) -> float:
    x0, y0, x1, y1 = thing.box_px
    return (x1 - x0) * (y1 - y0)


def crop_to(
    picture: Image.Image, box_px: tuple[float, float, float, float] | None, side_px: int
) -> tuple[Image.Image, str]:
    """Crop a picture to a square around a thing, nearer where the thing is small.

    Units:   box_px in px of the picture, None for its middle; side_px of the result.
    Returns: the square, and what was done to the picture, "" if nothing was.
    """
    if box_px is None:
        return fit_square(picture, side_px)
    width, height = picture.size
    x0, y0, x1, y1 = box_px
    longer, short = max(x1 - x0, y1 - y0), min(width, height)
    side = float(short)
    if longer < NEAR_SHARES[0] * short:
        side = min(side, max(longer / NEAR_SHARES[1], MIN_SIDE_PX))
    if side == width == height:
        return fit_square(picture, side_px)
    left = min(max((x0 + x1 - side) / 2, 0.0), width - side)
    top = min(max((y0 + y1 - side) / 2, 0.0), height - side)
    square = (left, top, left + side, top + side)
    return picture.convert("RGB").resize((side_px, side_px), Image.Resampling.LANCZOS, box=square), (
        "was cropped to the subject"
    )


def give_room(picture: Image.Image, share: float) -> Image.Image:
    """Make a picture square, with room on every side that goes on as its border does.

    Units: share of the longer side.
    """
    pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    side = max(height, width) + 2 * round(share * max(height, width))
    top, left = (side - height) // 2, (side - width) // 2
    around = ((top, side - height - top), (left, side - width - left), (0, 0))
    return Image.fromarray(np.pad(pixels, around, mode="edge"))


def _mark_cells(thing: torch.Tensor | None, side_cells: int) -> torch.Tensor:
    """Mark the latent cells that show a thing, and those beside them; all where it was not found.

    Shapes: thing (1, 1, H, W) 0..1 or None; returns (1, 1, side_cells, side_cells).
    """
    everywhere = torch.ones(1, 1, side_cells, side_cells)
    if thing is None:
        return everywhere
    mask = (F.adaptive_avg_pool2d(thing, side_cells) > OUTLINED).float()
    return F.max_pool2d(mask, 3, 1, 1) if mask.any() else everywhere


def _call(things: Sequence[ParsedObject | None], kind: str, notes: list[str]) -> str:
    """Name the subject by its most frequent colour and its kind, and say which pictures look otherwise."""
    colours = Counter(thing.colour for thing in things if thing)
    if not colours:
        return kind
    colour = colours.most_common(1)[0][0]
    for number, thing in enumerate(things, 1):
        if thing and thing.colour != colour:
            notes.append(
                f"The {kind} in picture {number} looks {thing.colour}, not {colour}; if it is another one, take it out."
            )
    return f"{colour} {kind}"


def _describe(scene: ParsedScene, thing: ParsedObject | None, word: str) -> str:
    """Name everything around the subject: other things, place, light and style."""
    others = [f"a {other.colour} {other.kind}" for other in scene.objects if other is not thing]
    place = "plain background" if scene.background == "plain" else scene.background
    light = ["night"] if scene.light == "night" else []
    return ", ".join([" and ".join([word, *others]), place, *light, scene.style])
