"""The figures of the 3D preview: exact for shapes that are known, and from the page's own stream."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.preview_3d import (
    FIRST_SEED,
    find_weights,
    load_rows,
    make_surface,
    make_truth,
    measure_chamfer,
    measure_model,
    sample_surface,
    save_rows,
    summarise,
    to_db,
)
from pipelines import ModelStore
from pipelines.distillation import PolishSettings
from pipelines.field_fit import FieldSettings
from pipelines.mesh import measure_volume
from pipelines.preview_3d import preview_3d_stream
from pipelines.preview_records import Preview3dRequest, Preview3dResult
from training.world.scene import FIRST_HELD_OUT_SEED, Identity
from training.world.solid_shapes import Piece, ball
from training.world.solids import Body


def make_ball(radius: float) -> np.ndarray:
    """Sample a ball's surface."""
    body = Body((Piece(ball((0, 0, 0), radius)),), np.eye(3, dtype=np.float32), Identity())
    mesh = make_surface(body)
    assert measure_volume(mesh) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    return sample_surface(mesh, 4000)


def test_the_chamfer_distance_of_two_balls_is_their_difference() -> None:
    small, large = make_ball(0.5), make_ball(0.6)
    assert np.linalg.norm(small, axis=1) == pytest.approx(0.5, abs=0.01)
    assert measure_chamfer(small, large) == pytest.approx(0.1, abs=0.01)
    assert measure_chamfer(small, small) == 0


def test_a_tenth_off_everywhere_is_20_db() -> None:
    assert to_db(np.full((2, 4, 4, 3), 0.6), np.full((2, 4, 4, 3), 0.5)) == pytest.approx(20)


def test_an_inflated_solid_is_measured() -> None:
    truth = make_truth(FIRST_SEED)
    *_, result = preview_3d_stream(Preview3dRequest(truth.picture, method="inflate"), ModelStore())
    assert isinstance(result, Preview3dResult) and result.mesh is not None
    row = measure_model(result.mesh, truth)
    assert FIRST_SEED >= FIRST_HELD_OUT_SEED
    assert 12 < row["psnr"] < 35 and 0.5 < row["iou"] <= 1 and 0 < row["chamfer"] < 0.25


def test_gains_are_paired() -> None:
    def rows(*values: float) -> list[dict[str, float]]:
        return [{"psnr": v, "iou": 0.9, "chamfer": 0.05} for v in values]

    figures = summarise(
        {"inflate": rows(18, 20), "views": rows(21, 22), "falling": rows(22, 23), "uniform": rows(21, 24)}
    )
    assert figures["view_psnr_db"].value == 22.5 and figures["view_psnr_db"].baseline == 19
    assert figures["view_gain_over_inflate_db"].value == 3.5 and figures["curriculum_gain"].value == 0
    assert figures["views_psnr"].value == 21.5


@pytest.mark.parametrize(
    ("name", "record"),
    [("PolishSettings", partial(PolishSettings, lowest=0.5)), ("FieldSettings", partial(FieldSettings, num_rays=1))],
)
def test_kept_rows_of_other_settings_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, record: object
) -> None:
    rows = {"7": {"views": {"psnr": 20.0}}}
    save_rows(tmp_path, rows)
    assert load_rows(tmp_path) == rows
    before = find_weights()
    monkeypatch.setattr(f"benchmarks.preview_3d.{name}", record)
    assert load_rows(tmp_path) == {} and find_weights() != before
