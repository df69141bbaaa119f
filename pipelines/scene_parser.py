"""The scene parser: which objects a picture shows, where, in which colours, before what, in which style.

A small convolutional network of our own that knows only the drawn world; it is the measuring instrument of the
figures, never part of making a picture. Names and sizes come from `config.json` beside the weights. The centre
heatmap follows CenterNet (Zhou et al. 2019, arXiv 1904.07850).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from pipelines.errors import BackendUnavailable
from pipelines.images import to_tensor

STRIDE_PX = 8  # picture pixels per cell of the heatmap
SIDE_UNIT_PX = 32  # sides must be multiples of this: the coarsest grid of the network
BOX_UNIT_PX = 64.0  # the network counts box edges in this unit
PEAK_CELLS = 5  # a peak is the highest cell of a square of this edge
MAX_OVERLAP = 0.5  # two peaks whose boxes share more than this (IoU) are one object
_PATCH_PX = 2
_SCENE_WIDTH = 128
_TEXTURE_WIDTHS = (48, 64)


@dataclass(frozen=True)
class ParserConfig:
    """What the network knows by name, how wide it is, and when it believes in an object.

    Units: widths are channels on the grids of 4, 8, 16 and 32 px per cell; score_threshold is 0..1.
    """

    kinds: tuple[str, ...]
    colours: tuple[str, ...]
    styles: tuple[str, ...]
    backgrounds: tuple[str, ...]
    lights: tuple[str, ...]
    widths: tuple[int, int, int, int] = (32, 64, 128, 160)
    picture_px: int = 256
    score_threshold: float = 0.45


@dataclass(frozen=True)
class ParsedObject:
    """One object that was found.

    Units: box_px (x0, y0, x1, y1) in pixels of the picture that was given; score 0..1.
    """

    kind: str
    colour: str
    box_px: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class ParsedScene:
    """What a picture shows, its objects in falling order of score."""

    objects: tuple[ParsedObject, ...]
    background: str
    light: str
    style: str


class ParserOutput(NamedTuple):
    """Everything the network says about a batch, as logits.

    Shapes: score (b, h, w); kind (b, K, h, w); colour (b, C, h, w); box (b, 4, h, w): left, top, right and bottom
            edge as distances from the cell's centre, in units of BOX_UNIT_PX; cell_kind (b, 1 + K, h, w) and
            cell_colour (b, 1 + C, h, w) with 0 for the backdrop; style, background, light (b, n).
    """

    score: torch.Tensor
    kind: torch.Tensor
    colour: torch.Tensor
    box: torch.Tensor
    cell_kind: torch.Tensor
    cell_colour: torch.Tensor
    style: torch.Tensor
    background: torch.Tensor
    light: torch.Tensor


class _Convolution(nn.Module):
    """3x3 convolution, batch normalisation, SiLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.norm(self.conv(x)))


