"""The scenario's rulers and damages on drawn pictures; the photographs themselves are not needed here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.esrgan_slim import EsrganSlim
from benchmarks.explore_trials import list_scenes
from benchmarks.photographs import SCALES, make_pair
from benchmarks.super_resolution import (
    back_project,
    compare,
    describe_method,
    measure_agreement,
    measure_border_steps,
    measure_ssim,
    spoil,
)
from pipelines.images import to_tensor
from tests.pictures import make_ramp
from training.leaves import draw_leaves
from training.world.scene import FIRST_HELD_OUT_SEED


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A picture with edges and texture."""
    return Image.fromarray(draw_leaves(3)[:120, :150])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("is_camera", [False, True])
def test_a_pair_fits_its_scale(picture: Image.Image, scale: float, is_camera: bool) -> None:
    pair = make_pair("leaves", picture, scale, is_camera=is_camera)
    assert pair.truth.size == tuple(round(side * scale) for side in pair.small.size)
    assert pair.truth.width > picture.width - scale - 1
    again = make_pair("leaves", picture, scale, is_camera=is_camera)
    assert np.array_equal(np.asarray(pair.small), np.asarray(again.small))


def test_back_projection_beats_bicubic_and_agrees(picture: Image.Image) -> None:
    pair = make_pair("leaves", picture, 4.0, is_camera=False)
    bicubic, projected = pair.small.resize(pair.truth.size, Image.Resampling.BICUBIC), back_project(pair)
    assert compare(projected, pair.truth, 4) > compare(bicubic, pair.truth, 4) + 0.2
    assert measure_ssim(projected, pair.truth) > measure_ssim(bicubic, pair.truth)
    assert measure_agreement(projected, pair.small) > 45 > measure_agreement(bicubic, pair.small)


def test_equal_pictures_are_equal(picture: Image.Image) -> None:
    assert compare(picture, picture, 4) == 99 and measure_ssim(picture, picture) == pytest.approx(1, abs=1e-5)


def test_a_seam_is_seen() -> None:
    smooth = to_tensor([make_ramp(96)])[0]
    parted = smooth.clone()
    parted[:, :, 48:] += 0.1
    whole, cut = (measure_border_steps(picture, 48) for picture in (smooth, parted))
    assert cut.at_borders > 2 * whole.at_borders
    assert cut.everywhere < 1.2 * whole.everywhere
    with pytest.raises(ValueError, match="one tile"):
        measure_border_steps(smooth, 96)


def test_steps_between_small_pixels_are_in_a_picture_without_tiles_too() -> None:
    rng = np.random.default_rng(5)
    blocks = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((96, 96), Image.Resampling.BOX)
    steps = measure_border_steps(to_tensor([blocks])[0], 48)
    assert steps.at_borders > 3 * steps.everywhere


def test_damage_marks_what_is_lost(picture: Image.Image) -> None:
    lost = (np.asarray(spoil(picture, 1, 0.3)) == 0).all(-1)
    assert 0.25 < lost.mean() < 0.35


def test_every_scale_and_damage_has_its_figures(picture: Image.Image) -> None:
    pairs = [make_pair("leaves", picture, scale, is_camera=camera) for scale in SCALES for camera in (False, True)]
    rows = [{"psnr": 30.0, "ssim": 0.9, "sharpness": 0.8, "agreement": 50.0} for _ in pairs]
    figures = describe_method("bicubic", rows, pairs)
    assert figures["bicubic_clean_x3.3_psnr"].value == 30 and len(figures) == 2 * 4 * 3


def test_the_foreign_graph_is_run_layer_by_layer(tmp_path: Path) -> None:
    def node(name: str) -> list[list[list[object]]]:
        return [[[name, 0, 0, {}]]]

    layers = [
        {"class_name": "InputLayer", "config": {"name": "in"}, "inbound_nodes": []},
        {"class_name": "Conv2D", "config": {"name": "c"}, "inbound_nodes": node("in")},
        {"class_name": "Activation", "config": {"name": "r", "activation": "relu"}, "inbound_nodes": node("c")},
        {"class_name": "Add", "config": {"name": "a"}, "inbound_nodes": [[*node("r")[0], *node("in")[0]]]},
        {
            "class_name": "UpSampling2D",
            "config": {"name": "u", "size": [2, 2], "interpolation": "nearest"},
            "inbound_nodes": node("a"),
        },
    ]
    manifest = [{"weights": [{"name": "c/kernel", "shape": [1, 1, 3, 3]}, {"name": "c/bias", "shape": [3]}]}]
    folder = tmp_path / "x2"
    folder.mkdir()
    topology = {"model_config": {"config": {"layers": layers}}}
    (folder / "model.json").write_text(json.dumps({"modelTopology": topology, "weightsManifest": manifest}))
    np.concatenate([2 * np.eye(3).ravel(), [-1.0, 0.0, 1.0]]).astype("<f4").tofile(folder / "group1-shard1of1.bin")
    picture = torch.rand(1, 3, 4, 5)
    expected = picture + torch.relu(2 * picture + torch.tensor([-1.0, 0.0, 1.0])[:, None, None])
    assert torch.allclose(EsrganSlim(2, tmp_path)(picture), expected.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_scenes_to_explore_are_held_out_and_show_one_thing() -> None:
    scenes = list(list_scenes(4))
    assert len({scene.seed for scene in scenes}) == 4 and min(scene.seed for scene in scenes) >= FIRST_HELD_OUT_SEED
    assert all(len(scene.objects) == 1 for scene in scenes)
