"""The run log: one row a run, in one file for all kernels.

The row is written when the run starts and completed when it ends, so that a
killed kernel loses no prompt. A row that still says `running` while its kernel
is gone reads `lost`; where nobody can tell from here, as of another machine's,
it does so after two days.
"""

from __future__ import annotations

import gc
import operator
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LogError, RunNotFound
from .annotations import annotation_row
from .columns import NAMES
from .database import Database
from .processes import is_alive
from .reading import read_rows
from .rows import Row, ended_row, started_row
from .run import Run
from .selection import Filter

if TYPE_CHECKING:
    import pandas

    from .logged import LoggedRun
    from .plots import RunPlot

_MAX_UNWRITTEN = 10_000
UNKNOWN_FOR = timedelta(days=2)
"""How long a run counts as running whose kernel cannot be looked for: no run takes as long."""


class RunLog:
    """The rows of all runs in one SQLite file; safe for several threads and kernels.

    `runs[12]` is a run again, `len(runs)` their number, and iterating goes from
    the oldest to the newest. The methods take the fields of `Filter` by name:
    `runs.to_frame(model="…", since="2h", last=100)`.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        try:
            self._database = Database(path)
        except OSError as error:  # a relative path, and no folder that it is relative to
            raise LogError(f"the run log {path} cannot be used: {error.strerror}") from None
        self.path = self._database.path
        self.session_id = self._database.session_id
        self._unwritten: list[tuple[int | None, Row]] = []
        """What could not be written when it should have been, such as on a full disk."""
        self._lock = threading.Lock()
        _open_logs[self.session_id] = self

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a run is of the same log; one that goes to another process opens the file there."""
        return _reopened, (self.session_id, self.path)

    # Writing ---------------------------------------------------------------------

    def begin(self, run: Run) -> int:
        """Write the row of a run that starts; its run_id."""
        self._write_unwritten()
        return self._insert(started_row(run))

    def complete(self, run: Run, status: str) -> None:
        """Fill in the row of a run that has ended; write it, where that failed when it started.

        Where that is not possible now, such as on a full disk, it is tried
        again with each later run; `LogError` says so.
        """
        run.run_id = self.complete_row(run.run_id, ended_row(run, status))

    def complete_row(self, run_id: int | None, row: Row) -> int:
        """The same of a run that was carried out elsewhere; `row` is its `ended_row`.

        Returns the number of the run, which is another one where another kernel has made a new
        file meanwhile and given that number again.
        """
        try:
            self._write_unwritten()
            return self._complete(run_id, row)
        except LogError:
            with self._lock:
                if len(self._unwritten) < _MAX_UNWRITTEN:
                    self._unwritten.append((run_id, row))
            raise

    def _complete(self, run_id: int | None, row: Row) -> int:
        if run_id is None:
            return self._insert(row)
        own = {"session_id": self.session_id}
        if self._update(run_id, row, own) or "prompt" not in row:
            return run_id
        # The row is gone: the file was set aside or deleted meanwhile.
        taken = self._database.read("SELECT 1 FROM runs WHERE run_id = ?", [run_id])
        return self._insert(row if taken else row | {"run_id": run_id})

    def _write_unwritten(self) -> None:
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
        row = {**row, "session_id": self.session_id}
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        statement = f"INSERT INTO runs ({names}) VALUES ({marks})"

        def insert(connection: sqlite3.Connection) -> int:
            return int(connection.execute(statement, list(row.values())).lastrowid or 0)

        run_id = self._database.write(insert)
        self._database.last_id = max(run_id, self._database.last_id)
        return run_id

    def _update(
        self, run_id: int, values: Mapping[str, Any], where: Mapping[str, Any] | None = None
    ) -> bool:
        """Whether there was such a row."""
        where = {"run_id": run_id, **(where or {})}
        settings = ", ".join(f"{name} = ?" for name in values)
        terms = " AND ".join(f"{name} = ?" for name in where)
        statement = f"UPDATE runs SET {settings} WHERE {terms}"
        arguments = [*values.values(), *where.values()]
        return self._database.write(
            lambda connection: connection.execute(statement, arguments).rowcount > 0
        )

    def annotate(self, run_id: int, /, **values: Any) -> None:
        """Set `rating` (1, -1), `note` (a text) or `tags` (a mapping of texts) of a run.

        None takes one away. Nothing else of a run can be set. Raises
        `RunNotFound`, and `InvalidInput`.
        """
        row = annotation_row(values)
        run_id = self._number(run_id)
        if row and not self._update(run_id, row):
            raise self._not_found(run_id)

    def rate(self, run_id: int, rating: int | None) -> None:
        """Keep a person's opinion: 1 good, -1 bad, None none. Raises as `annotate` does."""
        self.annotate(run_id, rating=rating)

    def prune(self, before: str = "90d", **filters: Any) -> tuple[int, int]:
        """Remove the runs that started before that age or time and meet the filters.

        Runs that still go on are never touched. The file's space is given back.
        Returns the number of runs removed, and of bytes given back.
        """
        size, gone = self.size, self._gone()
        clause, arguments = Filter(before=before, **filters).sql(self.session_id, gone)
        marks = ", ".join("?" * len(gone))

        def delete(connection: sqlite3.Connection) -> int:
            return connection.execute(
                f"DELETE FROM runs WHERE run_id IN (SELECT run_id FROM runs {clause}) "
                f"AND (status != 'running' OR session_id IN ({marks}))",
                [*arguments, *gone],
            ).rowcount

        removed = self._database.write(delete)
        if removed and self.path != ":memory:":
            with suppress(LogError):  # another kernel writes just now: the next time will do
                self._database.execute("VACUUM")
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed, max(0, size - self.size)

    # Reading ---------------------------------------------------------------------

    def rows(self, everyone: bool = True, **filters: Any) -> list[Row]:
        """The rows as mappings, oldest first; JSON columns parsed, lost runs named."""
        return read_rows(self.tuples(Filter(everyone=everyone, **filters)))

    def tuples(
        self, chosen: Filter, names: Sequence[str] = NAMES, packed: Sequence[str] = ()
    ) -> list[tuple[Any, ...]]:
        """The chosen rows as the database keeps them, lost runs named; oldest first.

        The values of `packed` come last, as one JSON list.
        """
        gone = self._gone()
        clause, arguments = chosen.sql(self.session_id, gone)
        marks = ", ".join("?" * len(gone))
        lost = (
            f"CASE WHEN status = 'running' AND session_id IN ({marks}) THEN 'lost' ELSE status END"
        )
        terms = [lost if name == "status" else name for name in (*names, *packed)]
        wanted = ", ".join(terms[: len(names)])
        if packed:
            wanted += f", json_array({', '.join(terms[len(names) :])})"
        if "status" not in (*names, *packed):
            gone = []
        found = self._database.read(f"SELECT {wanted} FROM runs {clause}", [*gone, *arguments])
        found.reverse()
        return found

    def to_frame(self, everyone: bool = True, **filters: Any) -> pandas.DataFrame:
        """The rows as a DataFrame of shape (runs, columns), oldest first, indexed by run_id.

        `started_at` is a timestamp in UTC, without a zone. A tag is a column
        `tag.KEY`; `stop`, `tokens` and `content_filters` are JSON texts, which
        `json.loads` reads. A value that is not of its column's type is missing.
        """
        from .frame import FEW, SINGLE, frame_of, frame_of_rows

        chosen = Filter(everyone=everyone, **filters)
        names, packed = ([column.name for column in columns] for columns in (SINGLE, FEW))
        with _no_collection():
            try:
                return frame_of(self.tuples(chosen, names, packed))
            except (LogError, ValueError):  # a damaged value may fit into no JSON: a slower way
                return frame_of_rows(read_rows(self.tuples(chosen)))

    def __getitem__(self, run_id: int) -> LoggedRun:
        """The run of that number; -1 is the newest. Raises `RunNotFound`."""
        from .logged import LoggedRun

        return LoggedRun.of(self, self.row(run_id))

    def row(self, run_id: int) -> Row:
        """The row of one run, as `rows` gives it. Raises `RunNotFound`."""
        run_id = self._number(run_id)
        gone = self._gone()
        found = self._database.read(
            f"SELECT {', '.join(NAMES)} FROM runs WHERE run_id = ?", [run_id]
        )
        if not found:
            raise self._not_found(run_id)
        (row,) = read_rows(found)
        if row["status"] == "running" and row["session_id"] in gone:
            row["status"] = "lost"
        return row

    def _number(self, run_id: int) -> int:
        """The number of a run that is meant: -1 is that of the newest. Raises `RunNotFound`."""
        try:
            run_id = operator.index(run_id)  # numpy's are numbers too
        except TypeError:
            raise RunNotFound(f"{run_id!r} is not the number of a run: write runs[12]") from None
        if abs(run_id) >= 2**63:  # SQLite's largest
            raise self._not_found(run_id)
        if run_id >= 0:
            return run_id
        found = self._database.read(
            "SELECT run_id FROM runs ORDER BY run_id DESC LIMIT 1 OFFSET ?", [-run_id - 1]
        )
        if not found:
            raise self._not_found(run_id)
        return int(found[0][0])

    def __iter__(self) -> Iterator[LoggedRun]:
        for (run_id,) in self._database.read("SELECT run_id FROM runs ORDER BY run_id"):
            yield self[run_id]

    def __len__(self) -> int:
        return int(self._database.read("SELECT count(*) FROM runs")[0][0])

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<RunLog {self.path}: {len(self):,} runs, {self.size / 1e6:.1f} MB>"

    @property
    def size(self) -> int:
        """Bytes on the disk; 0 in memory."""
        return self._database.size()

    def export(
        self, path: str | Path, everyone: bool = True, schema: str = "log", **filters: Any
    ) -> int:
        """Write the runs into a file, its format by its ending; the number of runs.

        `.csv` for spreadsheets (cells that they would run as formulas begin
        with an apostrophe), `.jsonl` and `.parquet` with all types kept
        (`read_export` gives the same DataFrame). `schema="otel"` names the
        fields of `.jsonl` as OpenTelemetry's conventions for generative AI do.
        The file is written beside and renamed: a cut-off export leaves the old one.
        """
        from .export import export

        return export(self.rows(everyone, **filters), Path(path).expanduser(), schema)

    def backup(self, path: str | Path) -> int:
        """Copy the whole log, of all kernels, into another file; the number of its runs.

        The copy is the log as it stands at one moment, also while kernels
        write it, and is one itself: `RunLog(path)`. A file of that name is replaced.
        """
        return self._database.backup(Path(path).expanduser())

    def plot(
        self, kind: str | None = None, by: str | None = None, everyone: bool = True, **filters: Any
    ) -> RunPlot:
        """A figure of the runs: `speed`, `finish`, `length` or `rating`, or all of them.

        `by` is the column to compare by; without it, the setting that varies
        most. Needs matplotlib: `pip install "llmwit-magic[plots]"`.
        """
        from .plots import plot

        return plot(self.to_frame(everyone, **filters), kind, by)

    def _not_found(self, run_id: int) -> RunNotFound:
        first, last = self._database.read("SELECT min(run_id), max(run_id) FROM runs")[0]
        what = f"it has runs {first} to {last}" if first is not None else "it is empty"
        return RunNotFound(f"there is no run {run_id} in the log: {what}")

    def _gone(self) -> list[str]:
        """The sessions that have running rows and whose processes are no more."""
        sessions = self._database.read(
            "SELECT session_id, host, pid, process_started, max(started_at) FROM runs "
            "LEFT JOIN sessions USING (session_id) WHERE status = 'running' GROUP BY session_id"
        )
        long_ago = (datetime.now(UTC) - UNKNOWN_FOR).isoformat(timespec="microseconds")
        gone = []
        for session_id, host, pid, process_began, run_began in sessions:
            if session_id == self.session_id:
                continue
            alive = is_alive(host, pid, process_began)
            if alive is None:
                alive = not isinstance(run_began, str) or run_began > long_ago
            if not alive:
                gone.append(session_id)
        return gone

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with suppress(LogError):  # it was said when it happened
            self._write_unwritten()
        self._database.close()


_open_logs: weakref.WeakValueDictionary[str, RunLog] = weakref.WeakValueDictionary()
"""Those of this process, by their sessions."""


def _reopened(session_id: str, path: str) -> RunLog:
    return _open_logs.get(session_id) or RunLog(path)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Make many objects, all of them wanted, without looking through them for garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
