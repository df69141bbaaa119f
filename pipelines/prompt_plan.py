"""What a prompt asks for, read by grammar alone: its things, how they stand to each other, and the rest.

"a red boat left of a white moon, night sky, watercolor" names two things, one relation, and a setting. Works on words,
so it serves every backend; it understands the plain English of captions, not free prose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.text_side import TextSide

RELATIONS: dict[str, tuple[str, ...]] = {
    "left of": ("to the left of", "on the left of", "left of"),
    "right of": ("to the right of", "on the right of", "right of"),
    "above": ("on top of", "above", "over"),
    "below": ("underneath", "beneath", "below", "under"),
    "next to": ("next to", "beside", "near"),
}
_NUMBERS = {"one": 1, "two": 2, "2": 2, "three": 3, "3": 3, "four": 4, "4": 4}
_DETERMINERS = ("a", "an", "the", *_NUMBERS)
_LINKS = "|".join(phrase for phrases in RELATIONS.values() for phrase in phrases)
_SPLIT = re.compile(rf"\s*[,;:]\s*(?:and\s+)?|\s+(?P<link>and|{_LINKS})\s+", re.IGNORECASE)
_FRONT = re.compile(
    r"\s*(?:(?:an?|the)\s+)?(?:[\w-]+\s+){0,2}?"
    r"(?:picture|image|drawing|painting|photo|photograph|illustration|art|watercolor|watercolour|papercut|sketch|model"
    r"|sculpture|sign)\s+of\s+",
    re.IGNORECASE,
)
# A setting begins here: "a boat | on the sea". Relations were cut out before.
_PREPOSITIONS = "in|on|at|by|with|during|inside|before"
_SETTING = re.compile(rf"\s+(?=(?:{_PREPOSITIONS})\s)", re.IGNORECASE)
# A prompt may begin with its setting: "in the snow | a boat". Its own article is the word right after the preposition.
_SETTING_FIRST = re.compile(
    rf"(?:{_PREPOSITIONS})\s+[\w-]+(?:\s+(?!(?:{'|'.join(_DETERMINERS)})\s)[\w-]+)*\s*", re.IGNORECASE
)


@dataclass(frozen=True)
class PromptObject:
    """Hold one thing that a prompt names.

    Units: span is where `phrase` stands in the prompt, noun_span where its last word stands, both in characters,
           end-exclusive; count is how many are asked for.
    """

    phrase: str
    noun: str
    count: int
    span: tuple[int, int]
    noun_span: tuple[int, int]


@dataclass(frozen=True)
class PromptPlan:
    """Hold what a prompt asks for.

    Units: relations[k] is how object k stands to object k + 1, a key of RELATIONS, or "" where nothing is said;
           setting holds the words that belong to no thing, as they would follow one ("on the sea, watercolor").
    """

    objects: tuple[PromptObject, ...]
    relations: tuple[str, ...]
    setting: str
    front: str = ""

    def describe(self, index: int) -> str:
        """Make the prompt of one thing alone, in the same setting: "a red boat, night sky, watercolor"."""
        return self.describe_some((index,))

    def describe_some(self, indices: Sequence[int]) -> str:
        """Make the prompt of some of the things in the same setting, each with its own words.

        Returns: without things, the setting alone: "a watercolor of a cat at sea" becomes "at sea, a watercolor".
        """
        if not indices:
            return join_phrases(self.setting, self.front.strip().removesuffix(" of"))
        return self.front + join_phrases(" and ".join(self.objects[index].phrase for index in indices), self.setting)


def plan_prompt(prompt: str) -> PromptPlan:
    """Read things, relations and setting out of a prompt.

    Returns: a plan; without things if the prompt names none with an article or a number.
    """
    front = _FRONT.match(prompt)
    start = front.end() if front else 0
    objects: list[PromptObject] = []
    relations: list[str] = []
    settings: list[str] = []
    parts = _split(prompt, start)
    if parts and (setting_end := _end_setting(prompt, parts)):
        settings.append(prompt[start:setting_end].strip())
        parts = [(setting_end, parts[0][1], ""), *parts[1:]] if setting_end < parts[0][1] else parts[1:]
    for begin, end, join in parts:
        cut = _SETTING.search(prompt, begin, end)
        # "boat and moon" needs no articles, but after a comma ("sea, night") a part without one is a setting.
        is_linked = not settings and join != ","
        thing = _read_object(prompt, begin, cut.start() if cut else end, needs_determiner=not is_linked)
        if thing is None:
            settings.append(prompt[begin:end].strip())
            continue
        if objects:
            relations.append(join if join in RELATIONS else "")
        objects.append(thing)
        if cut:
            settings.append(prompt[cut.end() : end].strip())
    setting = ""
    for part in settings:
        setting = join_phrases(setting, part) if setting else part
    return PromptPlan(tuple(objects), tuple(relations), setting, prompt[:start].lstrip())


def find_tokens(prompt: str, span: tuple[int, int], side: TextSide) -> tuple[int, ...]:
    """List the positions of the tokens that spell a part of a prompt.

    Units:   span in characters of the prompt; positions count from the start token, as in the hidden states.
    Returns: () if that part lies beyond what the encoder reads.
    """
    with side.lock:
        offsets = side.tokenizer(
            prompt, truncation=True, max_length=side.max_tokens, padding=False, return_offsets_mapping=True
        )["offset_mapping"]
    first, last = span
    return tuple(index for index, (begin, end) in enumerate(offsets) if begin < end and begin < last and end > first)


def _split(prompt: str, start: int) -> list[tuple[int, int, str]]:
    """Cut a prompt at commas, "and" and relations: (begin, end, what joins this part to the one before)."""
    parts: list[tuple[int, int, str]] = []
    begin, join = start, ""
    for match in _SPLIT.finditer(prompt, start):
        parts.append((begin, match.start(), join))
        begin, join = match.end(), _name_join((match["link"] or ",").lower())
    parts.append((begin, len(prompt), join))
    return [(first, last, join) for first, last, join in parts if prompt[first:last].strip()]


def _end_setting(prompt: str, parts: Sequence[tuple[int, int, str]]) -> int:
    """Return where the setting ends that a prompt begins with, in characters; 0 if it begins with a thing.

    Differs: without a preposition ("night sky, a moon") only an article after the comma tells a setting from a thing.
    """
    begin, end, _ = parts[0]
    if found := _SETTING_FIRST.match(prompt, begin, end):
        return found.end()
    if len(parts) < 2 or parts[1][2] != ",":
        return 0
    is_bare = _read_object(prompt, begin, end, needs_determiner=True) is None
    return end if is_bare and _read_object(prompt, *parts[1][:2], needs_determiner=True) else 0


def _name_join(words: str) -> str:
    """Return the relation that a phrase spells, or the phrase itself ("and", ",")."""
    return next((name for name, phrases in RELATIONS.items() if words in phrases), words)


def _read_object(prompt: str, begin: int, end: int, *, needs_determiner: bool) -> PromptObject | None:
    """Read "two red boats": a determiner, describing words, a noun; None if it does not look like that."""
    words = list(re.finditer(r"[^\W_]+(?:['-][^\W_]+)*", prompt[begin:end]))
    has_determiner = bool(words) and words[0].group().lower() in _DETERMINERS
    if len(words) < 1 + has_determiner or needs_determiner > has_determiner:
        return None
    first, last = words[0], words[-1]
    return PromptObject(
        phrase=prompt[begin + first.start() : begin + last.end()],
        noun=last.group(),
        count=_NUMBERS.get(first.group().lower(), 1),
        span=(begin + first.start(), begin + last.end()),
        noun_span=(begin + last.start(), begin + last.end()),
    )


def join_phrases(text: str, part: str) -> str:
    """Join two parts of a prompt: a preposition follows directly, anything else after a comma."""
    if not text or not part:
        return text or part
    is_direct = part.lower().startswith(("in ", "on ", "at ", "by ", "with ", "during ", "inside ", "before "))
    return f"{text} {part}" if is_direct else f"{text}, {part}"
