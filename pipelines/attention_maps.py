"""From recorded attention to maps per token: which layers, averaged, smoothed, and the tokens that carry meaning.

Functions of tensors and of recorded maps, and one observing pass; when to look is the technique's affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from pipelines.attention import AttentionLayer, AttentionRecorder, KernelProcessor, Processor, patched
from pipelines.model import ModelBundle, TextCond, run_unet

CELLS_PER_OPENING = 16
MIN_OPENED_CELLS = 9


def count_prompt_tokens(model: ModelBundle, prompt: str) -> int:
    """Count the tokens of a prompt as the encoder reads it, with start and end, without padding."""
    side = model.sides[0]
    with side.lock:
        return len(side.tokenizer(prompt, truncation=True, max_length=side.max_tokens, padding=False)["input_ids"])


def to_grid(num_cells: int, size_cells: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a layer's grid from its number of cells and the size of the latents.

    Raises: ValueError if no halving of the latents has that many cells.
    """
    height, width = size_cells
    while height * width > num_cells:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != num_cells:
        raise ValueError(f"{num_cells} cells are no grid of latents of {size_cells[0]} x {size_cells[1]} cells")
    return height, width


def average_layers(maps: Mapping[str, torch.Tensor], layers: Sequence[AttentionLayer]) -> torch.Tensor:
    """Average recorded maps over heads and over layers of one grid.

    Shapes:  maps[name] (b, heads, n, m); returns (b, n, m) float32.
    Raises:  ValueError if none of the layers was recorded.
    """
    found = [maps[layer.name].float().mean(1) for layer in layers if layer.name in maps]
    if not found:
        raise ValueError(f"no map was recorded of {[layer.name for layer in layers]}")
    return torch.stack(found).mean(0)


def smooth(maps: torch.Tensor) -> torch.Tensor:
    """Smooth maps with a 3 x 3 kernel, edges reflected.

    Shapes: (..., h, w), the same back.
    Source: the kernel of the released code of Attend-and-Excite: exp(-((x - m) / (2 * 0.5))^2), that is 1 in the middle
            to 0.368 beside it, wider than a Gaussian of that sigma.
    """
    line = maps.new_tensor([math.exp(-1), 1.0, math.exp(-1)])
    kernel = line[:, None] * line[None, :]
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    # A line of one cell has nothing to reflect.
    mode = "reflect" if min(maps.shape[-2:]) > 1 else "replicate"
    padded = F.pad(flat, (1, 1, 1, 1), mode=mode)
    return F.conv2d(padded, (kernel / kernel.sum())[None, None]).reshape(maps.shape)


def observe(
    model: ModelBundle,
    latents: torch.Tensor,
    timestep: int,
    text: TextCond,
    layers: Sequence[AttentionLayer],
    *,
    recorder: AttentionRecorder | None = None,
) -> dict[str, torch.Tensor]:
    """Run the conditional half once and return the attention maps of some layers, with gradients if they are on.

    Other techniques' processors step aside meanwhile: they expect both halves, and would not see theirs.

    Shapes:  latents (1, c, h, w) float32; text with one row.
    Returns: layer name -> (1, heads, n, m), as `recorder` holds them; the prediction itself is dropped.
    """
    recorder = recorder or AttentionRecorder()
    names = {layer.name for layer in layers}
    plain = KernelProcessor(model.plan.kernel)
    added = {"text_embeds": text.pooled_cond, "time_ids": text.time_ids} if text.pooled_cond.shape[-1] else {}

    def make(layer: AttentionLayer, previous: Processor) -> Processor:
        return recorder.make(layer, previous) if layer.name in names else plain

    with patched(model.unet, lambda layer: True, make):
        run_unet(model, latents, timestep, text.hidden_cond, added)
    return recorder.maps


def pick_row(text: TextCond, index: int) -> TextCond:
    """Take the condition of one picture out of a batch; what all pictures share stays as it is."""
    names = ("hidden_uncond", "hidden_cond", "pooled_uncond", "pooled_cond")
    rows = {name: getattr(text, name) for name in names}
    return replace(text, **{name: row[index : index + 1] for name, row in rows.items() if len(row) > 1})


def to_mask(average: torch.Tensor) -> torch.Tensor:
    """Say where a word is: cells that it draws more attention in than on average, without specks.

    Shapes:  average (h, w); returns (h, w) bool.
    Source:  Lin et al. 2024, AccDiffusion, arXiv 2407.10738: threshold at the mean, then opening with 3 x 3 cells.
    Differs: one opening for every 16 cells of the shorter side, as there; none if it would leave nothing, or on a mask
             below MIN_OPENED_CELLS, because it deletes small things on a coarse grid.
    """
    mask = average > average.mean()
    if int(mask.sum()) < MIN_OPENED_CELLS:
        return mask
    opened = mask.float()[None, None]
    times = min(mask.shape) // CELLS_PER_OPENING
    for _ in range(times):
        opened = -F.max_pool2d(-opened, 3, 1, 1)
    for _ in range(times):
        opened = F.max_pool2d(opened, 3, 1, 1)
    opened_mask = opened[0, 0] > 0.5
    return opened_mask if opened_mask.any() else mask


def word_maps(
    average: torch.Tensor, words: Sequence[Sequence[int]], num_tokens: int, size: tuple[int, int], sharpness: float
) -> torch.Tensor:
    """Make the competition of words for cells visible: softmax over the prompt's words alone, smoothed.

    Shapes:  average (1, n, m) cross-attention; words: token positions of each word of interest; size (h, w), n cells.
    Units:   num_tokens counts start and end; sharpness multiplies the probabilities before the softmax.
    Returns: (k, h, w), the mean over a word's tokens.
    Source:  Chefer et al. 2023, arXiv 2301.13826, and its released code (factor 100).
    """
    competing = (sharpness * average[0, :, 1 : num_tokens - 1]).softmax(dim=-1)
    maps = [competing[:, [token - 1 for token in tokens]].mean(1).unflatten(0, size) for tokens in words]
    return smooth(torch.stack(maps))


def measure_inside(
    maps: Iterable[torch.Tensor],
    words: Sequence[int],
    fit_mask: Callable[[int, int], torch.Tensor],
    size: tuple[int, int],
) -> torch.Tensor:
    """Measure which share of a thing's attention lies in a part of the picture.

    Shapes:  maps of k layers, each (1, heads, n, m); words: positions of its tokens; fit_mask(height, width) returns
             the part's mask (h, w) for a layer's grid; size (h, w) of the latents.
    Returns: (k,) shares 0..1.
    """
    shares = []
    for layer_map in maps:
        attention = layer_map.float().mean(1)[0, :, list(words)].mean(1)
        mask = fit_mask(*to_grid(len(attention), size)).flatten().to(attention.device)
        shares.append((mask * attention).sum() / attention.sum().clamp_min(1e-12))
    return torch.stack(shares)
