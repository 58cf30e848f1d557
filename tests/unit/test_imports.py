"""Imports of the package point one way."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "llmwit_magic"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def room(module: str) -> str:
    """The folder of a module, or its own name where it lies in none."""
    path = MODULES[module]
    return path.parent.name if path.parent != PACKAGE else path.stem


def imports(module: str) -> Iterator[str]:
    """The modules of the package that it imports anywhere but for types alone."""
    path = MODULES[module]
    parts = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level + 1] + (node.module or "").split(".")
            start = ".".join(filter(None, base))
            for alias in node.names:
                name = f"{start}.{alias.name}"
                yield name if name in MODULES else start


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from statements(node)


def rooms() -> dict[str, set[str]]:
    """The rooms that each room imports from."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        for other in imports(module):
            if room(other) != room(module):
                found[room(module)].add(room(other))
    return found


def test_no_room_imports_from_itself_by_way_of_others() -> None:
    """Rooms can be ordered so that each imports from those before it."""
    left = {room(module) for module in MODULES}
    found = rooms()
    while free := {name for name in left if not found[name] & left}:
        left -= free
    assert not left, {name: found[name] & left for name in left}


def test_the_lowest_room_imports_nothing_of_ours() -> None:
    """What is shared by all needs nothing of the rest."""
    assert rooms()["base"] == set()
