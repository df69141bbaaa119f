"""The shared restorer: what a picture was before it lost detail, was blurred, got noisy or was shrunk into a file.

One network for all tasks, told by a token what to do and by how much; without a damaged picture it is a plain denoiser,
which guidance uses as its idea of what pictures look like. Convolutions only and no normalisation, so that tiles do
not differ from the whole by their statistics. Trained by `training/train_restorer.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from pipelines.errors import BackendUnavailable

FORMAT = "limelight-restorer-1"
# The order is part of the weights. "light" is foreseen for dark photographs; "prior" has no damaged picture.
TASKS = ("detail", "denoise", "deblur", "file", "light", "identity", "prior")
# What is known of the damage, each with a 1 beside it where it is told: noise, blur, file quality, light.
NUM_STRENGTHS = 4
PATCH_PX = 2
SIDE_UNIT_PX = 8  # sides must be multiples of this: the coarsest grid
# How far clean pixels lie from the best first guess, in -1..1: a whole picture's deviation, and that of a restored one.
PRIOR_SPREAD, TASK_SPREAD = 0.5, 0.15


@dataclass(frozen=True)
class RestorerConfig:
    """Say how wide the network is on the grids of 2, 4 and 8 px, and how many blocks each has on the way down."""

    fine: int = 64
    middle: int = 96
    coarse: int = 128
    num_blocks: int = 2
    num_coarse_blocks: int = 4


@dataclass(frozen=True)
class Task:
    """Say what is to be done to each picture of a batch.

    Shapes: index (b,) int64 into TASKS; strengths and is_told, which is 0 or 1, (b, NUM_STRENGTHS) float32.
    Units:  strengths: noise deviation in 255ths / 50, blur deviation in px / 4, 1 - file quality / 100, log2 of the
            missing light / 4; all about 0..1.
    """

    index: torch.Tensor
    strengths: torch.Tensor
    is_told: torch.Tensor


def make_task(name: str, count: int, **strengths: float) -> Task:
    """Make the task of a batch: make_task("denoise", 4, noise=0.2).

    Returns: what is not named is 0. Once anything is told, so is all but the noise, because training tells them
             together: what it never met costs up to 1.5 dB.
    Raises:  ValueError for an unknown task or strength.
    """
    known = ("noise", "blur", "file", "light")
    if name not in TASKS or not set(strengths) <= set(known):
        raise ValueError(f"task {name!r} with {sorted(strengths)} is not one of {TASKS} with {known}")
    values = torch.tensor([[strengths.get(key, 0.0) for key in known]]).expand(count, -1)
    told = torch.tensor([[float(key in strengths or (bool(strengths) and key != "noise")) for key in known]])
    return Task(torch.full((count,), TASKS.index(name)), values, told.expand(count, -1))


class _Block(nn.Module):
    """Two convolutions beside an identity path, the first one scaled and shifted by the task."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, 1, 1)
        self.steer = nn.Linear(embedding, 2 * width)
        self.second = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        scale, shift = self.steer(embedding)[:, :, None, None].chunk(2, 1)
        return x + self.second(F.relu(torch.addcmul(shift, self.first(x), 1 + scale)))


