"""The turntable network and its use as a teacher: neutral at first, exact where nothing is lost."""

from pathlib import Path

import pytest
import torch

from pipelines.distillation import PolishSettings, choose_root, polish_field
from pipelines.errors import BackendUnavailable, UserError
from pipelines.preview_records import CURRICULA
from pipelines.radiance_field import Field, draw_field, make_field
from pipelines.residual_shift import KAPPA
from pipelines.turntable import (
    CHANNELS,
    NUM_VIEWS,
    SPREAD,
    VIEW_PX,
    Turntable,
    TurntableConfig,
    load_turntable,
    make_stage,
    turn_object,
)
from pipelines.turntable_camera import ZIGZAG

TINY = TurntableConfig(width=16, num_blocks=2, num_heads=2, patch_px=16, fine=4)


def make_tiny() -> Turntable:
    """Make a tiny network whose zero layers are random, so that everything is seen."""
    generator = torch.Generator().manual_seed(3)
    network = Turntable(TINY).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def make_views(seed: int = 0) -> torch.Tensor:
    """Make random views."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((NUM_VIEWS, CHANNELS, VIEW_PX, VIEW_PX), generator=generator) * 2 - 1


def test_an_untrained_network_is_the_best_linear_estimate() -> None:
    network, clean, guess = Turntable(TINY).eval(), make_views(), make_views(1)
    eta = torch.tensor([0.3])
    noisy = 0.7 * clean + 0.3 * guess
    out = network(noisy[None], guess[None], guess[None, 0], eta)[0]
    gain = float(make_stage(eta).gain)
    assert torch.allclose(out, guess + gain * 0.7 * (clean - guess), atol=1e-5)


def test_the_stage_weighs_as_measured() -> None:
    generator, eta = torch.Generator().manual_seed(0), torch.tensor([0.4])
    residual = SPREAD * torch.randn(100_000, generator=generator)
    shift = 0.6 * residual + KAPPA * 0.4**0.5 * torch.randn(100_000, generator=generator)
    stage = make_stage(eta)
    assert torch.allclose(shift * stage.in_scale * SPREAD, shift * stage.gain, atol=1e-6)
    assert float((residual - stage.gain * shift).std()) == pytest.approx(float(stage.out_scale), rel=0.02)
    slope = float((residual * shift).mean() / shift.square().mean())
    assert slope == pytest.approx(float(stage.gain), rel=0.02)


def test_near_the_start_of_the_chain_noise_is_not_heard() -> None:
    noise = KAPPA * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    heard = [float((noise * root * make_stage(torch.tensor([root**2])).in_scale).std()) for root in (0.5, 0.9, 0.99)]
    assert heard[0] > 0.4 and heard[1] < 0.2 and heard[2] < 0.03


def test_every_view_hears_of_the_picture_and_of_every_other_view() -> None:
    network, views = make_tiny(), make_views()
    eta = torch.tensor([0.5])
    before = network(views[None], views[None], views[None, 0], eta)[0]
    picture = views[None, 0].clone()
    picture[..., :8, :8] = 1
    assert ((network(views[None], views[None], picture, eta)[0] - before).abs().amax((1, 2, 3)) > 1e-7).all()
    other = views.clone()
    other[5, :, :16] += 1
    changed = (network(other[None], views[None], views[None, 0], eta)[0] - before).abs().amax((1, 2, 3))
    assert (changed > 1e-7).all()


def test_rows_of_a_batch_do_not_meet() -> None:
    network, a, b = make_tiny(), make_views(), make_views(1)
    eta = torch.tensor([0.5, 0.2])
    both = network(torch.stack([a, b]), torch.stack([b, a]), torch.stack([a[0], b[0]]), eta)
    alone = network(b[None], a[None], b[None, 0], eta[1:])
    assert torch.allclose(both[1], alone[0], atol=1e-5)


def test_the_chain_ends_in_its_last_estimate_and_repeats() -> None:
    network, guess = make_tiny(), make_views()
    first, again = (list(turn_object(network, guess, guess[0], seed=7)) for _ in range(2))
    assert len(first) == 4 and all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[-1], list(turn_object(network, guess, guess[0], seed=8))[-1])
    assert first[-1].abs().max() <= 1


def test_weights_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="make train-turntable"):
        load_turntable(tmp_path)


def draw_roots(curriculum: str, seed: int, num_rounds: int = 10) -> list[float]:
    """Draw the places of one polish as shares of the interval, 0 nearest to the clean views."""
    settings = PolishSettings(num_rounds=num_rounds, curriculum=curriculum)
    generator = torch.Generator().manual_seed(seed)
    roots = [choose_root(settings, index, generator) for index in range(num_rounds)]
    return [(root - settings.lowest) / (settings.highest - settings.lowest) for root in roots]


def test_falling_takes_one_place_of_every_part_of_the_interval_from_far_to_near() -> None:
    for seed in range(20):
        parts = [int(share * 10) for share in draw_roots("falling", seed)]
        assert parts == list(range(9, -1, -1))
    uniform = draw_roots("uniform", 1)
    assert all(0 <= share <= 1 for share in uniform) and uniform != sorted(uniform, reverse=True)


def test_both_curricula_take_every_place_equally_often() -> None:
    counts = {
        name: torch.histc(torch.tensor([draw_roots(name, seed) for seed in range(200)]), bins=20, min=0, max=1)
        for name in CURRICULA
    }
    # 2,000 places in 20 bins; the deviation of a binomial count is 9.7.
    assert all((count - 100).abs().max() < 40 for count in counts.values())


def test_both_curricula_draw_as_many_numbers() -> None:
    after = []
    for name in CURRICULA:
        generator = torch.Generator().manual_seed(0)
        choose_root(PolishSettings(curriculum=name), 0, generator)
        after.append(torch.rand(1, generator=generator))
    assert torch.equal(*after)


def test_an_unknown_curriculum_is_one_sentence() -> None:
    with pytest.raises(UserError, match="rising"):
        draw_roots("rising", 0)


class Oracle(Turntable):
    """A teacher that knows the truth."""

    def __init__(self, truth: torch.Tensor) -> None:
        super().__init__(TINY)
        self.truth = truth

    def correct(self, *_views: torch.Tensor, root: float, seed: int) -> torch.Tensor:
        """Return the truth."""
        assert PolishSettings().lowest <= root <= PolishSettings().highest and seed >= 0
        return self.truth


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_a_teacher_that_knows_the_truth_is_followed(curriculum: str) -> None:
    truth_field = Field(torch.full((1, 1, 16, 16, 16), -6.0), torch.zeros(1, 3, 16, 16, 16))
    truth_field.density[0, 0, 5:11, 3:13, 5:11] = 4.0
    truth_field.colour[0, 0] = 3.0
    rgb, opacity = draw_field(truth_field, (*ZIGZAG, (0.0, 0.0)), VIEW_PX, num_samples=24)
    views = torch.cat([rgb, opacity[:, None]], 1) * 2 - 1
    start = make_field(opacity[:-1], ZIGZAG, 16)
    settings = PolishSettings(num_rounds=2, steps_per_round=4, curriculum=curriculum, learning_rate=0.2)
    oracle = Oracle(views[:-1])
    fields = [field.copy() for field in polish_field(start, oracle, views[:-1], views[-1], settings)]  # type: ignore[arg-type]

    def miss(field: Field) -> float:
        return float(
            (draw_field(field, [(20.0, 10.0)], 32)[0] - draw_field(truth_field, [(20.0, 10.0)], 32)[0]).square().mean()
        )

    assert len(fields) == 2 and miss(fields[-1]) < 0.6 * miss(start)
