"""Prompt agreement: how many of the things that a prompt names does the scene parser find in the picture.

For backends that draw the parser's world (spec.parser_source). Words outside the parser's own names are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.layout import Box
from pipelines.scene_parser import ParsedScene, ParserConfig, SceneParser, box_iou, load_parser

# A colour belongs to the next thing that follows within this many words ("a red and shiny boat").
COLOUR_REACH_WORDS = 3
# A box counts as filled from this IoU on (MIGC's instance success rate).
MIN_OVERLAP = 0.5


@dataclass(frozen=True)
class Mention:
    """Hold one thing that a prompt names; colour is empty if the prompt gives none; style stands alone."""

    kind: str = ""
    colour: str = ""
    style: str = ""


class Judge:
    """Load the scene parser at its first use and score pictures with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parser: SceneParser | None = None

    def score(self, prompt: str, images: Sequence[Image.Image]) -> float | None:
        """Return the mean share of the named things that are in the pictures, 0..1; None if the prompt names none.

        Raises: BackendUnavailable if the parser's files are missing or broken.
        """
        mentions = find_mentions(prompt, self.parser.config)
        if not mentions:
            return None
        scenes = self.parser.parse(list(images))
        return sum(score_scene(mentions, scene) for scene in scenes) / len(scenes)

    def find(self, noun: str, images: Sequence[Image.Image]) -> float | None:
        """Return the share of pictures in which a thing is found, 0..1; None if the parser does not know it."""
        wanted = self.read(noun)
        if wanted is None:
            return None
        scenes = self.parser.parse(list(images))
        return sum(any(thing.kind == wanted.kind for thing in scene.objects) for scene in scenes) / len(scenes)

    def read(self, phrase: str) -> Mention | None:
        """Say what to look for in a picture; None if the parser knows no thing of that name."""
        return next((mention for mention in find_mentions(phrase, self.parser.config) if mention.kind), None)

    def place(self, boxes: Sequence[Box], images: Sequence[Image.Image]) -> tuple[float | None, float | None]:
        """Compare a layout with what is found.

        Returns: share of boxes with the right thing in the right colour at an IoU of at least 0.5, and the mean IoU of
                 each box with the nearest thing of its kind (0 for none); (None, None) if no phrase is known.
        """
        asked = [(box, find_mentions(box.phrase, self.parser.config)) for box in boxes]
        pairs = [(box, mentions[0]) for box, mentions in asked if mentions and mentions[0].kind]
        if not pairs:
            return None, None
        fits = [
            _fit(box, want, scene, image.size)
            for scene, image in zip(self.parser.parse(list(images)), images)
            for box, want in pairs
        ]
        return sum(right for right, _ in fits) / len(fits), sum(overlap for _, overlap in fits) / len(fits)

    @property
    def parser(self) -> SceneParser:
        """Load the parser at its first use."""
        if self._parser is None:
            self._parser = load_parser(self.folder)
        return self._parser


def find_mentions(prompt: str, config: ParserConfig) -> tuple[Mention, ...]:
    """List the things that a prompt names, each with the colour right before it, and the styles it asks for.

    Differs: a plural counts like its singular, so numbers are not judged here.
    """
    words = re.findall(r"[^\W_]+", prompt.lower())
    singular = {form: kind for kind in config.kinds for form in _forms(kind)}
    found = []
    for index, word in enumerate(words):
        if word in singular:
            found.append(Mention(kind=singular[word], colour=_find_colour(words[:index], singular, config)))
    text = f" {' '.join(words)} "
    found += [Mention(style=style) for style in config.styles if f" {style} " in text]
    return tuple(found)


def _fit(box: Box, want: Mention, scene: ParsedScene, size_px: tuple[int, int]) -> tuple[bool, float]:
    """Say whether a box holds what it should, and its best IoU with a thing of that kind."""
    width, height = size_px
    edges = (box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height)
    same = [thing for thing in scene.objects if thing.kind == want.kind]
    overlaps = [(box_iou(edges, thing.box_px), want.colour in ("", thing.colour)) for thing in same]
    is_right = any(share >= MIN_OVERLAP and has_colour for share, has_colour in overlaps)
    return is_right, max((share for share, _ in overlaps), default=0.0)


def _forms(kind: str) -> tuple[str, ...]:
    """Spell the plurals of a kind."""
    return (kind, f"{kind}s", f"{kind}es", f"{kind[:-1]}ies" if kind.endswith("y") else kind)


def _find_colour(before: Sequence[str], singular: dict[str, str], config: ParserConfig) -> str:
    """Find the colour among the last words before a thing, not looking past another thing."""
    for word in reversed(before[-COLOUR_REACH_WORDS:]):
        if word in config.colours:
            return word
        if word in singular:
            break
    return ""


def score_scene(mentions: Sequence[Mention], scene: ParsedScene) -> float:
    """Return the share of mentions that a parsed picture holds; every object answers for one mention only."""
    left, num_found = list(scene.objects), 0
    # Mentions with a colour choose first: a plain "star" is content with any star that remains.
    for mention in sorted(mentions, key=lambda mention: not mention.colour):
        if mention.style:
            num_found += mention.style == scene.style
            continue
        for thing in left:
            if thing.kind == mention.kind and mention.colour in ("", thing.colour):
                left.remove(thing)
                num_found += 1
                break
    return num_found / len(mentions)


def find_placed(mention: Mention, box: Box, scene: ParsedScene, size_px: tuple[int, int]) -> tuple[float, Box | None]:
    """Look for a thing in the part of the picture where it should be.

    Units:   size_px is (width, height) of the parsed picture; a thing is in a box if its middle is.
    Returns: a grade 0..1 (1 for the right thing in its box, 0.5 if its colour or its place is wrong, 0 if there is
             none of its kind), and how far it reaches.
    """
    best: tuple[float, Box | None] = (0.0, None)
    for thing in scene.objects:
        if thing.kind == mention.kind:
            x0, x1 = (side / size_px[0] for side in thing.box_px[::2])
            y0, y1 = (side / size_px[1] for side in thing.box_px[1::2])
            is_placed = box.x0 <= (x0 + x1) / 2 <= box.x1 and box.y0 <= (y0 + y1) / 2 <= box.y1
            grade = 1.0 if is_placed and mention.colour in ("", thing.colour) else 0.5
            if grade > best[0]:
                best = (grade, Box(mention.kind, x0, y0, x1, y1))
    return best
