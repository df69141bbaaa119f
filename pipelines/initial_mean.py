"""What the words alone say of a picture: a small network from the text condition to the mean of its clean latents.

Where a sampler begins, noise should still hold a trace of the picture: its brightness and where its colours lie. This
is that trace, on a coarse grid. Trained by `training/train_mean.py`, used by `techniques/sing_diffusion.py`.
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

FORMAT = "limelight-initial-mean-2"
PROBE_PROMPT = "a red boat at sea, watercolor"
# Relative change of the text encoder's output beyond which a network trained with another encoder is not used.
PROBE_TOLERANCE = 0.05


@dataclass(frozen=True)
class MeanConfig:
    """Say how large the network is.

    Shapes: num_queries queries read hidden states of num_tokens tokens, text_width wide; it writes
            grid_cells x grid_cells cells of latent_channels.
    """

    text_width: int
    num_tokens: int
    latent_channels: int
    num_queries: int = 8
    num_heads: int = 4
    grid_cells: int = 8
    width: int = 256


class MeanModel(nn.Module):
    """Estimate E[x0 | text] on a coarse grid.

    Shapes: forward (b, num_tokens, text_width) -> (b, latent_channels, grid_cells, grid_cells).
    Source: the role of Zhang et al. 2024, arXiv 2403.08381, section 4 (a network for the first step alone).
    Differs: at pure noise the answer depends on the text only, so learned queries read the text and a perceptron
             writes the picture, instead of a UNet that also reads the noise.
    """

    probe: torch.Tensor

    def __init__(self, config: MeanConfig) -> None:
        super().__init__()
        self.config = config
        read = config.num_queries * config.text_width
        self.norm_text = nn.LayerNorm(config.text_width)
        self.queries = nn.Parameter(torch.empty(config.num_queries, config.text_width))
        self.attention = nn.MultiheadAttention(config.text_width, config.num_heads, batch_first=True)
        self.norm = nn.LayerNorm(read)
        self.hidden_1 = nn.Linear(read, config.width)
        self.hidden_2 = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.latent_channels * config.grid_cells**2)
        nn.init.normal_(self.queries, std=0.02)
        # The text encoder's output for PROBE_PROMPT when this was trained, to tell whether it still is the same one.
        self.register_buffer("probe", torch.zeros(config.num_tokens, config.text_width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Estimate the mean latents of each text."""
        text = self.norm_text(hidden.float())
        queries = self.queries.expand(len(text), -1, -1)
        x = self.norm(self.attention(queries, text, text, need_weights=False)[0].flatten(1))
        x = F.silu(self.hidden_1(x))
        x = F.silu(self.hidden_2(x))
        side = self.config.grid_cells
        return self.out(x).view(-1, self.config.latent_channels, side, side)

    def knows(self, hidden: torch.Tensor) -> bool:
        """Tell whether hidden states of PROBE_PROMPT (1, m, e) come from the text encoder of the training."""
        if hidden.shape[1:] != self.probe.shape:
            return False
        seen = hidden[0].to(self.probe)
        return bool((seen - self.probe).norm() <= PROBE_TOLERANCE * self.probe.norm())


class InitialMean:
    """Load the network of a folder at its first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._model: MeanModel | None = None

    @property
    def model(self) -> MeanModel:
        """Load the network.

        Raises: BackendUnavailable if its files are missing or broken.
        """
        if self._model is None:
            self._model = load_mean(self.folder)
        return self._model


def config_to_json(config: MeanConfig) -> dict[str, object]:
    """Return the configuration as plain values, for `config.json`."""
    return {"format": FORMAT, **asdict(config)}


def load_mean(folder: Path) -> MeanModel:
    """Load the network from a folder with `model.safetensors` and `config.json`, in float32.

    Raises: BackendUnavailable if a file is missing or does not fit the other.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = MeanConfig(**{field.name: int(values[field.name]) for field in fields(MeanConfig)})
        # Without storage there is nothing to initialise: a run may load this, and must not draw global numbers.
        with torch.device("meta"):
            model = MeanModel(config)
        model.to_empty(device="cpu")
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(
            f"The folder {folder.name} holds no initial mean ({error}); run `make train-mean` or restore its files."
        ) from error
    return model.eval().requires_grad_(False)
