"""Where some words of the prompt are being drawn, as their cross-attention shows it while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

from pipelines.attention import AttentionLayer, Processor, attention_probs, patched, project_qkv
from pipelines.attention_maps import smooth, to_grid
from pipelines.model import ModelBundle

# Below this share of its maximum a word's attention says nothing about where its thing is.
MIN_ATTENTION = 0.2


class WordPlaces:
    """Watch where words draw attention, in the prompt's rows of every pass of a step.

    Units: words are positions in the prompt; num_parts of the passes to come: 2 are the halves of guidance, 3 those and
           a third text's; the prompt's rows are the second part; is_watching can be switched off for some passes.
    """

    def __init__(self, words: Sequence[int], size_cells: tuple[int, int]) -> None:
        self.words, self.size_cells = list(words), size_cells
        self.num_parts, self.is_watching = 2, True
        # Maps of this step by watched layer, one (b, 1, h, w) per call: pictures of a run may come in several calls.
        self.seen: dict[str, list[torch.Tensor]] = {}

    def watch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Look at every cross-attention layer but those of the coarsest grid, inside a with-block."""
        coarsest = model.spec.coarsest_cells
        return patched(
            model.unet,
            lambda layer: layer.kind == "cross" and layer.cells > coarsest,
            lambda layer, previous: Watcher(self, layer, previous),
        )

    def take(self) -> torch.Tensor | None:
        """Return the places of the pictures of the step that ends here, and start anew; None if nothing was seen.

        Shapes: returns (b, 1, h, w) in latent cells, 0..1.
        """
        places = self.average()
        self.seen = {}
        return places

    def average(self) -> torch.Tensor | None:
        """Return the places as far as they were seen in this step; shapes as for `take`."""
        return average_places([torch.cat(maps) for maps in self.seen.values()])

    def see(self, layer: str, attn: torch.nn.Module, hidden: torch.Tensor, text: torch.Tensor) -> None:
        """Note where the words draw attention in the prompt's rows of one layer."""
        if not self.is_watching:
            return
        q, k, _ = project_qkv(attn, *(part.chunk(self.num_parts)[1] for part in (hidden, text)))
        probs = attention_probs(q, k)[..., self.words].float().mean((1, 3))
        grid = probs.unflatten(1, to_grid(probs.shape[1], self.size_cells))[:, None]
        whole = F.interpolate(smooth(grid), size=self.size_cells, mode="bilinear")
        self.seen.setdefault(layer, []).append(whole)


class Watcher:
    """Compute a cross-attention layer as before, and let somebody see it."""

    def __init__(self, places: WordPlaces, layer: AttentionLayer, previous: Processor) -> None:
        self.places, self.layer, self.previous = places, layer.name, previous

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor:
        """Return the layer's output; shapes (b2, n, c), text (b2, m, e)."""
        if encoder_hidden_states is not None:
            self.places.see(self.layer, attn, hidden_states, encoder_hidden_states)
        out: torch.Tensor = self.previous(attn, hidden_states, encoder_hidden_states, attention_mask)
        return out


def average_places(seen: list[torch.Tensor]) -> torch.Tensor | None:
    """Average the maps of the layers of one step and stretch them to 0..1 in each picture.

    Shapes:  maps (b, 1, h, w) of a run's pictures, one per layer; returns the same, None if nothing was seen.
    Source:  Song et al. 2024, arXiv 2404.05674, released code: min-max, zero below 0.2, min-max again.
    """
    if not seen:
        return None
    mean = torch.stack(seen).mean(0)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    share = (mean - low) / (high - low).clamp_min(1e-8)
    return torch.where(share > MIN_ATTENTION, share, torch.zeros_like(share))
