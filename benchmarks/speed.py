"""Seconds per picture next to plain diffusers on the same weights, seconds to stop, and peak memory.

Both arms take turns in one process (ours, plain, ours, plain ...), with the same device, number format, sampler,
steps, guidance and size, so that a busy machine slows both.
"""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.figures import Figure, RunSettings, make_median_figure
from benchmarks.held_out import NUM_STEPS, load_storybook
from benchmarks.memory import PROMPT, OneModel, draw_one
from benchmarks.progress import count
from pipelines import Progress, TextToImageRequest, text_to_image_stream
from pipelines.backends import PROJECT_DIR
from pipelines.model import ModelBundle

LOCK_TIMEOUT_S = 60.0


def make_plain(model: ModelBundle) -> Callable[[int], Any]:
    """Load the same weights into plain diffusers and give a function that draws one picture from a seed."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    plan, default = model.plan, TextToImageRequest(PROMPT)
    folder = plan.model_path or PROJECT_DIR / model.spec.source
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=plan.dtype, local_files_only=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(plan.device)

    def draw(seed: int) -> Any:
        return pipeline(
            PROMPT,
            num_inference_steps=NUM_STEPS,
            guidance_scale=default.guidance_scale,
            height=model.spec.image_px,
            width=model.spec.image_px,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]

    return draw


def measure_seconds(call: Callable[[int], Any], seed: int) -> float:
    """Time one call; what it returns is on the CPU, so the device has finished."""
    start = time.perf_counter()
    call(seed)
    return time.perf_counter() - start


def measure_stop(model: ModelBundle, delay_s: float) -> float:
    """Press Stop after `delay_s` of a run and wait until the next visitor could start.

    Returns: seconds from the press to the moment when the run is closed and the model's lock is free.
    """
    stop, closed = threading.Event(), threading.Event()

    def consume() -> None:
        stream = text_to_image_stream(TextToImageRequest(PROMPT, num_steps=NUM_STEPS), OneModel(model))
        for event in stream:
            if stop.is_set() and isinstance(event, Progress):
                break
        stream.close()
        closed.set()

    thread = threading.Thread(target=consume)
    thread.start()
    time.sleep(delay_s)
    pressed = time.perf_counter()
    stop.set()
    if not closed.wait(LOCK_TIMEOUT_S) or not model.lock.acquire(timeout=LOCK_TIMEOUT_S):
        raise TimeoutError(f"the run did not stop within {LOCK_TIMEOUT_S:.0f} s")
    model.lock.release()
    seconds = time.perf_counter() - pressed
    thread.join()
    return seconds


def measure_peak_mb(device: str | None) -> float:
    """Take the peak memory of a fresh process that loads the model and draws one picture."""
    command = [sys.executable, "-m", "benchmarks.memory", *([device] if device else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Measure both arms n times in turns, n stops at moments from a fixed seed, and the memory once."""
    model = load_storybook(settings.device)
    plain = make_plain(model)

    def ours(seed: int) -> Any:
        return draw_one(model, seed)

    for call in (ours, plain):
        call(0)
    pairs = [
        (measure_seconds(ours, seed), measure_seconds(plain, seed))
        for seed in count(range(1, settings.n + 1), "pictures, ours and plain diffusers in turns")
    ]
    seconds, plain_seconds = [list(arm) for arm in zip(*pairs, strict=True)]
    typical_s = sorted(seconds)[len(seconds) // 2]
    moments = random.Random(0)
    delays = [moments.uniform(0.05, 0.95) * typical_s for _ in range(settings.n)]
    stops = [measure_stop(model, delay) for delay in count(delays, "stops")]
    plain_s = sorted(plain_seconds)[len(plain_seconds) // 2]
    return {
        "seconds_20_steps": make_median_figure(seconds, unit="s", baseline=plain_s),
        "ratio_to_diffusers": make_median_figure([ours / plain for ours, plain in pairs], baseline=1.0),
        "stop_s": Figure(max(stops), unit="s"),
        "peak_mb": Figure(measure_peak_mb(settings.device), unit="MB"),
    }
