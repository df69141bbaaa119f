"""Rules about source files, each a function from a parsed file to the sentences that name what breaks it.

Read by test_layers.py. A rule sees one file at a time and never imports it, so a broken file still gets its verdict.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pipelines", "tabs", "training", "benchmarks", "tests")
Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
PICKLES = ("pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
CONTAINERS = (ast.Tuple, ast.List, ast.Dict, ast.Set)
# What tabs share; every other file of tabs/ is a tab or the page's frame.
TAB_PARTS = (
    *("wiring", "controls", "files", "examples", "running", "shown", "technique_picker", "layout_canvas"),
    *("style_inputs", "style_result"),
    *("drag_inputs", "drag_picture", "drag_canvas", "drag_result"),
    *("subject_choice", "subject_inputs", "subject_result", "subject_runs", "subject_shelf"),
    *("enlarge_inputs", "enlarge_result", "loupe"),
    *("preview_inputs", "preview_paint", "preview_picture", "preview_result", "paint_canvas"),
    *("light_inputs", "light_result"),
)


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the project root, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        """First part of the path: `pipelines`, `tabs`, ..., or `app.py`."""
        return self.path.split("/")[0]

    @property
    def is_technique(self) -> bool:
        """True for a file of one technique, which has the narrowest rights."""
        return self.path.startswith("pipelines/techniques/") and not self.path.endswith(("__init__.py", "base.py"))

    @property
    def is_tab(self) -> bool:
        """True for a file of one tab."""
        return self.folder == "tabs" and Path(self.path).stem not in ("__init__", *TAB_PARTS)


def make_source(path: str, text: str) -> Source:
    """Parse one file's text under the given path."""
    return Source(path, text, ast.parse(text, path))


def load_sources() -> tuple[Source, ...]:
    """Read app.py and every Python file of the five folders."""
    nested = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    paths = (ROOT / "app.py", *nested)
    return tuple(make_source(str(path.relative_to(ROOT)), path.read_text("utf-8")) for path in paths)


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield every function and method of the tree, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def docstring_lines(node: ast.AST) -> int:
    """Count the source lines that the docstring of a function takes, 0 without one."""
    body = getattr(node, "body", [])
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        return span(body[0]) if isinstance(body[0].value.value, str) else 0
    return 0


def span(node: ast.stmt) -> int:
    """Count the source lines of a statement."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_data(node: ast.expr | None) -> bool:
    """True for a literal table: containers, constants and records made of them, with nothing computed."""
    if isinstance(node, ast.Call):
        return all(is_data(arg) for arg in node.args) and all(is_data(word.value) for word in node.keywords)
    if isinstance(node, ast.Dict):
        return all(key is None or is_data(key) for key in node.keys) and all(is_data(value) for value in node.values)
    if isinstance(node, CONTAINERS):
        return all(is_data(item) for item in node.elts)  # type: ignore[union-attr]
    return isinstance(node, ast.Constant | ast.Name | ast.Attribute | ast.UnaryOp | ast.Starred)


def data_lines(tree: ast.Module) -> int:
    """Count the lines of module-level tables of data, which the length budget does not count."""
    tables = (node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and is_data(node.value))
    return sum(span(table) for table in tables if span(table) > 3)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of everything imported; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((f"{prefix}.{name.name}", node.lineno) for name in node.names)


def dotted(node: ast.AST) -> str:
    """Spell an attribute chain such as `torch.cuda.empty_cache`; empty when it does not start at a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def max_lines(source: Source) -> int:
    """Give the hard limit of a file's length in lines."""
    if source.path == "app.py":
        return 80
    return 300 if source.is_technique or source.is_tab else 400


def check_file_length(source: Source) -> Iterator[str]:
    """A file stays within its budget; tables of data are free."""
    lines = len(source.text.splitlines()) - data_lines(source.tree)
    if lines > max_lines(source):
        yield f"{lines} lines, at most {max_lines(source)}: split it along a seam"


