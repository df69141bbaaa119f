"""Text side of `storybook`: a whole-word tokenizer and a small CLIP text encoder, trained with the denoiser."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from training.world.caption import vocabulary

MAX_TOKENS = 32
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
