"""UCE and RECE: a concept is taken out of the model's cross-attention by solving linear equations, no training.

UCE makes keys and values treat the concept as nothing while other words keep theirs. RECE then looks for the embedding
that would still bring the concept back, and erases that too. The weights are exchanged step by step and put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pipelines.attention import list_layers
from pipelines.errors import UserError
from pipelines.model import ModelBundle, unknown_words
from pipelines.params import ranged, text, validate
from pipelines.prompt_plan import find_tokens, plan_prompt
from pipelines.techniques.base import Hooks
from pipelines.text_side import encode_many
from pipelines.types import RunInfo

# Where a concept is met: alone, behind other words, and beside something. {} is the noun.
TEMPLATES = ("a {}", "a red {}", "a picture of a {}", "a {} and a house", "a tree left of a {}", "two {}, night")
# What names no concept but all of them.
EVERYTHING = ("everything", "anything", "all", "all things", "every thing", "*")
# What stays, where the tokenizer does not list the words it knows.
COMMON_WORDS = (
    *("person", "dog", "cat", "bird", "horse", "car", "boat", "house", "tree", "flower", "chair", "table", "street"),
    *("sky", "sea", "mountain", "red", "blue", "green", "white", "black", "photo", "painting", "night", "day"),
)


@dataclass(frozen=True)
class Rece:
    """Erase one concept from what the model can draw.

    Units:  concept is a noun; empty means the first thing of the prompt. strength is a fraction 0..1 of the edit; 0
            leaves the weights alone. rounds counts RECE's second look; 0 is UCE.
    Points: patch (weights of to_k and to_v of every cross-attention layer).
    Source: Gandikota et al. 2024, UCE, arXiv 2308.14761; Gong et al. 2024, RECE, arXiv 2407.12383.
    Differs: every edit of W has the form W M with one small matrix M for all layers, so M is what is solved for.
             All positions from the noun to the end are erased, because in a causal encoder they all carry it.
    """

    name: ClassVar[str] = "rece"
    title: ClassVar[str] = "RECE concept erasure"
    source: ClassVar[str] = "Gong et al. 2024, RECE: Reliable and Efficient Concept Erasure; Gandikota et al. 2024, UCE"
    points: ClassVar[tuple[str, ...]] = ("patch",)
    needs_first_order: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False
    needs_whole_picture: ClassVar[bool] = False

    concept: str = text("", 80, label="Concept", help="What to forget, as one noun; empty: the prompt's first thing.")
    strength: float = ranged(1.0, 0.0, 1.0, 0.05, label="Erasure", help="0 changes nothing, 1 is the whole edit.")
    rounds: int = ranged(1, 0, 5, 1, label="Rounds", help="How often to look for what still brings it back; 0 is UCE.")
    keep: float = ranged(0.1, 0.0, 10.0, 0.05, label="Keep", help="How strongly the weights stay what they were.")
    attack: float = ranged(0.1, 0.001, 1.0, 0.001, label="Plausibility", help="How ordinary a reviving text must be.")

    @classmethod
    def neutral(cls) -> Rece:
        """Make the record that changes nothing."""
        return cls(strength=0.0)

    @contextmanager
    def open(self, model: ModelBundle, run: RunInfo) -> Iterator[Hooks]:
        """Solve for the edited weights; they are put in place step by step."""
        validate(self)
        things = plan_prompt(run.text.prompt).objects
        concept = self.concept.strip() or (things[0].noun if things else "")
        if self.strength and concept.lower() in EVERYTHING:
            raise UserError(f"{self.title} erases one concept and keeps the rest; name a thing, for example boat.")
        unknown = unknown_words(concept, model)
        if not concept and self.strength:
            run.note(f"{self.title} has nothing to erase; name a concept.")
        if unknown and self.strength:
            run.note(f"{self.title} changed nothing: the model does not know the word {unknown[0][0]}.")
            concept = ""
        if concept and self.strength:
            run.watch(concept)
        if not concept or self.strength == 0.0:
            yield Hooks()
            return
        layers = [part for layer, module in list_layers(model.unet) if layer.kind == "cross"
                  for part in (module.to_k, module.to_v)]  # fmt: skip
        with model.lock:
            erased, guides = gather_concept(model, concept)
            kept = gather_words(model, concept)
            old = [part.weight.double() for part in layers]
        edit = solve_rece(old, erased, guides, kept, rounds=self.rounds, keep=self.keep, attack=self.attack)
        edit = torch.lerp(torch.eye(len(edit), dtype=edit.dtype, device=edit.device), edit, self.strength)
        yield _Forgetting(layers, [(weight @ edit).to(part.weight.dtype) for weight, part in zip(old, layers)])


class _Forgetting(Hooks):
    """Exchange the weights for the length of one step."""

    def __init__(self, layers: Sequence[Any], edited: Sequence[torch.Tensor]) -> None:
        self.layers, self.edited = layers, edited

    def patch(self, model: ModelBundle) -> AbstractContextManager[object]:
        """Put the edited weights in place."""
        return exchanged(self.layers, self.edited) if self.layers else nullcontext()


@contextmanager
def exchanged(layers: Sequence[Any], weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Give layers other weights inside a with-block; the very tensors they had are put back."""
    before = [layer.weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.data = weight
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.data = weight


def gather_concept(model: ModelBundle, concept: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Collect the text vectors that carry a concept, and those of nothing at the same positions.

    Shapes: returns two (e, k) float64, one column per position from the noun to the end of each template.
    """
    prompts = [template.format(concept) for template in TEMPLATES]
    spans = [(template.index("{}"), template.index("{}") + len(concept)) for template in TEMPLATES]
    columns = _columns_from(model, prompts, spans, encode_many(model, prompts).hidden)
    nothing = encode_many(model, [""]).hidden.expand(len(prompts), -1, -1)
    return columns, _columns_from(model, prompts, spans, nothing)


def gather_words(model: ModelBundle, concept: str) -> torch.Tensor:
    """Collect the text vectors of what must stay: nothing, and every other known word.

    Shapes: returns (e, k) float64.
    """
    words = model.sides[0].known_words or COMMON_WORDS
    words = tuple(word for word in words if concept.lower().rstrip("s") not in word)
    prompts = [f"a {word}" for word in words]
    hidden = encode_many(model, ["", *prompts]).hidden
    kept = _columns_from(model, prompts, [(2, 2 + len(word)) for word in words], hidden[1:])
    return torch.cat([hidden[0].double().T, kept], 1)


def _columns_from(
    model: ModelBundle, prompts: Sequence[str], spans: Sequence[tuple[int, int]], hidden: torch.Tensor
) -> torch.Tensor:
    """Take the positions from the first token of each span to the end; (n, m, e) becomes (e, k) float64."""
    parts = []
    for prompt, span, rows in zip(prompts, spans, hidden, strict=True):
        tokens = find_tokens(prompt, span, model.sides[0])
        if tokens:
            parts.append(rows[tokens[0] :])
    return torch.cat(parts).double().T


def solve_uce(
    edit: torch.Tensor, erased: torch.Tensor, targets: torch.Tensor, kept: torch.Tensor, keep: float
) -> torch.Tensor:
    """Solve for the matrix M of the edit W <- W M.

    Shapes:  edit (e, e), the edit so far; erased, targets (e, k); kept (e, n); all float64.
    Returns: (e, e).
    Symbols: our keep = their lambda_1, our targets = c*; their e and p are 1 over the number of columns, so that both
             sets weigh the same however many words there are.
    Source:  arXiv 2308.14761, with W_new = W M.
    """
    erase_weight, keep_weight = 1 / erased.shape[1], 1 / kept.shape[1]
    eye = torch.eye(len(edit), dtype=edit.dtype, device=edit.device)
    stays = keep * eye + keep_weight * kept @ kept.T
    left = edit @ stays + erase_weight * targets @ erased.T
    right = stays + erase_weight * erased @ erased.T
    return torch.linalg.solve(right, left, left=False)


def find_revival(
    weights: Sequence[torch.Tensor], edit: torch.Tensor, erased: torch.Tensor, attack: float
) -> torch.Tensor:
    """Find the embeddings that make edited weights answer as the old ones answered to the concept.

    Shapes:  weights (out, e) of each layer before any edit; edit (e, e); erased (e, k); returns (e, k).
    Source:  arXiv 2407.12383: c' = (lambda I + sum W'^T W')^-1 (sum W'^T W) c, here with W' = W M.
    Differs: the sum is divided by its mean eigenvalue, so that `attack` means the same for every model.
    """
    gram = sum(weight.T @ weight for weight in weights)
    gram = gram / (gram.trace() / len(edit))  # type: ignore[union-attr]
    eye = torch.eye(len(edit), dtype=edit.dtype, device=edit.device)
    return torch.linalg.solve(attack * eye + edit.T @ gram @ edit, edit.T @ gram @ erased)


def solve_rece(
    weights: Sequence[torch.Tensor],
    erased: torch.Tensor,
    targets: torch.Tensor,
    kept: torch.Tensor,
    *,
    rounds: int,
    keep: float,
    attack: float,
) -> torch.Tensor:
    """Erase, then look for what revives the concept and erase that, `rounds` times; shapes as above."""
    eye = torch.eye(len(erased), dtype=erased.dtype, device=erased.device)
    edit = solve_uce(eye, erased, targets, kept, keep)
    for _ in range(rounds):
        revived = find_revival(weights, edit, erased, attack)
        # What was erased before is erased again with it, or the second edit would forget the first.
        edit = solve_uce(eye, torch.cat([erased, revived], 1), torch.cat([targets, targets], 1), kept, keep)
    return edit
