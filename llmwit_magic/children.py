"""Child processes that end with this one, however it ends."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from .base.filesystem import current_folder

_HOW: dict[str, Any] = {}
"""How every process starts: out of reach of an interrupt of the notebook, and with no window."""
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

_Order = tuple[Sequence[str], dict[str, Any], "Future[subprocess.Popen[Any]]"]


def beginning() -> str:
    """Python code for the beginning of a child.

    On Linux the child ends when this process does, also one that is stopped,
    which no closed pipe wakes. The parent may have ended before the child could
    ask for that: so it looks once. On Windows a crash opens no dialog, which
    would keep the child until somebody clicks.

    The child finds the packages that this process has found, last of all: no
    file of the user's is taken for one of Python's own modules.
    """
    return _BEGINNING.format(parent=os.getpid(), folders=_package_folders())


def _package_folders() -> list[str]:
    """`sys.path`, absolute, without the current folder: what lies beside a notebook is its own."""
    here = current_folder()
    folders = [os.path.join(here or "", path) for path in sys.path if isinstance(path, str)]
    folders = [os.path.normpath(folder) for folder in folders if os.path.isabs(folder)]
    return [folder for folder in folders if folder != str(here)]


def start(command: Sequence[str], **how: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen`, called in a thread that lives as long as this process.

    What Linux tells a child is the end of the *thread* that started it, and
    runs have threads of their own. No interrupt of the notebook reaches the
    child, and no window opens for it. Raises what `Popen` raises.
    """
    outcome: Future[subprocess.Popen[Any]] = Future()
    _starter.order((command, how, outcome))
    try:
        return outcome.result()
    except BaseException:  # an interrupt: the child would be nobody's
        outcome.add_done_callback(_abandon)
        raise


def _abandon(outcome: Future[subprocess.Popen[Any]]) -> None:
    if outcome.exception() is None:
        with suppress(OSError), outcome.result() as process:
            process.kill()


class _Starter:
    """The thread, which begins with the first order."""

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
    """A fork has no threads but the one that forked."""
    global _starter
    _starter = _Starter()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
