"""Seconds from `python app.py` to a page that answers, and to the first picture that a visitor receives.

Every start is a fresh process; one start before the measured ones warms the file cache, and makes the probe of the CPU,
whose result later starts take over (the very first start on a machine is longer by that).
"""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from gradio_client import Client

from benchmarks.figures import Figure, RunSettings, make_median_figure
from benchmarks.progress import count

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 120.0
POLL_S = 0.02
API_NAME = "/text_to_image"


def find_free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Say whether the page is served."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def start_once(device: str | None) -> tuple[float, float]:
    """Start the page once.

    Returns: seconds from the command to the answering page, and to the first finished picture, with the values that
             the page itself shows a visitor at first.
    """
    port = find_free_port()
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "app.py", "--port", str(port), *(["--device", device] if device else [])]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not answers(url):
            if process.poll() is not None:
                raise RuntimeError(f"app.py ended with status {process.returncode} before the page answered")
            if time.perf_counter() - start > START_TIMEOUT_S:
                raise TimeoutError(f"the page did not answer within {START_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        page_s = time.perf_counter() - start
        Client(url, verbose=False, analytics_enabled=False).predict(api_name=API_NAME)
        return page_s, time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


def measure(settings: RunSettings) -> dict[str, Figure]:
    """Start the page n times, after one start that only warms the file cache."""
    start_once(settings.device)
    times = [start_once(settings.device) for _ in count(range(settings.n), "starts")]
    page, picture = [list(part) for part in zip(*times, strict=True)]
    return {
        "page_ready_s": make_median_figure(page, unit="s"),
        "first_picture_s": make_median_figure(picture, unit="s"),
    }
