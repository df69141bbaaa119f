"""Where and how a model runs: device, number format, attention kernel, memory; decided once, stated in words.

The only file that asks torch about hardware or reads environment variables.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines.attention import KERNELS, xformers_works
from pipelines.errors import BackendUnavailable, UserError

logger = logging.getLogger("limelight")

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# A clear win is asked of the CPU probe, so that timing noise never changes a picture from one start to the next.
PROBE_GAIN = 1.5
PROBE_MAX_ERROR = 0.03
PROBE_ROUNDS = 3


@dataclass(frozen=True)
class RunOptions:
    """Hold what the user asked for on the command line or in the environment; "auto" leaves it to make_plan."""

    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    offload: bool = False
    offline: bool = False
    model_path: str = ""
    model_path_for: str = ""
    teacher_path: str = ""


@dataclass(frozen=True)
class RunPlan:
    """Hold what was decided.

    Units: images_per_call limits how many pictures share one UNet call (None: all), see `plan.split`;
           seconds_per_step is what the probe measured for one guided pass, 0 if nothing was measured.
    """

    device: str
    dtype: torch.dtype
    vae_dtype: torch.dtype
    kernel: str
    offload: bool = False
    offline: bool = False
    model_path: str = ""
    model_path_for: str = ""
    channels_last: bool = False
    vae_channels_last: bool = False
    needs_probe: bool = False
    images_per_call: int | None = 1
    seconds_per_step: float = 0.0
    reasons: tuple[str, ...] = ()


def read_options(environ: Mapping[str, str] | None = None, **flags: str | bool | None) -> RunOptions:
    """Merge command-line flags with the environment.

    Units:  LIMELIGHT_DEVICE, _DTYPE, _ATTENTION, _OFFLOAD, _OFFLINE, _MODEL_PATH and _TEACHER_PATH are read; a flag
            that is None was not given; a given flag wins over the environment.
    Raises: UserError if a value is not one of the known ones.
    """
    environ = os.environ if environ is None else environ
    chosen: dict[str, str | bool] = {}
    for name, default in vars(RunOptions()).items():
        value = flags.get(name)
        if value is None:
            value = environ.get(f"LIMELIGHT_{name.upper()}", default)
            if isinstance(default, bool):
                value = str(value).strip().lower() in ("1", "true", "yes", "on")
        chosen[name] = value
    if environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on"):
        chosen["offline"] = True
    options = RunOptions(**chosen)  # type: ignore[arg-type]
    for value, known, label in (
        (options.device, DEVICES, "Device"),
        (options.dtype, ("auto", *DTYPES), "Number format"),
        (options.attention, ("auto", *KERNELS), "Attention kernel"),
    ):
        if value not in known:
            raise UserError(f"{label} {value[:40]!r} is not known; choose one of {', '.join(known)}.")
    return options


def make_plan(options: RunOptions, *, vae_fp16_safe: bool = True) -> RunPlan:
    """Decide device, number format and kernel.

    Returns: a plan; needs_probe is set where a CPU still has to choose between fp32 and bf16.
    Raises:  BackendUnavailable if the asked device, format or kernel does not exist here.
    """
    device = _choose_device(options.device)
    dtype = _choose_dtype(device, options.dtype)
    kernel = _choose_kernel(device, dtype, options.attention)
    return RunPlan(
        device=device,
        dtype=dtype,
        vae_dtype=_choose_vae_dtype(device, dtype, vae_fp16_safe),
        kernel=kernel,
        offload=options.offload,
        offline=options.offline,
        model_path=options.model_path,
        model_path_for=options.model_path_for,
        needs_probe=device == "cpu" and options.dtype == "auto",
        # Measured on two Zen 5 cores: the decoder takes 17 % less time in this layout, the UNet none (see the probe).
        vae_channels_last=device == "cpu",
        # One picture at a time on a CPU: same speed, and a picture never depends on its neighbours' rounding.
        images_per_call=1 if device == "cpu" else None,
    )


def _choose_device(asked: str) -> str:
    """Take the asked device if it exists, else the best one."""
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked != "auto":
        if not has[asked]:
            raise BackendUnavailable(f"There is no {asked} device on this machine; start with --device cpu.")
        return asked
    return next(name for name in ("cuda", "mps", "cpu") if has[name])


def _choose_dtype(device: str, asked: str) -> torch.dtype:
    """fp16 on CUDA and MPS, fp32 on a CPU until the probe has spoken; never fp16 on a CPU."""
    if asked == "auto":
        return torch.float32 if device == "cpu" else torch.float16
    if asked == "fp16" and device == "cpu":
        raise BackendUnavailable("fp16 does not run well on a CPU; start with --dtype fp32 or --dtype bf16.")
    return DTYPES[asked]


def _choose_kernel(device: str, dtype: torch.dtype, asked: str) -> str:
    """xformers where it really computes, else torch's own fused attention."""
    if asked == "xformers" and not xformers_works(device, dtype):
        raise BackendUnavailable("xformers is not installed or does not run on this device; use --attention sdpa.")
    if asked != "auto":
        return asked
    return "xformers" if device == "cuda" and xformers_works(device, dtype) else "sdpa"


