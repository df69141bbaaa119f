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
# A place goes from another thing's to the words' own over such a difference of both shares.
RIVALRY = 0.2


class WordPlaces:
    """Watch where words draw attention, in the prompt's rows of every pass of a step.

    Units: words are positions in the prompt, rivals those of the names of other things, for all pictures of the run or
           one tuple for each: a place where they draw more is theirs; num_parts of the passes to come: 2 are the halves
           of guidance, 3 those and a third text's; the prompt's rows are the second part; is_watching can be switched
           off for some passes.
    """

    def __init__(self, words: Sequence[int], size_cells: tuple[int, int], rivals: Sequence[Sequence[int]] = ()) -> None:
        self.words, self.size_cells, self.rivals = list(words), size_cells, rivals
        self.num_parts, self.is_watching = 2, True
        # Maps of this step by watched layer, one (b, 2, h, w) per call, of words and rivals: pictures of a run may come
        # in several calls.
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
        shares = average_places([torch.cat(maps) for maps in self.seen.values()])
        return None if shares is None else yield_to(*shares.chunk(2, 1))

    def see(self, layer: str, attn: torch.nn.Module, hidden: torch.Tensor, text: torch.Tensor) -> None:
        """Note where the words draw attention in the prompt's rows of one layer."""
        if not self.is_watching:
            return
        q, k, _ = project_qkv(attn, *(part.chunk(self.num_parts)[1] for part in (hidden, text)))
        probs = attention_probs(q, k).float().mean(1)
        maps = self.seen.setdefault(layer, [])
        first = sum(len(earlier) for earlier in maps)
        others = torch.stack([self._sum_rivals(row, first + index) for index, row in enumerate(probs)])
        both = torch.stack([probs[..., self.words].mean(2), others], 1)
        grid = both.unflatten(2, to_grid(both.shape[2], self.size_cells))
        maps.append(F.interpolate(smooth(grid), size=self.size_cells, mode="bilinear"))

    def _sum_rivals(self, probs: torch.Tensor, picture: int) -> torch.Tensor:
        """Sum up what the rivals of one picture draw; shapes (n, m) to (n,)."""
        own = self.rivals[picture if len(self.rivals) > 1 else 0] if self.rivals else ()
        return probs[:, list(own)].sum(1)


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

    Shapes:  maps (b, c, h, w) of a run's pictures, one per layer; returns the same, None if nothing was seen.
    Source:  Song et al. 2024, arXiv 2404.05674, released code: min-max, zero below 0.2, min-max again.
    """
    if not seen:
        return None
    mean = torch.stack(seen).mean(0)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    share = (mean - low) / (high - low).clamp_min(1e-8)
    return torch.where(share > MIN_ATTENTION, share, torch.zeros_like(share))


def yield_to(own: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Leave to other things what they draw more attention to; shapes (b, 1, h, w) 0..1, returns the same."""
    return own * ((own - others) / RIVALRY + 0.5).clamp(0, 1)
