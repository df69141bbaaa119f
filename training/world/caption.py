"""Scene -> caption: several wordings and synonyms, parts left out at random; the words are storybook's vocabulary.

Phrases for single things (`object_phrase`, `count_phrase`, `relation_phrase`) are also what the benchmarks build
their prompts from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from training.world.scene import COLOURS, KINDS, STYLES, Scene, SceneObject, find_relation

MAX_WORDS = 30  # leaves room for the start and end tokens in 32

_KIND_WORDS: dict[str, tuple[str, ...]] = {
    "boat": ("boat", "sailboat"),
    "car": ("car", "automobile"),
    "cat": ("cat", "kitten"),
    "cup": ("cup", "mug"),
    "flower": ("flower", "blossom"),
    "house": ("house", "cottage"),
    "mushroom": ("mushroom", "toadstool"),
    "robot": ("robot", "android"),
    "rocket": ("rocket", "spaceship"),
    "moon": ("moon", "crescent"),
}
_PLURALS: dict[str, str] = {"cactus": "cacti", "butterfly": "butterflies", "fish": "fish", "crescent": "crescents"}
_COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson"),
    "purple": ("purple", "violet"),
    "teal": ("teal", "turquoise"),
    "grey": ("grey", "gray"),
}
_STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "flat": ("flat", "vector", "flat design"),
    "line art": ("line art", "ink drawing", "line drawing"),
    "pixel art": ("pixel art", "8bit"),
    "watercolor": ("watercolor", "watercolour", "aquarelle"),
    "neon": ("neon", "neon lights"),
    "clay": ("clay", "plasticine", "claymation"),
    "crayon": ("crayon", "wax crayon", "crayon drawing"),
    "papercut": ("papercut", "paper cut", "layered paper"),
}
_STYLE_FRONTS: dict[str, tuple[str, ...]] = {
    "flat": ("flat illustration of", "vector picture of"),
    "line art": ("line art of", "ink drawing of"),
    "pixel art": ("pixel art of",),
    "watercolor": ("watercolor of", "watercolor painting of"),
    "neon": ("neon sign of", "neon picture of"),
    "clay": ("clay model of", "clay sculpture of"),
    "crayon": ("crayon drawing of",),
    "papercut": ("papercut of", "papercut picture of"),
}
_BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "plain": ("on a plain background", "plain background", "on an empty background"),
    "meadow": ("in a meadow", "on a meadow", "meadow", "green hills"),
    "beach": ("on the beach", "at the beach", "beach"),
    "sea": ("at sea", "on the sea", "sea", "ocean"),
    "city": ("in the city", "city", "in a city", "skyline"),
    "desert": ("in the desert", "desert", "sand dunes"),
    "snow": ("in the snow", "snow", "snowy hills"),
    "mountains": ("in the mountains", "mountains", "mountain landscape"),
    "sky": ("in the sky", "sky", "clouds"),
}
_NIGHT_WORDS = ("at night", "night", "in the dark")
_NIGHT_SKY_WORDS = ("night sky", "in the night sky", "starry sky")
_DAY_WORDS = ("by day", "daylight", "day")
_RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
_COUNT_WORDS: dict[int, tuple[str, ...]] = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
_NEXT_TO = ("next to", "beside")
# Users ask for "a boat and a moon" as often as for full descriptions, so whole kinds of words are left out together.
_COLOURED_FRAC = 0.66
_BARE_FRAC = 0.3
_RELATION_FRAC = 0.35
_NEXT_TO_FRAC = 0.05
_FRONTS = ("a picture of", "an image of", "a drawing of")


def pluralise(noun: str) -> str:
    """Return the plural of one of the world's nouns."""
    return _PLURALS.get(noun, noun + "s")


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase."""
    return ("an " if phrase[0] in "aeio" or phrase.startswith("umbrella") else "a ") + phrase


def object_phrase(kind: str, colour: str | None = None, size: str | None = None) -> str:
    """Return e.g. "a small red boat"."""
    return with_article(" ".join(word for word in (size, colour, kind) if word))


def count_phrase(kind: str, count: int, colour: str | None = None) -> str:
    """Return e.g. "three red stars"."""
    return " ".join(word for word in (_COUNT_WORDS[count][0], colour, pluralise(kind)) if word)


def relation_phrase(first: str, relation: str, second: str) -> str:
    """Return e.g. "a red boat left of a white moon"."""
    return f"{first} {relation} {second}"


def make_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in one of many wordings, leaving parts out at random.

    Returns: lower-case words of the vocabulary, at most MAX_WORDS of them. Hidden parameters are never mentioned.
    """
    parts = [_describe_objects(scene, rng)]
    if rng.random() < _BARE_FRAC:
        return parts[0]
    tail = []
    if rng.random() < 0.7:
        tail.append(_describe_place(scene, rng))
    elif scene.light == "night" and rng.random() < 0.5:
        tail.append(str(rng.choice(_NIGHT_WORDS)))
    if rng.random() < 0.75:
        if rng.random() < 0.4:
            parts[0] = f"{rng.choice(_STYLE_FRONTS[scene.style])} {parts[0]}"
        else:
            tail.append(str(rng.choice(_STYLE_WORDS[scene.style])))
            rng.shuffle(tail)
    elif rng.random() < 0.15:
        parts[0] = f"{rng.choice(_FRONTS)} {parts[0]}"
    caption = parts[0]
    for phrase in tail:
        needs_comma = not phrase.startswith(("in ", "on ", "at ", "by ")) or rng.random() < 0.3
        caption += (", " if needs_comma else " ") + phrase
    return " ".join(caption.split()[:MAX_WORDS])