def check_function_length(source: Source) -> Iterator[str]:
    """A function stays within 60 lines without its docstring, a tab's `build` within 100."""
    for node in functions(source.tree):
        limit = 100 if source.is_tab and node.name == "build" else 60
        if (lines := span(node) - docstring_lines(node)) > limit:
            yield f"line {node.lineno}: {node.name} has {lines} lines, at most {limit}"


def check_parameters(source: Source) -> Iterator[str]:
    """At most five parameters may be passed by position; every parameter and return value is annotated."""
    for node in functions(source.tree):
        positional = [arg for arg in [*node.args.posonlyargs, *node.args.args] if arg.arg not in ("self", "cls")]
        if len(positional) > 5:
            yield f"line {node.lineno}: {node.name} takes {len(positional)} parameters by position, at most 5"
        named = [*positional, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        bare = [arg.arg for arg in named if arg is not None and arg.annotation is None]
        if bare:
            yield f"line {node.lineno}: {node.name} leaves {', '.join(bare)} without annotation"
        if node.returns is None:
            yield f"line {node.lineno}: {node.name} does not say what it returns"


def nesting(node: ast.AST) -> int:
    """Depth of blocks below a node; `elif` counts like its `if`, an inner function is measured by itself."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def check_nesting(source: Source) -> Iterator[str]:
    """Blocks stand at most four deep."""
    for node in functions(source.tree):
        if nesting(node) > 4:
            yield f"line {node.lineno}: {node.name} nests {nesting(node)} blocks, at most 4"


def check_docstrings(source: Source) -> Iterator[str]:
    """Every module says what it is; every public name of pipelines/ and training/ says what it does."""
    if not (text := ast.get_docstring(source.tree)):
        yield "no module docstring"
    elif source.folder != "tests" and len([line for line in text.splitlines() if line.strip()]) > 6:
        yield "the module docstring is longer than 6 lines"
    if source.folder not in ("pipelines", "training"):
        return
    inherited = {"forward", "open", "init", "before_unet", "combine", "edit_x0", "after_step", "predict"}
    for scope in [source.tree, *(node for node in source.tree.body if isinstance(node, ast.ClassDef))]:
        if isinstance(scope, ast.ClassDef) and scope.name.startswith("_"):
            continue
        for node in scope.body:
            is_named = isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
            free = isinstance(scope, ast.ClassDef) and getattr(node, "name", "") in inherited
            if is_named and not free and not ast.get_docstring(node):  # type: ignore[arg-type]
                yield f"line {node.lineno}: {node.name} has no docstring"  # type: ignore[union-attr]


def check_names(source: Source) -> Iterator[str]:
    """A module is named after what it is."""
    stem = Path(source.path).stem
    if set(stem.split("_")) & {"utils", "util", "helpers", "helper", "common", "misc", "manager"}:
        yield f"the name {stem} does not say what the module is"


def check_safety(source: Source) -> Iterator[str]:
    """Nothing that runs code from a file or a download: safetensors and plain JSON only."""
    for name, line in imports(source.tree):
        if (
            name.split(".")[0] in ("pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
            or name == "torch.load"
        ):
            yield f"line {line}: imports {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in ("torch.load", "eval", "exec"):
            yield f"line {node.lineno}: calls {dotted(node.func)}"
        if isinstance(node, ast.Call) and any(word.arg == "allow_pickle" for word in node.keywords):
            yield f"line {node.lineno}: passes allow_pickle"
        if isinstance(node, ast.Call) and any(word.arg == "trust_remote_code" for word in node.keywords):
            yield f"line {node.lineno}: passes trust_remote_code"


def check_errors(source: Source) -> Iterator[str]:
    """No bare except, and no handler that only passes or continues."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield f"line {node.lineno}: bare except"
            if all(isinstance(line, ast.Pass | ast.Continue) for line in node.body):
                yield f"line {node.lineno}: swallows an error"


def is_stdlib(name: str) -> bool:
    """True when the first part of a dotted name belongs to Python itself."""
    return name.split(".")[0] in sys.stdlib_module_names
