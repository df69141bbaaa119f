"""Recipe: UNet and text side of `storybook`, trained jointly on scenes that are drawn as they are needed.

    python -m training.train_denoiser --minutes 20 --image-px 128 --batch-size 96 --logit-mean 0
    python -m training.train_denoiser --resume --minutes 10 --image-px 128 --duo-frac 0.7 --noisy-frac 0.6
    python -m training.train_denoiser --resume --minutes 120

Half-size pictures teach words and colours cheaply, pairs in much noise order, full size in less noise the rest.
v-prediction, Muon; two heads that are not exported bind words to places: `TruthHead` and `text_side.SlotHead`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pipelines.schedules import make_alpha_bar
from training.data import to_tensor
from training.objectives import make_v_target, sample_timesteps, slot_loss, truth_alignment_loss
from training.text_side import SlotHead, make_slots, make_text_encoder, make_tokenizer
from training.train_autoencoder import load_start
from training.trainer import TrainerConfig, make_parser, start
from training.world.caption import make_caption
from training.world.render import draw_truth_maps, render
from training.world.scene import (
    BACKGROUNDS,
    COLOURS,
    FIRST_HELD_OUT_SEED,
    KINDS,
    STYLES,
    Scene,
    sample_scene,
)

DEFAULTS = TrainerConfig(
    run_dir="training_runs/denoiser",
    total_steps=20_000,
    batch_size=64,
    muon_lr=2e-3,
    adamw_lr=1.5e-3,
    warmup_steps=200,
    decay_frac=0.2,
)
TRUTH_CELL_PX = 16  # the aligned layer has half the resolution of the latents
ALIGNMENT_WEIGHT = 0.2
SLOT_WEIGHT = 0.1
LAYOUT_STRIDE = 20_000_003  # between the seeds that sample_layout tries
EMPTY_CAPTION_FRAC = 0.1
SHEET_PROMPTS = (
    "a red house in a meadow",
    "a blue fish, sea, watercolor",
    "a yellow star, neon",
    "a green robot, city, pixel art",
    "a red boat left of a white moon, night sky, watercolor",
    "a purple cat and an orange balloon, flat",
    "three pink mushrooms, line art",
    "a black car below a yellow moon",
    "four blue stars, papercut",
    "a teal whale, clay, sea",
    "a brown crown above a green cactus, desert, crayon",
    "a white ghost right of a purple flower, mountains",
    "an orange umbrella, snow",
    "two grey ducks at the beach",
    "a pink heart",
    "a large red rocket, night sky, neon",
)


def make_unet(text_width: int = 128) -> UNet2DConditionModel:
    """Build storybook's UNet for 8 x 32 x 32 latents: about 2 GFLOP a pass, attention on the 16 and 8 grids."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=8,
        out_channels=8,
        block_out_channels=(48, 96, 192),
        layers_per_block=(2, 1, 1),  # texture, and with it style, is drawn on the finest grid
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 3, 6),  # number of heads per level in this class
        cross_attention_dim=text_width,
        norm_num_groups=16,
    )


def make_schedule() -> DDIMScheduler:
    """Return the noise schedule that storybook is trained with: scaled-linear betas, zero terminal SNR."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused with trailing spacing; 0 makes the pipeline warn
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


class TruthHead(nn.Module):
    """Names class, colour, background and style of each cell from an inner layer: GroupNorm, SiLU, 1x1 convolution."""

    num_classes = (len(KINDS) + 1, len(COLOURS) + 1, len(BACKGROUNDS), len(STYLES))

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(16, channels)
        self.conv_out = nn.Conv2d(channels, sum(self.num_classes), 1)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (b, classes, h, w) logits of class, colour, background and style."""
        return self.conv_out(F.silu(self.norm(hidden))).float().split(self.num_classes, dim=1)


@dataclass(frozen=True)
class SceneBatch:
    """One batch on the CPU.

    Shapes: pictures (b, H, W, 3) uint8; truth (4, b, h/2, w/2) uint8: class, colour, background and style of each
            cell, as `TruthHead` names them; captions one per scene.
    """

    pictures: np.ndarray
    truth: np.ndarray
    captions: list[str]


@dataclass(frozen=True)
class Mixture:
    """Least shares (0..1) of a batch that show one thing, two different things, or several of a kind.

    The rest is as the world has it: 36 % one, 40 % two, 19 % several of a kind, 5 % three different things.
    """

    solo: float = 0.0
    duo: float = 0.0
    group: float = 0.0

    def pick_layout(self, index: int, batch_size: int) -> str | None:
        """Say which layout a batch's scene `index` must have; None for any."""
        layouts = [name for name in ("duo", "solo", "group") for _ in range(round(getattr(self, name) * batch_size))]
        return layouts[index] if index < len(layouts) else None


