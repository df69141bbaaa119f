"""The command line: what starts, what is refused before anything is served, and what importing must not cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import app

ROOT = Path(app.__file__).resolve().parent


def test_importing_the_page_loads_no_model_code() -> None:
    code = (
        "import sys, app; from tabs.wiring import ModelLoader; "
        "app.build_app(ModelLoader(lambda: None)); "
        "print([name for name in ('torch', 'diffusers', 'transformers', 'skia') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "add --auth NAME:PASSWORD"),
        (["--host", "0.0.0.0", "--auth", "ada"], "write --auth NAME:PASSWORD"),
        (["--port", "99999"], "choose 1 to 65535"),
    ],
)
def test_a_wrong_address_ends_with_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(arguments) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err and "Traceback" not in shown.err


def test_an_unknown_backend_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app.parse(["--backend", "dalle"])
    assert "storybook" in capsys.readouterr().err


def test_the_store_gets_what_the_command_line_says() -> None:
    options = app.parse(
        ["--backend", "sd15", "--model-path", "here", "--device", "cpu", "--dtype", "fp32", "--offline"]
    )
    store = app.make_store(options)
    chosen = store.options
    assert (chosen.device, chosen.dtype, chosen.offline) == ("cpu", "fp32", True)
    assert (chosen.model_path, chosen.model_path_for) == ("here", "sd15")


def test_nothing_on_the_command_line_means_this_machine_and_the_shipped_model() -> None:
    options = app.parse([])
    assert (options.host, options.auth, options.backend, options.stage) == ("", "", "storybook", False)
    assert app.make_store(options).options.model_path == ""
