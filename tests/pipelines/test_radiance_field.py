"""The radiance field: rays against a slow sum, a fit that finds a known shape, a surface of the right size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.field_fit import FieldFit, FieldSettings, fit_field, measure_variation
from pipelines.mesh import find_grid, is_watertight, measure_volume
from pipelines.radiance_field import (
    FIRST_ALPHA,
    REACH,
    Field,
    choose_level,
    draw_field,
    find_inside,
    keep_largest,
    make_field,
    shoot,
    to_mesh,
)
from pipelines.turntable_camera import ZIGZAG

SMALL = FieldSettings(num_voxels=24, num_samples=32, num_rays=512, num_steps=25)


def make_disc(size_px: int = 24, radius: float = 0.6) -> torch.Tensor:
    """Make the mask of a ball, which is the same disc from everywhere."""
    steps = find_grid(size_px)
    return torch.from_numpy((steps[None] ** 2 + steps[:, None] ** 2 < radius**2).astype(np.float32))


def make_random(num_voxels: int = 6) -> Field:
    """Make a field of random numbers."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_voxels,) * 3
    return Field(2 * torch.randn(1, 1, *shape, generator=generator), torch.randn(1, 3, *shape, generator=generator))


def test_a_ray_agrees_with_the_slow_sum() -> None:
    field, num_samples = make_random(), 12
    rgb, opacity = shoot(
        field, torch.tensor([[0.1, -0.2, 0.0]]), torch.tensor([[0.0, 0.0, -1.0]]), num_samples=num_samples, offset=0.5
    )
    bias, step, left = np.log(1 / (1 - FIRST_ALPHA) - 1), 2 * REACH / num_samples, 1.0
    total = np.zeros(3)
    for index in range(num_samples):
        along = (index + 0.5) * step - REACH
        point = torch.tensor([[[[[0.1, -0.2, -along]]]]])
        if abs(along) > 1:
            continue
        density, *colour = (
            float(torch.nn.functional.grid_sample(grid, point, align_corners=False, padding_mode="border").flatten()[c])
            for grid, c in ((field.density, 0), (field.colour, 0), (field.colour, 1), (field.colour, 2))
        )
        # The outermost half voxel fades to the padding of the density grid.
        fade = min(1.0, (1 - abs(along)) * 3 + 0.5)
        alpha = 1 - (1 + np.exp(density * fade + bias)) ** -(step * 3)
        total += left * alpha / (1 + np.exp(-np.array(colour)))
        left *= 1 - alpha
    assert rgb[0].tolist() == pytest.approx((total + left).tolist(), abs=1e-4)
    assert float(opacity) == pytest.approx(1 - left, abs=1e-4)


def test_what_outlines_share_is_where_a_field_starts() -> None:
    field = make_field(make_disc()[None].expand(8, -1, -1), ZIGZAG, 24)
    x, y, z = np.meshgrid(*[find_grid(24)] * 3, indexing="ij")
    radius = torch.from_numpy(np.sqrt(x * x + y * y + z * z))
    raw = field.density[0, 0]
    assert (raw[radius < 0.5] > 1.5).all() and (raw[radius > 0.85] < -5).all() and (field.colour == 0).all()
    pictures = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None].expand(8, -1, 24, 24)
    coloured = make_field(make_disc()[None].expand(8, -1, -1), ZIGZAG, 24, pictures=pictures)
    assert torch.sigmoid(coloured.colour[0, :, 12, 12, 12]).tolist() == pytest.approx([0.2, 0.5, 0.9], abs=1e-4)


def test_a_field_is_seen_from_where_the_angle_says() -> None:
    field = Field(torch.full((1, 1, 16, 16, 16), -9.0), torch.full((1, 3, 16, 16, 16), 6.0))
    field.density[0, 0, 6:10, 11:13, 12:15] = 9.0  # right of the middle (x), above it (y)
    field.colour[0, 1:, :, :, :] = -6.0
    pictures, opacity = draw_field(field, [(0.0, 0.0), (90.0, 0.0), (180.0, 0.0)], 16)
    for view, (row, column) in zip(opacity, [(3, 13), (3, 8), (3, 2)]):
        assert view[row, column] > 0.9 and view.argmax() // 16 in (3, 4)
    assert pictures[0, :, 3, 13].tolist() == pytest.approx([1, 0, 0], abs=0.1)
    assert pictures[0, :, 12, 3].tolist() == pytest.approx([1, 1, 1], abs=0.02)


