"""What an error of SQLite means: the file is held by others, damaged, or cannot be locked."""

from __future__ import annotations

import sqlite3

_NO_LOCKS = {
    "SQLITE_IOERR_LOCK", "SQLITE_IOERR_RDLOCK", "SQLITE_IOERR_UNLOCK", "SQLITE_IOERR_SHMLOCK",
    "SQLITE_IOERR_CHECKRESERVEDLOCK", "SQLITE_PROTOCOL",
}  # fmt: skip
"""The errors that SQLite raises when locking fails. Their text is only "disk I/O error" or
"locking protocol"."""


def is_busy(error: Exception) -> bool:
    """Whether SQLite says that somebody else holds the file.

    SQLite says the same where the file system has no locks; `filesystem.lock_failure` tells the
    two apart.
    """
    return _code(error) == sqlite3.SQLITE_BUSY


def is_damage(error: Exception) -> bool:
    """Whether the file is no database, or a damaged one."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: Exception) -> int:
    """The primary error code; 0 for an error that is not SQLite's."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def lock_error(error: Exception) -> str | None:
    """The name of the error where it says that files cannot be locked; None for any other."""
    name = getattr(error, "sqlite_errorname", None)
    return name if name in _NO_LOCKS else None


def words(error: Exception) -> str:
    """An error in SQLite's words, with its name where the words say little ("disk I/O error")."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return (
        f"{error} ({name})" if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) else str(error)
    )
