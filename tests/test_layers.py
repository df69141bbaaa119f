"""Who may import whom, how long a file may be, and what no file may do: read from the source, file by file."""

import ast
from collections.abc import Callable, Iterator

import pytest

from tests import source_rules as rules
from tests.source_rules import Source, dotted, imports, is_stdlib, make_source

SOURCES = rules.load_sources()
BACKENDS = ("storybook", "sd15", "sdxl")
TECHNIQUE_PARTS = (
    *("types", "params", "errors", "model", "schedules", "cfg_batch", "attention", "techniques.base"),
    # What several techniques share: maps from attention and losses on them, boxes, the reading and encoding of prompts.
    *("attention_maps", "attention_loss", "layout", "regions", "prompt_plan", "text_side"),
    # Pictures larger than trained, and the noise and previews of a technique that draws on its own.
    *("windows", "dilation", "seeding", "images"),
    # What a technique looks with that judges what it drew.
    *("agreement", "initial_mean"),
    # A style picture, and attention that also looks at it.
    *("style_reference", "style_attention"),
    # A learned adapter, a picture of a subject and what puts it into others, and where words are being drawn.
    *("lora", "subject_source", "subject_paste", "word_places"),
    # What a drag is given, how it is warped and supervised, and the half of a UNet that it runs.
    *("drag_task", "drag_warp", "drag_latents", "unet_decoder", "techniques.drag_base"),
    # How a picture agrees with a smaller one.
    "backprojection",
)
TOP_LEVEL = ("app", "tabs", "pipelines", "training", "benchmarks", "tests")
MAY_IMPORT = {
    "app.py": ("tabs", "pipelines"),
    "tabs": ("tabs", "pipelines"),
    "pipelines": ("pipelines",),
    "training": ("training", "pipelines"),
    "benchmarks": ("app", "tabs", "pipelines", "training", "benchmarks"),
    "tests": TOP_LEVEL,
}


def absolute(source: Source, name: str) -> str:
    """Turn a relative import into the dotted name from the project root."""
    if not name.startswith("."):
        return name
    level = len(name) - len(name.lstrip("."))
    package = source.path.removesuffix(".py").split("/")[:-level]
    return ".".join([*package, name.lstrip(".")])


def imported(source: Source) -> Iterator[tuple[str, int]]:
    """Yield every import of a file as (absolute dotted name, line)."""
    yield from ((absolute(source, name), line) for name, line in imports(source.tree))


def check_direction(source: Source) -> Iterator[str]:
    """app -> tabs -> pipelines <- training; only tests and benchmarks see all."""
    for name, line in imported(source):
        first = name.split(".")[0]
        if first in TOP_LEVEL and first not in MAY_IMPORT[source.folder]:
            yield f"line {line}: {source.folder} may not import {name}"
        if first in ("gradio", "gradio_client") and source.folder in ("pipelines", "training"):
            yield f"line {line}: {source.folder} may not know gradio"


def check_app(source: Source) -> Iterator[str]:
    """app.py composes: gradio, tabs, and of pipelines what loads models and asks the machine."""
    if source.path != "app.py":
        return
    parts = ("cache", "runtime", "errors", "backends", "quick_start")
    allowed = ("gradio", "tabs", *(f"pipelines.{part}" for part in parts))
    for name, line in imported(source):
        if not is_stdlib(name) and not name.startswith(allowed):
            yield f"line {line}: app.py may not import {name}"


def check_tabs(source: Source) -> Iterator[str]:
    """A tab builds widgets and one request: no torch, no other tab, no error handling, no mutable module state."""
    if source.folder != "tabs":
        return
    is_list = source.path == "tabs/__init__.py"
    for name, line in imported(source):
        first, *rest = name.split(".")
        inner = first == "tabs" and not is_list and rest[:1] not in ([part] for part in rules.TAB_PARTS)
        deep = first == "pipelines" and len(rest) != 1
        if (not is_stdlib(name) and first not in ("gradio", "PIL", "pipelines", "tabs")) or inner or deep:
            yield f"line {line}: a tab may not import {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Try) and node.handlers and source.path != "tabs/wiring.py":
            yield f"line {node.lineno}: errors are handled in wiring.py only"
    for node in source.tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
            yield f"line {node.lineno}: a mutable value at module level is shared by all visitors"


