"""The curve network: curves stay in range and rise, sizes do not matter, files are checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.curve_net import (
    BAND_ROWS,
    SEEN_PX,
    CurveNet,
    CurveNetConfig,
    apply_curves,
    config_to_json,
    load_curve_net,
)
from pipelines.errors import BackendUnavailable

TINY = CurveNetConfig(width=4, num_rounds=3)


@pytest.fixture(scope="module")
def model() -> CurveNet:
    """A small network with weights that are not neutral."""
    torch.manual_seed(2)
    model = CurveNet(TINY).eval().requires_grad_(False)
    torch.nn.init.normal_(model.layers[-1].weight, std=0.5)  # type: ignore[arg-type]
    return model


def make_picture(height: int, width: int) -> torch.Tensor:
    field = torch.linspace(0, 6, height)[:, None].sin() * torch.linspace(0, 5, width).cos()
    return torch.stack([field, -field, field * 0.5]) * 0.4 - 0.5


def test_any_curve_rises_and_keeps_black_and_white() -> None:
    ramp = torch.linspace(-1, 1, 101).expand(1, 3, 1, -1)
    for seed in range(5):
        curves = torch.rand((1, 24, 1, 1), generator=torch.Generator().manual_seed(seed)) * 2 - 1
        bent = apply_curves(ramp, curves.expand(-1, -1, -1, 101))
        assert bent.min() == -1 and bent.max() == 1 and (bent.diff(dim=-1) >= -1e-6).all()


def test_a_curve_is_the_papers() -> None:
    x, r = 0.3, (0.5, -0.25)
    expected = x
    for value in r:
        expected = expected + value * (expected - expected**2)
    picture = torch.full((1, 3, 1, 1), 2 * x - 1)
    curves = torch.tensor(r).repeat_interleave(3)[None, :, None, None]
    assert torch.allclose(apply_curves(picture, curves) * 0.5 + 0.5, torch.tensor(expected))


def test_the_network_has_the_size_of_the_papers() -> None:
    assert sum(part.numel() for part in CurveNet(CurveNetConfig()).parameters()) == 79_992


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (200, 150)])
def test_small_pictures_are_seen_as_they_are(model: CurveNet, size: tuple[int, int]) -> None:
    picture = make_picture(*size)
    lit = model.light(picture, 0.5)
    assert lit.shape == picture.shape and lit.isfinite().all() and lit.abs().max() <= 1


def test_large_pictures_are_lit_alike_in_bands(model: CurveNet) -> None:
    size = (2 * SEEN_PX + 60, 2 * SEEN_PX)
    assert size[0] > BAND_ROWS
    picture = make_picture(*size)
    lit = model.light(picture, 0.5)
    few = (SEEN_PX, round(SEEN_PX * size[1] / size[0]))
    small = torch.nn.functional.interpolate(picture[None], size=few, mode="area")
    seen = torch.nn.functional.interpolate(lit[None], size=few, mode="area")[0]
    assert float((seen - model.light(small[0], 0.5)).abs().mean()) < 0.01
    border = (lit[:, BAND_ROWS] - lit[:, BAND_ROWS - 1]).abs().mean()
    assert border < 2 * (lit[:, BAND_ROWS - 1] - lit[:, BAND_ROWS - 2]).abs().mean() + 1e-3


def test_the_target_is_told(model: CurveNet) -> None:
    picture = make_picture(40, 40)
    assert not torch.equal(model.light(picture, 0.3), model.light(picture, 0.6))


def test_weights_come_back_from_their_files(model: CurveNet, tmp_path: Path) -> None:
    save_file({name: value.half() for name, value in model.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(TINY)))
    again = load_curve_net(tmp_path)
    picture = make_picture(30, 30)
    assert again.config == TINY and torch.allclose(again.light(picture, 0.5), model.light(picture, 0.5), atol=0.01)
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CurveNetConfig())))
    with pytest.raises(BackendUnavailable, match="make train-curve-net"):
        load_curve_net(tmp_path)
    with pytest.raises(BackendUnavailable, match="holds no curve network"):
        load_curve_net(tmp_path / "nothing")
