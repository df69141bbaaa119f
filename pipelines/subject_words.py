"""The words of a subject: what the user calls it, what anybody would call it, and prompts with either.

A prompt names the subject by the user's word; the adapted model reads that word before the common name ("my pink
robot"), the plain model reads the common name alone ("a pink robot").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.errors import UserError

if TYPE_CHECKING:
    from pipelines.subject_types import SubjectRequest

MAX_WORD_CHARS = 40


@dataclass(frozen=True)
class SubjectPrompt:
    """Hold one prompt as both models read it.

    Units: span is where the subject's name stands in `subject`, in characters, (0, 0) if the prompt does not name it.
    """

    subject: str
    base: str
    span: tuple[int, int] = (0, 0)


def check_word(word: str) -> str:
    """Return a subject's word without blanks around it.

    Raises: UserError if it is empty or too long, or holds anything but words.
    """
    plain = " ".join(str(word).split())
    if not re.search(r"\w", plain):
        raise UserError('The subject has no name; choose a word for it, for example "my robot".')
    if len(plain) > MAX_WORD_CHARS:
        raise UserError(f"The subject's name has {len(plain)} characters; shorten it to at most {MAX_WORD_CHARS}.")
    if not re.fullmatch(r"[\w' -]+", plain):
        raise UserError('The subject\'s name may hold letters, digits and blanks only, for example "my robot".')
    return plain


def name_subject(word: str, phrase: str) -> str:
    """Join a subject's own word and its common name: "my robot" and "pink robot" become "my pink robot"."""
    common = phrase.split()
    own = word.split()
    while own and own[-1].lower() in {part.lower() for part in common}:
        own.pop()
    return " ".join([*own, *common])


def own_words(request: SubjectRequest) -> tuple[str, str]:
    """Return the word and the common name of a request's subject: those of its first adapter where it says them."""
    first = request.adapters[0] if request.adapters else None
    if first is None or not first.word:
        return request.word, request.phrase
    return first.word, first.phrase


def to_plain_prompt(request: SubjectRequest) -> str:
    """Write the prompt of a request for a model that never learned its subject."""
    return compile_prompt(request.prompt, *own_words(request)).base


def compile_prompt(prompt: str, word: str, phrase: str) -> SubjectPrompt:
    """Write a prompt for the adapted model and for the plain one.

    Returns: both are the prompt as it is if it does not name the subject.
    """
    pattern = r"\s+".join(re.escape(part) for part in word.split())
    found = re.compile(rf"(?<!\w)(?:(?:an?|the)\s+)?{pattern}(?!\w)", re.IGNORECASE)
    first = found.search(prompt)
    if not word.split() or not phrase.split() or first is None:
        return SubjectPrompt(prompt, prompt)
    name = name_subject(word, phrase)
    article = "an" if phrase[:1].lower() in "aeio" else "a"
    span = (first.start(), first.start() + len(name))
    return SubjectPrompt(found.sub(name, prompt), found.sub(f"{article} {phrase}", prompt), span)
