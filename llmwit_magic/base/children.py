"""Child processes that end when this process ends, also when it crashes."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from .filesystem import current_folder

_HOW: dict[str, Any] = {}
"""Arguments of `Popen` for every child: no interrupt of the notebook, and no window."""
if sys.platform == "win32":
    _HOW["creationflags"] = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
else:
    _HOW["start_new_session"] = True

_BEGINNING = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if sys.platform == "win32":
    import msvcrt
    msvcrt.SetErrorMode(msvcrt.SEM_FAILCRITICALERRORS | msvcrt.SEM_NOGPFAULTERRORBOX
                        | msvcrt.SEM_NOOPENFILEERRORBOX)
elif os.getppid() != {parent}:
    os._exit(1)
sys.path += [folder for folder in {folders!a} if folder not in sys.path]
"""

PARENT_POLL_SECONDS = 1.0
"""How often a child looks whether its parent still lives."""
PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of this package, which a child gets as its first argument."""

_Order = tuple[Sequence[str], dict[str, Any], "Future[subprocess.Popen[Any]]"]


def beginning() -> str:
    """Python code that a child runs first.

    On Linux the system kills the child when this process ends. That also ends a
    child that is stopped, which a closed pipe would not wake. This process may
    have ended before the child asked for that, so the child then looks for its
    parent once. On Windows a crash opens no dialog: a dialog would keep the
    child until somebody clicks.

    The child finds packages where this process does. These folders come last in
    its path, so that no file of the user's replaces one of Python's own modules.
    """
    return _BEGINNING.format(parent=os.getpid(), folders=_package_folders())


def package_code(module: str) -> str:
    """Python code that calls `main` of a module of this package with the parent's process id.

    The child's arguments are the package's folder and that id. The package is loaded by its path,
    not with `-m` or through `sys.path`: the notebook's folder may have a random.py of its own, and
    another copy of this package may be installed.
    """
    return f"""
import importlib.util, sys
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(
    "llmwit_magic", folder + "/__init__.py", submodule_search_locations=[folder])
package = sys.modules["llmwit_magic"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from {module} import main
main(int(sys.argv[2]))
"""


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """In a child: its standard input and output, on descriptors that native code does not know.

    Afterwards descriptor 0 reads nothing, and descriptor 1 is the same as 2.
    """
    commands = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return commands, answers


def watch_parent(parent: int, end: Callable[[], None]) -> None:
    """In a child: call `end` when the parent ends, even where another process inherited its end of
    the pipe. `parent` is its process id."""
    if sys.platform == "win32":  # Windows keeps the id of a parent that has ended
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        end()

    threading.Thread(target=watch, name="llmwit-parent", daemon=True).start()


def _package_folders() -> list[str]:
    """The folders of `sys.path`, absolute. The current one is left out: it has a user's files."""
    here = current_folder()
    folders = [os.path.join(here or "", path) for path in sys.path if isinstance(path, str)]
    folders = [os.path.normpath(folder) for folder in folders if os.path.isabs(folder)]
    return [folder for folder in folders if folder != str(here)]


def start(command: Sequence[str], **how: Any) -> subprocess.Popen[Any]:
    """Call `subprocess.Popen` in a thread that lives as long as this process.

    Linux kills a child when the *thread* that started it ends, and the thread
    of a run ends with the run. No interrupt of the notebook reaches the child,
    and no window opens for it. Raises what `Popen` raises.
    """
    outcome: Future[subprocess.Popen[Any]] = Future()
    _starter.order((command, how, outcome))
    try:
        return outcome.result()
    except BaseException:  # an interrupt: nobody would get the child, and end it
        outcome.add_done_callback(_abandon)
        raise


def _abandon(outcome: Future[subprocess.Popen[Any]]) -> None:
    if outcome.exception() is None:
        with suppress(OSError), outcome.result() as process:
            process.kill()


class _Starter:
    """The thread that starts children. It begins with the first order."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._begun = False

    def order(self, order: _Order) -> None:
        with self._lock:
            if not self._begun:
                threading.Thread(target=self._serve, name="llmwit-starter", daemon=True).start()
                self._begun = True
        self._orders.put(order)

    def _serve(self) -> None:
        while True:
            _carry_out(*self._orders.get())


def _carry_out(
    command: Sequence[str], how: dict[str, Any], outcome: Future[subprocess.Popen[Any]]
) -> None:
    try:
        outcome.set_result(subprocess.Popen(command, **_HOW, **how))
    except BaseException as error:
        outcome.set_exception(error)


_starter = _Starter()


def _renew() -> None:
    """Replace the starter in a forked process, which has no thread but the one that forked."""
    global _starter
    _starter = _Starter()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
