"""What is decided about device, format and kernel, from flags and environment; the probe's rule; offloading."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import BackendUnavailable, TextToImageRequest, UserError, badge, text_to_image_stream
from pipelines.attention import xformers_works
from pipelines.model import ModelBundle, Residence
from pipelines.runtime import (
    RunOptions,
    RunPlan,
    make_plan,
    memory_budget_mb,
    probe_formats,
    probe_once,
    read_options,
    relative_error,
)


def test_flags_win_over_the_environment() -> None:
    environ = {
        "LIMELIGHT_DEVICE": "cuda",
        "LIMELIGHT_DTYPE": "bf16",
        "LIMELIGHT_OFFLINE": "1",
        "LIMELIGHT_OFFLOAD": "0",
    }
    options = read_options(environ, device="cpu", dtype=None, attention="explicit", model_path="/models/x")
    assert options == RunOptions("cpu", "bf16", "explicit", False, True, "/models/x")
    assert read_options({}) == RunOptions()
    assert read_options({"HF_HUB_OFFLINE": "1"}).offline


@pytest.mark.parametrize("name", ["device", "dtype", "attention"])
def test_an_unknown_value_is_named_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match="'quantum' is not known; choose one of auto, "):
        read_options({}, **{name: "quantum"})


def test_a_cpu_runs_fp32_and_sdpa_one_picture_per_call() -> None:
    plan = make_plan(RunOptions(device="cpu"))
    assert (plan.dtype, plan.vae_dtype, plan.kernel) == (torch.float32, torch.float32, "sdpa")
    assert plan.needs_probe and plan.images_per_call == 1
    assert not make_plan(RunOptions(device="cpu", dtype="bf16")).needs_probe


def test_what_does_not_exist_here_is_refused() -> None:
    with pytest.raises(BackendUnavailable, match="fp16 does not run well on a CPU"):
        make_plan(RunOptions(device="cpu", dtype="fp16"))
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="There is no cuda device"):
            make_plan(RunOptions(device="cuda"))
    if not xformers_works("cpu", torch.float32):
        with pytest.raises(BackendUnavailable, match="xformers is not installed or does not run"):
            make_plan(RunOptions(device="cpu", attention="xformers"))


def run_probe(seconds: dict[str, float], bf16_error: float = 0.0, calls: Counter[str] | None = None) -> RunPlan:
    """Probe stand-ins for passes that take a known time, and count how often each is called."""

    def run(dtype: torch.dtype, channels_last: bool) -> Callable[[], torch.Tensor]:
        kind = "bf16" if dtype is torch.bfloat16 else "channels_last" if channels_last else "fp32"
        output = torch.ones(4) * (1 + (bf16_error if kind == "bf16" else 0.0))

        def call() -> torch.Tensor:
            if calls is not None:
                calls[kind] += 1
            end = time.perf_counter() + seconds[kind]
            while time.perf_counter() < end:
                pass
            return output

        return call

    return probe_formats(make_plan(RunOptions(device="cpu")), run)


def test_the_probe_wants_a_clear_and_exact_winner() -> None:
    slow = {"fp32": 0.02, "channels_last": 0.02, "bf16": 0.0}
    chosen = run_probe(slow)
    assert chosen.dtype is torch.bfloat16 and not chosen.needs_probe
    assert "CPU probe" in chosen.reasons[0] and "bf16" in chosen.reasons[0]
    assert run_probe(slow, bf16_error=0.1).dtype is torch.float32
    near = run_probe({"fp32": 0.02, "channels_last": 0.019, "bf16": 0.019})
    assert near.dtype is torch.float32 and not near.channels_last


def test_the_probe_times_no_further_what_has_lost_a_round() -> None:
    calls: Counter[str] = Counter()
    run_probe({"fp32": 0.02, "channels_last": 0.02, "bf16": 0.02}, calls=calls)
    assert calls == {"fp32": 2, "channels_last": 2, "bf16": 2}  # once to warm up, once to lose
    calls.clear()
    run_probe({"fp32": 0.02, "channels_last": 0.02, "bf16": 0.0}, calls=calls)
    assert calls == {"fp32": 4, "channels_last": 2, "bf16": 4}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing has been probed."""
    monkeypatch.setenv("LIMELIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prepare_passes(asked: list[torch.dtype]) -> Callable[[torch.dtype, bool], Callable[[], torch.Tensor]]:
    """Prepare passes that take no time, and note which were asked for; only the plain one is exact enough to win."""

    def run(dtype: torch.dtype, channels_last: bool) -> Callable[[], torch.Tensor]:
        asked.append(dtype)
        is_plain = dtype is torch.float32 and not channels_last
        return lambda: torch.full((4,), 1.0 if is_plain else 2.0)

    return run


def test_a_second_start_takes_what_the_first_one_found(cache: Path) -> None:
    asked: list[torch.dtype] = []
    plan = make_plan(RunOptions(device="cpu"))
    first = probe_once(plan, "a network", prepare_passes(asked))
    probed = len(asked)
    second = probe_once(plan, "a network", prepare_passes(asked))
    assert probed == 3 == len(asked)
    assert (second.dtype, second.channels_last, second.needs_probe) == (first.dtype, first.channels_last, False)
    assert second.seconds_per_step == first.seconds_per_step > 0
    assert second.reasons[0] == first.reasons[0] + " (on an earlier start)"
    probe_once(plan, "another network", prepare_passes(asked))
    assert len(asked) == 2 * probed
    probe_once(plan, "a network", prepare_passes(asked))
    assert len(asked) == 2 * probed  # both are kept


def test_a_kept_choice_is_taken_as_it_was_made(cache: Path) -> None:
    plan = make_plan(RunOptions(device="cpu"))
    probe_once(plan, "a network", prepare_passes([]))
    path = cache / "probe.json"
    path.write_text(path.read_text().replace('"fp32"', '"bf16"').replace("false", "true"))
    taken = probe_once(plan, "a network", prepare_passes([]))
    assert taken.dtype is torch.bfloat16 and taken.channels_last


@pytest.mark.parametrize("text", ["", "[]", "not json", '{"dtype"', "null", "KEY: 3", 'KEY: {"dtype": "fp8"}'])
def test_a_foreign_file_is_probed_over(cache: Path, text: str) -> None:
    plan, asked = make_plan(RunOptions(device="cpu")), []
    probe_once(plan, "a network", prepare_passes([]))
    path = cache / "probe.json"
    key = next(iter(json.loads(path.read_text())))
    path.write_text(f"{{{text.replace('KEY', json.dumps(key))}}}" if "KEY" in text else text)
    assert not probe_once(plan, "a network", prepare_passes(asked)).needs_probe
    assert asked
    assert json.loads(path.read_text())[key]["dtype"] == "fp32"


def test_where_nothing_can_be_kept_every_start_probes(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    asked: list[torch.dtype] = []
    for _ in range(2):
        assert not probe_once(make_plan(RunOptions(device="cpu")), "a network", prepare_passes(asked)).needs_probe
    assert len(asked) == 6


def test_relative_error_is_a_ratio_of_root_mean_squares() -> None:
    reference = torch.tensor([3.0, 4.0])
    assert relative_error(reference + torch.tensor([0.3, -0.4]), reference) == pytest.approx(0.1)


def test_the_memory_budget_is_half_of_this_machine() -> None:
    assert 100 < memory_budget_mb("cpu") < 10_000_000


def test_a_real_probe_states_itself_and_the_badge_its_speed(
    tiny_folder: Callable[[str, str], Path], load_tiny_as: Callable[..., ModelBundle]
) -> None:
    model = load_tiny_as(tiny_folder("sdxl", "eps"), "sdxl", dtype="auto")
    assert model.plan.reasons[0].startswith("CPU probe of one guided pass: fp32 ")
    words = badge(model).split(" · ")
    assert words[0] == "sdxl" and words[1] == "cpu" and words[2] in ("fp32", "bf16") and words[4].endswith("s/step")


def test_offloading_keeps_one_part_on_the_device_at_a_time() -> None:
    parts = {name: [torch.nn.Linear(1, 1)] for name in ("text", "unet", "vae")}
    residence = Residence(parts, "meta", offload=True)
    residence.place("unet")
    assert {name: parts[name][0].weight.device.type for name in parts} == {"text": "cpu", "unet": "meta", "vae": "cpu"}
    idle = Residence({"unet": [torch.nn.Linear(1, 1)]}, "meta", offload=False)
    idle.place("unet")
    assert idle.parts["unet"][0].weight.device.type == "cpu"


def test_an_offloaded_run_draws_the_same_picture_and_visits_every_part(
    tiny_folder: Callable[[str, str], Path],
    load_tiny_as: Callable[..., ModelBundle],
    provide: Callable[..., object],
    tiny_sdxl: ModelBundle,
) -> None:
    request = TextToImageRequest("a boat", num_steps=2, backend="sdxl")
    model = load_tiny_as(tiny_folder("sdxl", "eps"), "sdxl", offload=True)
    seen = [(model.residence.resident, item) for item in text_to_image_stream(request, provide(model))]
    *_, plain = text_to_image_stream(request, provide(tiny_sdxl))
    assert [resident for resident, _ in seen] == ["unet", "unet", "vae"]
    assert np.array_equal(np.asarray(seen[-1][1].images[0]), np.asarray(plain.images[0]))
    assert badge(model).endswith("offload")
