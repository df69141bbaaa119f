"""Frozen records that cross the seams: requests, progress, results, and what a technique sees of a run.

Holds no behaviour and imports no model code, so that the page can be built before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipelines.backends import DEFAULT_BACKEND
from pipelines.drag_points import DragPair, read_pairs
from pipelines.params import checked, choice, flag, ranged, text
from pipelines.technique_catalogue import check_drag, check_style, check_techniques

if TYPE_CHECKING:
    import torch

    from pipelines.lora import Lora
    from pipelines.model import ModelBundle, TextCond

SAMPLERS = ("dpmpp_2m", "ddim", "unipc", "ddim_short")
EXTENSIONS = ("no", "left", "right", "both")
WAYS_OF_READING = ("noise", "inversion")
WAYS_OF_PULLING = ("auto", "move", "stretch")
WAYS_OF_ENLARGING = ("faithful", "detail", "damage", "explore")
KINDS_OF_UPLOAD = ("clean", "camera")
SIGNS_OF_LOSS = ("none", "transparent", "black", "white")


@dataclass(frozen=True)
class TextToImageRequest:
    """Say what to draw; every field is a plain value, checked once by `params.validate`.

    Units: width_px and height_px None mean the backend's own size; image k of num_images uses seed + k.
    """

    prompt: str = text(None, 10_000, label="Prompt", help="What the picture shows, in plain words.")
    negative_prompt: str = text("", 10_000, label="Negative prompt", help="What the picture should not show.")
    seed: int = ranged(0, 0, 2**32 - 1, 1, label="Seed", help="The same seed and settings give the same picture.")
    num_steps: int = ranged(20, 1, 100, 1, label="Steps", help="More steps are slower and a little finer.")
    guidance_scale: float = ranged(
        5.5, 0.0, 20.0, 0.1, label="Guidance", help="How hard the prompt pulls; 1 is no pull."
    )
    techniques: dict[str, dict[str, Any]] = checked(
        dict,
        check_techniques,
        label="Techniques",
        help="What is added to plain guidance: {name: {option: value}}, options left out keep their defaults.",
    )
    sampler: str = choice("dpmpp_2m", SAMPLERS, label="Sampler", help="The rule that walks from noise to picture.")
    width_px: int | None = ranged(None, 64, 2048, 8, unit="px", label="Width", help="Empty: the model's own size.")
    height_px: int | None = ranged(None, 64, 2048, 8, unit="px", label="Height", help="Empty: the model's own size.")
    num_images: int = ranged(1, 1, 8, 1, label="Pictures", help="How many pictures, each with the next seed.")
    compare: bool = flag(False, label="Compare", help="Draw the same seed without and with the techniques.")
    backend: str = text(DEFAULT_BACKEND, 100, label="Backend", help="Which model draws.")


@dataclass(frozen=True)
class Progress:
    """Report one finished step.

    Units: step counts finished steps, 0..num_steps, 0 while something is prepared; seconds_left is an estimate, 0 if
           there is none; preview is a small picture or None.
    """

    step: int
    num_steps: int
    note: str = ""
    preview: Image.Image | None = None
    seconds_left: float = 0.0


@dataclass(frozen=True)
class FitProgress(Progress):
    """Report one step of a fit.

    Units: loss is that of the objective; gain says by how much the fit predicts the pictures better than the model, in
           units of the model's own error, 0 where that is not known; lora is still being fitted: copy it to keep it.
    """

    loss: float = 0.0
    gain: float = 0.0
    lora: Lora | None = None


@dataclass(frozen=True)
class Measure:
    """Hold the number a technique moves: without it, with it; `on` equals `off` when nothing was compared."""

    name: str
    label: str
    off: float
    on: float
    unit: str = ""


@dataclass(frozen=True)
class ImageResult:
    """Hold finished pictures and everything that is true about how they were made.

    `sketches` are pictures that explain a technique, each with its caption: where a word drew attention, the
    boxes, the stages of a picture that was drawn in several.
    """

    images: tuple[Image.Image, ...]
    baseline_images: tuple[Image.Image, ...]
    seed_used: int
    seconds: float
    measures: tuple[Measure, ...]
    notes: tuple[str, ...]
    request: TextToImageRequest
    sketches: tuple[tuple[str, Image.Image], ...] = ()


@dataclass(frozen=True)
class StyleRequest:
    """Say what to draw and whose style to take; pictures are given, or drawn from words where there is none.

    Units: width and height follow from the backend; image k of num_images uses seed + k; extend draws on beyond the
           border of the style picture instead of a new one.
    """

    prompt: str = text(None, 10_000, label="Prompt", help="What to draw. The style comes from the picture.")
    reference: Image.Image | None = None
    reference_prompt: str = text("", 10_000, label="Or draw a style picture", help="Words for a style picture.")
    second: Image.Image | None = None
    second_prompt: str = text("", 10_000, label="Or draw the second one", help="Words for a second style picture.")
    techniques: dict[str, dict[str, Any]] = checked(
        lambda: {"visual_style": {}},
        check_style,
        label="Technique",
        help="How the style is taken: {name: {option: value}}; empty means words only.",
    )
    read_by: str = choice(
        "noise", WAYS_OF_READING, label="Read by", help="Noise the style picture freshly, or invert it step by step."
    )
    extend: str = choice("no", EXTENSIONS, label="Extend", help="Draw on beyond the style picture's own border.")
    negative_prompt: str = text("", 10_000, label="Negative prompt", help="What the picture should not show.")
    seed: int = ranged(0, 0, 2**32 - 1, 1, label="Seed", help="The same seed and settings give the same picture.")
    num_steps: int = ranged(20, 1, 100, 1, label="Steps", help="More steps are slower and a little finer.")
    guidance_scale: float = ranged(5.5, 0.0, 20.0, 0.1, label="Guidance", help="How hard the prompt pulls.")
    sampler: str = choice("dpmpp_2m", SAMPLERS, label="Sampler", help="The rule that walks from noise to picture.")
    num_images: int = ranged(4, 1, 8, 1, label="Pictures", help="How many pictures, each with the next seed.")
    compare: bool = flag(False, label="Compare", help="Also draw with words only and with StyleAligned, same seeds.")
    backend: str = text(DEFAULT_BACKEND, 100, label="Backend", help="Which model draws.")


@dataclass(frozen=True)
class StyleArm:
    """Hold the pictures of one way of drawing; name is a technique's, "" for words only."""

    name: str
    title: str
    images: tuple[Image.Image, ...]
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class StyleResult:
    """Hold pictures in a style: one arm as asked, before it words only and StyleAligned when comparing.

    Units: images are those of the last arm, what was asked for; references are the style pictures as the model saw
           them, each with its inversion error as PSNR in dB; `off` of a measure is words only where that was drawn.
    """

    arms: tuple[StyleArm, ...]
    references: tuple[Image.Image, ...]
    inversions_db: tuple[float, ...]
    seed_used: int
    seconds: float
    notes: tuple[str, ...]
    request: StyleRequest
    sketches: tuple[tuple[str, Image.Image], ...] = ()

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """Return the pictures that were asked for."""
        return self.arms[-1].images


