"""The restorer: its first guess, its chain, its tiles; and what gives a picture another one's colours."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch

from pipelines import detailing
from pipelines.colour_fix import fix_colours, take_coarse
from pipelines.detailing import add_detail, count_tiles, guess_clean
from pipelines.residual_shift import KAPPA, make_etas, start_chain, step_back
from pipelines.restorer import TASKS, Restorer, RestorerConfig, make_level, make_task

TINY = RestorerConfig(fine=8, middle=8, coarse=8, num_blocks=1, num_coarse_blocks=1)


def make_model(*, is_blank: bool = False) -> Restorer:
    """A network of few channels, with random weights also in its last layer unless it is to be blank."""
    torch.manual_seed(3)
    model = Restorer(TINY).eval()
    if not is_blank:
        torch.nn.init.normal_(model.out.weight, std=0.2)
    return model


def draw(*shape: int, seed: int = 5) -> torch.Tensor:
    """A random picture in -1..1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def finish(stream: Generator[object, None, torch.Tensor]) -> torch.Tensor:
    """Run a stream to its end."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def test_a_network_that_learned_nothing_trusts_what_is_less_noisy() -> None:
    model, noisy, damaged = make_model(is_blank=True), draw(1, 3, 16, 16), draw(1, 3, 16, 16, seed=6)
    quiet = model(noisy, damaged, torch.tensor([1e-3]), torch.zeros(1), make_task("detail", 1))
    loud = model(noisy, damaged, torch.tensor([5.0]), torch.ones(1), make_task("detail", 1))
    assert (quiet - noisy).abs().max() < 1e-3 and (loud - damaged).abs().max() < 1e-2


def test_the_guess_is_scaled_so_that_its_target_has_unit_size() -> None:
    generator = torch.Generator().manual_seed(0)
    for name, spread in (("prior", 0.5), ("denoise", 0.15)):
        damaged = torch.zeros(1, 3, 200, 200)
        clean = spread * torch.randn(damaged.shape, generator=generator)
        for sigma in (0.05, 0.3, 2.0):
            level = make_level(torch.tensor([sigma]), torch.zeros(1), make_task(name, 1))
            noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
            target = (clean - level.first_guess(noisy, damaged)) / level.out_scale
            assert float(target.std()) == pytest.approx(1.0, abs=0.05)


def test_a_task_is_told_by_name_and_strength() -> None:
    task = make_task("deblur", 2, blur=0.5)
    assert task.index.tolist() == [TASKS.index("deblur")] * 2
    assert task.strengths.tolist() == [[0, 0.5, 0, 0]] * 2 and task.is_told.tolist() == [[0, 1, 1, 1]] * 2
    # As in training, where only the noise is ever left out alone.
    assert make_task("detail", 1, noise=0.25).is_told.tolist() == [[1, 1, 1, 1]]
    assert make_task("detail", 1).is_told.tolist() == [[0, 0, 0, 0]]
    for name, strengths in (("sharpen", {}), ("deblur", {"fog": 1.0})):
        with pytest.raises(ValueError, match="is not one of"):
            make_task(name, 1, **strengths)


def test_the_levels_rise_to_the_damaged_picture() -> None:
    roots = [eta**0.5 for eta in make_etas(4)]
    assert roots == sorted(roots) and roots[0] == pytest.approx(0.2) and roots[-1] == pytest.approx(0.99)
    assert make_etas(1)[0] ** 0.5 == pytest.approx(0.99)


def test_a_perfect_guess_walks_down_the_levels() -> None:
    clean, damaged, etas = draw(3, 40, 40), draw(3, 40, 40, seed=6), make_etas()
    generator = torch.Generator().manual_seed(1)
    noisy = start_chain(damaged, torch.randn(clean.shape, generator=generator), etas)
    for step in reversed(range(1, len(etas))):
        noisy = step_back(noisy, clean, step, etas, noise=torch.randn(clean.shape, generator=generator))
        rest = noisy - (clean + etas[step - 1] * (damaged - clean))
        # The chain starts at the damaged picture itself, a hundredth further than the last level.
        assert float(rest.std()) == pytest.approx(KAPPA * etas[step - 1] ** 0.5, rel=0.1)
    assert torch.equal(step_back(noisy, clean, 0, etas, noise=noisy), clean)


def test_tiles_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    model, noisy, damaged = make_model(), draw(3, 90, 75), draw(3, 90, 75, seed=6)
    task = make_task("detail", 1)
    whole = finish(guess_clean(model, noisy, damaged, (0.2, 0.3), task))
    monkeypatch.setattr(detailing, "TILE_PX", 32)
    monkeypatch.setattr(detailing, "MARGIN_PX", 16)
    assert count_tiles((90, 75)) == 9
    tiled = finish(guess_clean(model, noisy, damaged, (0.2, 0.3), task, tile_px=32))
    assert not torch.equal(whole, tiled)
    assert whole.shape == noisy.shape
    assert (whole - tiled).abs().mean() < 0.05 * (whole - noisy).abs().mean()


def test_detail_follows_its_seed() -> None:
    model, picture = make_model(), draw(3, 24, 16)
    one, again, other = (
        finish(add_detail(model, picture, torch.Generator().manual_seed(seed), noise=0.0, num_steps=4))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_colours_come_from_the_reference_and_detail_from_the_picture() -> None:
    picture, reference = draw(3, 96, 80), torch.full((3, 96, 80), 0.5)
    fixed = fix_colours(picture, reference)
    assert (take_coarse(fixed) - take_coarse(fixed).mean()).abs().max() < 0.3
    assert abs(float(fixed.mean()) - 0.5) < 0.02
    assert torch.allclose(fixed - picture, take_coarse(reference - picture))
    assert torch.equal(fix_colours(picture, picture), picture)
