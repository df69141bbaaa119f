"""Latent Retinex: take the latents of a dark picture apart into reflectance and light, and put more light in.

The light of a cell is read off its latents by the linear map of the previews; what is left, divided by the light, is
the reflectance, which hardly depends on the exposure. No second network: the decoder's last layer is adapted to the
picture at hand instead, towards the pseudo-reference of the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipelines.brightening import measure_noise
from pipelines.images import encode
from pipelines.lime import refine_light
from pipelines.model import ModelBundle
from pipelines.tiling import Blend, Span, list_tiles

TILE_PX, MARGIN_PX = 256, 32
MIN_LIGHT = 2e-3  # of a cell; black has no light to divide by
NUM_ADAPT_STEPS, ADAPT_RATE, MAX_ADAPT_TILES = 20, 3e-4, 3
# What the autoencoder cannot say is detail where it is larger than so many deviations of the noise.
DETAIL_DEVIATIONS = 2.0


@dataclass(frozen=True)
class Decomposition:
    """Hold what latents were taken apart into.

    Shapes: reflectance (1, c, h, w) relative to black, light (1, 1, h, w) in MIN_LIGHT..1, black (1, c, 1, 1).
    """

    reflectance: torch.Tensor
    light: torch.Tensor
    black: torch.Tensor

    def compose(self, power: float) -> torch.Tensor:
        """Return latents (1, c, h, w) of the scene with its light raised to a power; 1 gives the picture back."""
        return self.black + self.reflectance * self.light**power


@torch.no_grad()
def decompose(model: ModelBundle, picture: torch.Tensor) -> Generator[None, None, Decomposition]:
    """Take the latents of a picture apart.

    Shapes:  picture (3, H, W) in -1..1, sides multiples of the cell.
    Returns: a generator that yields after every tile, whose return value is the decomposition.
    Source:  Jiang et al. 2024, arXiv 2407.08939 (LightenDiffusion), its latent Retinex decomposition: R = F / L, L the
             maximum over channels; compared with JianghaiSCU/LightenDiffusion models/decom.py.
    Differs: F is the autoencoder's latents relative to those of black, which our linear encoder makes proportional to
             the picture; the maximum is taken over the three colours that a linear map reads off them; and the light is
             made smooth by LIME's refinement instead of learned attention between both parts.
    """
    unit = model.spec.px_per_cell
    # A ring of cells more, which is dropped: at its own border the encoder sees black outside.
    picture = F.pad(picture[None], (unit,) * 4, mode="replicate")[0]
    cells = (picture.shape[1] // unit, picture.shape[2] // unit)
    latents = torch.zeros(1, model.spec.latent_channels, *cells)
    for rows, columns in list_tiles(cells, TILE_PX // unit, MARGIN_PX // unit):
        with model.lock:
            part = encode(model, picture[None, :, _outer(rows, unit), _outer(columns, unit)]).cpu()
        inner = (slice(None), slice(None), _inner(rows), _inner(columns))
        latents[:, :, rows.first : rows.last, columns.first : columns.last] = part[inner]
        yield
    with model.lock:
        dark = encode(model, picture.new_full((1, 3, TILE_PX, TILE_PX), -1.0)).cpu()
    black = dark[:, :, dark.shape[2] // 2, dark.shape[3] // 2][..., None, None]
    content = latents[:, :, 1:-1, 1:-1] - black
    colours = read_colours(model, content)
    guess = colours.amax(1)[0].clamp(MIN_LIGHT, 1)
    # The weights of the refinement know levels; on a common scale all exposures are smoothed alike.
    light = (refine_light(guess / guess.max()) * guess.max())[None, None].clamp(MIN_LIGHT, 1)
    return Decomposition(content / light, light, black)


def read_colours(model: ModelBundle, content: torch.Tensor) -> torch.Tensor:
    """Read the mean colour of every cell off latents relative to black: (1, c, h, w) to (1, 3, h, w) in about 0..1."""
    padded = F.pad(content, (1, 1, 1, 1), mode="replicate")
    patches = F.conv2d(padded, model.preview_weight.cpu())
    return patches.unflatten(1, (3, -1)).mean(2) / 2


def light_pixels(picture: torch.Tensor, light: torch.Tensor, power: float) -> torch.Tensor:
    """Give every pixel the light of its cell, raised to a power.

    Shapes: picture (3, H, W) in -1..1, light (1, 1, h, w); returns (3, H, W) in -1..1.
    """
    gain = F.interpolate(light ** (power - 1), picture.shape[1:], mode="bilinear", align_corners=False)[0]
    return ((picture + 1) * gain - 1).clamp(-1, 1)


def find_power(picture: torch.Tensor, light: torch.Tensor, brightness: float) -> float:
    """Find the power of the light that gives a picture a brightness; 0 where even that is too dark, 1 at most."""
    sides = [side * 2 for side in light.shape[2:]]
    few = F.interpolate(picture[None], sides, mode="area")[0]
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        is_dark = float(light_pixels(few, light, middle).mean() + 1) / 2 < brightness
        low, high = (low, middle) if is_dark else (middle, high)
    return (low + high) / 2


def decode_lit(
    model: ModelBundle, parts: Decomposition, lit: torch.Tensor, power: float, noise_frac: float
) -> Generator[tuple[int, int, torch.Tensor], None, tuple[torch.Tensor, float, float]]:
    """Decode the relit latents, and add the fine detail that an autoencoder cannot hold.

    Shapes:  lit (3, H, W) in -1..1 is the picture lit pixel by pixel; the generator returns the same.
    Units:   noise_frac 0..1: 0 keeps all that the autoencoder does not say, 1 only what stands out of the noise.
    Returns: a generator of (finished tiles, tiles, picture so far), whose return value is the picture and the mean
             error of the decoder, in -1..1, before and after it was adapted.
    Source:  the pseudo-reference R L^0.2 of Jiang et al. 2024, here the target of a few steps on the last layer.
    Differs: the power is the one that gives the wanted brightness instead of 0.2; no diffusion follows, because
             storybook's has only seen drawn scenes.
    """
    unit = model.spec.px_per_cell
    tiles = list_tiles((parts.light.shape[2], parts.light.shape[3]), TILE_PX // unit, MARGIN_PX // unit)
    latents = parts.compose(power)
    adapted = yield from _adapt(model, latents, lit, tiles)
    threshold = measure_noise(lit) / (255 / 2) * DETAIL_DEVIATIONS * noise_frac
    picture, blend = lit.clone(), Blend(3, (int(lit.shape[1]), int(lit.shape[2])))
    for index, tile in enumerate(tiles, 1):
        features, seen = _look(model, latents, lit, tile)
        plain = adapted.layer(features)[0].float().cpu()
        rows, columns = (_scale(span, unit) for span in tile)
        finished = plain + keep_detail(seen - plain, threshold)
        blend.add(finished, rows, columns)
        picture[:, rows.first : rows.last, columns.first : columns.last] = finished[:, _inner(rows), _inner(columns)]
        yield index, len(tiles), picture
    return blend.result().clamp(-1, 1), adapted.before, adapted.after


def decode_features(model: ModelBundle, latents: torch.Tensor) -> torch.Tensor:
    """Return what the decoder's last layer is given: (1, c, h, w) to (1, channels, H, W)."""
    model.residence.place("vae")
    vae = model.vae
    hidden = latents.to(model.plan.device, model.plan.vae_dtype) / model.spec.latent_scale
    hidden = vae.post_quant_conv(hidden) if vae.post_quant_conv is not None else hidden
    hidden = vae.decoder.mid_block(vae.decoder.conv_in(hidden))
    for block in vae.decoder.up_blocks:
        hidden = block(hidden)
    return vae.decoder.conv_act(vae.decoder.conv_norm_out(hidden))


