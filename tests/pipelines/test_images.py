"""Pixels there and back, sizes, contrast numbers, and a preview map that is the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import UserError
from pipelines.images import check_size, decode, encode, fit_preview, measure_contrast, preview, to_images, to_tensor
from pipelines.model import ModelBundle
from pipelines.seeding import draw_noise, make_generators


def test_every_pixel_value_survives_the_way_through_tensors() -> None:
    values = np.arange(256, dtype=np.uint8)
    image = Image.fromarray(np.stack([np.tile(values, (4, 1))] * 3, axis=-1))
    (back,) = to_images(to_tensor([image]))
    assert np.array_equal(np.asarray(back), np.asarray(image))


def test_values_outside_are_cut_off() -> None:
    (image,) = to_images(torch.tensor([-3.0, 3.0]).expand(1, 3, 1, 2))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 255]


def test_grey_and_transparent_pictures_become_three_channels() -> None:
    assert to_tensor([Image.new("L", (8, 8)), Image.new("RGBA", (8, 8))]).shape == (2, 3, 8, 8)


def test_contrast_of_known_pictures() -> None:
    half = np.zeros((8, 8, 3), dtype=np.uint8)
    half[:4] = 255
    clipped, contrast = measure_contrast([Image.fromarray(half)])
    assert clipped == 1.0 and contrast == pytest.approx(0.5, abs=1e-4)
    clipped, contrast = measure_contrast([Image.new("RGB", (8, 8), (128, 128, 128))])
    assert clipped == 0.0 and contrast == pytest.approx(0.0, abs=1e-6)


def test_decoding_does_not_depend_on_the_batch(tiny_model: ModelBundle) -> None:
    latents = draw_noise(make_generators(1, 3), (tiny_model.spec.latent_channels, 8, 8), "cpu")
    with torch.no_grad():
        batch, single = decode(tiny_model, latents), decode(tiny_model, latents[1:2])
        assert encode(tiny_model, to_tensor(batch)).shape == latents.shape
    assert np.array_equal(np.asarray(batch[1]), np.asarray(single[0]))


def test_own_size_needs_no_note_and_a_large_one_is_refused(tiny_sd: ModelBundle) -> None:
    assert check_size(tiny_sd, None, None) == (64, 64, [])
    assert check_size(tiny_sd, 100, 64)[:2] == (96, 64)
    with pytest.raises(UserError, match="Height 2000 is too large for sd15"):
        check_size(tiny_sd, None, 2000)


def test_fitting_is_repeatable_and_leaves_global_randomness_alone(tiny_sd: ModelBundle) -> None:
    before = torch.get_rng_state()
    first, second = (fit_preview(tiny_sd.vae, tiny_sd.spec.latent_scale, 8) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[0], tiny_sd.preview_weight)
    assert torch.equal(before, torch.get_rng_state())
    assert preview(tiny_sd, torch.zeros(2, 4, 8, 8)).size == (32, 32)


def test_noise_depends_on_seed_and_index_only() -> None:
    batch = draw_noise(make_generators(5, 3), (4, 2, 2), "cpu")
    single = draw_noise(make_generators(7, 1), (4, 2, 2), "cpu")
    assert torch.equal(batch[2], single[0]) and not torch.equal(batch[0], batch[1])
    assert make_generators(2**32 - 1, 2)[1].initial_seed() == 2**32
