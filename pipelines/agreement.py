"""Prompt agreement: how many of the things that a prompt names does the scene parser find in the picture.

For backends that draw the parser's world (spec.parser_source). Words outside the parser's own names are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.scene_parser import ParsedScene, ParserConfig, SceneParser, load_parser

# A colour belongs to the next thing that follows within this many words ("a red and shiny boat").
COLOUR_REACH_WORDS = 3


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
        if self._parser is None:
            self._parser = load_parser(self.folder)
        mentions = find_mentions(prompt, self._parser.config)
        if not mentions:
            return None
        scenes = self._parser.parse(list(images))
        return sum(score_scene(mentions, scene) for scene in scenes) / len(scenes)


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
