"""How often the scene parser is right: objects, kinds, colours, counts, styles, backgrounds and light.

Works on drawn scenes only, where the truth is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from pipelines.images import to_images, to_tensor
from pipelines.scene_parser import ParsedObject, ParsedScene, SceneParser, box_iou
from training.wear import wear
from training.world.render import render
from training.world.scene import Scene, sample_scene

MIN_OVERLAP = 0.3  # a parsed box that shares less than this (IoU) with a true one is another object
PICTURES_PER_ROUND = 64


@dataclass(frozen=True)
class Mistake:
    """One picture that was not read as it was drawn; `reasons` are written as truth > answer."""

    scene: Scene
    image: Image.Image
    reasons: tuple[str, ...]


def measure_parser(
    parser: SceneParser, first_seed: int, num_scenes: int, *, is_worn: bool = False
) -> tuple[dict[str, float], list[Mistake]]:
    """Compare the parser with the truth on consecutive seeds of the whole world.

    Returns: fractions 0..1 and the mistakes. Per object: found, kind, colour, object (kind and colour), overlap (mean
             IoU of found ones); per picture: count, scene (count, kinds and colours), style, background, light.
    """
    totals: dict[str, float] = {}
    mistakes = []
    num_objects = 0
    for start in range(first_seed, first_seed + num_scenes, PICTURES_PER_ROUND):
        seeds = range(start, min(start + PICTURES_PER_ROUND, first_seed + num_scenes))
        scenes = [sample_scene(seed, split="all") for seed in seeds]
        drawn = [render(scene) for scene in scenes]
        images = [Image.fromarray(rendered.rgb) for rendered in drawn]
        images = [_wear_image(image, seed) for image, seed in zip(images, seeds)] if is_worn else images
        for scene, rendered, image, parsed in zip(scenes, drawn, images, parser.parse(images)):
            num_objects += len(scene.objects)
            figures, reasons = compare(scene, rendered.boxes_px, parsed)
            for name, value in figures.items():
                totals[name] = totals.get(name, 0.0) + value
            if reasons:
                mistakes.append(Mistake(scene, image, tuple(reasons)))
    totals["overlap"] /= max(1.0, totals["found"])
    per_object = dict.fromkeys(("found", "kind", "colour", "object"), num_objects) | {"overlap": 1}
    return {name: round(value / per_object.get(name, num_scenes), 4) for name, value in totals.items()}, mistakes


def compare(
    scene: Scene, boxes_px: Sequence[tuple[int, int, int, int]], parsed: ParsedScene
) -> tuple[dict[str, float], list[str]]:
    """Count what was read correctly in one picture.

    Returns: sums over objects for found, kind, colour, object, overlap; 0 or 1 for the rest; and what went wrong.
    """
    figures = dict.fromkeys(("found", "kind", "colour", "object", "overlap"), 0.0)
    reasons = []
    free = list(parsed.objects)
    for thing, box_px in zip(scene.objects, boxes_px):
        best = max(free, key=lambda candidate: box_iou(candidate.box_px, box_px), default=None)
        if best is None or box_iou(best.box_px, box_px) < MIN_OVERLAP:
            reasons.append(f"{thing.colour} {thing.kind} > nothing")
            continue
        free.remove(best)
        figures["overlap"] += box_iou(best.box_px, box_px)
        right = _compare_object(thing.kind, thing.colour, best)
        for name, value in right.items():
            figures[name] += value
        if not right["object"]:
            reasons.append(f"{thing.colour} {thing.kind} > {best.colour} {best.kind}")
    reasons += [f"nothing > {thing.colour} {thing.kind} ({thing.score:.2f})" for thing in free]
    figures["count"] = float(len(parsed.objects) == len(scene.objects))
    figures["scene"] = float(not reasons)
    for name in ("style", "background", "light"):
        truth, answer = getattr(scene, name), getattr(parsed, name)
        figures[name] = float(truth == answer)
        reasons += [] if truth == answer else [f"{truth} > {answer}"]
    return figures, reasons


def _compare_object(kind: str, colour: str, answer: ParsedObject) -> dict[str, float]:
    is_kind, is_colour = answer.kind == kind, answer.colour == colour
    return {"found": 1.0, "kind": float(is_kind), "colour": float(is_colour), "object": float(is_kind and is_colour)}


def _wear_image(image: Image.Image, seed: int) -> Image.Image:
    picture = (to_tensor([image])[0] + 1) / 2
    worn = wear(picture, torch.Generator().manual_seed(seed))
    return to_images(worn[None] * 2 - 1)[0]
