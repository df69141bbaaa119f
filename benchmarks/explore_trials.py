"""What Explore makes of small drawn pictures whose truth is known: does it agree, show what the words say, and vary?"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from benchmarks.figures import Figure, make_figure
from benchmarks.photographs import enlarge_photo
from benchmarks.progress import count
from pipelines import ModelStore
from pipelines.backends import PROJECT_DIR
from pipelines.scene_parser import load_parser
from training.world.caption import object_phrase
from training.world.render import render
from training.world.scene import FIRST_HELD_OUT_SEED, STYLES, Scene, sample_scene

FIRST_SEED = FIRST_HELD_OUT_SEED + 1_500_000_000
SCALE, SMALL_PX, NUM_ANSWERS = 8.0, 32, 2

_SHARES = ("thing", "same_style", "other_style")
_NAMES = (*_SHARES, *(f"{name}_faithful" for name in _SHARES), "agreement", "variety")


def list_scenes(num_scenes: int) -> Iterator[Scene]:
    """List held-out scenes of one thing: what a small picture shows of several is too little to judge."""
    seed = FIRST_SEED
    for _ in range(num_scenes):
        while len((scene := sample_scene(seed, split="all")).objects) != 1:
            seed += 1
        yield scene
        seed += 1


def measure_explore(num_scenes: int, models: ModelStore) -> tuple[dict[str, Figure], list[tuple[str, Image.Image]]]:
    """Explore small pictures after their true words, and after words that ask for another style.

    Returns: worst agreement in dB; how often thing and colour are seen and, as the baseline, are in what Faithful makes
             of the same small picture; how often the style of the words is seen; how far the answers lie apart. And
             six pictures of each scene to look at.
    """
    parser, shown = load_parser(PROJECT_DIR / "assets" / "parser"), []
    rows: dict[str, list[float]] = {name: [] for name in _NAMES}
    for index, scene in count(list(enumerate(list_scenes(num_scenes))), "small pictures explored"):
        thing = scene.objects[0]
        truth = Image.fromarray(render(scene).rgb)
        small = truth.resize((SMALL_PX, SMALL_PX), Image.Resampling.BICUBIC)
        others = [style for style in STYLES if style != scene.style]
        faithful = enlarge_photo(small, models, scale=SCALE)
        shown += [("drawn", truth), ("Faithful", faithful.image)]
        for name, style in (("same", scene.style), ("other", others[index % len(others)])):
            words = f"{object_phrase(thing.kind, thing.colour)}, {style}"
            asked = {"mode": "explore", "prompt": words, "num_images": NUM_ANSWERS, "seed": index}
            result = enlarge_photo(small, models, scale=SCALE, **asked)
            shown += [(words, image) for image in result.images]
            found, wanted = parser.parse([faithful.image, *result.images]), (thing.kind, thing.colour)
            has_thing = [wanted in [(seen.kind, seen.colour) for seen in parsed.objects] for parsed in found]
            has_style = [parsed.style == style for parsed in found]
            if name == "same":
                rows["thing_faithful"].append(float(has_thing[0]))
                rows["thing"].append(float(np.mean(has_thing[1:])))
            rows[f"{name}_style_faithful"].append(float(has_style[0]))
            rows[f"{name}_style"].append(float(np.mean(has_style[1:])))
            told = {measure.name: measure.on for measure in result.measures}
            rows["agreement"].append(told["consistency_db"])
            rows["variety"].append(told["variety_levels"])
    figures = {
        "explore_consistency_db": Figure(min(rows["agreement"]), unit="dB"),
        "explore_variety_levels": make_figure(rows["variety"]),
        **{
            f"explore_{name}_rate": make_figure(rows[name], baseline=float(np.mean(rows[f"{name}_faithful"])))
            for name in _SHARES
        },
    }
    return figures, shown
