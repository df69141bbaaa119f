"""The turntable network: eight views around an object, drawn together from one picture and its inflated body's views.

It starts from what inflating shows and shifts that to what the object looks like, in a few steps of residual shifting;
every view attends to the others, so that they agree. Trained by `training/train_turntable.py` on solids of the drawn
world. Colours and the mask lie in -1..1; the views are those of `turntable_camera.ZIGZAG`.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from pipelines.errors import BackendUnavailable
from pipelines.residual_shift import KAPPA, NUM_STEPS, make_etas, start_chain, step_back
from pipelines.turntable_camera import ZIGZAG

FORMAT = "limelight-turntable-1"
NUM_VIEWS = len(ZIGZAG)
VIEW_PX = 64
CHANNELS = 4  # red, green, blue, mask
# How far the truth lies from the inflated body's views: their mean error is about 20 dB.
SPREAD = 0.25


@dataclass(frozen=True)
class TurntableConfig:
    """Say how large the network is: patches of patch_px become tokens of `width` numbers."""

    width: int = 192
    num_blocks: int = 6
    num_heads: int = 6
    patch_px: int = 8
    fine: int = 16


@dataclass(frozen=True, eq=False)
class Stage:
    """Say how far a batch of chains is and what follows from that. Shapes: all (b, 1, 1, 1, 1), eta among them."""

    eta: torch.Tensor
    in_scale: torch.Tensor
    gain: torch.Tensor
    out_scale: torch.Tensor


def make_stage(eta: torch.Tensor) -> Stage:
    """Weigh what noisy views tell.

    Shapes:  eta (b,), 0..1, how much of the way to the inflated views is gone; the noise is KAPPA sqrt(eta).
    Symbols: noisy - guess = (1 - eta) residual + KAPPA sqrt(eta) noise, residual of spread SPREAD; `gain` times that
             is the best linear estimate of the residual, `out_scale` its remaining error; `in_scale` gives that
             estimate in units of SPREAD.
    Source:  the weights of Karras et al. 2022, arXiv 2206.00364, table 1, for the chain of Yue et al. 2023.
    Differs: what goes in is the estimate and not the noisy views at unit variance: near the start of the chain those
             are noise alone, which the network took for the object's residual.
    """
    column = eta.float()[:, None, None, None, None]
    left, noise = (1 - column) * SPREAD, KAPPA * column.sqrt()
    total = left.square() + noise.square()
    return Stage(column, left / total, left * SPREAD / total, SPREAD * noise * total.rsqrt())


class _Block(nn.Module):
    """Attention among a group of tokens, then two layers on each, both told how far the chain is."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.steer = nn.Linear(width, 4 * width)
        self.mix = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        for layer in (self.steer, self.join, self.narrow):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Shapes: x (groups, n, width); told (groups, 1, width)."""
        scale_1, shift_1, scale_2, shift_2 = self.steer(told).chunk(4, -1)
        groups, count, width = x.shape
        heads = (groups, count, 3, self.num_heads, width // self.num_heads)
        normal = F.layer_norm(x, (width,)) * (1 + scale_1) + shift_1
        q, k, v = self.mix(normal).view(heads).permute(2, 0, 3, 1, 4)
        # Unit queries and keys keep the attention from running away in half precision.
        q, k = (F.normalize(part, dim=-1) * (width // self.num_heads) ** 0.5 for part in (q, k))
        # Written out, because the fused kernel's backward pass takes six times as long on so few tokens.
        shares = (q.to(v.dtype) @ k.to(v.dtype).transpose(-1, -2)).float() * (width // self.num_heads) ** -0.5
        mixed = shares.softmax(-1).to(v.dtype) @ v
        x = x + self.join(mixed.transpose(1, 2).reshape(groups, count, width))
        normal = F.layer_norm(x, (width,)) * (1 + scale_2) + shift_2
        return x + self.narrow(F.gelu(self.widen(normal)))


class Turntable(nn.Module):
    """Guess clean views from noisy ones, the inflated body's views and the picture.

    Shapes:  noisy, guess (b, NUM_VIEWS, CHANNELS, VIEW_PX, VIEW_PX), picture (b, CHANNELS, VIEW_PX, VIEW_PX), all in
             about -1..1; eta (b,).
    Source:  joint views as in Zero123++ (Shi et al. 2023, arXiv 2310.15110) and large patches with clean estimates as
             in Li and He 2025, arXiv 2511.13720; the chain is that of `residual_shift.py`.
    Differs: attention runs within a view and within a row of all views in turn: seen from the side, what is at one
             height stays at about one height. The chain starts at the inflated body, not at noise.
    """

    def __init__(self, config: TurntableConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_px
        self.edge = VIEW_PX // patch
        self.embed = nn.Linear(2 * CHANNELS * patch**2, width)
        self.embed_picture = nn.Linear(CHANNELS * patch**2, width)
        self.place = nn.Parameter(torch.randn(self.edge**2, width) * 0.02)
        self.view = nn.Parameter(torch.randn(NUM_VIEWS + 1, 1, width) * 0.02)
        self.embed_eta = nn.Sequential(nn.Linear(5, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(_Block(width, config.num_heads) for _ in range(config.num_blocks))
        self.head = nn.Linear(width, CHANNELS * patch**2)
        self.fine_1 = nn.Conv2d(3 * CHANNELS, config.fine, 3, 1, 1)
        self.fine_2 = nn.Conv2d(config.fine, CHANNELS, 3, 1, 1)
        for layer in (self.head, self.fine_2):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def _to_patches(self, views: torch.Tensor) -> torch.Tensor:
        """Turn (..., c, H, W) into (..., n, c patch patch)."""
        patches = F.pixel_unshuffle(views, self.config.patch_px)
        return patches.flatten(-2).transpose(-1, -2)

    def guess(self, noisy: torch.Tensor, guess: torch.Tensor, picture: torch.Tensor, stage: Stage) -> torch.Tensor:
        """Return what the network adds to the best linear estimate, in units of `stage.out_scale`."""
        count, edge, width = len(noisy), self.edge, self.config.width
        shift = (noisy - guess) * stage.in_scale
        # Signal against noise, which differs most where eta itself hardly does: near 1.
        eta = stage.eta.flatten()[:, None]
        level = (1 - eta).clamp_min(1e-3).log() - eta.clamp_min(1e-4).log() / 2
        told = self.embed_eta(torch.cat([level / 5, level.sin(), level.cos(), (2 * level).sin(), (2 * level).cos()], 1))
        tokens = self.embed(self._to_patches(torch.cat([shift, guess], 2)))
        first = self.embed_picture(self._to_patches(picture[:, None]))
        x = torch.cat([tokens, first], 1) + self.place + self.view
        for index, block in enumerate(self.blocks):
            if index % 2 == 0:
                x = x.reshape(count * (NUM_VIEWS + 1), edge**2, width)
                x = block(x, told.repeat_interleave(NUM_VIEWS + 1, 0)[:, None])
                x = x.reshape(count, NUM_VIEWS + 1, edge**2, width)
            else:
                rows = x.reshape(count, NUM_VIEWS + 1, edge, edge, width).transpose(1, 2)
                rows = rows.reshape(count * edge, (NUM_VIEWS + 1) * edge, width)
                rows = block(rows, told.repeat_interleave(edge, 0)[:, None])
                x = rows.reshape(count, edge, NUM_VIEWS + 1, edge, width).transpose(1, 2)
                x = x.reshape(count, NUM_VIEWS + 1, edge**2, width)
        out = self.head(F.layer_norm(x[:, :NUM_VIEWS], (width,))).transpose(-1, -2)
        out = F.pixel_shuffle(out.reshape(count * NUM_VIEWS, -1, edge, edge), self.config.patch_px)
        layers = torch.cat([out, shift.flatten(0, 1), guess.flatten(0, 1)], 1)
        out = out + self.fine_2(F.silu(self.fine_1(layers)))
        return out.reshape(noisy.shape)

    def forward(
        self, noisy: torch.Tensor, guess: torch.Tensor, picture: torch.Tensor, eta: torch.Tensor
    ) -> torch.Tensor:
        """Guess the clean views of a batch."""
        stage = make_stage(eta)
        out = self.guess(noisy, guess, picture, stage).float()
        return guess + stage.gain * (noisy - guess) + stage.out_scale * out

    def turn(
        self, guess: torch.Tensor, picture: torch.Tensor, *, seed: int = 0, num_steps: int = NUM_STEPS
    ) -> Generator[torch.Tensor, None, torch.Tensor]:
        """Draw the eight views of one object, see `turn_object`."""
        return turn_object(self, guess, picture, seed=seed, num_steps=num_steps)

    @torch.no_grad()
    def correct(
        self, views: torch.Tensor, guess: torch.Tensor, picture: torch.Tensor, *, root: float, seed: int
    ) -> torch.Tensor:
        """Noise views to a place of the chain, and say what they look like clean; root 0..1 is that of eta."""
        noise = torch.randn(guess.shape, generator=torch.Generator().manual_seed(seed))
        eta = root**2
        noisy = (1 - eta) * views + eta * guess + KAPPA * root * noise
        return self(noisy[None], guess[None], picture[None], torch.tensor([eta]))[0].clamp(-1, 1)


@torch.no_grad()
def turn_object(
    network: Turntable, guess: torch.Tensor, picture: torch.Tensor, *, seed: int = 0, num_steps: int = NUM_STEPS
) -> Generator[torch.Tensor, None, torch.Tensor]:
    """Draw the eight views of one object.

    Shapes:  guess (NUM_VIEWS, CHANNELS, VIEW_PX, VIEW_PX), picture (CHANNELS, VIEW_PX, VIEW_PX), in -1..1.
    Returns: a generator of the clean estimate after each step, clipped to -1..1, whose value is the last of them.
    """
    generator = torch.Generator().manual_seed(seed)
    etas = make_etas(num_steps)
    noisy = start_chain(guess, torch.randn(guess.shape, generator=generator), etas)
    clean = guess
    for step in reversed(range(num_steps)):
        eta = torch.tensor([etas[step]])
        clean = network(noisy[None], guess[None], picture[None], eta)[0].clamp(-1, 1)
        noise = torch.randn(guess.shape, generator=generator)
        noisy = step_back(noisy, clean, step, etas, noise=noise)
        yield clean
    return clean


def config_to_json(config: TurntableConfig) -> dict[str, object]:
    """Return the configuration as plain values, for `config.json`."""
    return {"format": FORMAT, "num_views": NUM_VIEWS, "view_px": VIEW_PX, **asdict(config)}


def load_turntable(folder: Path) -> Turntable:
    """Load the network from a folder with `model.safetensors` and `config.json`, in float32.

    Raises: BackendUnavailable if a file is missing or does not fit the other.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if (values["num_views"], values["view_px"]) != (NUM_VIEWS, VIEW_PX):
            raise ValueError(f"it draws {values['num_views']} views of {values['view_px']} px")
        config = TurntableConfig(**{field.name: int(values[field.name]) for field in fields(TurntableConfig)})
        # Without storage there is nothing to initialise, so that no global random number is drawn.
        with torch.device("meta"):
            network = Turntable(config)
        network.to_empty(device="cpu")
        weights = load_file(folder / "model.safetensors")
        network.load_state_dict({name: value.float() for name, value in weights.items()})
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(
            f"The folder {folder.name} holds no turntable ({error}); run `make train-turntable` or restore its files."
        ) from error
    return network.eval().requires_grad_(False)