def name_layout(scene: Scene) -> str:
    """Name what a scene shows, in the words of `Mixture`; "other" for three different things."""
    num_kinds, num_objects = len({thing.kind for thing in scene.objects}), len(scene.objects)
    return {(1, 1): "solo", (2, 2): "duo"}.get((num_kinds, num_objects), "group" if num_kinds == 1 else "other")


def sample_layout(seed: int, layout: str | None) -> Scene:
    """Draw training scenes from a series of seeds until one has this layout (None: the first)."""
    for candidate in range(seed, FIRST_HELD_OUT_SEED, LAYOUT_STRIDE):
        scene = sample_scene(candidate)
        if layout in (None, name_layout(scene)):
            return scene
    raise ValueError(f"no seed from {seed} on shows a {layout}")


class SceneBatches(Dataset):
    """Batch number -> drawn batch; which scenes it holds depends on the number alone."""

    def __init__(self, batch_size: int, num_batches: int, image_px: int, mixture: Mixture | None = None) -> None:
        self._batch_size, self._num_batches, self._image_px = batch_size, num_batches, image_px
        self._mixture = mixture or Mixture()

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, step: int) -> SceneBatch:
        pictures, truth, captions = [], [], []
        first_seed = step * self._batch_size
        for seed in range(first_seed, first_seed + self._batch_size):
            scene = sample_layout(seed, self._mixture.pick_layout(seed - first_seed, self._batch_size))
            rng = np.random.default_rng([seed, 1])
            pictures.append(render(scene).rgb)
            maps = draw_truth_maps(scene, self._image_px // TRUTH_CELL_PX)
            setting = (BACKGROUNDS.index(scene.background), STYLES.index(scene.style))
            truth.append([*maps, *(np.full_like(maps[0], value) for value in setting)])
            captions.append("" if rng.random() < EMPTY_CAPTION_FRAC else make_caption(scene, rng))
        return SceneBatch(np.stack(pictures), np.array(truth).swapaxes(0, 1), captions)


class DenoiserObjective:
    """Predict the velocity of noisy latents from text, and name the scene of each cell on the way."""

    adamw_names = ("conv_in", "conv_out", "embedding", "embeddings", "slot_head")

    def __init__(
        self,
        autoencoder_start: Path,
        *,
        image_px: int = 256,
        num_workers: int = 1,
        mixture: Mixture | None = None,
        noisy_frac: float = 0.25,
        logit_mean: float = -0.5,
    ) -> None:
        torch.manual_seed(0)
        self.vae, self._encoder = load_start(autoencoder_start)
        self.tokenizer = make_tokenizer()
        text_encoder = make_text_encoder(len(self.tokenizer))
        unet = make_unet(text_encoder.config.hidden_size)
        unet.set_attn_processor(AttnProcessor())  # on a CPU its backward pass is faster than the fused kernel's
        unet.to(memory_format=torch.channels_last)
        head = TruthHead(unet.config.block_out_channels[-1])
        slot_head = SlotHead(text_encoder.config.hidden_size)
        self.modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder, "head": head, "slot_head": slot_head})
        self._hidden: torch.Tensor | None = None
        unet.up_blocks[0].register_forward_hook(self._keep_hidden)
        self._alpha_bar = make_alpha_bar()
        self._num_workers, self._image_px = num_workers, image_px
        self._mixture, self._noisy_frac, self._logit_mean = mixture, noisy_frac, logit_mean
        self._stream: tuple[int, Iterator[SceneBatch]] | None = None

    def _keep_hidden(self, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        self._hidden = output

    def make_batch(self, step: int, batch_size: int) -> SceneBatch:
        """Return the batch of this step; worker processes draw ahead."""
        if self._stream is None or self._stream[0] != step:
            loader = DataLoader(
                SceneBatches(batch_size, 2**31 // batch_size, self._image_px, self._mixture),
                batch_size=None,
                sampler=range(step, 2**31 // batch_size),
                num_workers=self._num_workers,
            )
            self._stream = (step, iter(loader))
        batch = next(self._stream[1])
        self._stream = (step + 1, self._stream[1])
        return batch

    def compute_loss(self, batch: SceneBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return velocity error plus the weighted losses of both heads."""
        device = next(self.modules.parameters()).device
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            pictures = to_tensor(batch.pictures).to(device)
            if self._image_px != pictures.shape[-1]:
                pictures = F.interpolate(pictures, size=self._image_px, mode="area")
            x0 = self._encoder.to(device)(pictures).float()
        timesteps = sample_timesteps(len(x0), generator, noisy_frac=self._noisy_frac, logit_mean=self._logit_mean)
        eps = torch.randn(x0.shape, generator=generator).to(device)
        noisy, target = make_v_target(x0, eps, self._alpha_bar[timesteps])
        text = self.modules["text_encoder"](self.to_ids(batch.captions).to(device)).last_hidden_state
        pred = self.modules["unet"](noisy, timesteps.to(device), text, return_dict=False)[0].float()
        denoising = F.mse_loss(pred, target)
        truth = torch.from_numpy(batch.truth).long().to(device)
        alignment = truth_alignment_loss(self.modules["head"](self._hidden), truth.unbind())
        slots = slot_loss(self.modules["slot_head"](text.float()), make_slots(batch.captions).to(device))
        loss = denoising + ALIGNMENT_WEIGHT * alignment + SLOT_WEIGHT * slots
        return loss, {"denoising": denoising.item(), "alignment": alignment.item(), "slots": slots.item()}

    def to_ids(self, captions: list[str]) -> torch.Tensor:
        """Tokenize captions to (b, 32) ids."""
        return self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=32, return_tensors="pt"
        ).input_ids

    def load_shipped(self, folder: Path) -> None:
        """Take UNet and text encoder from a shipped model; the heads start anew."""
        pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
        self.modules["unet"].load_state_dict(pipe.unet.state_dict())
        self.modules["text_encoder"].load_state_dict(pipe.text_encoder.state_dict())

    def make_pipeline(self, modules: nn.ModuleDict) -> StableDiffusionPipeline:
        """Put the trained parts into a plain diffusers pipeline (on the CPU)."""
        text_encoder = make_text_encoder(len(self.tokenizer))
        text_encoder.load_state_dict(modules["text_encoder"].state_dict())
        unet = make_unet(text_encoder.config.hidden_size)
        unet.load_state_dict(modules["unet"].state_dict())
        pipe = StableDiffusionPipeline(
            vae=self.vae,
            unet=unet,
            text_encoder=text_encoder,
            tokenizer=self.tokenizer,
            scheduler=make_schedule(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def write_samples(self, modules: nn.ModuleDict, path: Path) -> dict[str, float]:
        """Draw the fixed prompts with 20 guided steps into one sheet."""
        pipe = self.make_pipeline(modules)
        generators = [torch.Generator().manual_seed(index) for index in range(len(SHEET_PROMPTS))]
        with torch.autocast("cpu", torch.bfloat16):
            pictures = pipe(
                list(SHEET_PROMPTS),
                num_inference_steps=20,
                guidance_scale=4.0,
                generator=generators,
                height=self._image_px,
                width=self._image_px,
            )
        sheet = Image.new("RGB", (8 * 160, 2 * 160))
        for index, picture in enumerate(pictures.images):
            sheet.paste(picture.resize((160, 160)), (index % 8 * 160, index // 8 * 160))
        sheet.save(path)
        return {}


def main() -> None:
    """Train from the command line."""
    parser = make_parser(__doc__, DEFAULTS)
    parser.add_argument("--autoencoder-start", default="training_runs/autoencoder/start.safetensors")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--image-px", type=int, default=256, help="128 for a head start on small pictures")
    parser.add_argument("--solo-frac", type=float, default=0.0, help="least share of scenes with one thing")
    parser.add_argument("--duo-frac", type=float, default=0.0, help="least share of scenes with two different things")
    parser.add_argument("--group-frac", type=float, default=0.0, help="least share of scenes with several of a kind")
    parser.add_argument("--noisy-frac", type=float, default=0.25, help="share of draws in the noisiest quarter")
    parser.add_argument("--logit-mean", type=float, default=-0.5, help="of the other draws; lower is less noise")
    parser.add_argument("--start-from", type=Path, help="a shipped model to go on from instead of random weights")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    objective = DenoiserObjective(
        Path(arguments.autoencoder_start),
        image_px=arguments.image_px,
        num_workers=arguments.num_workers,
        mixture=Mixture(arguments.solo_frac, arguments.duo_frac, arguments.group_frac),
        noisy_frac=arguments.noisy_frac,
        logit_mean=arguments.logit_mean,
    )
    if arguments.start_from is not None:
        objective.load_shipped(arguments.start_from)
    start(objective, arguments)


if __name__ == "__main__":
    main()
