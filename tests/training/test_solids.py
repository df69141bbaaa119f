"""Solid objects of the world: same record same body, framed by their front, seen exactly from every side."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.turntable_camera import FRONT_FRAC, ZIGZAG, make_axes
from training.world.scene import FIRST_HELD_OUT_SEED, KINDS, Identity, is_held_out_pair
from training.world.solid_shapes import Piece, ball, block, cushion, ellipsoid, join, ring, rod, slab
from training.world.solid_views import _make_rays, _walk, frame, render_views
from training.world.solids import Body, Solid, make_body, sample_solid


def make_simple(*pieces: Piece) -> Body:
    """Make an unmarked body whose pieces are red, green, blue in turn."""
    return Body(pieces, np.eye(3, dtype=np.float32)[: len(pieces)], Identity())


def test_a_seed_always_gives_the_same_solid_and_training_keeps_the_hold_out_rule() -> None:
    solids = [sample_solid(seed) for seed in range(400)]
    assert solids[:20] == [sample_solid(seed) for seed in range(20)]
    assert not any(is_held_out_pair(solid.kind, solid.colour) for solid in solids)
    assert {solid.kind for solid in solids} == set(KINDS)
    assert any(
        is_held_out_pair(solid.kind, solid.colour) for solid in (sample_solid(s, split="all") for s in range(60))
    )


@pytest.mark.parametrize("seed", [FIRST_HELD_OUT_SEED, -1])
def test_training_refuses_a_held_out_seed(seed: int) -> None:
    with pytest.raises(ValueError, match="held out"):
        sample_solid(seed)
    with pytest.raises(ValueError, match="split"):
        sample_solid(1, split="test")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_fits_its_frame_from_every_side(kind: str) -> None:
    identity = (Identity(-1, 0), Identity(1, 1, "dots"))[KINDS.index(kind) % 2]
    views = render_views(frame(make_body(Solid(kind, "red", identity))), [(0.0, 0.0), *ZIGZAG[1:]], 32, smooth=1)
    rows, columns = np.nonzero(views.mask[0].any(1))[0], np.nonzero(views.mask[0].any(0))[0]
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(32 * FRONT_FRAC, abs=1)
    assert rows.mean() == pytest.approx(15.5, abs=1) and columns.mean() == pytest.approx(15.5, abs=1)
    border = [views.mask[:, 0], views.mask[:, -1], views.mask[:, :, 0], views.mask[:, :, -1]]
    assert not any(edge.any() for edge in border) and views.mask.any((1, 2)).all()


def test_a_ball_is_seen_exactly() -> None:
    views = render_views(make_simple(Piece(ball((0, 0, 0), 0.7))), [(0.0, 0.0), (70.0, 20.0)], 64, smooth=1)
    steps = (np.arange(64) + 0.5) / 32 - 1
    height = 0.49 - steps[None] ** 2 - steps[:, None] ** 2
    inside = height > 0.02
    for index in range(2):
        assert np.array_equal(views.mask[index][np.abs(height) > 0.02] > 0, inside[np.abs(height) > 0.02])
        assert np.abs(views.depth[index][inside] - np.sqrt(height[inside])).max() < 0.01
    assert np.isnan(views.depth[0][0, 0])
    assert np.abs(views.normal[0][inside][:, 2] - np.sqrt(height[inside]) / 0.7).max() < 0.02


def test_angles_show_the_side_that_they_say() -> None:
    body = make_simple(
        Piece(ball((0, 0, 0.3), 0.2)), Piece(ball((0.5, 0, 0), 0.2)), Piece(block((0, 0.5, 0), (0.1, 0.1, 0.1)))
    )
    views = render_views(body, [(0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (0.0, 90.0)], 32, smooth=1)
    middles = [view[16, 16] for view in views.rgb]
    assert [int(np.argmax(middle)) for middle in middles] == [0, 1, 0, 2]
    assert views.mask[0][16, 24] == 1 and views.mask[2][16, 24] == 0  # green is on the right, from behind on the left
    right, up, towards = make_axes(35.0, 20.0)
    assert np.allclose(np.cross(right, up), towards, atol=1e-6)


def test_all_views_show_the_same_surface() -> None:
    body = frame(make_body(sample_solid(12)))
    views = render_views(body, ZIGZAG, 32, smooth=1)
    steps = (np.arange(32, dtype=np.float32) + 0.5) / 16 - 1
    for angle, depth in zip(ZIGZAG, views.depth):
        right, up, towards = make_axes(*angle)
        rows, columns = np.nonzero(np.isfinite(depth))
        points = (
            steps[columns, None] * right - steps[rows, None] * up + depth[rows, columns][:, None] * towards
        ).astype(np.float32)
        assert np.abs(body.measure(points.T)).max() < 5e-3


def test_beams_lose_nothing() -> None:
    body = frame(make_body(Solid("umbrella", "red", turn_deg=10.0)))
    origins, towards = _make_rays([(30.0, 10.0)], 64)
    rays = np.repeat(-towards, 64 * 64, axis=0)
    _, is_hit = _walk(body, origins.reshape(-1, 3), rays, np.zeros(64 * 64, np.float32))
    assert np.array_equal(is_hit.reshape(64, 64), render_views(body, [(30.0, 10.0)], 64, smooth=1).mask[0] > 0)
    with pytest.raises(ValueError, match="multiple"):
        render_views(body, [(0.0, 0.0)], 30, smooth=1)


@pytest.mark.parametrize(
    "shape",
    [
        ellipsoid((0.1, 0, 0), (0.6, 0.4, 0.3)),
        block((0, 0.1, 0), (0.5, 0.3, 0.2), 0.1),
        rod((-0.4, 0, 0), (0.4, 0.2, 0), 0.2, 0.1),
        ring((0, 0, 0), 0.5, 0.15, "y"),
        slab([(-0.5, -0.4), (0.6, -0.3), (0, 0.6)], 0.2),
        cushion([(-0.5, -0.4), (0.6, -0.3), (0, 0.6)], 0.2),
        join(ball((0.3, 0, 0), 0.3), ball((-0.3, 0, 0), 0.2)),
    ],
)
def test_a_distance_is_hardly_ever_too_long(shape: object) -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 41, dtype=np.float32)] * 3, indexing="ij")).reshape(3, -1)
    inside = grid[:, shape(*grid) < 0]  # type: ignore[operator]
    outside = grid[:, ::37][:, shape(*grid[:, ::37]) > 0.1]  # type: ignore[operator]
    assert inside.size and outside.size
    true = np.sqrt(((outside[:, :, None] - inside[:, None]) ** 2).sum(0)).min(1)
    assert (shape(*outside) <= true * 1.12).all()  # type: ignore[operator]


def test_markings_change_colours_and_nothing_else() -> None:
    plain = Solid("cat", "red", Identity())
    marked = replace(plain, identity=Identity(marking="stripes"))
    a, b = (render_views(frame(make_body(solid)), [(0.0, 0.0)], 32) for solid in (plain, marked))
    assert np.array_equal(a.mask, b.mask) and np.array_equal(a.normal, b.normal)
    share = (np.abs(a.rgb - b.rgb).max(-1) > 0.05).mean() / (a.mask > 0.5).mean()
    assert 0.1 < share < 0.6
