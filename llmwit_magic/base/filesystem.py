"""Files that are replaced as a whole, and the file systems under them."""

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
"""How long to wait for a file that another program holds on Windows, as virus scanners do."""
_HELD = (5, 32)  # Windows: access is denied, another process uses the file


def current_folder() -> Path | None:
    """The folder at which relative paths begin; None where it has been deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path`, renamed to it at the end of the block.

    Readers see either the old file or the new one. If the block raises, the old
    file stays.
    """
    part = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        replace(part, path)
    finally:
        discard(part)


def replace(source: str | Path, target: str | Path) -> None:
    """Call `os.replace`; on Windows try for `HELD_SECONDS` while a program holds a file."""
    _patiently(lambda: os.replace(source, target))


def discard(path: Path) -> None:
    """Remove a file if it exists. A file that cannot be removed stays, without an error."""
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
    """Why files in a folder cannot be locked, in the system's words.

    None where they can, on Windows, and where the folder takes no new file. `call` is the system
    call that makes the locks: SQLite uses `lockf`, and filelock uses `flock`. Both take the error
    `ENOLCK` ("no locks available") for another program's lock, and wait. This function locks a new
    temporary file: to unlock the file itself would take SQLite's own locks away.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - failing to make it means None
    except OSError:
        return None
    with file:
        try:
            getattr(fcntl, call)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror or str(error)
    return None
