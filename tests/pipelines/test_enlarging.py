"""The any-scale enlarger: bicubic before it learns, tiles that change nothing, exact agreement with the upload."""

import math
from collections.abc import Generator

import pytest
import torch

from pipelines import enlarging
from pipelines.backprojection import make_reduction
from pipelines.enlarging import (
    HALF_LEVEL,
    MAX_SHARE,
    PLAIN_SHARE,
    VIEWS,
    count_views,
    drop_trifles,
    enlarge_by_views,
    enlarge_in_tiles,
    make_closer,
    make_exact,
)
from pipelines.images import round_levels
from pipelines.sr_lite import SrLite, SrLiteConfig, enlarge, make_places
from pipelines.tiling import Blend, list_tiles, split_axis

TINY = SrLiteConfig(width=8, num_pairs=1, decoder_width=8)


def make_model(*, is_blank: bool = False) -> SrLite:
    """A network of few channels, with random weights also in its last layer unless it is to be blank."""
    torch.manual_seed(3)
    model = SrLite(TINY).eval()
    if not is_blank:
        torch.nn.init.normal_(model.colour.weight, std=0.05)
    return model


def draw(*shape: int) -> torch.Tensor:
    """A random picture in -1..1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(5)) * 2 - 1


def run(model: SrLite, small: torch.Tensor, size: tuple[int, int], *, is_exact: bool = True) -> torch.Tensor:
    """Enlarge to the end."""
    large = finish(enlarge_in_tiles(model, small, size))
    return finish(make_exact(large, small, make_reduction(size, small.shape[1:]))) if is_exact else large


def finish(stream: Generator[object, None, torch.Tensor]) -> torch.Tensor:
    """Run a stream to its end."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 2.37, 4.0, 8.0])
def test_a_network_that_learned_nothing_is_bicubic(scale: float) -> None:
    small = draw(2, 3, 11, 14)
    size = round(11 * scale), round(14 * scale)
    result = make_model(is_blank=True)(small, size, torch.zeros(2))
    assert result.shape == (2, 3, *size)
    assert torch.equal(result, enlarge(small, size))


def test_tiles_and_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, small, size = make_model(), draw(3, 37, 29), (93, 71)
    whole = model(small[None], size, torch.zeros(1))[0]
    assert (whole - enlarge(small[None], size)[0]).abs().max() > 0.01
    monkeypatch.setattr(enlarging, "TILE_PX", 10)
    monkeypatch.setattr(enlarging, "WINDOW_PX", 13)
    assert (run(model, small, size, is_exact=False) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(74, 58), (93, 71), (37, 60), (37, 29)])
def test_the_result_reduced_again_is_the_upload(size: tuple[int, int]) -> None:
    small = draw(3, 37, 29) * 0.6
    result = run(make_model(), small, size)
    assert result.abs().max() <= 1
    error = (make_reduction(size, (37, 29)).reduce(result) - small).square().mean()
    assert 10 * math.log10(4 / max(float(error), 1e-12)) > 48


@pytest.mark.parametrize("size", [(74, 58), (93, 71), (150, 117)])
def test_the_result_reduced_and_rounded_is_the_file(size: tuple[int, int]) -> None:
    small = round_levels(draw(3, 37, 29) * 0.3)
    gap = small - make_reduction(size, (37, 29)).reduce(run(make_model(), small, size))
    assert gap.abs().max() < HALF_LEVEL + 1e-5
    assert gap.abs().max() > 0


def test_changes_below_the_rounding_are_dropped_and_others_kept() -> None:
    small = draw(3, 20, 20) * 0.5
    plain = enlarge(small[None], (50, 50))[0]
    large = plain + 0.0005 * torch.sign(draw(3, 50, 50))
    large[:, 30:, 30:] = plain[:, 30:, 30:] + 0.1
    result = drop_trifles(large, small)
    assert torch.allclose(result[:, :28], plain[:, :28], atol=1e-6)
    assert torch.allclose(result[:, 32:, 32:], large[:, 32:, 32:], atol=1e-3)


@pytest.mark.parametrize("scale", [2, 3.3, 8])
def test_the_rounding_of_a_smooth_file_is_not_made_more_of(scale: float) -> None:
    side_px = round(24 * scale)
    slope = torch.linspace(-0.3, 0.3, side_px).expand(3, side_px, side_px) + torch.linspace(0, 0.2, side_px)[:, None]
    reduction = make_reduction((side_px, side_px), (24, 24))
    small = round_levels(reduction.reduce(slope))
    plain = enlarge(small[None], (side_px, side_px))[0]
    inside = (..., slice(16, -16), slice(16, -16))
    made, bicubic = (
        float((picture[inside] - slope[inside]).square().mean())
        for picture in (finish(make_exact(plain, small, reduction)), plain)
    )
    assert made < 1.02 * bicubic
    projected = plain + reduction.fill(small - reduction.reduce(plain))
    assert float((projected[inside] - slope[inside]).square().mean()) > 1.1 * bicubic


