"""A large network that turns an object, in place of our own: checkpoints of the Zero-1-to-3 kind, for a GPU.

It is told one picture and how far the camera moves, and draws one view; our eight views are a batch of it. Files are
those of the diffusers form: `unet`, `vae`, `image_encoder`, `clip_camera_projection` and `scheduler`, as safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPVisionModelWithProjection

from pipelines.errors import BackendUnavailable
from pipelines.turntable import VIEW_PX
from pipelines.turntable_camera import FRONT, ZIGZAG

# Zero-1-to-3 draws in more steps than our own chain has: this many for each of the view steps of a request.
STEPS_PER_STEP = 8
GUIDANCE = 3.0
# What CLIP was trained with.
_CLIP_MEAN, _CLIP_STD = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)
# A drawn view has no mask: what is this much darker than white paper, 0..1, is object for sure.
_INK = 0.08


class ZeroTeacher:
    """Draw and correct views by a Zero-1-to-3 network; the same calls as `Turntable`, so that either can teach.

    Shapes:  views (NUM_VIEWS, CHANNELS, VIEW_PX, VIEW_PX), picture (CHANNELS, VIEW_PX, VIEW_PX), in -1..1.
    Source:  Liu et al. 2023, arXiv 2303.11328; compared with threestudio zero123_guidance.py and dreamgaussian
             guidance/zero123_utils.py: the camera's move is (polar, sin azimuth, cos azimuth, radius), radians.
    Differs: its camera has perspective, ours has none; its views come without masks, so that white parts are lost.
    """

    def __init__(self, parts: dict[str, Any], projection: nn.Linear, scheduler: DDIMScheduler) -> None:
        self.vae, self.unet, self.image_encoder = parts["vae"], parts["unet"], parts["image_encoder"]
        self.projection, self.scheduler = projection, scheduler
        self.device = next(self.unet.parameters()).device
        self.dtype = next(self.unet.parameters()).dtype

    @torch.no_grad()
    def turn(
        self, guess: torch.Tensor, picture: torch.Tensor, *, seed: int = 0, num_steps: int = 4
    ) -> Generator[torch.Tensor, None, torch.Tensor]:
        """Draw the eight views; the inflated body's `guess` is not needed. Returns: as `turn_object`."""
        told = self._tell(picture)
        self.scheduler.set_timesteps(num_steps * STEPS_PER_STEP)
        cells = self._cells
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn((len(ZIGZAG), 4, cells, cells), generator=generator).to(self.device, self.dtype)
        views = guess
        for index, step in enumerate(self.scheduler.timesteps):
            noise = self._predict(latents, step, told)
            moved = self.scheduler.step(noise, step, latents)
            latents = moved.prev_sample
            if (index + 1) % STEPS_PER_STEP == 0:
                views = self._decode(moved.pred_original_sample)
                yield views
        return views

    @torch.no_grad()
    def correct(
        self, views: torch.Tensor, guess: torch.Tensor, picture: torch.Tensor, *, root: float, seed: int
    ) -> torch.Tensor:
        """Noise views, and say what they look like clean; root 0..1 is how much of the noise range is used."""
        last = self.scheduler.config.num_train_timesteps - 1
        step = torch.tensor(round(root * last), device=self.device)
        latents = self._encode(views[:, :3])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
        noisy = self.scheduler.add_noise(latents, noise, step.expand(len(latents)))
        guessed = self._predict(noisy, step, self._tell(picture))
        share = self.scheduler.alphas_cumprod[int(step)].to(latents)
        return self._decode((noisy - (1 - share).sqrt() * guessed) / share.sqrt())

    @property
    def _cells(self) -> int:
        return int(self.unet.config.sample_size)

    def _encode(self, rgb: torch.Tensor) -> torch.Tensor:
        """Bring pictures (b, 3, H, W) in -1..1 into latents."""
        size = self._cells * 2 ** (len(self.vae.config.block_out_channels) - 1)
        large = F.interpolate(rgb.to(self.device, self.dtype), size=(size, size), mode="bilinear")
        return self.vae.encode(large).latent_dist.mode() * self.vae.config.scaling_factor

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Bring latents into views with a mask of what is not white."""
        large = self.vae.decode(latents / self.vae.config.scaling_factor).sample.float().clamp(-1, 1).cpu()
        rgb = F.interpolate(large, size=(VIEW_PX, VIEW_PX), mode="area")
        ink = (1 - rgb.amin(1, keepdim=True)) / 2
        return torch.cat([rgb, (ink / _INK).clamp(0, 1) * 2 - 1], 1)

    def _tell(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the network is told: tokens (8, 1, width) of picture and camera, and the picture's latents."""
        rgb = picture[None, :3]
        side = self.image_encoder.config.image_size
        seen = F.interpolate((rgb + 1) / 2, size=(side, side), mode="bilinear")
        mean, std = (torch.tensor(part)[None, :, None, None] for part in (_CLIP_MEAN, _CLIP_STD))
        normal = ((seen - mean) / std).to(self.device, self.dtype)
        embedding = self.image_encoder(normal).image_embeds.expand(len(ZIGZAG), -1)
        moves = torch.tensor([make_move(*angle) for angle in ZIGZAG]).to(self.device, self.dtype)
        tokens = self.projection(torch.cat([embedding, moves], 1))[:, None]
        # The latents of the picture are given unscaled, as in training.
        latents = self._encode(rgb) / self.vae.config.scaling_factor
        return tokens, latents.expand(len(ZIGZAG), -1, -1, -1)

    def _predict(
        self, latents: torch.Tensor, step: torch.Tensor, told: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Predict the noise, guided away from what it is without picture and camera."""
        both = [torch.cat([torch.zeros_like(part), part]) for part in told]
        into = torch.cat([torch.cat([latents] * 2), both[1]], 1)
        free, led = self.unet(into, step, encoder_hidden_states=both[0]).sample.chunk(2)
        return free + GUIDANCE * (led - free)


def make_move(azimuth_deg: float, elevation_deg: float) -> tuple[float, float, float, float]:
    """Return how the camera moves from the front to a view: polar angle down, sine and cosine of azimuth, radius."""
    azimuth, polar = (torch.deg2rad(torch.tensor(v)) for v in (azimuth_deg - FRONT[0], FRONT[1] - elevation_deg))
    return float(polar), float(azimuth.sin()), float(azimuth.cos()), 0.0


def load_zero_teacher(folder: Path, *, device: str, dtype: torch.dtype) -> ZeroTeacher:
    """Load a teacher from a local folder.

    Raises: BackendUnavailable if a file is missing or does not fit.
    """
    try:
        options: dict[str, Any] = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
        kinds: dict[str, Any] = {
            "vae": AutoencoderKL,
            "unet": UNet2DConditionModel,
            "image_encoder": CLIPVisionModelWithProjection,
        }
        parts = {name: kind.from_pretrained(folder / name, **options) for name, kind in kinds.items()}
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        config = json.loads((folder / "clip_camera_projection" / "config.json").read_text("utf-8"))
        width, extra = int(config["embedding_dim"]), int(config["additional_embeddings"])
        projection = nn.Linear(width + extra, width)
        weights = load_file(folder / "clip_camera_projection" / "diffusion_pytorch_model.safetensors")
        projection.load_state_dict({name.removeprefix("proj."): value for name, value in weights.items()})
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(
            f"The folder {folder.name} holds no Zero-1-to-3 teacher ({error}); "
            "give the folder of one in diffusers' form."
        ) from error
    placed = {name: part.to(device).eval().requires_grad_(False) for name, part in parts.items()}
    return ZeroTeacher(placed, projection.to(device, dtype).requires_grad_(False), scheduler)
