"""The files of a run log: where they lie, what they are called, and who may read them."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def default_path() -> Path:
    """The log of this user. All kernels of the user share this one file."""
    return Path(platformdirs.user_data_path("llmwit-magic", appauthor=False)) / "runs.sqlite3"


def files_of(path: str) -> list[str]:
    """The database and the files that SQLite may put beside it; none for `:memory:`."""
    if path == ":memory:":
        return []
    return [path + end for end in ("", "-wal", "-shm", "-journal")]


def create_private(path: Path) -> None:
    """Make an empty file and its folder, both for their owner alone: prompts are private.

    A file that exists is not opened. POSIX drops all locks that a process has on a file as
    soon as the process closes it once, so opening and closing it here would take the locks
    away from every other connection of this process.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def size_of(path: str) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def identity(path: str) -> tuple[int, int] | None:
    """The device and the inode of a file; None where there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