class _Block(nn.Module):
    """Two convolutions beside an identity path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _Convolution(width, width)
        self.conv = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x + self.norm(self.conv(self.first(x))))


class ParserModel(nn.Module):
    """Grids of 4, 8, 16 and 32 px per cell down, back up to 8, and 1x1 heads there; two more of 4 px for texture.

    Shapes: pictures (b, 3, H, W) in -1..1, sides multiples of 32, to ParserOutput with h = H / 8, w = W / 8.
    """

    def __init__(self, config: ParserConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse, coarsest = config.widths
        self.stem = nn.Sequential(_Convolution(3 * _PATCH_PX**2, fine, 2), _Convolution(fine, fine))
        self.down_8 = nn.Sequential(_Convolution(fine, middle, 2), _Block(middle))
        self.down_16 = nn.Sequential(_Convolution(middle, coarse, 2), _Block(coarse))
        self.down_32 = nn.Sequential(_Convolution(coarse, coarsest, 2), _Block(coarsest))
        self.lift_16 = nn.Conv2d(coarsest, coarse, 1)
        self.up_16 = _Block(coarse)
        self.lift_8 = nn.Conv2d(coarse, middle, 1)
        self.up_8 = _Convolution(middle, 3 * middle // 2)
        kinds, colours = len(config.kinds), len(config.colours)
        self.object_sizes = (1, kinds, colours, 4, 1 + kinds, 1 + colours)
        self.object_head = nn.Conv2d(3 * middle // 2, sum(self.object_sizes), 1)
        self.scene_sizes = (len(config.styles), len(config.backgrounds), len(config.lights))
        # Shapes need few fine channels, but a style is mostly what happens within two pixels of an edge.
        self.texture = nn.ModuleList(
            (_Convolution(3 * _PATCH_PX**2, _TEXTURE_WIDTHS[0], 2), _Convolution(*_TEXTURE_WIDTHS))
        )
        num_pooled = 3 * (sum(config.widths) + sum(_TEXTURE_WIDTHS))
        self.scene_head = nn.Sequential(
            nn.LayerNorm(num_pooled),
            nn.Linear(num_pooled, _SCENE_WIDTH),
            nn.SiLU(),
            nn.Linear(_SCENE_WIDTH, sum(self.scene_sizes)),
        )
        with torch.no_grad():
            assert self.object_head.bias is not None
            self.object_head.bias[0] = -3.0  # objects are rare: start from a low score everywhere

    def encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the grids of 4, 8, 16 and 32 px per cell."""
        finest = self.stem(F.pixel_unshuffle(pictures, _PATCH_PX))
        fine = self.down_8(finest)
        coarse = self.down_16(fine)
        return finest, fine, coarse, self.down_32(coarse)

    def read_scene(self, pictures: torch.Tensor, grids: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return the logits of style, background and light; a style is texture, so every grid counts."""
        grain = F.pixel_unshuffle(pictures, _PATCH_PX)
        for layer in self.texture:
            grain = layer(grain)
            grids = (*grids, grain)
        pooled = [torch.cat([grid.mean((2, 3)), grid.std((2, 3)), grid.amax((2, 3))], 1) for grid in grids]
        return self.scene_head(torch.cat(pooled, 1)).split(self.scene_sizes, 1)

    def forward(self, pictures: torch.Tensor) -> ParserOutput:
        """Read a batch of pictures."""
        grids = self.encode(pictures)
        style, background, light = self.read_scene(pictures, grids)
        _, fine, coarse, coarsest = grids
        coarse = self.up_16(coarse + F.interpolate(self.lift_16(coarsest), scale_factor=2.0))
        fine = self.up_8(fine + F.interpolate(self.lift_8(coarse), scale_factor=2.0))
        score, kind, colour, box, cell_kind, cell_colour = self.object_head(fine).split(self.object_sizes, 1)
        return ParserOutput(score[:, 0], kind, colour, box, cell_kind, cell_colour, style, background, light)


def find_peaks(score: torch.Tensor, threshold: float) -> torch.Tensor:
    """Find the cells that are centres of objects.

    Shapes:  score (b, h, w) in 0..1; returns (n, 3) int64 rows of picture, row and column.
    Returns: cells above the threshold that no cell of their PEAK_CELLS square exceeds.
    """
    highest = F.max_pool2d(score[:, None], PEAK_CELLS, 1, PEAK_CELLS // 2)[:, 0]
    return ((score == highest) & (score > threshold)).nonzero()


def to_box_px(distances: torch.Tensor, row: int, column: int) -> tuple[float, float, float, float]:
    """Turn the four distances (4,) of one cell into (x0, y0, x1, y1) in pixels of the network's picture."""
    left, top, right, bottom = (distances.float() * BOX_UNIT_PX).tolist()
    x, y = (column + 0.5) * STRIDE_PX, (row + 0.5) * STRIDE_PX
    return (x - left, y - top, x + right, y + bottom)


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return intersection over union of two boxes (x0, y0, x1, y1), 0..1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def keep_distinct(objects: Iterable[ParsedObject]) -> tuple[ParsedObject, ...]:
    """Drop every object that overlaps a more certain one by more than MAX_OVERLAP; best first."""
    kept: list[ParsedObject] = []
    for thing in sorted(objects, key=lambda thing: -thing.score):
        if all(box_iou(thing.box_px, other.box_px) <= MAX_OVERLAP for other in kept):
            kept.append(thing)
    return tuple(kept)


def decode_scenes(output: ParserOutput, config: ParserConfig) -> list[ParsedScene]:
    """Turn logits into scenes; boxes in pixels of the network's picture.

    Returns: one scene per picture of the batch.
    """
    score = output.score.float().sigmoid()
    found: list[list[ParsedObject]] = [[] for _ in score]
    for picture, row, column in find_peaks(score, config.score_threshold).tolist():
        found[picture].append(
            ParsedObject(
                kind=config.kinds[int(output.kind[picture, :, row, column].argmax())],
                colour=config.colours[int(output.colour[picture, :, row, column].argmax())],
                box_px=to_box_px(output.box[picture, :, row, column], row, column),
                score=float(score[picture, row, column]),
            )
        )
    heads = zip(output.background.argmax(1), output.light.argmax(1), output.style.argmax(1))
    return [
        ParsedScene(
            keep_distinct(objects),
            config.backgrounds[int(background)],
            config.lights[int(light)],
            config.styles[int(style)],
        )
        for objects, (background, light, style) in zip(found, heads)
    ]


class SceneParser:
    """A network with its names: pictures in, scenes out."""

    def __init__(self, model: ParserModel) -> None:
        self.model = model.eval()
        self.config = model.config

    @torch.no_grad()
    def parse(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> list[ParsedScene]:
        """Read pictures of any size, in the order given.

        Returns: one scene per picture, boxes in its own pixels.
        """
        scenes: dict[int, ParsedScene] = {}
        for members, fitted in self.fit(images, batch_size):
            found = decode_scenes(self.model(fitted), self.config)
            for index, scene in zip(members, found):
                scenes[index] = _scale_boxes(scene, images[index].size, (fitted.shape[3], fitted.shape[2]))
        return [scenes[index] for index in range(len(images))]

    @torch.no_grad()
    def locate(self, image: Image.Image) -> tuple[ParsedScene, torch.Tensor]:
        """Read one picture with the outlines of its things.

        Shapes:  (1 + K, h, w) float32 in 0..1: how probable the backdrop and each kind is in each cell.
        Returns: the scene, boxes in the picture's own pixels, and that map over the whole picture.
        """
        [(_, fitted)] = self.fit([image], 1)
        output = self.model(fitted)
        [scene] = decode_scenes(output, self.config)
        return _scale_boxes(scene, image.size, (fitted.shape[3], fitted.shape[2])), output.cell_kind[0].softmax(0)

    def fit(self, images: Sequence[Image.Image], batch_size: int) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Scale pictures to what the network was trained on and stack those of one size.

        Shapes:  yields the pictures' numbers and (b, 3, H, W) in -1..1 on the network's device.
        Differs: a picture whose shorter side is not the trained one is scaled to it first; the longer side becomes
                 the nearest multiple of 32 px, so very long pictures are stretched by a few per cent.
        """
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(self._find_size(image), []).append(index)
        device = next(self.model.parameters()).device
        for size, members in by_size.items():
            for start in range(0, len(members), batch_size):
                part = members[start : start + batch_size]
                fitted = [image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
                          for image in (images[index].convert("RGB") for index in part)]  # fmt: skip
                yield part, to_tensor(fitted).to(device)

    def _find_size(self, image: Image.Image) -> tuple[int, int]:
        ratio = self.config.picture_px / min(image.size)
        width, height = (max(1, round(side * ratio / SIDE_UNIT_PX)) * SIDE_UNIT_PX for side in image.size)
        return (width, height)


def _scale_boxes(scene: ParsedScene, to_size: tuple[int, int], from_size: tuple[int, int]) -> ParsedScene:
    if to_size == from_size:
        return scene
    across, down = to_size[0] / from_size[0], to_size[1] / from_size[1]
    objects = []
    for thing in scene.objects:
        x0, y0, x1, y1 = thing.box_px
        box_px = (x0 * across, y0 * down, x1 * across, y1 * down)
        objects.append(ParsedObject(thing.kind, thing.colour, box_px, thing.score))
    return ParsedScene(tuple(objects), scene.background, scene.light, scene.style)


def config_to_json(config: ParserConfig) -> dict[str, object]:
    """Return the configuration as plain values, for `config.json`."""
    return {"format": "limelight-scene-parser-3", **asdict(config)}


def config_from_json(values: dict[str, object]) -> ParserConfig:
    """Build the configuration from the values of `config.json`; what the network does not need is ignored.

    Raises: KeyError for a missing name list.
    """
    plain = {field.name: values[field.name] for field in fields(ParserConfig)}
    return ParserConfig(**{key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()})  # type: ignore[arg-type]


def load_parser(folder: str | Path, *, device: str = "cpu") -> SceneParser:
    """Load the scene parser from a folder with `model.safetensors` and `config.json`.

    Returns: a parser that computes in float32.
    Raises:  BackendUnavailable if a file is missing or does not fit the other.
    """
    folder = Path(folder)
    weights, config_file = folder / "model.safetensors", folder / "config.json"
    for file in (weights, config_file):
        if not file.is_file():
            raise BackendUnavailable(
                f"The scene parser needs {file.name} in {folder.name}; run `make train-parser` or restore the file."
            )
    try:
        # Without storage there is nothing to initialise: a run may load the parser, and must not draw global numbers.
        with torch.device("meta"):
            model = ParserModel(config_from_json(json.loads(config_file.read_text(encoding="utf-8"))))
        model.to_empty(device=device)
        model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(f"The files in {folder.name} are no scene parser: {error}") from error
    return SceneParser(model)