class Restorer(nn.Module):
    """Guess the clean picture from a noisy one, the damaged one and the task.

    Shapes:  noisy, damaged (b, 3, H, W) in about -1..1, sides multiples of SIDE_UNIT_PX; sigma and share (b,); returns
             (b, 3, H, W). For the task "prior", damaged is all zeros.
    Units:   noisy = (1 - share) clean + share damaged + sigma noise; sigma in units of -1..1, share 0..1.
    Source:  Zheng et al. 2024, arXiv 2403.11157 (DiffUIR): one small network for several tasks in few steps; the first
             guess and its weight follow Karras et al. 2022, arXiv 2206.00364, table 1.
    Differs: the task is told instead of hidden; no attention and no normalisation, so that tiles leave no seams.
    """

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse, wide = config.fine, config.middle, config.coarse, 2 * config.coarse
        self.embed_1 = nn.Linear(len(TASKS) + 2 * NUM_STRENGTHS + 4, wide)
        self.embed_2 = nn.Linear(wide, wide)
        self.head = nn.Conv2d(6 * PATCH_PX**2, fine, 3, 1, 1)
        self.down_fine = self._stack(fine, wide, config.num_blocks)
        self.to_middle = nn.Conv2d(4 * fine, middle, 1)
        self.down_middle = self._stack(middle, wide, config.num_blocks)
        self.to_coarse = nn.Conv2d(4 * middle, coarse, 1)
        self.bottom = self._stack(coarse, wide, config.num_coarse_blocks)
        self.from_coarse = nn.Conv2d(coarse, 4 * middle, 1)
        self.up_middle = self._stack(middle, wide, config.num_blocks)
        self.from_middle = nn.Conv2d(middle, 4 * fine, 1)
        self.up_fine = self._stack(fine, wide, config.num_blocks)
        self.out = nn.Conv2d(fine, 3 * PATCH_PX**2, 3, 1, 1)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @staticmethod
    def _stack(width: int, embedding: int, count: int) -> nn.ModuleList:
        return nn.ModuleList(_Block(width, embedding) for _ in range(count))

    def guess(self, noisy: torch.Tensor, damaged: torch.Tensor, level: Level, task: Task) -> torch.Tensor:
        """Return what the network adds to the first guess, in units of `level.out_scale`."""
        facts = torch.cat([task.strengths * task.is_told, task.is_told], 1).to(noisy.device)
        kinds = F.one_hot(task.index, len(TASKS)).to(facts)
        log_sigma = level.sigma.clamp_min(1e-3).log()[:, None]
        place = torch.cat([log_sigma / 4, (log_sigma * 2).sin(), (log_sigma * 2).cos(), level.share[:, None]], 1)
        embedding = F.silu(self.embed_2(F.silu(self.embed_1(torch.cat([kinds, facts, place], 1)))))
        pair = F.pixel_unshuffle(torch.cat([noisy * level.in_scale, damaged], 1), PATCH_PX)
        fine = self._run(self.down_fine, self.head(pair), embedding)
        middle = self._run(self.down_middle, self.to_middle(F.pixel_unshuffle(fine, 2)), embedding)
        coarse = self._run(self.bottom, self.to_coarse(F.pixel_unshuffle(middle, 2)), embedding)
        middle = self._run(self.up_middle, middle + F.pixel_shuffle(self.from_coarse(coarse), 2), embedding)
        fine = self._run(self.up_fine, fine + F.pixel_shuffle(self.from_middle(middle), 2), embedding)
        return F.pixel_shuffle(self.out(fine), PATCH_PX)

    @staticmethod
    def _run(blocks: nn.ModuleList, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            x = block(x, embedding)
        return x

    def forward(
        self, noisy: torch.Tensor, damaged: torch.Tensor, sigma: torch.Tensor, share: torch.Tensor, task: Task
    ) -> torch.Tensor:
        """Guess the clean pictures of a batch."""
        level = make_level(sigma, share, task)
        guess = self.guess(noisy, damaged, level, task).float()
        return level.first_guess(noisy, damaged) + level.out_scale * guess


@dataclass(frozen=True)
class Level:
    """Hold how noisy a batch is and what follows from that. Shapes: sigma, share (b,); the others (b, 1, 1, 1)."""

    sigma: torch.Tensor
    share: torch.Tensor
    keep: torch.Tensor
    in_scale: torch.Tensor
    out_scale: torch.Tensor

    def first_guess(self, noisy: torch.Tensor, damaged: torch.Tensor) -> torch.Tensor:
        """Mix the noisy picture, as far as it can be trusted, with the damaged one."""
        return self.keep * noisy + (1 - self.keep) * damaged


def make_level(sigma: torch.Tensor, share: torch.Tensor, task: Task) -> Level:
    """Weigh the first guess as Karras et al. 2022 do, with the spread that clean pictures have around it."""
    spread = torch.where(task.index.to(sigma.device) == TASKS.index("prior"), PRIOR_SPREAD, TASK_SPREAD)
    total = spread.square() + sigma.square()
    columns = (spread.square() / total, (PRIOR_SPREAD**2 + sigma.square()).rsqrt(), spread * sigma * total.rsqrt())
    keep, in_scale, out_scale = (column[:, None, None, None] for column in columns)
    return Level(sigma, share, keep, in_scale, out_scale)


def config_to_json(config: RestorerConfig) -> dict[str, object]:
    """Return the configuration as plain values, for `config.json`."""
    return {"format": FORMAT, "tasks": list(TASKS), **asdict(config)}


def load_restorer(folder: Path) -> Restorer:
    """Load the network from a folder with `model.safetensors` and `config.json`, in float32.

    Raises: BackendUnavailable if a file is missing or does not fit the other.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if values["tasks"] != list(TASKS):
            raise ValueError(f"it knows the tasks {values['tasks']}")
        config = RestorerConfig(**{field.name: int(values[field.name]) for field in fields(RestorerConfig)})
        # Without storage there is nothing to initialise, so that no global random number is drawn.
        with torch.device("meta"):
            model = Restorer(config)
        model.to_empty(device="cpu")
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(
            f"The folder {folder.name} holds no restorer ({error}); run `make train-restorer` or restore its files."
        ) from error
    return model.eval().requires_grad_(False)
