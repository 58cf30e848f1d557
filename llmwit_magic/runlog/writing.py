"""The writing of a session's rows, with those that could not be written when they should have been.

Writing fails on a full disk, for instance. The rows of runs that ended meanwhile are kept in
memory and written with a later run, or when the log is closed.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping
from typing import Any

from ..errors import LogError
from .database import Database
from .rows import Row

_MAX_UNWRITTEN = 10_000
"""How many rows wait at most. Those of later runs are lost."""


class RowWriter:
    """Writes the rows of the database's session; safe for several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unwritten: list[tuple[int | None, Row]] = []
        """The numbers and the rows of ended runs that still have to be written."""
        self._lock = threading.Lock()

    def begin(self, row: Row) -> int:
        """See `RunLog.begin`."""
        self.write_unwritten()
        return self._insert(row)

    def complete(self, run_id: int | None, row: Row) -> int:
        """See `RunLog.complete`."""
        try:
            self.write_unwritten()
            return self._complete(run_id, row)
        except LogError:
            with self._lock:
                if len(self._unwritten) < _MAX_UNWRITTEN:
                    self._unwritten.append((run_id, row))
            raise

    def _complete(self, run_id: int | None, row: Row) -> int:
        if run_id is None:
            return self._insert(row)
        own = {"session_id": self._database.session_id}
        if self.update(run_id, row, own) or "prompt" not in row:
            return run_id
        # There is no such row any more: the file was deleted or set aside since the run started.
        taken = self._database.read("SELECT 1 FROM runs WHERE run_id = ?", [run_id])
        return self._insert(row if taken else row | {"run_id": run_id})

    def write_unwritten(self) -> None:
        """Write the rows that wait. Raises `LogError` at the first that fails; the rest wait on."""
        with self._lock:
            waiting, self._unwritten = self._unwritten, []
        for done, (run_id, values) in enumerate(waiting):
            try:
                self._complete(run_id, values)
            except LogError:
                with self._lock:
                    self._unwritten = waiting[done:] + self._unwritten
                raise

    def _insert(self, row: Mapping[str, Any]) -> int:
        """Add a row of this session; its run_id."""
        row = {**row, "session_id": self._database.session_id}
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        statement = f"INSERT INTO runs ({names}) VALUES ({marks})"

        def insert(connection: sqlite3.Connection) -> int:
            return int(connection.execute(statement, list(row.values())).lastrowid or 0)

        run_id = self._database.write(insert)
        self._database.last_id = max(run_id, self._database.last_id)
        return run_id

    def update(
        self, run_id: int, values: Mapping[str, Any], where: Mapping[str, Any] | None = None
    ) -> bool:
        """Set columns of the run that also has the values of `where`; whether there is one."""
        where = {"run_id": run_id, **(where or {})}
        settings = ", ".join(f"{name} = ?" for name in values)
        terms = " AND ".join(f"{name} = ?" for name in where)
        statement = f"UPDATE runs SET {settings} WHERE {terms}"
        arguments = [*values.values(), *where.values()]
        return self._database.write(
            lambda connection: connection.execute(statement, arguments).rowcount > 0
        )

    def add_metrics(self, metrics: Mapping[int, Mapping[str, float | None]]) -> int | None:
        """Merge metrics into those of the runs; None removes one. All are written, or none is.

        The first number of which there is no run, or None where there is none missing.
        """

        def merge(connection: sqlite3.Connection) -> int | None:
            for run_id in metrics:
                if not connection.execute(_EXISTS, [run_id]).fetchone():
                    return run_id
            for run_id, numbers in metrics.items():
                connection.execute(_MERGE, [json.dumps(numbers), run_id])
            return None

        return self._database.write(merge)


_EXISTS = "SELECT 1 FROM runs WHERE run_id = ?"
_MERGE = (
    # What is damaged is replaced: `json_patch` would raise at it each time.
    "UPDATE runs SET metrics = json_patch("
    "CASE WHEN typeof(metrics) = 'text' AND json_valid(metrics) THEN metrics ELSE '{}' END, ?) "
    "WHERE run_id = ?"
)
"""Merges a JSON object into that of a run. `json_patch` removes the keys whose value is null
(https://www.rfc-editor.org/rfc/rfc7396)."""
