"""The run log: SQLite, one row a run.

The row is written when the run starts and completed when it ends, so that a
killed kernel loses no prompt. A row that still says `running` while its kernel
is gone reads `lost`.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from ..errors import LogError
from .columns import COLUMNS, read_row, request_row, result_row
from .run import Run

VERSION = 1
BUSY_SECONDS = 5.0
"""How long a write waits for another kernel's."""

_SQL = {"integer": "INTEGER", "real": "REAL", "boolean": "INTEGER"}


def default_path() -> Path:
    """The log of this user, one file for all kernels."""
    return Path(platformdirs.user_data_path("llmwit-magic", appauthor=False)) / "runs.sqlite3"


class RunLog:
    """The rows of all runs in one SQLite file; safe for several threads and kernels."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = (
            ":memory:"
            if str(path) == ":memory:"
            else str(Path(path).expanduser() if path else default_path())
        )
        self.session_id = uuid.uuid4().hex
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    # Writing ---------------------------------------------------------------------

    def begin(self, run: Run) -> int:
        """Write the row of a run that starts; its run_id."""
        row = request_row(run) | {"session_id": self.session_id, "status": "running"}
        names = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        with self._transaction() as connection:
            cursor = connection.execute(
                f"INSERT INTO runs ({names}) VALUES ({marks})", list(row.values())
            )
            return int(cursor.lastrowid or 0)

    def complete(self, run: Run, status: str) -> None:
        """Fill in the row of a run that has ended."""
        self._update(run.run_id, result_row(run) | {"status": status})

    def rate(self, run_id: int, rating: int | None) -> None:
        """Keep a person's opinion: 1 good, -1 bad, None none."""
        self._update(run_id, {"rating": rating})

    def _update(self, run_id: int | None, values: Mapping[str, Any]) -> None:
        settings = ", ".join(f"{name} = ?" for name in values)
        with self._transaction() as connection:
            connection.execute(
                f"UPDATE runs SET {settings} WHERE run_id = ?", [*values.values(), run_id]
            )

    # Reading ---------------------------------------------------------------------

    def rows(self, everyone: bool = True) -> list[dict[str, Any]]:
        """The rows as mappings, oldest first; JSON columns parsed, lost runs named."""
        where = "" if everyone else "WHERE session_id = ?"
        arguments = [] if everyone else [self.session_id]
        with self._lock:
            connection = self._open()
            connection.row_factory = sqlite3.Row
            try:
                found = connection.execute(
                    f"SELECT * FROM runs {where} ORDER BY run_id", arguments
                ).fetchall()
                sessions = connection.execute("SELECT * FROM sessions").fetchall()
            except sqlite3.Error as error:
                raise self._problem(error) from None
        gone = self._gone_sessions(sessions, found)
        return [read_row(dict(row), gone) for row in found]

    def to_frame(self, everyone: bool = True) -> Any:
        """The rows as a pandas DataFrame, indexed by run_id: all kernels', or only this one's."""
        from .frame import to_frame

        return to_frame(self.rows(everyone))

    def __len__(self) -> int:
        with self._lock:
            return int(self._open().execute("SELECT count(*) FROM runs").fetchone()[0])

    def __repr__(self) -> str:
        return f"<RunLog {self.path}: {len(self)} runs>"

    def _gone_sessions(
        self, sessions: Sequence[sqlite3.Row], rows: Sequence[sqlite3.Row]
    ) -> set[str]:
        running = {row["session_id"] for row in rows if row["status"] == "running"}
        running.discard(self.session_id)
        return {
            session["session_id"]
            for session in sessions
            if session["session_id"] in running and not _alive(session)
        }

    # The file --------------------------------------------------------------------

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._open()
                with connection:
                    yield connection
            except (sqlite3.Error, OSError) as error:
                raise self._problem(error) from None

    def _problem(self, error: Exception) -> LogError:
        return LogError(f"the run log {self.path} cannot be used: {error}")

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        try:
            if self.path != ":memory:":
                self._create_file()
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise self._problem(error) from None
        self._connection = connection
        return connection

    def _create_file(self) -> None:
        """Prompts are private: the file is for its owner alone."""
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # With WAL, NORMAL loses nothing when a process dies, only when the machine does.
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise LogError(
                    f"the run log {self.path} was written by a newer llmwit-magic (schema "
                    f"{version}, this one knows {VERSION}): upgrade, or set "
                    "%config InferMagics.log_path to another file"
                )
            if version == 0:
                columns = ", ".join(
                    f"{column.name} {_SQL.get(column.kind, 'TEXT')}" for column in COLUMNS[1:]
                )
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS runs "
                    f"(run_id INTEGER PRIMARY KEY AUTOINCREMENT, {columns})"
                )
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS sessions "
                    "(session_id TEXT PRIMARY KEY, host TEXT, pid INTEGER, process_started REAL)"
                )
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)",
                [self.session_id, socket.gethostname(), os.getpid(), _process_started(os.getpid())],
            )


def _process_started(pid: int) -> float | None:
    """When the living process of that id began (ids are used again), None where there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return None if zombie else float(process.create_time())
    except psutil.Error:
        return None


def _alive(session: sqlite3.Row) -> bool:
    if session["host"] != socket.gethostname():
        return True  # nobody can tell from here
    started = _process_started(session["pid"])
    if session["process_started"] is None:
        return started is not None
    return started is not None and abs(started - session["process_started"]) < 2
