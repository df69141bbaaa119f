"""Limelight: build the page, serve it on this machine, load the model behind it. `app.py --help` lists the options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from pipelines.backends import BACKEND_NAMES, DEFAULT_BACKEND, SPECS
from pipelines.errors import UserError
from pipelines.quick_start import collect_no_garbage

with collect_no_garbage():
    import gradio as gr

    from tabs import TABS, files, header, look
    from tabs.wiring import MAX_WAITING, ModelLoader, read_address


def make_store(options: argparse.Namespace) -> Any:
    """Decide device and number format, which imports torch, and make the store of loaded models."""
    from pipelines.cache import ModelStore
    from pipelines.runtime import read_options

    chosen = {key: vars(options)[key] for key in ("device", "dtype", "attention", "offload", "offline", "model_path")}
    return ModelStore(read_options(model_path_for=options.backend if options.model_path else None, **chosen))


def build_app(models: ModelLoader, backend: str = DEFAULT_BACKEND) -> gr.Blocks:
    """Build the page: header, tabs in order, one bounded queue."""
    with gr.Blocks(title=header.NAME, analytics_enabled=False, delete_cache=files.SWEEP_S) as page:
        services = header.build(models, [(spec.title, spec.name) for spec in SPECS], backend)
        with gr.Tabs() as shelf:
            for tab in TABS:
                with gr.Tab(tab.TITLE, id=tab.NAME):
                    tab.build(services)
        header.connect(page, services, shelf, [tab.NAME for tab in TABS])
    return page.queue(max_size=MAX_WAITING)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="app.py", description="Limelight shows what diffusion techniques do, live.")
    parser.add_argument("--backend", choices=BACKEND_NAMES, default=DEFAULT_BACKEND, help="the model to start with")
    parser.add_argument("--model-path", metavar="FOLDER", help="local folder (or hub name) of that backend's weights")
    parser.add_argument("--device", help="auto, cpu, cuda or mps")
    parser.add_argument("--dtype", help="auto, fp32, bf16 or fp16")
    parser.add_argument("--attention", help="auto, sdpa, xformers or explicit")
    parser.add_argument("--offload", action="store_true", default=None, help="keep idle parts in main memory")
    parser.add_argument("--offline", action="store_true", default=None, help="never ask the hub for weights")
    parser.add_argument("--host", default="", help="address to serve on; default 127.0.0.1, this machine only")
    parser.add_argument("--port", type=int, help="default 7860, or the next free one")
    parser.add_argument("--auth", metavar="NAME:PASSWORD", default="", help="login, needed with a public --host")
    parser.add_argument("--stage", action="store_true", help="large letters for a projector (as ?stage=1)")
    return parser.parse_args(arguments)


@files.own_folder()
def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until it is stopped; returns the exit status."""
    options = parse(arguments)
    models = ModelLoader(lambda: make_store(options))
    try:
        address = read_address(options.host, options.port, options.auth)
        with collect_no_garbage():
            page = build_app(models, options.backend)
            page.launch(**address, **look.launch_options(is_stage=options.stage), prevent_thread_lock=True)
    except UserError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    print(f"Limelight is at {page.local_url} (Ctrl+C stops it)", flush=True)
    models.start(options.backend)
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
