"""Self-attention that also looks at style pictures: shared by the techniques that take a style from a picture."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipelines.attention import KernelProcessor, Processor, attention_probs, project_out, project_qkv, run_attention
from pipelines.style_reference import Heard

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class StyledProcessor:
    """Replace how a self-attention layer mixes its values, while there is something to hear.

    What an earlier technique changed in the same layer is kept: only the difference to plain attention is added.
    """

    def __init__(self, previous: Processor, kernel: str, attend: Attend, is_hearing: Callable[[], bool]) -> None:
        self.previous, self.kernel, self.attend, self.is_hearing = previous, kernel, attend, is_hearing

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Return the layer's output; shapes (b2, n, c)."""
        if not self.is_hearing():
            return self.previous(attn, hidden_states, encoder_hidden_states, attention_mask)
        q, k, v = project_qkv(attn, hidden_states, None)
        out = project_out(attn, self.attend(q, k, v), hidden_states)
        if type(self.previous) is KernelProcessor:
            return out
        plain = project_out(attn, run_attention(q, k, v, kernel=self.kernel), hidden_states)
        return self.previous(attn, hidden_states, encoder_hidden_states, attention_mask) + (out - plain)


StyledProcessor.__call__.__signature__ = inspect.signature(StyledProcessor.__call__)  # type: ignore[attr-defined]


def join_keys(
    own: tuple[torch.Tensor, torch.Tensor], others: Sequence[Heard], shares: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Put the patches of style pictures beside a picture's own, with a bias that shares out the attention.

    Shapes:  own key and value (b, heads, n, d); others (query, key, value), each (1, heads, m, d); shares: the own one,
             then one per style picture, each () or (n,), one number per patch that looks.
    Units:   a share is 0..1 of the attention if all patches fit equally well, however many patches a picture has.
    Returns: key and value (b, heads, n + sum of m, d), and the bias (1 or n, n + sum of m) to be added to the logits.
    """
    key, value = own
    batch, _, count, _ = key.shape
    keys, values, biases = [key], [value], []
    for share, length in zip(shares, (count, *(heard[1].shape[2] for heard in others)), strict=True):
        log_share = (share.to(key) * (count / length)).log()
        biases.append(log_share.reshape(-1, 1).expand(-1, length))
    for heard in others:
        keys.append(heard[1].to(key).expand(batch, -1, -1, -1))
        values.append(heard[2].to(value).expand(batch, -1, -1, -1))
    rows = max(len(bias) for bias in biases)
    bias = torch.cat([bias.expand(rows, -1) for bias in biases], 1)
    return torch.cat(keys, 2), torch.cat(values, 2), bias


def find_sources(q: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, others: Sequence[Heard]) -> torch.Tensor:
    """Compute how much each patch of the first picture looks at each patch of the style pictures.

    Shapes: q (b, heads, n, d), keys and bias as from `join_keys`; returns (n, sum of m), mean over the heads.
    """
    probs = attention_probs(q[:1], keys[:1], bias)[0].float().mean(0)
    return probs[:, -sum(heard[1].shape[2] for heard in others) :]
