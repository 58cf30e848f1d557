"""The run log: one row for each run, in one file for all kernels.

The row is written when the run starts and completed when the run ends, so that a killed kernel
loses no prompt. Where a row says `running` and its kernel is gone, its status reads as `lost`. A
kernel on another machine cannot be looked for; its runs read as lost after two days.
"""

from __future__ import annotations

import gc
import json
import operator
import sqlite3
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LogError, RunNotFound
from .annotations import annotation_row, metric_numbers
from .columns import NAMES
from .database import Database
from .lost_runs import gone_sessions
from .reading import read_rows
from .rows import Row
from .selection import Filter
from .writing import RowWriter

if TYPE_CHECKING:
    import pandas

    from .logged_run import LoggedRun
    from .plots import RunPlot


class RunLog:
    """The rows of all runs in one SQLite file; safe for several threads and kernels.

    `runs[12]` is run 12 as a `LoggedRun`, `len(runs)` is the number of runs, and iteration goes
    from the oldest run to the newest. Methods that choose runs take the fields of `Filter` by
    name: `runs.to_frame(model="…", since="2h", last=100)`.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        try:
            self._database = Database(path)
        except OSError as error:  # the path is relative, and the working directory was deleted
            raise LogError(f"the run log {path} cannot be used: {error.strerror}") from None
        self.path = self._database.path
        self.session_id = self._database.session_id
        self._writer = RowWriter(self._database)
        _open_logs[self.session_id] = self

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in this process is the same log. A copy in another process opens the file anew."""
        return _reopened, (self.session_id, self.path)

    # Writing ---------------------------------------------------------------------

    def begin(self, row: Row) -> int:
        """Write the row of a run that starts; its run_id. Raises `LogError`."""
        return self._writer.begin(row)

    def complete(self, run_id: int | None, row: Row) -> int:
        """Fill in the row of a run that has ended; the run's number.

        `run_id` is None where the row could not be written when the run started: it is written
        now. Where writing fails, as on a full disk, this raises `LogError`, and each later run
        tries again to write the row.

        The number is another one than `run_id` where the file was replaced since the run started
        and another kernel's run has that number in the new file.
        """
        return self._writer.complete(run_id, row)

    def annotate(self, run_id: int, /, **values: Any) -> None:
        """Set `rating` (1 or -1), `note` (a text), `tags` (texts by name) or `metrics` (numbers by
        name) of a run.

        None removes one of them. Nothing else of a run can be set. Raises `RunNotFound`, and
        `InvalidInput` for a name or a value that is not valid.
        """
        row = annotation_row(values)
        run_id = self._number(run_id)
        if row and not self._writer.update(run_id, row):
            raise self._not_found(run_id)

    def rate(self, run_id: int, rating: int | None) -> None:
        """Keep a person's opinion: 1 good, -1 bad, None for none. Raises as `annotate` does."""
        self.annotate(run_id, rating=rating)

    def add_metrics(self, metrics: Mapping[int, Mapping[str, float | None]]) -> None:
        """Add metrics to runs, by their run_id and by the metric's name. None removes a metric.

        The other metrics of a run stay. Raises `RunNotFound` for a run that the log does not have,
        and `InvalidInput` for what is no finite number; then no run gets any.
        """
        numbers = {self._number(run_id): metric_numbers(each) for run_id, each in metrics.items()}
        if (missing := self._writer.add_metrics(numbers)) is not None:
            raise self._not_found(missing)

    def prune(self, before: str = "90d", **filters: Any) -> tuple[int, int]:
        """Remove the runs that started before that age or time and meet the filters.

        Runs that still go on are never removed. The file shrinks accordingly. Returns the number
        of runs removed, and the number of bytes by which the files have shrunk.
        """
        size, gone = self.size, gone_sessions(self._database)
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
            with suppress(LogError):  # another kernel is writing: the next prune shrinks the file
                self._database.execute("VACUUM")
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed, max(0, size - self.size)

    # Reading ---------------------------------------------------------------------

    def rows(self, everyone: bool = True, **filters: Any) -> list[Row]:
        """The rows as mappings, oldest first, JSON parsed. Lost runs have the status `lost`."""
        return read_rows(self.tuples(Filter(everyone=everyone, **filters)))

    def tuples(
        self, chosen: Filter, names: Sequence[str] = NAMES, packed: Sequence[str] = ()
    ) -> list[tuple[Any, ...]]:
        """The chosen rows as the database keeps them, oldest first, with the columns `names`.

        The values of the columns `packed` follow as one JSON list. Lost runs have the status
        `lost`.
        """
        gone = gone_sessions(self._database)
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

    def finished_pages(
        self, group: str, names: Sequence[str], size: int = 10_000
    ) -> Iterator[list[tuple[Any, ...]]]:
        """The runs of a group that ended well, oldest first: their numbers and columns.

        They come in pages of `size` runs, so that memory need not hold a million of them.
        """
        columns, last = ", ".join(names), -1
        while page := self._database.read(
            f"SELECT run_id, {columns} FROM runs "
            "WHERE group_id = ? AND status = 'ok' AND run_id > ? ORDER BY run_id LIMIT ?",
            [group, last, size],
        ):
            yield page
            last = page[-1][0]

    def numbered(self, run_ids: Sequence[int], names: Sequence[str]) -> list[tuple[Any, ...]]:
        """The columns of the runs with those numbers, as the database keeps them, in any order."""
        return self._database.read(
            f"SELECT {', '.join(names)} FROM runs WHERE run_id IN (SELECT value FROM json_each(?))",
            [json.dumps(list(run_ids))],
        )

    def to_frame(self, everyone: bool = True, **filters: Any) -> pandas.DataFrame:
        """The rows as a DataFrame of shape (runs, columns), oldest first, indexed by run_id.

        `started_at` is a timestamp in UTC, without a zone. Each tag is a column `tag.KEY`.
        Columns of the kind `json`, such as `stop` and `tokens`, are JSON texts, which
        `json.loads` reads. A value that does not fit its column is missing.
        """
        from .frame import FEW, SINGLE, frame_of, frame_of_rows

        chosen = Filter(everyone=everyone, **filters)
        names, packed = ([column.name for column in columns] for columns in (SINGLE, FEW))
        with _no_collection():
            try:
                return frame_of(self.tuples(chosen, names, packed))
            except (LogError, ValueError):
                # Packing fails where a damaged value fits into no JSON; the slower way needs none.
                return frame_of_rows(read_rows(self.tuples(chosen)))

    def __getitem__(self, run_id: int) -> LoggedRun:
        """The run with that number; -1 is the newest. Raises `RunNotFound`."""
        from .logged_run import LoggedRun

        return LoggedRun.of(self, self.row(run_id))

    def row(self, run_id: int) -> Row:
        """The row of one run, as `rows` gives it. Raises `RunNotFound`."""
        run_id = self._number(run_id)
        gone = gone_sessions(self._database)
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
        """A run's number as the log has it: -1 means the newest. Raises `RunNotFound`."""
        try:
            run_id = operator.index(run_id)  # takes numpy's integers too
        except TypeError:
            raise RunNotFound(f"{run_id!r} is not the number of a run: write runs[12]") from None
        if abs(run_id) >= 2**63:  # beyond SQLite's integers
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
        """Bytes on the disk, the write-ahead log included; 0 in memory."""
        return self._database.size()

    def export(
        self, path: str | Path, everyone: bool = True, schema: str = "log", **filters: Any
    ) -> int:
        """Write the runs into a file whose ending chooses the format; the number of runs.

        `.csv` is for spreadsheets: an apostrophe stands before each cell that they would run as
        a formula. `.jsonl` and `.parquet` keep all types, and `read_export` gives the same
        DataFrame again. With `schema="otel"`, the fields of `.jsonl` have the names of
        OpenTelemetry's conventions for generative AI. The new file replaces an old one only
        when it is whole.
        """
        from .export import export

        return export(self.rows(everyone, **filters), Path(path).expanduser(), schema)

    def backup(self, path: str | Path) -> int:
        """Copy the whole log, with the runs of all kernels, into another file; the number of runs.

        The copy is the log as it is at one moment, even while kernels write to it. It is a log
        itself, and `RunLog(path)` opens it. A file of that name is replaced.
        """
        return self._database.backup(Path(path).expanduser())

    def plot(
        self, kind: str | None = None, by: str | None = None, everyone: bool = True, **filters: Any
    ) -> RunPlot:
        """A figure of the runs: `metric`, `length`, `finish`, `rating` or `speed`.

        By default it has all of them but the speed. `by` is the column whose values are compared,
        or two, such as `prompt_name,temperature`, for metrics. By default these are the settings
        with the most values. Needs matplotlib: `pip install "llmwit-magic[plots]"`.
        """
        from .plots import plot

        return plot(self.to_frame(everyone, **filters), kind, by)

    def _not_found(self, run_id: int) -> RunNotFound:
        first, last = self._database.read("SELECT min(run_id), max(run_id) FROM runs")[0]
        what = f"it has runs {first} to {last}" if first is not None else "it is empty"
        return RunNotFound(f"there is no run {run_id} in the log: {what}")

    def close(self) -> None:
        """Write the rows that wait, and close the file. The next use opens it again."""
        with suppress(LogError):  # the run has said already that it is not logged
            self._writer.write_unwritten()
        self._database.close()


_open_logs: weakref.WeakValueDictionary[str, RunLog] = weakref.WeakValueDictionary()
"""The logs of this process, by their session IDs."""


def _reopened(session_id: str, path: str) -> RunLog:
    """The log of that session in this process; elsewhere a new `RunLog` of the file."""
    return _open_logs.get(session_id) or RunLog(path)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch garbage collection off: all of the many new objects are in use, so it is in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
