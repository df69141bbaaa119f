"""Batches of the style reader's training: drawn scenes with their style and hidden parameters.

Half of a batch has been through the shipped autoencoder, because that is how a model's pictures arrive; the rest is
drawn anew, part of it worn. Every combination is shown (split "all"), training seeds only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from training.autoencoder import LappedEncoder
from training.data import to_tensor
from training.style_reader import encode_look
from training.train_autoencoder import LAPPED_FILE
from training.wear import shift_colours, stain, wear
from training.world.render import render
from training.world.scene import STYLES, Scene, sample_scene

WORN_FRAC = 0.5
# The palette is worth 5 % of red and blue: what changes colours would erase what is to be read.
SPARED = (shift_colours, stain)
# A denoiser's latents are never exact; the decoder was trained with as much noise.
MAX_NOISE_FRAC = 0.1


@dataclass(frozen=True)
class StyleBatch:
    """Pictures and the truth about how they are drawn.

    Shapes: pictures (b, 3, 256, 256) uint8; style (b,) int64; hidden (b, NUM_OUTPUTS) float32 of `encode_look`.
    """

    pictures: torch.Tensor
    style: torch.Tensor
    hidden: torch.Tensor

    def __len__(self) -> int:
        return len(self.style)


def draw_fresh(first_seed: int, count: int, worn_frac: float = WORN_FRAC) -> StyleBatch:
    """Draw the scenes of consecutive seeds, some of them worn."""
    scenes = [sample_scene(seed, split="all") for seed in range(first_seed, first_seed + count)]
    pictures = []
    for scene in scenes:
        picture = torch.from_numpy(render(scene).rgb).permute(2, 0, 1)
        rng = np.random.default_rng([scene.seed, 19])
        if rng.random() < worn_frac:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            picture = _to_bytes(wear(picture / 255, generator, spared=SPARED))
        pictures.append(picture)
    return _make_batch(pictures, scenes)


@torch.no_grad()
def draw_coded(seeds: Iterable[int], shipped: Path, max_noise_frac: float = MAX_NOISE_FRAC) -> StyleBatch:
    """Draw scenes as the shipped autoencoder gives them back, their latents a little noisy.

    Units: max_noise_frac 0..1: the most noise, as a share of the latents' own deviation in the picture.
    Differs: one picture at a time, so that its pixels do not depend on which others are drawn with it.
    """
    encoder, vae = _load_autoencoder(shipped)
    scenes = [sample_scene(seed, split="all") for seed in seeds]
    pictures = []
    for scene in scenes:
        generator = torch.Generator().manual_seed(scene.seed)
        latents = encoder(to_tensor(render(scene).rgb[None]))
        level = max_noise_frac * torch.rand((), generator=generator)
        latents += level * latents.std((2, 3), keepdim=True) * torch.randn(latents.shape, generator=generator)
        decoded = vae.decode(latents.to(vae.dtype), return_dict=False)[0][0].float()
        pictures.append(_to_bytes((decoded + 1) / 2))
    return _make_batch(pictures, scenes)


def join(*batches: StyleBatch) -> StyleBatch:
    """Put batches one after the other into one."""
    return StyleBatch(*(torch.cat(column) for column in zip(*(vars(batch).values() for batch in batches))))


class CodedBank:
    """The last `size` coded scenes of an endless series, of which every step adds a few and drops as many.

    Decoding costs as much as a training step, so a picture is used several times; which ones are held depends on the
    step alone, also after a resume.
    """

    def __init__(self, first_seed: int, *, size: int, renewed: int, shipped: Path) -> None:
        self._first_seed, self._size, self._renewed, self._shipped = first_seed, size, renewed, shipped
        self._rows: StyleBatch | None = None
        self._next = 0  # number of the first scene of the series that is not held yet

    def list_new(self, step: int) -> range:
        """Return the seeds that the bank of this step holds and the one of the step before does not."""
        end = self._first_seed + self._size + step * self._renewed
        return range(end - self._renewed, end)

    def pick(self, step: int, count: int, new: StyleBatch | None = None) -> StyleBatch:
        """Return scenes that the bank of this step holds, the same ones every time.

        `new` are the scenes of `list_new(step)` where they are drawn already.
        """
        end = self.list_new(step).stop - self._first_seed
        missing = range(end - self._size, end)
        if self._rows is not None and missing.start <= self._next <= end:
            missing = range(self._next, end)
        if len(missing):
            given = new if new is not None and len(new) == len(missing) else None
            self._put(missing, given or draw_coded((self._first_seed + n for n in missing), self._shipped))
        rows = np.random.default_rng([step, self._first_seed]).integers(self._size, size=count)
        assert self._rows is not None
        return StyleBatch(*(column[torch.from_numpy(rows)] for column in vars(self._rows).values()))

    def _put(self, numbers: range, rows: StyleBatch) -> None:
        if self._rows is None:
            self._rows = StyleBatch(*(torch.empty_like(column) for column in vars(rows).values()))
        slots = torch.tensor([number % self._size for number in numbers])
        for held, column in zip(vars(self._rows).values(), vars(rows).values()):
            held[slots] = column
        self._next = numbers.stop


def _make_batch(pictures: list[torch.Tensor], scenes: list[Scene]) -> StyleBatch:
    style = torch.tensor([STYLES.index(scene.style) for scene in scenes])
    hidden = torch.from_numpy(np.stack([encode_look(scene.look) for scene in scenes])).float()
    return StyleBatch(torch.stack(pictures), style, hidden)


def _to_bytes(picture: torch.Tensor) -> torch.Tensor:
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


@lru_cache(maxsize=1)
def _load_autoencoder(shipped: Path) -> tuple[LappedEncoder, AutoencoderKL]:
    """Load the encoder as training uses it, and the shipped decoder in bf16, which is what makes it quick."""
    encoder = LappedEncoder()
    encoder.load_state_dict(load_file(shipped / LAPPED_FILE))
    vae = AutoencoderKL.from_pretrained(shipped / "vae", torch_dtype=torch.bfloat16, local_files_only=True)
    return encoder.eval(), vae.eval().to(memory_format=torch.channels_last)
