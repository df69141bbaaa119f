"""Dilated views: cut and put back, blurred as the formula says, cells exchanged within their place and back."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.dilation import blur, draw_exchange, exchange, join_dilated, split_dilated
from pipelines.seeding import fork_generators, make_generators


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("size", "factor"), [((8, 12), 2), ((9, 12), 3), ((7, 10), 2), ((8, 10), 3), ((4, 4), 1)])
def test_views_hold_every_cell_once_and_go_back(size: tuple[int, int], factor: int) -> None:
    latents = draw(2, 3, *size)
    views = split_dilated(latents, factor)
    assert views.shape == (factor**2, 2, 3, *(math.ceil(side / factor) for side in size))
    for y in range(size[0]):
        for x in range(size[1]):
            view = views[(y % factor) * factor + x % factor]
            assert torch.equal(view[:, :, y // factor, x // factor], latents[:, :, y, x])
    assert torch.equal(join_dilated(views, size), latents)


def test_blurring_follows_the_formula_and_keeps_the_contrast() -> None:
    latents, sigma, radius = draw(2, 2, 5, 6), 0.8, 1
    expected = torch.zeros_like(latents)
    for y in range(5):
        for x in range(6):
            total = 0.0
            for down in range(-radius, radius + 1):
                for across in range(-radius, radius + 1):
                    weight = math.exp(-(down**2 + across**2) / (2 * sigma**2))
                    total += weight
                    expected[:, :, y, x] += weight * latents[:, :, min(max(y + down, 0), 4), min(max(x + across, 0), 5)]
            expected[:, :, y, x] /= total
    for row in range(2):
        part = expected[row]
        part.copy_((part - part.mean()) / part.std() * latents[row].std() + latents[row].mean())
    assert torch.allclose(blur(latents, radius, sigma), expected, atol=1e-5)


def test_views_exchange_cells_at_the_same_place_and_give_them_back() -> None:
    views = draw(4, 2, 3, 5, 6)
    order = draw_exchange(make_generators(7, 2), (4, 5, 6), "cpu")
    mixed = exchange(views, order)
    assert torch.equal(mixed.sort(0).values, views.sort(0).values) and not torch.equal(mixed, views)
    assert torch.equal(exchange(mixed, order.argsort(0)), views)
    assert torch.equal(order[:, 1:], draw_exchange(make_generators(8, 1), (4, 5, 6), "cpu"))


def test_forked_generators_shift_nobody() -> None:
    run = make_generators(11, 2)
    first = [torch.rand(3, generator=one) for one in run]
    forked = [torch.rand(3, generator=one) for one in fork_generators(run)]
    other = [torch.rand(3, generator=one) for one in fork_generators(run, 5)]
    assert all(torch.equal(a, b) for a, b in zip(first, forked)) and not torch.equal(first[0], other[0])
    again = make_generators(11, 1)[0]
    torch.rand(3, generator=again)
    assert torch.equal(torch.rand(3, generator=run[0]), torch.rand(3, generator=again))
    assert fork_generators((torch.Generator().manual_seed(2**63 - 1),), 2)
