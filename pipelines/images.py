"""Pictures at the outer edge: PIL <-> tensor in -1..1, latents -> picture, the quick preview, contrast numbers.

The only place that knows that a pixel has 256 values.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipelines.errors import UserError

if TYPE_CHECKING:
    from pipelines.model import ModelBundle

# The preview draws this many pixels per latent cell and side.
PREVIEW_PX_PER_CELL = 4
_FIT_CELLS = 16
_FIT_IMAGES = 6
_FIT_RIDGE = 1e-3
CLIPPED_LEVELS = 2


def to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Turn PIL pictures of equal size into (b, 3, H, W) float32 in -1..1."""
    stack = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2) / 127.5 - 1.0


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Turn (b, 3, H, W) in -1..1 into PIL pictures; what lies outside is cut off, as a screen would."""
    levels = (pixels.float() * 0.5 + 0.5).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
    return [Image.fromarray(array) for array in levels.permute(0, 2, 3, 1).cpu().numpy()]


def compress(picture: torch.Tensor, quality: int) -> torch.Tensor:
    """Write (3, h, w) in -1..1 as a JPEG file and read it again."""
    file = io.BytesIO()
    to_images(picture[None])[0].save(file, "JPEG", quality=quality)
    with Image.open(file) as read:
        return to_tensor([read])[0]


def round_levels(picture: torch.Tensor) -> torch.Tensor:
    """Round -1..1 to what a file of 8 bits can hold."""
    return ((picture + 1) * (255 / 2)).round().clamp(0, 255) / (255 / 2) - 1


def decode(model: ModelBundle, latents: torch.Tensor) -> list[Image.Image]:
    """Turn latents into pictures.

    Shapes:  latents (b, c, h, w) float32.
    Returns: b pictures of h and w times spec.px_per_cell pixels.
    """
    rows = latents.split(model.plan.images_per_call or len(latents))
    return [image for row in rows for image in to_images(decode_pixels(model, row))]


def decode_pixels(model: ModelBundle, latents: torch.Tensor) -> torch.Tensor:
    """Turn latents (b, c, h, w) into pixels (b, 3, H, W), about -1..1, in the autoencoder's number format."""
    model.residence.place("vae")
    return model.vae.decode(latents.to(model.plan.vae_dtype) / model.spec.latent_scale, return_dict=False)[0]


def encode(model: ModelBundle, pixels: torch.Tensor) -> torch.Tensor:
    """Turn pictures (b, 3, H, W) in -1..1 into latents (b, c, h, w) float32, the mean of the encoder's guess."""
    model.residence.place("vae")
    moments = model.vae.encode(pixels.to(model.plan.device, model.plan.vae_dtype)).latent_dist
    return moments.mean.float() * model.spec.latent_scale


def check_size(model: ModelBundle, width_px: int | None, height_px: int | None) -> tuple[int, int, list[str]]:
    """Turn asked sides into sides that the model can draw.

    Returns: (width_px, height_px, notes); a side is rounded to the UNet's smallest grid, and the note says so.
    Raises:  UserError if a side is larger than the model allows.
    """
    spec = model.spec
    unit_px = spec.px_per_cell * 2 ** (len(model.unet.config.block_out_channels) - 1)
    sides, notes = [], []
    for label, asked_px in (("Width", width_px), ("Height", height_px)):
        side_px = spec.image_px if asked_px is None else asked_px
        if side_px > spec.max_image_px:
            raise UserError(f"{label} {side_px} is too large for {spec.name}; choose at most {spec.max_image_px} px.")
        rounded_px = max(unit_px, round(side_px / unit_px) * unit_px)
        if rounded_px != side_px:
            notes.append(f"{label} {side_px} px was rounded to {rounded_px} px, a multiple of {unit_px}.")
        sides.append(rounded_px)
    if max(sides) != spec.image_px and spec.is_shipped:
        notes.append(f"{spec.name} learned at {spec.image_px} px; other sizes may repeat or lose things.")
    return sides[0], sides[1], notes


