"""The scene parser: decoding against a slow formula, sizes and batches, missing files, and the shipped weights."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines.errors import BackendUnavailable
from pipelines.scene_parser import (
    BOX_UNIT_PX,
    STRIDE_PX,
    ParsedObject,
    ParsedScene,
    ParserConfig,
    ParserModel,
    ParserOutput,
    SceneParser,
    box_iou,
    config_from_json,
    config_to_json,
    decode_scenes,
    find_peaks,
    keep_distinct,
    load_parser,
)
from training.parser_figures import measure_parser
from training.world.render import render
from training.world.scene import BACKGROUNDS, COLOURS, FIRST_HELD_OUT_SEED, KINDS, LIGHTS, STYLES, Scene, SceneObject

SHIPPED = Path(__file__).parents[2] / "assets" / "parser"

NAMES = ParserConfig(
    kinds=("cat", "car", "star"),
    colours=("red", "blue"),
    styles=("flat", "clay"),
    backgrounds=("plain", "sea"),
    lights=("day", "night"),
    widths=(4, 8, 8, 8),
)


def make_tiny(seed: int = 0) -> SceneParser:
    """A tiny parser with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SceneParser(ParserModel(NAMES))


def make_output(seed: int, cells: int = 8) -> ParserOutput:
    """Random logits for two pictures."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(cells, cells), *((n, cells, cells) for n in (3, 2, 4, 4, 3)), (2,), (2,), (2,)]
    values = [torch.randn((2, *shape), generator=generator) for shape in shapes]
    values[3] = values[3].abs() + 0.2
    return ParserOutput(*values)


def decode_slowly(output: ParserOutput, config: ParserConfig, picture: int) -> list[ParsedObject]:
    """The same decoding, cell by cell in plain Python."""
    score = output.score[picture].tolist()
    rows, columns = len(score), len(score[0])
    found = []
    for r in range(rows):
        for c in range(columns):
            around = [
                score[y][x]
                for y in range(max(0, r - 2), min(rows, r + 3))
                for x in range(max(0, c - 2), min(columns, c + 3))
            ]
            chance = 1 / (1 + math.exp(-score[r][c]))
            if score[r][c] < max(around) or chance <= config.score_threshold:
                continue
            kinds, colours = output.kind[picture, :, r, c].tolist(), output.colour[picture, :, r, c].tolist()
            left, top, right, bottom = (64 * value for value in output.box[picture, :, r, c].tolist())
            x, y = 8 * c + 4, 8 * r + 4
            box = (x - left, y - top, x + right, y + bottom)
            kind, colour = config.kinds[kinds.index(max(kinds))], config.colours[colours.index(max(colours))]
            found.append(ParsedObject(kind, colour, box, chance))
    found.sort(key=lambda thing: -thing.score)
    kept: list[ParsedObject] = []
    for thing in found:
        if all(box_iou(thing.box_px, other.box_px) <= 0.5 for other in kept):
            kept.append(thing)
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_decoding_equals_the_slow_formula(seed: int) -> None:
    output = make_output(seed)
    for picture, scene in enumerate(decode_scenes(output, NAMES)):
        slow = decode_slowly(output, NAMES, picture)
        assert len(slow) == len(scene.objects) > 0
        for fast, expected in zip(scene.objects, slow):
            assert (fast.kind, fast.colour) == (expected.kind, expected.colour)
            assert fast.box_px == pytest.approx(expected.box_px, abs=1e-3)
            assert fast.score == pytest.approx(expected.score, abs=1e-6)
        assert scene.style == NAMES.styles[int(output.style[picture].argmax())]
        assert scene.background == NAMES.backgrounds[int(output.background[picture].argmax())]
        assert scene.light == NAMES.lights[int(output.light[picture].argmax())]


def test_a_box_drawn_into_the_logits_is_read_back() -> None:
    output = make_output(0)._replace(score=torch.full((2, 8, 8), -9.0))
    output.score[0, 3, 5] = 4.0
    output.kind[0, :, 3, 5] = torch.tensor([0.0, 5.0, 0.0])
    output.colour[0, :, 3, 5] = torch.tensor([0.0, 5.0])
    x, y = 5.5 * STRIDE_PX, 3.5 * STRIDE_PX
    wanted = (12.0, 10.0, 60.0, 50.0)
    edges = (x - wanted[0], y - wanted[1], wanted[2] - x, wanted[3] - y)
    output.box[0, :, 3, 5] = torch.tensor(edges) / BOX_UNIT_PX
    scene, empty = decode_scenes(output, NAMES)
    assert [(thing.kind, thing.colour) for thing in scene.objects] == [("car", "blue")]
    assert scene.objects[0].box_px == pytest.approx(wanted)
    assert empty.objects == ()


def test_a_peak_hides_its_neighbours_only() -> None:
    score = torch.zeros(1, 9, 9)
    score[0, 2, 2], score[0, 2, 4], score[0, 2, 7] = 0.9, 0.8, 0.7
    assert find_peaks(score, 0.5).tolist() == [[0, 2, 2], [0, 2, 7]]
    assert find_peaks(score, 0.75).tolist() == [[0, 2, 2]]


def test_overlapping_objects_are_one() -> None:
    sure = ParsedObject("cat", "red", (0, 0, 100, 100), 0.9)
    same = ParsedObject("car", "red", (10, 0, 110, 100), 0.8)
    other = ParsedObject("cat", "red", (70, 0, 170, 100), 0.7)
    assert box_iou(sure.box_px, same.box_px) == pytest.approx(90 / 110)
    assert box_iou(sure.box_px, (200, 0, 300, 100)) == 0
    assert keep_distinct([other, same, sure]) == (sure, other)


def test_parsing_does_not_depend_on_the_batch() -> None:
    parser = make_tiny()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (5, 256, 256, 3), generator=generator, dtype=torch.uint8)
    images = [Image.fromarray(picture.numpy()) for picture in pixels]
    together, alone = parser.parse(images, batch_size=3), [parser.parse([image])[0] for image in images]
    for first, second in zip(together, alone, strict=True):
        assert [thing.kind for thing in first.objects] == [thing.kind for thing in second.objects]
        assert (first.background, first.light, first.style) == (second.background, second.light, second.style)
    assert parser.parse([]) == []


def test_boxes_come_back_in_pixels_of_the_picture_given() -> None:
    parser = make_tiny()
    parser.model.object_head.bias.data[0] = 5.0  # every cell believes, so that the highest of each square is found
    small = Image.effect_noise((256, 256), 60).convert("RGB")
    large = small.resize((512, 512), Image.Resampling.NEAREST)
    wide = Image.effect_noise((512, 256), 60)
    scene, twice, panorama = parser.parse([small, large, wide])
    assert len(scene.objects) > 0 and len(panorama.objects) > 0
    assert len(twice.objects) > 0
    assert max(thing.box_px[2] for thing in twice.objects) > 1.5 * max(thing.box_px[2] for thing in scene.objects)
    assert max(thing.box_px[2] for thing in panorama.objects) > 300


def test_a_grey_picture_and_a_transparent_one_are_read_as_rgb() -> None:
    parser = make_tiny()
    scenes = parser.parse([Image.new("L", (256, 256), 128), Image.new("RGBA", (256, 256), (128, 128, 128, 0))])
    assert len(scenes) == 2 and all(isinstance(scene, ParsedScene) for scene in scenes)


def save_tiny(folder: Path) -> Path:
    """Write a tiny parser the way the recipe does: float16 weights beside their configuration."""
    model = make_tiny().model
    weights = {name: v.half() if v.is_floating_point() else v for name, v in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config_to_json(NAMES), "recipe": {"batch_size": 16}}))
    return folder


def test_a_saved_parser_is_loaded_with_its_names(tmp_path: Path) -> None:
    loaded = load_parser(save_tiny(tmp_path))
    assert loaded.config == NAMES and config_from_json(config_to_json(NAMES)) == NAMES
    assert all(value.dtype == torch.float32 for value in loaded.model.parameters())
    picture = [Image.new("RGB", (256, 256), (200, 40, 40))]
    assert loaded.parse(picture)[0].style == make_tiny().parse(picture)[0].style


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (save_tiny(tmp_path) / name).unlink()
    with pytest.raises(BackendUnavailable, match=name):
        load_parser(tmp_path)


def test_files_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, "kinds": ["cat"]}))
    with pytest.raises(BackendUnavailable, match="no scene parser"):
        load_parser(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(BackendUnavailable, match="no scene parser"):
        load_parser(folder)
    (folder / "config.json").write_text(json.dumps({"format": about["format"]}))
    with pytest.raises(BackendUnavailable, match="no scene parser"):
        load_parser(folder)


@pytest.fixture(scope="module")
def shipped() -> SceneParser:
    """The parser in assets/."""
    return load_parser(SHIPPED)


def test_the_shipped_files_are_the_ones_in_the_manifest() -> None:
    rows = json.loads((SHIPPED / "MANIFEST.json").read_text())["files"]
    assert set(rows) == {"model.safetensors", "config.json"}
    for name, row in rows.items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == row["sha256"]


def test_the_shipped_parser_knows_the_world_by_its_names(shipped: SceneParser) -> None:
    config = shipped.config
    assert (config.kinds, config.colours, config.styles) == (KINDS, COLOURS, STYLES)
    assert (config.backgrounds, config.lights) == (BACKGROUNDS, LIGHTS)


@pytest.mark.parametrize("is_worn", [False, True])
def test_the_shipped_parser_reads_held_out_pictures(shipped: SceneParser, is_worn: bool) -> None:
    figures, mistakes = measure_parser(shipped, FIRST_HELD_OUT_SEED + 70_000, 60, is_worn=is_worn)
    at_least = {"object": 0.96, "count": 0.95, "scene": 0.94, "style": 0.9, "background": 0.94, "light": 0.95}
    short = {name: figures[name] for name, low in at_least.items() if figures[name] < low}
    assert not short, [mistake.reasons for mistake in mistakes]
    assert figures["overlap"] > 0.8


def test_the_shipped_parser_reads_a_picture_of_another_size(shipped: SceneParser) -> None:
    things = (SceneObject("boat", "red", 70.0, 130.0, 96.0), SceneObject("moon", "yellow", 190.0, 90.0, 96.0))
    rendered = render(Scene(things, "sea", "night", "papercut", seed=FIRST_HELD_OUT_SEED))
    large = Image.fromarray(rendered.rgb).resize((640, 640), Image.Resampling.LANCZOS)
    (scene,) = shipped.parse([large])
    assert {(thing.kind, thing.colour) for thing in scene.objects} == {("boat", "red"), ("moon", "yellow")}
    assert (scene.background, scene.light, scene.style) == ("sea", "night", "papercut")
    boat = next(thing for thing in scene.objects if thing.kind == "boat")
    assert box_iou(boat.box_px, [2.5 * edge for edge in rendered.boxes_px[0]]) > 0.7