def test_a_fit_shrinks_a_start_that_is_too_large_and_keeps_its_colour() -> None:
    masks = make_disc()[None].expand(8, -1, -1)
    colour = torch.tensor([0.8, 0.3, 0.1])[None, :, None, None]
    pictures = colour * masks[:, None] + 1 - masks[:, None]
    large = make_disc(radius=0.75)[None].expand(8, -1, -1)
    field = make_field(large, ZIGZAG, SMALL.num_voxels, pictures=colour.expand(8, -1, 24, 24))
    before = field.copy()
    for fitted in fit_field(field, pictures, masks, ZIGZAG, replace(SMALL, num_steps=60, learning_rate=0.3)):
        last = fitted
    drawn = [draw_field(part, [(20.0, 10.0)], 24)[0] for part in (field, last)]
    errors = [float((view[0] - pictures[0]).square().mean()) for view in drawn]
    assert errors[1] < 0.35 * errors[0]
    mesh = to_mesh(last)
    assert is_watertight(mesh) and measure_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.3)
    assert mesh.colours.mean(0) == pytest.approx([0.8, 0.3, 0.1], abs=0.12)
    # What was given stays as it was.
    assert torch.equal(field.colour, before.colour) and torch.equal(field.density, before.density)


def test_the_same_seed_fits_the_same_field() -> None:
    masks = make_disc()[None].expand(8, -1, -1)
    fits = []
    for _ in range(2):
        fit = FieldFit(make_field(masks, ZIGZAG, 24), ZIGZAG, SMALL)
        fit.aim(masks[:, None].expand(-1, 3, -1, -1), masks)
        losses = [fit.step_(1.0) for _ in range(3)]
        fits.append((losses, fit.field.density))
    assert fits[0][0] == fits[1][0] and torch.equal(fits[0][1], fits[1][1])


def test_variation_is_none_for_a_flat_field() -> None:
    flat = Field(torch.ones(1, 1, 4, 4, 4), torch.ones(1, 3, 4, 4, 4))
    assert float(measure_variation(flat, SMALL)) == 0 < float(measure_variation(make_random(), SMALL))


def test_specks_are_dropped_and_an_empty_field_has_no_surface() -> None:
    solid = np.zeros((16, 16, 16), np.float32)
    solid[4:12, 4:12, 4:12], solid[14, 14, 14] = 1, 1
    kept = keep_largest(solid, 0.5)
    assert kept[14, 14, 14] == 0 and kept[4:12, 4:12, 4:12].min() == 1
    with pytest.raises(ValueError, match="empty"):
        to_mesh(Field(torch.full((1, 1, 8, 8, 8), -9.0), torch.zeros(1, 3, 8, 8, 8)))


def make_cube(inside: float) -> Field:
    """Make a field that is a cube with solid walls and another density inside."""
    field = Field(torch.full((1, 1, 24, 24, 24), -9.0), torch.zeros(1, 3, 24, 24, 24))
    field.density[0, 0, 4:20, 4:20, 4:20] = 9.0
    field.density[0, 0, 7:17, 7:17, 7:17] = inside
    return field


def test_a_model_has_no_walls_that_nobody_sees() -> None:
    hollow = make_cube(-9.0)
    hollow.density[0, 0, 4:7, 11, 11] = -9.0  # a hole as wide as a needle: the inside is not closed off
    mesh, solid = to_mesh(hollow), to_mesh(make_cube(9.0))
    assert is_watertight(mesh) and measure_volume(mesh) == pytest.approx(measure_volume(solid), rel=0.03)
    deep = np.abs(mesh.vertices).max(1) < 0.3
    assert deep.sum() < 0.01 * len(deep)


def test_what_is_seen_from_one_side_is_not_inside() -> None:
    alpha = np.zeros((16, 16, 16))
    alpha[4:12, 4:12, 4:12] = 0.9
    alpha[4:11, 6:10, 6:10] = 0.0  # a bowl, open to one side
    inside = find_inside(alpha)
    assert not inside[4:11, 6:10, 6:10].any() and not inside[0].any() and inside[11 - 1, 5, 5]


def test_the_surface_is_put_where_the_outlines_are() -> None:
    field = Field(torch.full((1, 1, 24, 24, 24), -9.0), torch.zeros(1, 3, 24, 24, 24))
    field.density[0, 0, 4:20, 4:20, 4:20] = 3.2  # thin, opacity 0.2
    field.density[0, 0, 6:18, 6:18, 6:18] = 9.0
    views = {half: draw_field(make_box(half), ZIGZAG, 48)[0] for half in (6, 8)}
    assert choose_level(field, views[8], ZIGZAG) < choose_level(field, views[6], ZIGZAG)


def make_box(half: int) -> Field:
    """Make a solid cube, `half` voxels of 24 to either side."""
    field = Field(torch.full((1, 1, 24, 24, 24), -9.0), torch.zeros(1, 3, 24, 24, 24))
    field.density[0, 0, 12 - half : 12 + half, 12 - half : 12 + half, 12 - half : 12 + half] = 12.0
    return field
