"""The schema of the run log's database, its upgrades, and whether a database is a run log."""

from __future__ import annotations

import sqlite3

from ..errors import LogError
from .columns import COLUMNS

VERSION = 8
"""Version of the schema. Version 1 had fewer columns and no indexes. Each later version adds
columns, and none removes any."""
APPLICATION_ID = 0x6C6C6D77  # "llmw" marks our files, so that we leave other databases alone

_FIRST_COLUMNS = {"run_id", "session_id", "started_at", "prompt", "stop", "seed"}
"""Some columns of schema 1. They identify it, since it set no application_id."""
_SQL = {"integer": "INTEGER", "real": "REAL", "boolean": "INTEGER"}
"""The SQL type for each kind of column; every other kind is TEXT."""
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS runs_group ON runs (group_id) WHERE group_id IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS runs_session ON runs (session_id)",
    "CREATE INDEX IF NOT EXISTS runs_running ON runs (session_id) WHERE status = 'running'",
)


def check(connection: sqlite3.Connection, path: str) -> None:
    """Raise `LogError` unless the database is empty, or a run log that this version can read.

    It is called before anything is written, so that a database of another program stays as
    it is. `path` is named in the error.
    """
    version = _pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version == 1:
        ours = _columns(connection) >= _FIRST_COLUMNS
    else:
        ours = _pragma(connection, "application_id") == APPLICATION_ID
    if (version or tables) and not ours:
        raise LogError(
            f"{path} is a database of another program: set "
            "%config InferMagics.log_path to another file"
        )
    if version > VERSION:
        raise LogError(
            f"the run log {path} was written by a newer llmwit-magic (schema "
            f"{version}, this one knows {VERSION}): upgrade, or set "
            "%config InferMagics.log_path to another file"
        )


def migrate(connection: sqlite3.Connection, last_id: int) -> None:
    """Bring the schema to `VERSION`: make the tables of a new file, add columns to an old one.

    In a new file, run numbers begin after `last_id`.
    """
    version = _pragma(connection, "user_version")
    if version == VERSION:
        return
    connection.execute("CREATE TABLE IF NOT EXISTS runs (run_id INTEGER PRIMARY KEY AUTOINCREMENT)")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS sessions "
        "(session_id TEXT PRIMARY KEY, host TEXT, pid INTEGER, process_started REAL)"
    )
    if not version:
        # The new file may replace one that was deleted or set aside. A run that was going on
        # then is still to be completed here, and no other run may have taken its number.
        connection.execute("INSERT INTO sqlite_sequence VALUES ('runs', ?)", [last_id])
    there = _columns(connection)
    for column in COLUMNS:
        if column.name not in there:
            kind = _SQL.get(column.kind, "TEXT")
            connection.execute(f"ALTER TABLE runs ADD COLUMN {column.name} {kind}")
    for index in _INDEXES:
        connection.execute(index)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