def check_techniques(source: Source) -> Iterator[str]:
    """A technique knows the parts it patches, no other technique, no files, no printing."""
    if not source.path.startswith("pipelines/techniques/") or source.path.endswith("__init__.py"):
        return
    allowed = tuple(f"pipelines.{part}" for part in TECHNIQUE_PARTS)
    for name, line in imported(source):
        if not is_stdlib(name) and name.split(".")[0] not in ("torch", "numpy") and not name.startswith(allowed):
            yield f"line {line}: a technique may not import {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in ("open", "print"):
            yield f"line {node.lineno}: a technique may not call {dotted(node.func)}"


def is_outside(source: Source, *homes: str) -> bool:
    """True when the file is code that the page runs, and none of the homes of what the rule is about."""
    return source.folder in ("app.py", "pipelines", "tabs") and source.path not in homes


def check_hardware(source: Source) -> Iterator[str]:
    """Only runtime.py asks about hardware or the environment; only attention.py knows xformers.

    tabs/files.py names a folder to gradio, which takes it from nowhere but the environment.
    """
    for node in ast.walk(source.tree):
        name = dotted(node)
        hardware = name.startswith(("torch.cuda", "torch.mps", "torch.backends"))
        environment = name.startswith(("os.environ", "os.getenv")) and source.path != "tabs/files.py"
        if (hardware or environment) and is_outside(source, "pipelines/runtime.py"):
            yield f"line {getattr(node, 'lineno', 0)}: {name} belongs in pipelines/runtime.py"
    for name, line in imported(source):
        if name.split(".")[0] == "xformers" and is_outside(source, "pipelines/attention.py", "pipelines/runtime.py"):
            yield f"line {line}: xformers belongs in pipelines/attention.py"


def check_backend_names(source: Source) -> Iterator[str]:
    """Only backends.py decides by a backend's name; elsewhere code reads the spec's fields."""
    if not is_outside(source, "pipelines/backends.py"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Compare | ast.MatchValue | ast.Dict | ast.Subscript):
            words = [leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)]
            if any(word in BACKENDS for word in words if isinstance(word, str)):
                yield f"line {node.lineno}: the name of a backend belongs in pipelines/backends.py"


