"""The imports of the package point one way."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "llmwit_magic"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
ORDER = (
    {"base", "errors", "_version"},
    {"contract"},
    {"requests"},
    {"models"},
    {"engines"},
    {"runlog"},
    {"running"},
    {"views"},
    {"analysis"},
    {"components"},
    {"magics", "api", "serving"},
    {"__init__", "__main__"},
)
"""The rooms, each a folder or a file of the package. A room imports from those above it here."""


def room(module: str) -> str:
    """The folder of the package that has a module; its own name where it lies in none."""
    parts = MODULES[module].relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(module: str, late: bool = True) -> Iterator[str]:
    """The modules of the package that it imports anywhere but for types alone.

    Without `late`, those that it imports when it is itself imported.
    """
    path = MODULES[module]
    parts = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), late):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level + 1] + (node.module or "").split(".")
            start = ".".join(filter(None, base))
            for alias in node.names:
                name = f"{start}.{alias.name}"
                yield name if name in MODULES else start


def statements(tree: ast.AST, late: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        if late or not isinstance(node, ast.FunctionDef):
            yield from statements(node, late)


def test_each_room_imports_from_lower_ones_only() -> None:
    """The rooms have an order, and imports point one way in it, also those in functions."""
    place = {name: number for number, names in enumerate(ORDER) for name in names}
    against = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if room(other) != room(module) and place[room(other)] >= place[room(module)]
    ]
    assert not against, "\n".join(against)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """There is no circle of modules, within a room or across rooms."""
    graphlib.TopologicalSorter(
        {module: set(imports(module)) - {module} for module in MODULES}
    ).prepare()


def test_every_room_has_its_place() -> None:
    """A new folder must be put into the order."""
    assert {room(module) for module in MODULES} == set().union(*ORDER)


def test_a_name_stands_once() -> None:
    """No two modules have the same name, so the name says which file is meant."""
    names = Counter(path.stem for path in MODULES.values() if path.stem != "__init__")
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_all_modules_at_once_leave_the_public_names(tmp_path: Path) -> None:
    """No module takes a public name: `llmwit_magic.runs` stays the log."""
    code = f"""
import importlib
for name in {sorted(MODULES)!r}:
    importlib.import_module(name)
import llmwit_magic
from llmwit_magic.contract.request import Request
from llmwit_magic.running.run import Run
number = llmwit_magic.runs.begin(Run(Request(model="m", prompt="the newest")).row())
assert llmwit_magic.runs[-1].prompt == "the newest", number
for name in llmwit_magic.__all__:
    assert type(getattr(llmwit_magic, name)).__name__ != "module", name
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=50,
        env={"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
