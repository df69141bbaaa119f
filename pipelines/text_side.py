"""The text side of a model: prompt -> hidden states, and the honest account of what was not read.

Mirrors what the diffusers pipelines of each family do with a prompt; caches the last prompts per model.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pipelines.errors import UserError

if TYPE_CHECKING:
    from pipelines.model import ModelBundle, TextCond

MAX_CACHED_PROMPTS = 64
MAX_QUOTED_CHARS = 120


@dataclass(frozen=True)
class TextSide:
    """Hold one tokenizer with its encoder.

    Units: max_tokens counts special tokens too; known_words is empty unless one token is one word.
    """

    tokenizer: Any
    encoder: Any
    max_tokens: int
    known_words: tuple[str, ...] = ()
    lock: Any = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class PromptEncoding:
    """Hold encoded prompts: hidden (n, m, e), pooled (n, p) with p = 0 where the family has none."""

    hidden: torch.Tensor
    pooled: torch.Tensor


def list_known_words(tokenizer: Any) -> tuple[str, ...]:
    """List the vocabulary of a whole-word tokenizer; () for one that splits words into pieces."""
    backend = tokenizer.backend_tokenizer
    if type(backend.model).__name__ != "WordLevel":
        return ()
    special = set(tokenizer.all_special_tokens)
    return tuple(sorted(word for word in tokenizer.get_vocab() if word not in special and word.isalpha()))


def encode_prompt(model: ModelBundle, prompt: str, negative_prompt: str = "", *, size_px: tuple[int, int]) -> TextCond:
    """Encode a prompt and what it is guided away from.

    Units:   size_px is (width, height) of the picture; only the sdxl family reads it.
    Returns: both halves with one row each, on the model's device.
    """
    from pipelines.model import TextCond

    uncond, cond = (_encode_cached(model, words) for words in (negative_prompt, prompt))
    if model.spec.zeros_for_empty and not negative_prompt:
        uncond = PromptEncoding(torch.zeros_like(cond.hidden), torch.zeros_like(cond.pooled))
    width_px, height_px = size_px
    # Original size, crop corner, target size; height comes first in this family.
    sizes = [height_px, width_px, 0, 0, height_px, width_px] if cond.pooled.shape[-1] else []
    time_ids = torch.tensor([sizes], dtype=torch.float32, device=model.plan.device)
    return TextCond(uncond.hidden, cond.hidden, uncond.pooled, cond.pooled, time_ids, prompt)


def _encode_cached(model: ModelBundle, prompt: str) -> PromptEncoding:
    """Encode a prompt, or take it from the cache of the last ones."""
    cache = model.prompt_cache
    if prompt not in cache:
        cache[prompt] = encode_many(model, [prompt])
        while len(cache) > MAX_CACHED_PROMPTS:
            cache.popitem(last=False)
    cache.move_to_end(prompt)
    return cache[prompt]


def encode_many(model: ModelBundle, prompts: Sequence[str]) -> PromptEncoding:
    """Encode several prompts in one pass, past the cache; returns hidden (n, m, e) and pooled (n, p)."""
    model.residence.place("text")
    if len(model.sides) == 1:
        hidden = _run_encoder(model.sides[0], prompts, model.plan.device)[0]
        return PromptEncoding(hidden, hidden.new_zeros(len(hidden), 0))
    parts = []
    for side in model.sides:
        output = _run_encoder(side, prompts, model.plan.device, output_hidden_states=True)
        # Two encoders: the last but one layer of each, and the projected summary of the second.
        parts.append(output.hidden_states[-2])
        pooled = output[0]
    return PromptEncoding(torch.cat(parts, dim=-1), pooled)


def _run_encoder(side: TextSide, prompts: Sequence[str], device: str, **wanted: bool) -> Any:
    """Tokenize, pad to the encoder's length, encode."""
    with side.lock:
        tokens = side.tokenizer(
            list(prompts), padding="max_length", max_length=side.max_tokens, truncation=True, return_tensors="pt"
        )
    uses_mask = getattr(side.encoder.config, "use_attention_mask", False)
    mask = tokens.attention_mask.to(device) if uses_mask else None
    return side.encoder(tokens.input_ids.to(device), attention_mask=mask, **wanted)


def find_dropped_text(prompt: str, side: TextSide) -> str:
    """Return the end of a prompt that does not fit into the encoder's tokens; empty if all fits."""
    with side.lock:
        offsets = side.tokenizer(
            prompt, truncation=True, max_length=side.max_tokens, padding=False, return_offsets_mapping=True
        )["offset_mapping"]
    return prompt[max((end for _, end in offsets), default=0) :].strip()


def unknown_words(prompt: str, side: TextSide) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """List the unknown words of a prompt, each once, with up to three known words that are spelled alike."""
    return tuple((word, _nearest(word, side)) for word in _split_words(prompt, side)[1])


def _nearest(word: str, side: TextSide) -> tuple[str, ...]:
    """Find known words that are spelled alike."""
    return tuple(difflib.get_close_matches(word.lower(), side.known_words, n=3, cutoff=0.6))


def _split_words(prompt: str, side: TextSide) -> tuple[list[str], list[str]]:
    """Sort the words of a prompt into known and unknown ones; all are known to a tokenizer without whole words."""
    if not side.known_words:
        return prompt.split(), []
    with side.lock:
        tokens = side.tokenizer(
            prompt, add_special_tokens=False, truncation=False, padding=False, return_offsets_mapping=True
        )
    known, unknown = [], []
    for token, (start, end) in zip(tokens["input_ids"], tokens["offset_mapping"]):
        word = prompt[start:end]
        if token == side.tokenizer.unk_token_id:
            # Stray punctuation is no word that anybody misses.
            if any(char.isalnum() for char in word) and word not in unknown:
                unknown.append(word)
        elif any(char.isalnum() for char in word):
            known.append(word)
    return known, unknown


def describe_reading(prompt: str, model: ModelBundle) -> tuple[int, list[str]]:
    """Tell how well the model can read a prompt.

    Returns: how many words it knows, and sentences for the user about unknown and dropped words.
    """
    side, name = model.sides[0], model.spec.name
    known, _ = _split_words(prompt, side)
    notes = []
    for word, nearest in unknown_words(prompt, side)[:8]:
        hint = f"; it knows {', '.join(nearest)}" if nearest else ""
        notes.append(f"{name} does not know {_shorten(word)!r}{hint}.")
    dropped = find_dropped_text(prompt, side)
    if dropped:
        notes.append(
            f"The prompt is longer than the {side.max_tokens} tokens that {name} reads; "
            f"left out: {_shorten(dropped)!r} ({len(dropped.split())} words)."
        )
    return len(known), notes


def read_prompts(model: ModelBundle, prompt: str, negative_prompt: str = "") -> list[str]:
    """Tell what the model cannot read of both prompts.

    Returns: sentences for the user.
    Raises:  UserError if the model knows no word of the prompt at all.
    """
    num_known, notes = describe_reading(prompt, model)
    if num_known == 0:
        raise UserError(
            f"{model.spec.name} knows no word of this prompt; use plain English words such as "
            f'"a red boat on the sea", or choose a larger backend.'
        )
    if negative_prompt.strip():
        notes += describe_reading(negative_prompt, model)[1]
    return notes


def _shorten(text: str) -> str:
    """Cut a quotation to a readable length."""
    return text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 3] + "..."
