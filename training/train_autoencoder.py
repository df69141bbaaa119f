"""Recipe: the autoencoder of `storybook` (linear lapped encoder, AutoencoderKL decoder).

    python -m training.train_autoencoder --minutes 25 --resume

First a linear encoder and decoder are fitted (three minutes); the encoder is final from then on, so the denoiser
can be trained at the same time as the decoder. The decoder also sees latents with a little noise, because the
denoiser's latents are never exact.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from training.autoencoder import LappedEncoder, LinearDecoder, init_decoder_, make_vae, normalise_latents_
from training.data import CropBank, draw_pictures, to_tensor
from training.optimizers import MuonAdamW
from training.trainer import TrainerConfig, make_parser, start

DEFAULTS = TrainerConfig(
    run_dir="training_runs/autoencoder",
    total_steps=2000,
    batch_size=8,
    muon_lr=1e-3,
    adamw_lr=1e-3,
    warmup_steps=100,
    decay_frac=0.7,
    ema_decay=0.998,
    weight_decay=0.0,
)
LAPPED_FILE = "lapped_encoder.safetensors"
CHECK_SEED = 900_000_000  # training split, used only to look at progress


class AutoencoderObjective:
    """Reconstruct crops: L1 on pixels and on their differences.

    Shapes: batch (b, 3, 128, 128) in -1..1.
    """

    adamw_names = ("conv_in", "conv_out")

    def __init__(self, start: Path, *, bank_size: int = 3000, crop_px: int = 128, noise_frac: float = 0.1) -> None:
        vae, self._encoder = load_start(start)
        self._check = to_tensor(draw_pictures(CHECK_SEED, 48))
        self.modules = nn.ModuleDict({"post_quant": vae.post_quant_conv, "decoder": vae.decoder})
        vae.to(memory_format=torch.channels_last)  # a third faster than contiguous on a CPU
        self._bank = CropBank(bank_size, crop_px=crop_px, renew=1, first_seed=500_000_000)
        self._noise_frac = noise_frac

    def make_batch(self, step: int, batch_size: int) -> torch.Tensor:
        """Return the crops of this step."""
        return self._bank.draw(step, batch_size)

    def compute_loss(self, batch: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return L1 + half the L1 of horizontal and vertical differences."""
        device = next(self.modules.parameters()).device
        with torch.no_grad():
            latents = self._encoder(batch).to(device)
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        level = torch.rand((len(latents), 1, 1, 1), generator=generator).to(latents) * self._noise_frac
        spread = latents.std((0, 2, 3), keepdim=True)
        decoded = decode(self.modules, latents + noise * level * spread).float()
        error = decoded - batch.to(decoded)
        loss = error.abs().mean()
        loss = loss + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())
        psnr = 10 * torch.log10(4 / error.detach().square().mean((1, 2, 3)).clamp_min(1e-9)).mean()
        return loss, {"loss": loss.item(), "psnr": psnr.item()}

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Write originals above reconstructions; return the mean PSNR over 48 whole pictures."""
        decoded = torch.cat([decode(modules, self._encoder(part)) for part in self._check.split(8)])
        psnr = 10 * torch.log10(4 / (decoded.clamp(-1, 1) - self._check).square().mean((1, 2, 3)))
        rows = [torch.cat(list(pictures[:8]), -1) for pictures in (self._check, decoded)]
        sheet = (torch.cat(rows, -2).clamp(-1, 1) + 1) * 127.5
        Image.fromarray(sheet.byte().movedim(0, -1).numpy().astype(np.uint8)).save(path)
        return {"whole_psnr": psnr.mean().item()}


def decode(modules: nn.ModuleDict, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents (b, 8, h, w) to pictures (b, 3, 8h, 8w), about -1..1."""
    return modules["decoder"](modules["post_quant"](latents))


def train_linear(bank: CropBank, num_steps: int) -> tuple[LappedEncoder, LinearDecoder]:
    """Fit the linear encoder and decoder that the real training starts from, by mean squared error."""
    torch.manual_seed(0)
    encoder, decoder = LappedEncoder(), LinearDecoder()
    encoder.init_from_pca_(bank.draw(0, 400))
    both = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    optimizer = MuonAdamW(
        both.named_parameters(),
        muon_lr=3e-3,
        adamw_lr=3e-3,
        weight_decay=0.0,
        adamw_names=("encoder", "conv_in", "conv_out"),
    )
    for step in range(num_steps):
        crops = bank.draw(step, 16)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = decoder(encoder(crops))
        (decoded.float() - crops).square().mean().backward()
        remaining = (num_steps - step) / (0.6 * num_steps)
        optimizer.step_(min(1.0, (step + 1) / 30, max(0.02, remaining)))
    return encoder, decoder


def write_start(path: Path, *, num_pictures: int = 600, num_steps: int = 2500) -> None:
    """Fit the linear stage, put the latents in their final scale, and save encoder and silent decoder."""
    encoder, linear = train_linear(CropBank(num_pictures, crop_px=64, renew=0, first_seed=600_000_000), num_steps)
    vae = make_vae()
    init_decoder_(vae, linear)
    normalise_latents_(encoder, vae, to_tensor(draw_pictures(700_000_000, min(num_pictures, 200))))
    parts = nn.ModuleDict({"encoder": encoder, "vae": vae})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in parts.state_dict().items()}, path)


def write_start_from(folder: Path, path: Path) -> None:
    """Make the start of a run from shipped weights: their decoder, and the lapped encoder saved beside them.

    Raises: FileNotFoundError if the folder has no lapped encoder.
    """
    vae, encoder = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32), LappedEncoder()
    encoder.load_state_dict(load_file(folder / LAPPED_FILE))
    parts = nn.ModuleDict({"encoder": encoder, "vae": vae})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in parts.state_dict().items()}, path)


def load_start(path: Path) -> tuple[AutoencoderKL, LappedEncoder]:
    """Load what `write_start` wrote.

    Raises: FileNotFoundError if the linear stage has not been run.
    """
    vae, encoder = make_vae(), LappedEncoder()
    nn.ModuleDict({"encoder": encoder, "vae": vae}).load_state_dict(load_file(path))
    return vae, encoder.requires_grad_(False)


def main() -> None:
    """Train from the command line."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument("--start-from", type=Path, help="a shipped model to go on from instead of a fresh start")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    begin = Path(arguments.run_dir) / "start.safetensors"
    if not begin.exists():
        if arguments.start_from is None:
            write_start(begin)
        else:
            write_start_from(arguments.start_from, begin)
    start(AutoencoderObjective(begin), arguments)


if __name__ == "__main__":
    main()
