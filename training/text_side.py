"""Text side of `storybook`: a whole-word tokenizer and a small CLIP text encoder, trained with the denoiser.

The encoder is causal: "boat" in "a boat left of a moon" cannot know its side, only later tokens can. So the padding
at the end is trained to hold the answer, one slot per position: `SlotHead` and `make_slots`.
"""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from training.world.caption import read_caption, vocabulary
from training.world.scene import COLOURS, KINDS, RELATIONS

MAX_TOKENS = 32
MENTION_SLOTS = 4
NUM_SLOTS = MENTION_SLOTS + len(RELATIONS)
UNSTATED = -100  # a slot that the caption does not decide; cross-entropy ignores this value
# End must not be id 2: transformers reads that id as "an old checkpoint" and pools differently.
_SPECIALS = ("<pad>", "<end>", "<unk>", "<start>")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: lower-case words of the world's vocabulary, signs dropped, the rest `<unk>`.

    Returns: a tokenizer that pads to MAX_TOKENS, with start and end tokens.
    """
    words = [*_SPECIALS, *vocabulary()]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\W_]+"), behavior="removed")
    ids = {word: index for index, word in enumerate(_SPECIALS)}
    tokenizer.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", ids["<start>"]), ("<end>", ids["<end>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
    )


def make_text_encoder(vocab_size: int, *, width: int = 128, num_layers: int = 4) -> CLIPTextModel:
    """Build a CLIP text encoder with random weights.

    Shapes: token ids (b, MAX_TOKENS) -> last_hidden_state (b, MAX_TOKENS, width).
    """
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=width,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=3,
        )
    )


class SlotHead(nn.Module):
    """Names kind and colour in each of the last NUM_SLOTS tokens; trained along, never exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(KINDS) + 1, len(COLOURS) + 1)
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (b, MAX_TOKENS, width) to (b, 25, NUM_SLOTS) kind and (b, 13, NUM_SLOTS) colour logits."""
        return self.linear(hidden[:, -NUM_SLOTS:]).movedim(1, 2).split(self.sizes, 1)


def make_slots(captions: list[str]) -> torch.Tensor:
    """Say what the slots should hold: four for the things in order of mention ("three stars" fills three), then one
    for the thing on the left, on the right, above and below.

    Shapes: returns (b, 2, NUM_SLOTS) int64, kind and colour; 0 is nothing (or unsaid), UNSTATED where the words leave
            it open, and everywhere in a caption so long that its words reach the slots.
    """
    slots = torch.zeros(len(captions), 2, NUM_SLOTS, dtype=torch.long)
    for row, caption in zip(slots, captions, strict=True):
        mentions, relation = read_caption(caption)
        if len(caption.split()) + 2 > MAX_TOKENS - NUM_SLOTS:
            row[:] = UNSTATED
            continue
        named = [
            (1 + KINDS.index(thing.kind), 1 + COLOURS.index(thing.colour) if thing.colour else 0) for thing in mentions
        ]
        listed = [names for names, thing in zip(named, mentions, strict=True) for _ in range(thing.count)]
        for slot, names in enumerate(listed[:MENTION_SLOTS]):
            row[:, slot] = torch.tensor(names)
        if relation is not None:
            here = RELATIONS.index(relation)
            row[:, MENTION_SLOTS + here] = torch.tensor(named[0])
            row[:, MENTION_SLOTS + (here ^ 1)] = torch.tensor(named[1])  # opposite sides are neighbours in RELATIONS
        elif len(mentions) > 1:
            row[:, MENTION_SLOTS:] = UNSTATED
    return slots