def check_ranges(source: Source) -> Iterator[str]:
    """Pixels become -1..1 in images.py and nowhere else."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and node.value == 127.5 and is_outside(source, "pipelines/images.py"):
            yield f"line {node.lineno}: 127.5 belongs in pipelines/images.py"


def check_randomness(source: Source) -> Iterator[str]:
    """A run owns its generators: nothing in the product seeds the process."""
    seeds = ("torch.manual_seed", "torch.seed", "np.random.seed", "numpy.random.seed", "random.seed")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in seeds and source.folder in ("pipelines", "tabs"):
            yield f"line {node.lineno}: {dotted(node.func)} changes the random state of everybody"


def check_tests(source: Source) -> Iterator[str]:
    """Tests neither sleep nor replace the thing they test."""
    if source.folder != "tests":
        return
    for name, line in imported(source):
        if name.startswith(("unittest.mock", "mock.", "pytest_mock")):
            yield f"line {line}: no mocks; use a tiny real part"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and dotted(node.func) == "time.sleep":
            yield f"line {node.lineno}: a test waits for an event, not for a time"


RULES = (
    rules.check_file_length,
    rules.check_function_length,
    rules.check_parameters,
    rules.check_nesting,
    rules.check_docstrings,
    rules.check_names,
    rules.check_safety,
    rules.check_errors,
    check_direction,
    check_app,
    check_tabs,
    check_techniques,
    check_hardware,
    check_backend_names,
    check_ranges,
    check_randomness,
    check_tests,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removeprefix("check_"))
def test_every_file_keeps_the_rule(rule: Callable[[Source], Iterator[str]]) -> None:
    found = [f"{source.path}: {sentence}" for source in SOURCES for sentence in rule(source)]
    assert not found, f"{rule.__doc__}\n  " + "\n  ".join(found)


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    files = {source.path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): source for source in SOURCES}
    graph: dict[str, set[str]] = {}
    for module, source in files.items():
        top = ast.Module([node for node in source.tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        names = {absolute(source, name) for name, _ in imports(top)}
        reached = {name if name in files else name.rpartition(".")[0] for name in names}
        graph[module] = {name for name in reached if name in files and name != module}
    while leaves := {module for module, reached in graph.items() if not reached & graph.keys()}:
        graph = {module: reached for module, reached in graph.items() if module not in leaves}
    assert not graph, f"these modules import each other: {sorted(graph)}"


LONG = "def f() -> None:\n" + "    x = 1\n" * 61
DEEP = "def f() -> None:\n" + "".join("    " * depth + "if x:\n" for depth in range(1, 6)) + "    " * 6 + "pass\n"
BROKEN = (
    (rules.check_file_length, "tabs/a.py", "x = 1\n" * 301),
    (rules.check_function_length, "pipelines/a.py", LONG),
    (rules.check_parameters, "training/a.py", "def f(a: int, b: int, c: int, d: int, e: int, g: int) -> None: ..."),
    (rules.check_parameters, "training/a.py", "def f(a) -> None: ..."),
    (rules.check_parameters, "training/a.py", "def f(a: int): ..."),
    (rules.check_nesting, "pipelines/a.py", DEEP),
    (rules.check_docstrings, "pipelines/a.py", '"""Module."""\nclass A:\n    """A."""\n    def b(self) -> None: ...'),
    (rules.check_names, "pipelines/image_utils.py", ""),
    (rules.check_safety, "training/a.py", "import torch\ntorch.load('a')"),
    (rules.check_safety, "training/a.py", "from pickle import loads"),
    (rules.check_safety, "tests/a.py", "eval('1')"),
    (rules.check_safety, "pipelines/a.py", "load('a', trust_remote_code=True)"),
    (rules.check_errors, "tabs/a.py", "try:\n    f()\nexcept ValueError:\n    pass"),
    (rules.check_errors, "tabs/a.py", "try:\n    f()\nexcept:\n    raise"),
    (check_direction, "pipelines/a.py", "from training.world import scene"),
    (check_direction, "training/a.py", "import gradio as gr"),
    (check_app, "app.py", "import torch"),
    (check_tabs, "tabs/a.py", "import torch"),
    (check_tabs, "tabs/a.py", "from tabs import drag_editing"),
    (check_tabs, "tabs/a.py", "from pipelines.model import ModelBundle"),
    (check_tabs, "tabs/a.py", "seen = {}"),
    (check_tabs, "tabs/a.py", "try:\n    f()\nexcept ValueError:\n    raise"),
    (check_techniques, "pipelines/techniques/a.py", "from pipelines.techniques.lora import Lora"),
    (check_techniques, "pipelines/techniques/base.py", "print('a')"),
    (check_hardware, "pipelines/cache.py", "import torch\ntorch.cuda.empty_cache()"),
    (check_hardware, "tabs/a.py", "import os\nos.environ['A']"),
    (check_hardware, "pipelines/denoise.py", "from xformers import ops"),
    (check_backend_names, "pipelines/text_to_image.py", "if request.backend == 'sdxl': ..."),
    (check_ranges, "pipelines/drag_editing.py", "x = y / 127.5 - 1"),
    (check_randomness, "pipelines/seeding.py", "import torch\ntorch.manual_seed(1)"),
    (check_tests, "tests/a.py", "from unittest.mock import Mock"),
    (check_tests, "tests/a.py", "import time\ntime.sleep(1)"),
)


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_the_rule_sees_a_file_that_breaks_it(rule: Callable[[Source], Iterator[str]], path: str, text: str) -> None:
    assert list(rule(make_source(path, text)))


def test_a_table_of_data_does_not_count_as_length() -> None:
    table = "TABLE = (\n" + '    ("a", 1),\n' * 500 + ")\n"
    assert not list(rules.check_file_length(make_source("training/a.py", f'"""Rows."""\n{table}')))
    computed = "TABLE = (\n" + "    f(lambda: 1),\n" * 500 + ")\n"
    assert list(rules.check_file_length(make_source("training/a.py", f'"""Rows."""\n{computed}')))


def test_elif_is_not_deeper_than_its_if() -> None:
    chain = "def f() -> None:\n    if a:\n        b\n" + "    elif a:\n        b\n" * 6
    assert not list(rules.check_nesting(make_source("pipelines/a.py", chain)))
