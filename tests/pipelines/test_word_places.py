"""Where words are being drawn: all calls of a step in order, other things keep what is theirs, names in prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipelines.cfg_batch import run_halves, run_three
from pipelines.model import ModelBundle
from pipelines.personalization import find_names
from pipelines.text_side import encode_prompt
from pipelines.word_places import RIVALRY, WordPlaces, average_places, yield_to


def test_places_are_stretched_and_cut() -> None:
    maps = torch.tensor([[0.1, 0.15], [0.3, 0.5]])[None, None]
    assert average_places([maps])[0, 0].flatten().tolist() == pytest.approx([0, 0, 0.5, 1])  # type: ignore[index]
    assert average_places([]) is None


def test_a_place_yields_to_the_stronger() -> None:
    own, others = torch.tensor([1.0, 0.4, 0.5]), torch.tensor([0.0, 1.0, 0.5])
    assert yield_to(own, others).tolist() == pytest.approx([1.0, 0.0, 0.25])
    assert yield_to(own, own - RIVALRY).tolist() == pytest.approx(own.tolist())


@torch.no_grad()
def test_calls_of_a_step_are_put_together_and_thirds_are_told_from_halves(tiny_sd: ModelBundle) -> None:
    text = encode_prompt(tiny_sd, "a red boat and a blue car", size_px=(64, 64))
    latents = torch.randn(3, tiny_sd.spec.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))

    def watch(*parts: slice, num_parts: int = 2, rivals: tuple[tuple[int, ...], ...] = ()) -> torch.Tensor:
        places = WordPlaces((2, 3), (8, 8), rivals)
        places.num_parts = num_parts
        with places.watch(tiny_sd):
            for part in parts:
                if num_parts == 3:
                    other = replace(text, hidden_cond=text.hidden_uncond)
                    run_three(tiny_sd, latents[part], 500, (text, other), part)
                else:
                    run_halves(tiny_sd, latents[part], 500, text)
            places.is_watching = False
            run_halves(tiny_sd, latents, 900, text)
        found = places.take()
        assert found is not None and places.take() is None, "a step begins anew"
        return found

    together = watch(slice(0, 3))
    assert together.shape == (3, 1, 8, 8) and float(together.amax()) == pytest.approx(1)
    assert torch.allclose(watch(slice(0, 2), slice(2, 3)), together, atol=1e-5)
    assert torch.allclose(watch(slice(0, 3), num_parts=3), together, atol=1e-4)
    each = ((6, 7), (), (6, 7))
    rivalled = watch(slice(0, 2), slice(2, 3), rivals=each)
    assert torch.allclose(rivalled, watch(slice(0, 3), rivals=each), atol=1e-5)
    assert torch.allclose(rivalled[1], together[1], atol=1e-5) and not torch.allclose(rivalled[0], together[0])
    assert torch.equal(watch(slice(0, 3), rivals=((6, 7),))[2], watch(slice(0, 3), rivals=each)[2])


def test_names_are_found_in_prompts(tiny_storybook: ModelBundle) -> None:
    model = tiny_storybook
    words, rivals = find_names(model, "a red boat and a blue car on the sea", "red boat")
    assert words == (2, 3) and rivals == ((5, 6, 7),)
    assert find_names(model, "a red boat on the sea", "red boat") == ((2, 3), ((),))
    assert find_names(model, "a blue car", "red boat") == ((), ()) == find_names(model, "a blue car", " ")