@dataclass(frozen=True)
class DragRequest:
    """Say what to pull where; the picture is given, or drawn from the prompt where there is none.

    Units: pairs and mask in px of the picture, which has the backend's own size (`fit_picture` brings it there); the
           mask is as large, white may move, None lets the machine find what lies under the handles; pull says whether
           a thing is moved as a whole or stretched, auto decides by where it is held.
    """

    picture: Image.Image | None = None
    prompt: str = text("", 10_000, label="Words of the picture", help="What it shows, as far as known; may be empty.")
    pairs: tuple[DragPair, ...] = checked(tuple, read_pairs, label="Pairs", help="Each a handle and its target.")
    mask: Image.Image | None = None
    techniques: dict[str, dict[str, Any]] = checked(
        lambda: {"fast_drag": {}},
        check_drag,
        label="Method",
        help="How it is pulled: {name: {option: value}}, exactly one.",
    )
    pull: str = choice(
        "auto",
        WAYS_OF_PULLING,
        label="Pull",
        help="Move the thing as a whole, or stretch it; auto decides by the handle.",
    )
    fit: bool = flag(False, label="Learn the picture first", help="For uploads: the model learns the picture first.")
    seed: int = ranged(0, 0, 2**32 - 1, 1, label="Seed", help="The same seed and settings give the same picture.")
    num_steps: int = ranged(20, 4, 100, 1, label="Steps", help="More steps are slower and a little finer.")
    backend: str = text(DEFAULT_BACKEND, 100, label="Backend", help="Which model draws.")


@dataclass(frozen=True)
class DragProgress(Progress):
    """Report where the handles are.

    Units: handles in px of the picture, in the order of the pairs; left_px their mean distance to the targets; state is
           the best picture so far in full size, what lies outside the mask as it was: what a stop keeps. None as long
           as nothing was pulled.
    """

    handles: tuple[tuple[float, float], ...] = ()
    left_px: float = 0.0
    state: Image.Image | None = None


@dataclass(frozen=True)
class DragResult:
    """Hold a pulled picture beside the one it comes from.

    Units: all px are those of `original`, the picture as the model saw it; mask shows what was free to move; handles
           are where the handles' surroundings were found again; measures compare before with after; stages_s are the
           seconds of each stage by name (invert, fit, pull, draw); inversion_db says how well the picture is known.
    """

    image: Image.Image
    original: Image.Image
    mask: Image.Image
    handles: tuple[tuple[float, float], ...]
    measures: tuple[Measure, ...]
    seed_used: int
    seconds: float
    stages_s: tuple[tuple[str, float], ...]
    inversion_db: float
    notes: tuple[str, ...]
    request: DragRequest
    sketches: tuple[tuple[str, Image.Image], ...] = ()

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """Return the pulled picture as the only one."""
        return (self.image,)


