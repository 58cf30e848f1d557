"""A damaged file of the run log is renamed, so that a new one can be begun."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..base.filesystem import replace
from ..errors import LogWarning, one_line, warn
from .log_files import default_path, files_of
from .trouble import is_damage

_OUR_ENDINGS = (".sqlite3", ".sqlite", ".db")


def set_aside(path: str, error: Exception, patience: float) -> bool:
    """Give a damaged file another name, with a `LogWarning`; whether the path can be used again.

    `error` is the one that showed the damage. False means that the file is not ours to rename,
    or that it could not be renamed. It waits up to `patience` seconds for another kernel that
    does the same.
    """
    if path == ":memory:" or not _looks_like_log(path):
        return False
    lock = FileLock(f"{path}.lock", timeout=patience)
    with suppress(OSError, NotImplementedError, Timeout), lock:
        if not _is_damaged(path, patience):
            return True  # another kernel has renamed it already
        name = f"{path}.damaged-{datetime.now():%Y%m%d-%H%M%S-%f}"
        for file in files_of(path):
            with suppress(FileNotFoundError):
                replace(file, name + file.removeprefix(path))
        warn(
            one_line(
                f"the run log was damaged ({error}): it is kept as {name}, and a new one is begun"
            ),
            LogWarning,
        )
        return True
    return False


def _is_damaged(path: str, patience: float) -> bool:
    """Whether SQLite's own check of the whole file finds damage."""
    try:
        # Mode rw makes no file: another kernel may have renamed this one a moment ago.
        address = f"{Path(path).as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, timeout=patience)
        try:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()
            return said is None or said[0] != "ok"
        finally:
            connection.close()
    except sqlite3.Error as error:
        return is_damage(error)


def _looks_like_log(path: str) -> bool:
    """Whether a file that SQLite cannot read may be renamed.

    A person may have set `log_path` to a file of another kind by mistake; that file stays.
    """
    if path == str(default_path()) or path.endswith(_OUR_ENDINGS):
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return True  # another kernel has renamed it a moment ago
    except OSError:
        return False
    return start.startswith(b"SQLite format 3") or not start.strip(b"\0")