def _describe_objects(scene: Scene, rng: np.random.Generator) -> str:
    things = scene.objects
    is_coloured = rng.random() < _COLOURED_FRAC
    if len(things) == 1:
        says_size = things[0].size != "medium" and rng.random() < 0.6
        return _name(things[0], rng, is_coloured, size=things[0].size if says_size else None)
    if len({thing.kind for thing in things}) == 1:
        words = [str(rng.choice(_COUNT_WORDS[len(things)]))]
        if is_coloured:
            words.append(_say(_COLOUR_WORDS, things[0].colour, rng))
        return " ".join([*words, pluralise(_say(_KIND_WORDS, things[0].kind, rng))])
    if len(things) == 3:
        names = [_name(thing, rng, is_coloured) for thing in sorted(things, key=lambda thing: thing.x_px)]
        return f"{names[0]}, {names[1]} and {names[2]}"
    first, second = (things[i] for i in rng.permutation(2))
    relation = find_relation(first, second)
    draw = rng.random()
    if draw < _RELATION_FRAC:
        link = str(rng.choice(_RELATION_WORDS[relation]))
    else:
        # Without a stated relation things are named in reading order: a model that must guess which of two shapes is
        # which often draws the same thing twice.
        if relation in ("right of", "below"):
            first, second = second, first
        is_beside = draw < _RELATION_FRAC + _NEXT_TO_FRAC and relation in ("left of", "right of")
        link = str(rng.choice(_NEXT_TO)) if is_beside else "and"
    return f"{_name(first, rng, is_coloured)} {link} {_name(second, rng, is_coloured)}"


def _name(thing: SceneObject, rng: np.random.Generator, is_coloured: bool, size: str | None = None) -> str:
    colour = _say(_COLOUR_WORDS, thing.colour, rng) if is_coloured and rng.random() < 0.93 else None
    if size is not None:
        size = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}[size][rng.integers(3)]
    return object_phrase(_say(_KIND_WORDS, thing.kind, rng), colour, size)


def _say(words: dict[str, tuple[str, ...]], key: str, rng: np.random.Generator) -> str:
    options = words.get(key, (key,))
    return options[0] if rng.random() < 0.7 else str(rng.choice(options))


def _describe_place(scene: Scene, rng: np.random.Generator) -> str:
    place = str(rng.choice(_BACKGROUND_WORDS[scene.background]))
    if scene.light == "night":
        if scene.background == "sky":
            return str(rng.choice(_NIGHT_SKY_WORDS))
        return f"{place} {rng.choice(_NIGHT_WORDS)}" if rng.random() < 0.8 else place
    return f"{place} {rng.choice(_DAY_WORDS)}" if rng.random() < 0.12 else place


def split_words(text: str) -> list[str]:
    """Split a caption or prompt into tokens: lower-case words and numbers; commas and other signs are dropped."""
    return re.findall(r"[^\W_]+", text.lower())


def vocabulary() -> list[str]:
    """Return every word that a caption can contain, sorted; the tokenizer's word list."""
    phrases: list[str] = [
        *_NIGHT_WORDS,
        *_DAY_WORDS,
        *_NEXT_TO,
        *_FRONTS,
        "night sky",
        "in the night sky",
        "starry sky",
    ]
    phrases += ["a", "an", "the", "one", "and", "small little tiny medium large big huge"]
    for table in (_STYLE_WORDS, _STYLE_FRONTS, _BACKGROUND_WORDS, _RELATION_WORDS, _COUNT_WORDS):
        for options in table.values():
            phrases += options
    nouns = [noun for kind in KINDS for noun in _KIND_WORDS.get(kind, (kind,))]
    phrases += nouns + [pluralise(noun) for noun in nouns] + list(STYLES)
    phrases += [word for colour in COLOURS for word in _COLOUR_WORDS.get(colour, (colour,))]
    return sorted({word for phrase in phrases for word in split_words(phrase)})


def find_kind(word: str) -> str | None:
    """Return the kind that a noun names, in singular or plural, or None."""
    for kind in KINDS:
        for noun in _KIND_WORDS.get(kind, (kind,)):
            if word in (noun, pluralise(noun)):
                return kind
    return None


_COLOUR_OF_WORD = {word: colour for colour in COLOURS for word in _COLOUR_WORDS.get(colour, (colour,))}
_COUNT_OF_WORD = {word: count for count, words in _COUNT_WORDS.items() for word in words}
_RELATION_OF_WORD = {
    word: relation
    for relation, phrases in _RELATION_WORDS.items()
    for phrase in phrases
    for word in split_words(phrase)
    if word not in ("to", "the", "on", "of")
}


@dataclass(frozen=True)
class Mention:
    """One noun of a caption: what, in which colour (None if unsaid), how many."""

    kind: str
    colour: str | None
    count: int


def read_caption(caption: str) -> tuple[tuple[Mention, ...], str | None]:
    """Read back what a caption says about its things, from the words alone.

    Returns: the mentions in order, and the stated relation of the first to the second (one of RELATIONS) or None.
    """
    mentions: list[Mention] = []
    colour, count, relation = None, 1, None
    for word in split_words(caption):
        kind = find_kind(word)
        if kind is not None:
            mentions.append(Mention(kind, colour, count))
            colour, count = None, 1
        elif len(mentions) == 1 and word in _RELATION_OF_WORD:
            relation = _RELATION_OF_WORD[word]
        colour = _COLOUR_OF_WORD.get(word, colour)
        count = _COUNT_OF_WORD.get(word, count)
    return tuple(mentions), relation if len(mentions) == 2 else None