def fit_square(picture: Image.Image, side_px: int) -> tuple[Image.Image, str]:
    """Bring a picture to the square that a model was trained on.

    Returns: an RGB picture of side_px x side_px, and what was done to it ("was cropped to ..."), "" if nothing was.
    """
    width, height = picture.size
    if (width, height) == (side_px, side_px):
        return picture.convert("RGB"), ""
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    square = picture.convert("RGB").crop((left, top, left + short, top + short))
    deed = f"was resized from {width} x {height} px" if width == height else "was cropped to its middle square"
    return square.resize((side_px, side_px), Image.Resampling.LANCZOS), deed


def preview(model: ModelBundle, x0: torch.Tensor) -> Image.Image:
    """Draw the first picture of a batch of clean estimates with the linear map; shapes (b, c, h, w)."""
    patches = F.conv2d(F.pad(x0[:1], (1, 1, 1, 1), mode="replicate"), model.preview_weight, model.preview_bias)
    return to_images(F.pixel_shuffle(patches, PREVIEW_PX_PER_CELL))[0]


@torch.no_grad()
def fit_preview(vae: Any, latent_scale: float, px_per_cell: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit the linear latent-to-RGB map of the previews by least squares, on drawn cards of coloured boxes.

    Returns: weight (3 s s, c, 3, 3) and bias (3 s s,) float32 with s = PREVIEW_PX_PER_CELL.
    Differs: known linear maps use one colour per cell; ours also looks at the eight neighbours and draws s x s pixels.
    """
    side_px = _FIT_CELLS * px_per_cell
    cards = _draw_cards(_FIT_IMAGES, side_px)
    where = next(vae.parameters())
    latents = vae.encode(cards.to(where.device, where.dtype)).latent_dist.mean.float().cpu() * latent_scale
    channels = latents.shape[1]
    inputs = F.unfold(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3).transpose(1, 2).flatten(0, 1)
    small = F.adaptive_avg_pool2d(cards, _FIT_CELLS * PREVIEW_PX_PER_CELL)
    targets = F.pixel_unshuffle(small, PREVIEW_PX_PER_CELL).flatten(2).transpose(1, 2).flatten(0, 1)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
    normal = inputs.T @ inputs + _FIT_RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(normal, inputs.T @ targets.double()).float()
    weight = solution[:-1].T.reshape(-1, channels, 3, 3).contiguous()
    return weight.to(where.device), solution[-1].contiguous().to(where.device)


def _draw_cards(num_images: int, side_px: int) -> torch.Tensor:
    """Draw coloured boxes over coloured gradients, the same ones every time; (b, 3, H, W) in -1..1."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0.0, 1.0, side_px, dtype=np.float32)
    cards = np.empty((num_images, 3, side_px, side_px), dtype=np.float32)
    for card in cards:
        top, bottom = rng.uniform(-1, 1, (2, 3, 1, 1)).astype(np.float32)
        card[:] = top + (bottom - top) * ramp[None, :, None]
        for _ in range(12):
            x, y = rng.integers(0, side_px, 2)
            width, height = rng.integers(side_px // 12, side_px // 2, 2)
            card[:, y : y + height, x : x + width] = rng.uniform(-1, 1, (3, 1, 1))
    return torch.from_numpy(cards)


def measure_contrast(images: Sequence[Image.Image]) -> tuple[float, float]:
    """Measure how hard pictures are.

    Returns: (share of pixels with a channel within CLIPPED_LEVELS of black or white, RMS contrast of the luminance),
             both fractions 0..1, means over the pictures.
    """
    stack = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    is_clipped = ((stack <= CLIPPED_LEVELS) | (stack >= 255 - CLIPPED_LEVELS)).any(axis=-1)
    luminance = stack @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32) / 255.0
    return float(is_clipped.mean()), float(luminance.std(axis=(1, 2)).mean())