def test_noise_is_not_agreed_with_and_a_lost_thing_in_part() -> None:
    large, reduction = torch.zeros(3, 40, 40), make_reduction((40, 40), (20, 20))
    noise = 0.01 * torch.sign(draw(3, 20, 20))
    plain = enlarge(noise[None], (40, 40))[0]
    assert torch.equal(finish(make_closer(large, noise, reduction)), PLAIN_SHARE * plain)
    thing = noise.clone()
    thing[:, 12:, 12:] += 0.3
    plain = enlarge(thing[None], (40, 40))[0]
    own = reduction.reduce((finish(make_closer(large, thing, reduction)) - PLAIN_SHARE * plain) / (1 - PLAIN_SHARE))
    assert torch.allclose(own[:, 14:19, 14:19], MAX_SHARE * thing[:, 14:19, 14:19], atol=1e-3)
    assert own[:, :8, :8].abs().max() < 1e-6


@pytest.mark.parametrize("side_px", [1, 2, 9])
def test_a_picture_without_a_gap_stays(side_px: int) -> None:
    small = torch.full((3, side_px, side_px), 0.25)
    large, reduction = torch.full((3, 12, 12), 0.25), make_reduction((12, 12), (side_px, side_px))
    assert torch.allclose(finish(make_closer(large, small, reduction)), large)


@pytest.mark.parametrize(("small", "size"), [((1, 1), (8, 8)), ((1, 5), (3, 15)), ((2, 300), (4, 600))])
def test_thin_pictures_work(small: tuple[int, int], size: tuple[int, int]) -> None:
    assert run(make_model(), draw(3, *small), size).shape == (3, *size)


def test_every_tile_is_reported_and_a_stop_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enlarging, "TILE_PX", 10)
    stream = enlarge_in_tiles(make_model(), draw(3, 20, 20), (40, 40))
    seen = [next(stream)[:2] for _ in range(3)]
    stream.close()
    assert seen == [(1, 4), (2, 4), (3, 4)]


def test_a_flat_picture_stays_flat() -> None:
    flat = torch.full((3, 9, 9), 0.25)
    assert (
        finish(make_exact(enlarge(flat[None], (31, 31))[0], flat, make_reduction((31, 31), (9, 9)))) - 0.25
    ).abs().max() < 1e-5


def test_places_are_where_pixels_lie() -> None:
    places = make_places(8, 4, 2, 3)
    at = places.matrix @ torch.arange(4.0)
    assert torch.allclose(at, torch.tensor([0.75, 1.25, 1.75]))
    assert torch.allclose(make_places(8, 4).phases[2:5], places.phases)


def test_spans_cover_an_axis_once() -> None:
    spans = split_axis(103, 20, 7)
    assert [span.first for span in spans[1:]] == [span.last for span in spans[:-1]]
    assert (spans[0].first, spans[-1].last) == (0, 103)
    assert all(0 <= span.outer_first <= span.first < span.last <= span.outer_last <= 103 for span in spans)


def test_equal_tiles_blend_to_the_same_picture() -> None:
    picture, blend = draw(3, 50, 41), Blend(3, (50, 41))
    for rows, columns in list_tiles((50, 41), 16, 5):
        blend.add(
            picture[:, rows.outer_first : rows.outer_last, columns.outer_first : columns.outer_last], rows, columns
        )
    assert (blend.result() - picture).abs().max() < 1e-5


def test_eight_orientations_differ_and_come_back() -> None:
    picture = draw(3, 5, 7)
    turned = [view.turn(picture) for view in VIEWS]
    assert len({tuple(view.flatten().tolist()) for view in turned}) == 8
    for view, other in zip(VIEWS, turned):
        assert torch.equal(view.turn_back(other), picture)


def test_a_picture_turned_before_is_turned_afterwards() -> None:
    model, small, size = make_model(), draw(3, 9, 14), (23, 31)
    mean = finish(enlarge_by_views(model, small, size))
    alone = finish(enlarge_in_tiles(model, small, size))
    assert (mean - alone).abs().max() > 1e-3
    for view in VIEWS[1:4]:
        sides = (31, 23) if view.is_transposed else size
        turned = finish(enlarge_by_views(model, view.turn(small), sides))
        torch.testing.assert_close(view.turn_back(turned), mean)


def test_large_pictures_are_enlarged_once_and_all_tiles_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [count_views(size) for size in ((512, 512), (700, 700), (1000, 1000), (1024, 2048))] == [8, 4, 2, 1]
    model, small, size = make_model(), draw(3, 9, 14), (20, 30)
    monkeypatch.setattr(enlarging, "TILE_PX", 10)
    seen = [(done, total) for done, total, _ in enlarge_by_views(model, small, size)]
    assert seen == [(index + 1, 16) for index in range(16)]
    monkeypatch.setattr(enlarging, "MAX_VIEWED_MEGAPIXELS", 0)
    assert torch.equal(finish(enlarge_by_views(model, small, size)), finish(enlarge_in_tiles(model, small, size)))
