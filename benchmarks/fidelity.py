"""How often a picture shows what its prompt asks: GenEval's tasks, scene prompts, and pairs that training never saw.

The scene parser judges, so its own accuracy is measured first, on held-out renders and after the autoencoder.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.figures import Figure, RunSettings, bootstrap, make_figure, mean_of_groups
from benchmarks.geneval import Ask, shows
from benchmarks.held_out import PARSER_SEEDS, PICTURE_SEEDS, draw_pictures, draw_scenes, load_storybook, round_trip
from benchmarks.progress import count
from benchmarks.prompts import GENEVAL_TASKS, ask_pairs, make_asks
from benchmarks.sheets import save_sheet
from pipelines.model import ModelBundle
from pipelines.scene_parser import ParsedScene, SceneParser, load_parser
from training.world.scene import Scene

PARSER_FOLDER = Path(__file__).resolve().parents[1] / "assets" / "parser"
NUM_SCENES = 2000
FULL_N = 96
SCENES_PER_BATCH = 32
PICTURES_PER_PROMPT = 4
# Twice as many for each never-trained pair, because there are only as many pairs as kinds.
PICTURES_PER_PAIR = 8
SEEDS_PER_TASK = 10_000


def is_read_right(scene: Scene, parsed: ParsedScene) -> bool:
    """Say whether exactly the scene's objects were found, each with its kind and colour."""
    truth = Counter((thing.kind, thing.colour) for thing in scene.objects)
    return truth == Counter((thing.kind, thing.colour) for thing in parsed.objects)


def measure_parser(model: ModelBundle, parser: SceneParser, num_scenes: int) -> dict[str, Figure]:
    """Let the parser read held-out renders, clean and after the autoencoder."""
    scenes = list(draw_scenes(PARSER_SEEDS, num_scenes))
    clean: list[bool] = []
    worn: list[bool] = []
    for start in count(range(0, num_scenes, SCENES_PER_BATCH), "held-out scenes for the parser"):
        batch = scenes[start : start + SCENES_PER_BATCH]
        images = [Image.fromarray(rendered.rgb) for _, rendered in batch]
        for right, pictures in ((clean, images), (worn, round_trip(model, images))):
            parsed = parser.parse(pictures)
            right += [is_read_right(scene, seen) for (scene, _), seen in zip(batch, parsed, strict=True)]
    return {"parser_clean_acc": make_figure(clean), "parser_roundtrip_acc": make_figure(worn)}


def judge(images: list[Image.Image], asks: list[Ask], parser: SceneParser) -> np.ndarray:
    """Judge all pictures of some prompts. Shapes: returns (prompts, pictures per prompt) of 0 and 1."""
    per_prompt = len(images) // len(asks)
    asked = [ask for ask in asks for _ in range(per_prompt)]
    right = [shows(ask, parsed) for ask, parsed in zip(asked, parser.parse(images), strict=True)]
    return np.array(right, dtype=float).reshape(len(asks), per_prompt)


class Studio:
    """Draw and judge one task after the other, each with seeds of its own."""

    def __init__(self, model: ModelBundle, parser: SceneParser, sheet: Path | None) -> None:
        self.model = model
        self.parser = parser
        self.sheet = sheet
        self.next_seed = PICTURE_SEEDS

    def score(self, name: str, asks: list[Ask], per_prompt: int = PICTURES_PER_PROMPT) -> np.ndarray:
        """Give the share of right pictures of each prompt. Shapes: returns (prompts,)."""
        prompts = [ask.prompt for ask in asks for _ in range(per_prompt)]
        images = draw_pictures(self.model, prompts, self.next_seed, f"pictures of {name}")
        self.next_seed += SEEDS_PER_TASK
        right = judge(images, asks, self.parser)
        if self.sheet is not None:
            marks = [f"{'+' if row[0] else '-'} {ask.prompt}" for row, ask in zip(right, asks, strict=True)]
            save_sheet(self.sheet / f"{name}.png", images[::per_prompt], columns=8, titles=marks)
        shares = right.mean(1)
        for label, wanted in (("trained", False), ("held out", True)):
            part = [share for share, ask in zip(shares, asks, strict=True) if ask.is_held_out is wanted]
            if part:
                print(f"  {name}, {label} prompts: {np.mean(part):.3f} of {len(part)} prompts", file=sys.stderr)
        return shares


def measure_gap(studio: Studio, n: int) -> Figure:
    """Compare pairs that training saw with pairs that it never saw: share of right colours, trained minus never."""
    never, trained = ask_pairs(n)
    shares_never = studio.score("pairs_never_trained", never, PICTURES_PER_PAIR)
    shares_trained = studio.score("pairs_trained", trained, PICTURES_PER_PAIR // 4)
    interval = bootstrap([shares_trained, shares_never], lambda groups: float(groups[0].mean() - groups[1].mean()))
    return Figure(float(shares_trained.mean() - shares_never.mean()), ci95=interval)


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Measure the parser, the six tasks, full scenes, and the gap to what was never trained."""
    model = load_storybook(settings.device, "fp32")
    parser = load_parser(PARSER_FOLDER, device=model.plan.device)
    figures = measure_parser(model, parser, max(1, NUM_SCENES * settings.n // FULL_N))
    studio = Studio(model, parser, settings.sheet)
    scores = {name: studio.score(name, make_asks(name, settings.n)) for name in GENEVAL_TASKS}
    figures |= {name: make_figure(shares.tolist()) for name, shares in scores.items()}
    groups = list(scores.values())
    figures["geneval_overall"] = Figure(mean_of_groups(groups), ci95=bootstrap(groups))
    figures["one_object_all"] = make_figure(
        studio.score("one_object_all", make_asks("one_object_all", settings.n)).tolist()
    )
    figures["heldout_pair_gap"] = measure_gap(studio, settings.n)
    return figures
