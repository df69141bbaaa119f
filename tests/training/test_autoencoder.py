"""The linear stage is carried exactly into AutoencoderKL, and the recipe runs and resumes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.autoencoder import (
    LappedEncoder,
    LinearDecoder,
    fold_encoder_,
    init_decoder_,
    make_vae,
    normalise_latents_,
)
from training.data import CropBank, draw_pictures, to_tensor
from training.train_autoencoder import DEFAULTS, AutoencoderObjective, load_start, write_start
from training.trainer import Trainer


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return to_tensor(draw_pictures(0, 12))


def _trained_like(pictures: torch.Tensor) -> LappedEncoder:
    """A lapped encoder whose outer taps are used, as after training."""
    torch.manual_seed(0)
    lapped = LappedEncoder()
    lapped.init_from_pca_(pictures)
    with torch.no_grad():
        lapped.conv.weight.add_(torch.randn_like(lapped.conv.weight) * 0.02)
    return lapped


@torch.no_grad()
def test_folded_encoder_equals_the_linear_one(pictures: torch.Tensor) -> None:
    lapped, vae = _trained_like(pictures), make_vae()
    fold_encoder_(vae, lapped, pictures)
    posterior = vae.encode(pictures[:2]).latent_dist
    error = (posterior.mode() - lapped(pictures[:2])).std() / lapped(pictures[:2]).std()
    # Not exact: the 4x4 px level keeps 32 of 48 features, and the norm's gate is linear to about 0.1 %.
    assert error < 0.05
    assert posterior.std.max() < 1e-5


@torch.no_grad()
def test_decoder_starts_as_the_linear_decoder() -> None:
    torch.manual_seed(0)
    linear, vae = LinearDecoder(), make_vae()
    init_decoder_(vae, linear)
    latents = torch.randn(2, 8, 6, 5)
    expected = linear(latents)
    # The gate's constants are 10 times the signal, so the norm lets about 1 % of nonlinearity through.
    assert (vae.decode(latents).sample - expected).std() < 0.03 * expected.std()


@torch.no_grad()
def test_normalised_latents_decode_to_the_same_picture(pictures: torch.Tensor) -> None:
    lapped, vae = _trained_like(pictures), make_vae()
    before = vae.decode(lapped(pictures[:1])).sample
    normalise_latents_(lapped, vae, pictures)
    latents = lapped(pictures)
    assert torch.allclose(vae.decode(latents[:1]).sample, before, atol=1e-4)
    spread = latents.std((0, 2, 3))
    assert torch.all(spread.diff() < 0.05) and latents.square().mean().sqrt() == pytest.approx(1.0, abs=0.1)


def test_crops_of_a_step_do_not_depend_on_history() -> None:
    banks = [CropBank(4, crop_px=64, renew=0, first_seed=0) for _ in range(2)]
    banks[1].draw(0, 3)
    assert torch.equal(banks[0].draw(5, 3), banks[1].draw(5, 3))


def test_recipe_runs_and_its_start_can_be_loaded(tmp_path: Path) -> None:
    begin = tmp_path / "start.safetensors"
    write_start(begin, num_pictures=6, num_steps=3)
    objective = AutoencoderObjective(begin, bank_size=3, crop_px=64)
    trainer = Trainer(objective, replace(DEFAULTS, run_dir=str(tmp_path), batch_size=2))
    assert all(torch.isfinite(torch.tensor(trainer.train_step()["loss"])) for _ in range(2))
    vae, encoder = load_start(begin)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert vae.config.latent_channels == 8
