"""RECE: the one-matrix solution equals UCE's formula layer by layer, revival is what it says, weights come back."""

from __future__ import annotations

import pytest
import torch

from pipelines.attention import list_layers
from pipelines.errors import UserError
from pipelines.model import ModelBundle
from pipelines.techniques.base import Hooks
from pipelines.techniques.rece import Rece, exchanged, find_revival, gather_concept, gather_words, solve_rece, solve_uce
from tests.runs import describe_run


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_matrix_serves_every_layer() -> None:
    weight, erased, targets, kept = draw(5, 6), draw(6, 2, seed=1), draw(6, 2, seed=2), draw(6, 3, seed=3)
    edit = solve_uce(torch.eye(6, dtype=torch.float64), erased, targets, kept, 0.5)
    numerator, denominator = 0.5 * weight, 0.5 * torch.eye(6, dtype=torch.float64)
    for index in range(2):
        c, target = erased[:, index : index + 1], targets[:, index : index + 1]
        numerator += (weight @ target) @ c.T / 2
        denominator += c @ c.T / 2
    for index in range(3):
        p = kept[:, index : index + 1]
        numerator += weight @ p @ p.T / 3
        denominator += p @ p.T / 3
    assert torch.allclose(weight @ edit, numerator @ denominator.inverse())


def test_nothing_to_erase_gives_no_edit_and_a_weak_keep_reaches_the_target() -> None:
    eye, erased, kept = torch.eye(6, dtype=torch.float64), draw(6, 1), draw(6, 2, seed=3)
    assert torch.allclose(solve_uce(eye, erased, erased, kept, 0.5), eye)
    edit = solve_uce(eye, erased, draw(6, 1, seed=2), kept, 1e-9)
    assert torch.allclose(edit @ erased, draw(6, 1, seed=2), atol=1e-4) and torch.allclose(edit @ kept, kept, atol=1e-4)


def test_a_revival_answers_like_the_concept_and_rece_lowers_it() -> None:
    weights = [draw(8, 6, seed=seed) for seed in range(3)]
    erased, targets, kept = draw(6, 1, seed=5), torch.zeros(6, 1, dtype=torch.float64), draw(6, 2, seed=6)
    edit = solve_rece(weights, erased, targets, kept, rounds=0, keep=0.1, attack=0.1)
    revived = find_revival(weights, edit, erased, 1e-6)
    for weight in weights:
        assert torch.allclose(weight @ edit @ revived, weight @ erased, atol=2e-2)
    ordinary = find_revival(weights, edit, erased, 0.01)
    stronger = solve_rece(weights, erased, targets, kept, rounds=1, keep=0.1, attack=0.01)
    assert ordinary.norm() < revived.norm() / 2
    assert (stronger @ ordinary).norm() < 0.5 * (edit @ ordinary).norm()


@pytest.mark.parametrize("name", ["storybook", "tiny_sd", "tiny_sdxl"])
def test_the_concept_is_forgotten_and_other_words_are_kept(name: str, request: pytest.FixtureRequest) -> None:
    model: ModelBundle = request.getfixturevalue(name)
    with torch.no_grad():
        erased, targets = gather_concept(model, "star")
        kept = gather_words(model, "star")
        edit = solve_rece([], erased, targets, kept, rounds=0, keep=0.01, attack=0.1)
    assert erased.shape == targets.shape and len(kept) == len(edit)
    changed = (edit @ erased - erased).norm() / (targets - erased).norm()
    assert changed > 0.3 and edit.isfinite().all()
    if name == "storybook":  # sixteen random numbers per word cannot tell fifty words apart
        assert changed > 3 * (edit @ kept - kept).norm() / kept.norm()


def test_weights_come_back_as_the_very_same_tensors(tiny_sd: ModelBundle) -> None:
    layers = [module.to_k for layer, module in list_layers(tiny_sd.unet) if layer.kind == "cross"]
    before = [layer.weight.data_ptr() for layer in layers]
    with pytest.raises(RuntimeError), exchanged(layers, [torch.zeros_like(layer.weight) for layer in layers]):
        assert all(layer.weight.abs().max() == 0 for layer in layers)
        raise RuntimeError
    assert [layer.weight.data_ptr() for layer in layers] == before


def test_a_prompt_without_things_and_a_bad_value_are_told(tiny_sd: ModelBundle) -> None:
    notes: list[str] = []
    run, _ = describe_run(tiny_sd, ",", notes=notes)
    with Rece().open(tiny_sd, run):
        assert len(notes) == 1 and "nothing to erase" in notes[0]
    with pytest.raises(UserError), Rece(strength=2.0).open(tiny_sd, run):
        pass


@pytest.mark.parametrize("concept", ["everything", "All"])
def test_erasing_everything_is_refused_in_one_sentence(tiny_sd: ModelBundle, concept: str) -> None:
    run, _ = describe_run(tiny_sd, "a boat")
    with pytest.raises(UserError, match="name a thing"), Rece(concept=concept).open(tiny_sd, run):
        pass


def test_a_word_that_the_model_never_learned_is_named(tiny_storybook: ModelBundle) -> None:
    notes: list[str] = []
    run, _ = describe_run(tiny_storybook, "a boat", notes=notes)
    with Rece(concept="zebra").open(tiny_storybook, run) as hooks:
        assert type(hooks) is Hooks and notes == [
            "RECE concept erasure changed nothing: the model does not know the word zebra."
        ]
