"""What the UNet hears in a style picture: queries, keys and values of its self-attention at the steps of a run.

A picture is read once per step of a sampler and kept in the model bundle, so that every further picture in its style
costs nothing more. Reading changes the processors for one pass at a time, under the run lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image

from pipelines.attention import AttentionLayer, KernelProcessor, Processor, list_layers, patched
from pipelines.cfg_batch import run_cond
from pipelines.images import encode, to_tensor
from pipelines.model import ModelBundle, TextCond
from pipelines.schedules import add_noise, make_scheduler
from pipelines.seeding import draw_noise, make_generators
from pipelines.text_side import encode_prompt
from pipelines.types import Progress

# The noise that a picture is read through: always the same, so that what was read serves every seed.
NOISE_SEED = 0
MAX_KEPT_MB = 768
# Noise levels per pass: one row alone leaves half of a processor idle, four are no more than two guided pictures.
LEVELS_PER_PASS = 4

Heard = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Features = Mapping[str, Heard]


@dataclass(frozen=True, eq=False)
class StyleSource:
    """Hold a style picture as the model reads it.

    Shapes: latents (1, c, h, w) float32; walk[timestep] the same shape: noisy latents found by inversion, which are
            read instead of freshly noised ones.
    Units:  key names picture and way of reading, so that what was read can be found again.
    """

    latents: torch.Tensor
    text: TextCond
    key: str
    walk: Mapping[int, torch.Tensor] | None = None


@torch.no_grad()
def make_source(model: ModelBundle, picture: Image.Image) -> StyleSource:
    """Encode a style picture whose sides the model can draw.

    Differs: read with the empty prompt in both guidance halves, which so hear the same: no caption is needed.
    """
    with model.lock:
        latents = encode(model, to_tensor([picture]))
        text = encode_prompt(model, "", size_px=picture.size)
    shape = ",".join(str(side) for side in latents.shape)
    name = hashlib.sha256(latents.cpu().numpy().tobytes() + shape.encode()).hexdigest()
    return StyleSource(latents, text, name)


@torch.no_grad()
def read_features(
    model: ModelBundle, source: StyleSource, timesteps: Sequence[int], *, sampler: str, num_steps: int
) -> Generator[Progress, None, dict[int, Features]]:
    """Read a style picture at some timesteps of a sampler; what was read before is taken from the model's memory.

    Units:   num_steps of the run is passed on in each Progress; a feature is (query, key, value), each (1, heads, n,
             d), of every self-attention layer by its name.
    Returns: a generator of Progress, step 0, one per LEVELS_PER_PASS, whose return value maps timesteps to features.
    Source:  Jeong et al. 2024, arXiv 2402.12974: a real reference is noised afresh at every step and never denoised.
    """
    scheduler = make_scheduler(sampler, model.scheduler_config)
    _, channels, height, width = source.latents.shape
    noise = draw_noise(make_generators(NOISE_SEED, 1), (channels, height, width), model.plan.device)
    memory, found = model.style_memory, {}
    levels = {at: float(scheduler.alphas_cumprod[at]) for at in timesteps}
    names = {at: f"{source.key} {at} {level:.9f}" for at, level in levels.items()}

    def make_noisy(at: int) -> torch.Tensor:
        return source.walk[at] if source.walk else add_noise(source.latents, noise, levels[at])

    for first in range(0, len(timesteps), LEVELS_PER_PASS):
        group = timesteps[first : first + LEVELS_PER_PASS]
        with model.lock:
            new = [at for at in group if names[at] not in memory]
            if new:
                noisy = torch.cat([make_noisy(at) for at in new])
                memory.update(zip([names[at] for at in new], _listen(model, noisy, new, source.text)))
            for at in group:
                memory.move_to_end(names[at])
                found[at] = memory[names[at]]
            forget(model, MAX_KEPT_MB)
        if new:
            yield Progress(0, num_steps, f"reading the style picture, {first + len(group)}/{len(timesteps)}")
    return found


def _listen(model: ModelBundle, noisy: torch.Tensor, timesteps: Sequence[int], text: TextCond) -> list[Features]:
    """Run the plain UNet once, a noisy picture and its timestep each row; keep what self-attention computed, by row."""
    model.residence.place("unet")
    heard: dict[str, Heard] = {}
    with patched(model.unet, lambda layer: layer.kind == "self", partial(_Listener, model.plan.kernel, heard)):
        run_cond(model, noisy, torch.tensor(timesteps, device=noisy.device), text)
    # Copies, so that forgetting one row frees its memory.
    return [
        {name: (q[row, None].clone(), k[row, None].clone(), v[row, None].clone()) for name, (q, k, v) in heard.items()}
        for row in range(len(timesteps))
    ]


class _Listener(KernelProcessor):
    """Compute a self-attention layer with one of the kernels and keep what it computed."""

    def __init__(self, kernel: str, heard: dict[str, Heard], layer: AttentionLayer, previous: Processor) -> None:
        super().__init__(kernel)
        self.heard, self.layer = heard, layer

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Keep query, key and value, and compute as ever."""
        self.heard[self.layer.name] = (q, k, v)
        return super().attend(q, k, v, mask)


def forget(model: ModelBundle, keep_mb: float = 0.0) -> None:
    """Drop what was read longest ago until the rest fits; with 0, everything that is known of style pictures."""
    memory = model.style_memory
    if not keep_mb:
        model.inversion_memory.clear()
    sizes = {
        name: sum(part.nbytes for heard in features.values() for part in heard) for name, features in memory.items()
    }
    total = sum(sizes.values())
    for name, size in sizes.items():
        if total <= keep_mb * 2**20:
            break
        del memory[name]
        total -= size


def choose_layers(model: ModelBundle, depth: int) -> list[str]:
    """Name the self-attention layers that a style may change, from its home outwards.

    Units:   depth 1 is the decoder's finest grid with attention, 2 the whole decoder, 3 also the middle, 4 also the
             encoder: from colours and strokes alone to all that attention decides.
    Source:  Jeong et al. 2024, arXiv 2402.12974, change the last decoder block with attention, or two.
    """
    layers = [layer for layer, _ in list_layers(model.unet) if layer.kind == "self"]
    finest = max(layer.cells for layer in layers if layer.place == "up")
    rank = {"up": 2, "mid": 3, "down": 4}

    def measure(layer: AttentionLayer) -> int:
        return 1 if layer.place == "up" and layer.cells == finest else rank[layer.place]

    # The decoder's finest grid comes last: there one sees best what a patch looks at.
    return [layer.name for layer in sorted(layers, key=measure, reverse=True) if measure(layer) <= depth]