@dataclass(frozen=True)
class SuperResolutionRequest:
    """Say what to enlarge, how much and how.

    Units: the picture may be of any mode and shape; blur_px is a deviation in pixels of the picture as given,
           noise_levels one in levels of 255; source, detail_frac, the fields of the damage and those of the words each
           belong to a mode.
    """

    picture: Image.Image | None = None
    scale: float = ranged(4.0, 1.0, 8.0, 0.1, label="Scale", help="How many times as wide and high; 2.5 is fine.")
    mode: str = choice(
        "faithful",
        WAYS_OF_ENLARGING,
        label="Mode",
        help="Agree exactly, add likely detail, undo a known damage, or draw several answers after words.",
    )
    source: str = choice(
        "clean",
        KINDS_OF_UPLOAD,
        label="The upload is",
        help="Clean: a screenshot, a drawing, a reduced picture. Camera: with noise or the traces of a JPEG file.",
    )
    # 0.6 is as sharp as the originals of 24 drawn pictures (median 0.98 of their sharpness; 0 has 0.69, 1 has 1.27).
    detail_frac: float = ranged(1.0, 0.0, 1.0, 0.05, label="Detail", help="How much of the invented detail is kept.")
    blur_px: float = ranged(0.0, 0.0, 4.0, 0.1, unit="px", label="Blur", help="How far a point is spread.")
    noise_levels: float = ranged(0.0, 0.0, 50.0, 1.0, label="Noise", help="How much a flat area varies, of 255.")
    missing: str = choice("none", SIGNS_OF_LOSS, label="Lost pixels are", help="How lost pixels are marked, if any.")
    num_steps: int = ranged(24, 4, 100, 1, label="Steps", help="Of the search for what the damage or the size hid.")
    prompt: str = text("", 10_000, label="Prompt", help="What the picture may show, in plain words.")
    num_images: int = ranged(4, 1, 8, 1, label="Pictures", help="How many different answers.")
    guidance_scale: float = ranged(4.0, 0.0, 20.0, 0.1, label="Guidance", help="How hard the prompt pulls.")
    freedom_frac: float = ranged(
        0.5, 0.1, 1.0, 0.05, label="Freedom", help="How far the answers may leave the plainly enlarged picture."
    )
    seed: int = ranged(0, 0, 2**32 - 1, 1, label="Seed", help="The same seed and settings give the same picture.")
    backend: str = text(DEFAULT_BACKEND, 100, label="Backend", help="Which model draws the answers.")


@dataclass(frozen=True)
class SuperResolutionResult:
    """Hold an enlarged picture, and further answers where several were asked for.

    Units: baseline is the picture enlarged by bicubic interpolation to the same size; `off` of a measure is that
           baseline's; original is what was enlarged, which exploring makes square and small.
    """

    image: Image.Image
    baseline: Image.Image
    original: Image.Image
    measures: tuple[Measure, ...]
    seed_used: int
    seconds: float
    notes: tuple[str, ...]
    request: SuperResolutionRequest
    others: tuple[Image.Image, ...] = ()

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """Return every answer."""
        return (self.image, *self.others)


@dataclass(frozen=True)
class SuperResolutionProgress(Progress):
    """Report finished tiles or steps; `keep` makes a result of the picture so far: what a stop keeps."""

    keep: Callable[[], SuperResolutionResult] | None = None


@dataclass(frozen=True)
class RunInfo:
    """Tell a technique, when it is opened, what stays the same during the whole run.

    Shapes: latents of the run are (num_images, spec.latent_channels, height_cells, width_cells).
    Units:  note(sentence) adds a sentence to the result's notes; sketch(caption, map) shows a map (h, w) over the first
            picture, instead of an earlier one of that caption; sketch_boxes(boxes) shows a layout;
            sketch_picture(caption, picture, boxes) shows a stage of the first picture with the boxes that it is about;
            watch(noun) asks to measure whether that thing is there, watch_seams(windows) how hard the picture changes
            across the borders of its windows; sketch_sources(looks, width) shows where the patches of the first
            picture, in rows of `width`, look in the style pictures: looks (n, patches of all style pictures).
    """

    num_steps: int
    num_images: int
    height_cells: int
    width_cells: int
    guidance_scale: float
    sampler: str
    text: TextCond
    generators: tuple[torch.Generator, ...]
    note: Callable[[str], None]
    sketch: Callable[[str, torch.Tensor], None] = lambda caption, cells: None
    sketch_boxes: Callable[[Sequence[Any]], None] = lambda boxes: None
    sketch_picture: Callable[[str, Image.Image, Sequence[Any]], None] = lambda caption, picture, boxes: None
    watch: Callable[[str], None] = lambda noun: None
    watch_seams: Callable[[Sequence[Any]], None] = lambda windows: None
    sketch_sources: Callable[[torch.Tensor, int], None] = lambda looks, width: None


@dataclass(frozen=True)
class StepContext:
    """Tell a hook where the run stands; complete at every point.

    Units: step 0-based; fraction = step / num_steps; timestep 0..999 in training units; alpha_bar 0..1;
           sigma = sqrt(1 - alpha_bar), the share of noise in the latents.
    """

    step: int
    num_steps: int
    fraction: float
    timestep: int
    alpha_bar: float
    sigma: float
    guidance_scale: float
    model: ModelBundle
    text: TextCond
    generators: tuple[torch.Generator, ...]