def keep_detail(rest: torch.Tensor, threshold: float) -> torch.Tensor:
    """Keep what stands out of the noise, and none of the rest: moved towards 0 by the threshold.

    Source: Donoho 1995, "De-noising by soft-thresholding".
    """
    return rest.sign() * (rest.abs() - threshold).clamp_min(0) if threshold else rest


@dataclass(eq=False)
class _Adapted:
    """Hold the decoder's last layer for one picture, and its mean error in -1..1 before and after."""

    layer: torch.nn.Module
    before: float = 0.0
    after: float = 0.0


def _adapt(
    model: ModelBundle, latents: torch.Tensor, target: torch.Tensor, tiles: tuple[tuple[Span, Span], ...]
) -> Generator[tuple[int, int, torch.Tensor], None, _Adapted]:
    """Adapt a copy of the decoder's last layer to a few tiles of one picture; yields after every step."""
    stride = max(1, len(tiles) // MAX_ADAPT_TILES)
    pairs = [_look(model, latents, target, tile) for tile in tiles[::stride][:MAX_ADAPT_TILES]]
    adapted = _Adapted(copy.deepcopy(model.vae.decoder.conv_out).requires_grad_(True))
    optimizer = torch.optim.Adam(adapted.layer.parameters(), lr=ADAPT_RATE)
    for step in range(NUM_ADAPT_STEPS + 1):
        adapted.after = _step(adapted.layer, optimizer, pairs, is_last=step == NUM_ADAPT_STEPS)
        adapted.before = adapted.before or adapted.after
        yield 0, len(tiles), target
    adapted.layer.requires_grad_(False)
    return adapted


@torch.enable_grad()
def _step(
    layer: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: list[tuple[torch.Tensor, torch.Tensor]],
    *,
    is_last: bool,
) -> float:
    """Go one step towards the pseudo-reference, unless it is the last one, which only measures."""
    optimizer.zero_grad()
    gaps = (layer(features)[0].float() - seen.to(features.device) for features, seen in pairs)
    error = torch.stack([gap.abs().mean() for gap in gaps])
    if not is_last:
        error.mean().backward()
        optimizer.step()
    return float(error.detach().mean())


def _look(
    model: ModelBundle, latents: torch.Tensor, picture: torch.Tensor, tile: tuple[Span, Span]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the decoder's last layer sees of a tile, and the same tile of a picture."""
    rows, columns = tile
    unit = model.spec.px_per_cell
    part = latents[..., _outer(rows, 1), _outer(columns, 1)]
    seen = picture[:, _outer(rows, unit), _outer(columns, unit)]
    with model.lock:
        return decode_features(model, part), seen


def _outer(span: Span, unit: int) -> slice:
    """Return the pixels that a span of cells computes."""
    return slice(span.outer_first * unit, span.outer_last * unit)


def _inner(span: Span) -> slice:
    """Return what a tile keeps of what it computes."""
    return slice(span.first - span.outer_first, span.last - span.outer_first)


def _scale(span: Span, unit: int) -> Span:
    """Turn a span of cells into one of pixels."""
    return Span(span.first * unit, span.last * unit, span.outer_first * unit, span.outer_last * unit)
