"""What is the matter with a run log's file: held by others, damaged, or on what locks no files."""

from __future__ import annotations

import sqlite3
from pathlib import Path

_NO_LOCKS = {
    "SQLITE_IOERR_LOCK", "SQLITE_IOERR_RDLOCK", "SQLITE_IOERR_UNLOCK", "SQLITE_IOERR_SHMLOCK",
    "SQLITE_IOERR_CHECKRESERVEDLOCK", "SQLITE_PROTOCOL",
}  # fmt: skip


def is_busy(error: Exception) -> bool:
    """Whether somebody else holds the file, or SQLite takes it for that; see `filesystem.lock_failure`."""
    return _code(error) == sqlite3.SQLITE_BUSY


def is_damage(error: Exception) -> bool:
    """Whether the file is no database, or no whole one."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: Exception) -> int:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def lock_error(error: Exception) -> str | None:
    """The same as `filesystem.lock_failure` of an error of SQLite's, which is "disk I/O error" or "locking protocol"."""
    name = getattr(error, "sqlite_errorname", None)
    return name if name in _NO_LOCKS else None


def words(error: Exception) -> str:
    """An error in SQLite's words; where they say little ("disk I/O error"), with its name."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return (
        f"{error} ({name})" if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) else str(error)
    )


def damaged(path: str, patience: float) -> bool:
    """Whether SQLite itself says so after a look through the file."""
    try:
        # Not made where another kernel has just taken it away.
        address = f"{Path(path).as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, timeout=patience)
        try:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()
            return said is None or said[0] != "ok"
        finally:
            connection.close()
    except sqlite3.Error as error:
        return is_damage(error)
