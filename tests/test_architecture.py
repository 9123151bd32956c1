"""Promises about the package as a whole: imports run one way, importing is light, every test file says what for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fastrnn

PACKAGE = Path(fastrnn.__file__).parent

# What each part may import of the package; a part may always import itself and the modules at the bottom.
BOTTOM = {"version", "arguments", "random"}
ALLOWED = {
    "backends": set(),
    "ops": {"backends"},
    "layers": {"ops", "backends"},
    "streaming": {"layers", "ops", "backends"},
    "io": {"layers"},
    "datasets": {"io"},
    "training": {"layers", "backends", "io"},
    "plots": {"io"},
    "textbook": {"layers", "training", "datasets"},
    "bench": {"streaming", "layers", "training", "ops", "backends", "io"},
    "cli": {"bench", "textbook", "training", "layers", "datasets", "backends", "plots"},
}


def nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, but for what stands under `if TYPE_CHECKING:`."""
    yield node
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    for child in node.orelse if typing_only else ast.iter_child_nodes(node):
        yield from nodes_that_run(child)


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, as dotted paths below it."""
    found = set()
    here = ("fastrnn", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in nodes_that_run(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) + "." * bool(node.module) if node.level else ""
            found |= {f"{base}{node.module or ''}.{alias.name}" for alias in node.names}
    return {name.removeprefix("fastrnn.") for name in found if name.startswith("fastrnn.")}


def test_imports_run_one_way() -> None:
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if part in BOTTOM | {"__init__", "__main__"}:
            continue
        assert part in ALLOWED, f"{path.name} has no place in the order of imports"
        for name in imports(path):
            target = name.partition(".")[0]
            assert target in ALLOWED[part] | BOTTOM | {part, "_kernels"}, f"{path.name} imports {name}"


def test_backends_do_not_import_each_other() -> None:
    names = set(fastrnn.available_backends())
    for path in (PACKAGE / "backends").glob("*.py"):
        if path.stem in names:
            others = {name.split(".")[1] for name in imports(path) if name.startswith("backends.")} & names
            assert others <= {"reference", path.stem}, f"{path.name} imports {others}"


def test_importing_is_light() -> None:
    code = "import sys, fastrnn; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    heavy = {"numba", "tensorflow", "keras", "torch", "matplotlib", "h5py", "rich", "ssl", "scipy", "pandas"}
    assert not heavy & set(loaded)


def test_everything_public_has_a_docstring() -> None:
    for name in fastrnn.__all__:
        if name != "__version__":
            assert (getattr(fastrnn, name).__doc__ or "").strip(), name
