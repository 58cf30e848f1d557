"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

HELD_SECONDS = 2.0
"""How long another program may hold a file on Windows: a virus scanner looks into each new one."""
_HELD = (5, 32)  # Windows: access is denied, another process uses the file


def current_folder() -> Path | None:
    """The folder that relative paths begin at; None where it was deleted meanwhile."""
    try:
        return Path.cwd()
    except OSError:
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path`, renamed to it at the end of the block.

    Readers see the old file or the new one, nothing between; a block that
    raises leaves the old one.
    """
    part = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        replace(part, path)
    finally:
        discard(part)


def replace(source: str | Path, target: str | Path) -> None:
    """`os.replace`, which on Windows waits up to `HELD_SECONDS` for a program that holds a file."""
    _patiently(lambda: os.replace(source, target))


def discard(path: Path) -> None:
    """Remove a file that nobody needs, if it is there. One that cannot be removed stays."""
    with suppress(OSError):
        _patiently(lambda: path.unlink(missing_ok=True))


def is_held(error: Exception) -> bool:
    """Whether Windows refused because a program holds the file; False on other systems."""
    return getattr(error, "winerror", None) in _HELD


def _patiently(work: Callable[[], None]) -> None:
    deadline = time.monotonic() + HELD_SECONDS
    while True:
        try:
            return work()
        except OSError as error:
            if not is_held(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def lock_failure(folder: Path, call: Literal["lockf", "flock"]) -> str | None:
    """Why the system locks no files of a folder; None where it does, or nobody can tell.

    `call` is what the locks are made with: SQLite's with `lockf`, filelock's with `flock`. Both
    take `ENOLCK`, "no locks available", for a lock of somebody else's, and wait. Another file is
    tried than the one to be locked: letting go of that would take SQLite's own locks from it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - its failure is another one's
    except OSError:
        return None
    with file:
        try:
            getattr(fcntl, call)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror or str(error)
    return None
