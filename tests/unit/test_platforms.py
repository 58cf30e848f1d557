"""What works on one system alone stands in one place of the package, as its source shows."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from llmwit_magic.base import children

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


# Processes ------------------------------------------------------------------------------

STARTING = {
    "subprocess": {"Popen", "run", "call", "check_call", "check_output", "getoutput",
                   "getstatusoutput"},
    "os": {"system", "popen", "fork", "forkpty", "startfile", "posix_spawn", "posix_spawnp",
           *(name for name in dir(os) if name.startswith(("exec", "spawn")))},
    "pty": {"fork", "spawn"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
    "concurrent.futures": {"ProcessPoolExecutor"},
    "multiprocessing": {"Process", "Pool", "Manager", "get_context"},
}  # fmt: skip


def starts(tree: ast.Module) -> list[ast.Call]:
    """The calls that start a process."""
    bare = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in STARTING.get(node.module or "", ())
    }
    dotted = {f"{module}.{name}" for module, known in STARTING.items() for name in known}
    return [call for call in calls(tree) if ast.unparse(call.func) in bare | dotted]


def test_processes_start_in_one_way() -> None:
    """Each of the package's: by `children.start`, with the options that this system needs."""
    found = {name: starts(tree) for name, tree in modules()}
    assert {name for name, begun in found.items() if begun} == {"base/children.py"}
    (call,) = found["base/children.py"]
    assert "_HOW" in [ast.unparse(word.value) for word in call.keywords if word.arg is None]


def test_nobody_else_says_how_a_process_starts() -> None:
    """A second opinion would be an error when the process starts."""
    for name, tree in modules():
        words = {word.arg for call in calls(tree) for word in call.keywords}
        options = {"start_new_session", "creationflags", "preexec_fn", "startupinfo", "shell",
                   "process_group"}  # fmt: skip
        assert not words & options or name == "base/children.py", name


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`children` as it is imported there."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    assert children.__file__
    spec = importlib.util.spec_from_file_location("llmwit_magic.base.there", children.__file__)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_windows_opens_no_window_and_sends_no_interrupt(on_windows: ModuleType) -> None:
    assert on_windows._HOW == {"creationflags": 0x08000200}


def test_windows_opens_no_dialog(on_windows: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of a child is told by its exit code, and waits for nobody's click."""
    modes: list[int] = []
    there = SimpleNamespace(
        SEM_FAILCRITICALERRORS=1, SEM_NOGPFAULTERRORBOX=2, SEM_NOOPENFILEERRORBOX=0x8000,
        SetErrorMode=modes.append,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "msvcrt", there)
    exec(on_windows.beginning(), {})
    assert modes == [0x8003]


@pytest.mark.skipif(sys.platform == "win32", reason="sessions are POSIX's")
def test_a_child_has_a_session_of_its_own() -> None:
    """The terminal's and the notebook's interrupts are for a session or a group."""
    child = children.start([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert os.getsid(child.pid) == child.pid
    finally:
        child.communicate(b"\n", timeout=20)


# Files ----------------------------------------------------------------------------------

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
        if name != "base/filesystem.py":
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