def _choose_vae_dtype(device: str, dtype: torch.dtype, vae_fp16_safe: bool) -> torch.dtype:
    """Keep the UNet's format, except fp16 where the autoencoder overflows in it: bf16, or fp32 without bf16."""
    if dtype is not torch.float16 or vae_fp16_safe:
        return torch.float32 if device == "cpu" else dtype
    has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def probe_once(plan: RunPlan, network: str, run: Callable[[torch.dtype, bool], Callable[[], torch.Tensor]]) -> RunPlan:
    """Take what an earlier start found for this network on this machine, else probe and keep what is found.

    A start without the probe is shorter, and two starts never choose differently because the machine was busy.

    Units:   network tells one architecture from another; run as in `probe_formats`.
    Returns: the plan as `probe_formats` completes it; the reason says where it is from.
    """
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    key = f"{network}; {platform.node()}, {capability}, {threads} threads, torch {torch.__version__}"
    records = _read_probes()
    if known := _apply_probe(plan, records.get(key)):
        return known
    probed = probe_formats(plan, run)
    name = next(name for name, dtype in DTYPES.items() if dtype is probed.dtype)
    record = {"dtype": name, "channels_last": probed.channels_last, "seconds_per_step": probed.seconds_per_step}
    _write_probes({**records, key: {**record, "reason": probed.reasons[-1]}})
    return probed


def _apply_probe(plan: RunPlan, record: Any) -> RunPlan | None:
    """Complete a plan from a kept record; nothing if it is not one."""
    try:
        return replace(
            plan,
            dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[record["dtype"]],
            channels_last=bool(record["channels_last"]),
            needs_probe=False,
            seconds_per_step=float(record["seconds_per_step"]),
            reasons=(*plan.reasons, f"{record['reason']} (on an earlier start)"),
        )
    except (KeyError, TypeError, ValueError):
        return None


def kept_folder() -> Path:
    """Return the folder of what outlives a start; LIMELIGHT_CACHE names another one.

    Raises: RuntimeError if the user has no home folder.
    """
    return Path(os.environ.get("LIMELIGHT_CACHE") or Path("~/.cache/limelight").expanduser())


def _probe_path() -> Path:
    """Return the file that keeps what probes found."""
    return kept_folder() / "probe.json"


def _read_probes() -> dict[str, Any]:
    """Read the kept records; none if there is no such file or something else is in it."""
    try:
        records = json.loads(_probe_path().read_text())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home folder
        return {}
    return records if isinstance(records, dict) else {}


def _write_probes(records: dict[str, Any]) -> None:
    """Keep records; where nothing can be written, the next start probes again."""
    try:
        path = _probe_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(records, indent=1))
        part.replace(path)
    except (OSError, RuntimeError) as error:
        logger.info("The probe's result was not kept, the next start will probe again: %s", error)


def probe_formats(plan: RunPlan, run: Callable[[torch.dtype, bool], Callable[[], torch.Tensor]]) -> RunPlan:
    """Choose between fp32 and bf16, plain and channels-last, by timing a few UNet passes.

    Units:   run(dtype, channels_last) prepares one variant and returns a function that does one guided pass.
    Returns: the plan with dtype, channels_last, seconds_per_step and the reason in words.
    Differs: fp32 in plain layout stays unless another variant is PROBE_GAIN times as fast in every round and, for
             bf16, its output is within PROBE_MAX_ERROR (relative root mean square): a picture must not change from one
             start to the next because the machine was busy.
    """
    variants = ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False))
    calls = [run(*variant) for variant in variants]
    outputs = [call().float() for call in calls]
    errors = [relative_error(output, outputs[0]) for output in outputs]
    rivals = [index for index in range(1, len(calls)) if errors[index] <= PROBE_MAX_ERROR]
    fastest_s, timed = [math.inf] * len(calls), list(range(len(calls)))
    for _ in range(PROBE_ROUNDS):
        round_s = {index: _time_call(calls[index]) for index in timed}
        fastest_s = [min(best, round_s.get(index, math.inf)) for index, best in enumerate(fastest_s)]
        rivals = [index for index in rivals if round_s[index] * PROBE_GAIN < round_s[0]]
        if not rivals:
            break  # a rival that has lost one round is out, so further rounds could not change the choice
        timed = [0, *rivals]
    chosen = min((0, *rivals), key=lambda index: fastest_s[index])
    words = [f"fp32 {fastest_s[0] * 1000:.0f} ms"]
    for index, label in ((1, "fp32 channels-last"), (2, "bf16")):
        words.append(f"{label} {fastest_s[index] * 1000:.0f} ms, error {errors[index]:.1%}")
    dtype, channels_last = variants[chosen]
    return replace(
        plan,
        dtype=dtype,
        channels_last=channels_last,
        needs_probe=False,
        seconds_per_step=fastest_s[chosen],
        reasons=(*plan.reasons, f"CPU probe of one guided pass: {'; '.join(words)}"),
    )


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the root mean square of the difference over that of the reference."""
    return float(((output - reference).pow(2).mean() / reference.pow(2).mean().clamp(min=1e-12)).sqrt())


def _time_call(call: Callable[[], torch.Tensor]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def memory_budget_mb(device: str) -> float:
    """Return how much memory cached models may take: 80 % of a GPU, half of the machine's memory else."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory / 2**20 * 0.8
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 / 2


def release_memory(device: str) -> None:
    """Give memory of dropped models back to the device."""
    if device == "cuda":
        torch.cuda.empty_cache()
