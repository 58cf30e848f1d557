"""What works on one system alone stands in one place of the package, as its source shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "llmwit_magic"


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Name and source of each module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def names(tree: ast.Module) -> set[str]:
    """Dotted names that a module uses, those that it imports with their module's."""
    found = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


RENAMING = {"os.replace", "os.rename", "os.renames", "shutil.move", "os.unlink", "os.remove"}


def renames(call: ast.Call) -> bool:
    """Whether it is `Path.rename`, `Path.replace` (which has one argument) or `Path.unlink`."""
    if not isinstance(call.func, ast.Attribute):
        return False
    one = len(call.args) == 1 and not call.keywords
    return call.func.attr in ("rename", "unlink") or (call.func.attr == "replace" and one)


def test_files_are_replaced_and_removed_in_one_way() -> None:
    """On Windows a virus scanner may hold them, which `files` waits for."""
    for name, tree in modules():
        if name != "files.py":
            assert not names(tree) & RENAMING, name
            assert [ast.unparse(call) for call in calls(tree) if renames(call)] == [], name


def test_a_closed_pipe_is_any_error_of_the_system() -> None:
    """Windows says EINVAL, which is no BrokenPipeError."""
    for name, tree in modules():
        handled = [node.type for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
        handled += [argument for call in calls(tree) if "suppress" in ast.unparse(call.func)
                    for argument in call.args]  # fmt: skip
        words = " ".join(ast.unparse(kind) for kind in handled if kind)
        assert "BrokenPipeError" not in words, name
        assert "ConnectionResetError" not in words, name


def test_folders_may_exist() -> None:
    """What a held file has kept from being removed, or another kernel has made meanwhile."""
    for name, tree in modules():
        for call in calls(tree):
            if isinstance(call.func, ast.Attribute) and call.func.attr in ("mkdir", "makedirs"):
                assert "exist_ok" in {word.arg for word in call.keywords}, name
