"""The run log's database: one SQLite file with its connection, its lock and its journal.

New rows go into SQLite's write-ahead log first. This is a file beside the database whose name
ends with `-wal`. A checkpoint brings them into the database itself within `CHECKPOINT_SECONDS`,
because a person may copy the database without that file, or delete that file as a remnant.

On a network disk there is no write-ahead log (`disks.py` says why). SQLite's rollback journal is
used there instead; it works wherever the disk locks files.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from ..base.filesystem import lock_failure, replacing
from ..errors import LogError
from . import schema
from .damage import set_aside
from .disks import is_local
from .log_files import create_private, default_path, files_of, identity, size_of
from .processes import process_started, this_host
from .selection import holds
from .trouble import is_busy, is_damage, lock_error, words

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long a write waits for another kernel's write."""
BUSY_AGAIN_SECONDS = 0.5
"""How long a write waits after an earlier wait has failed."""
_OF_ONE_ROW = (OverflowError, UnicodeError, sqlite3.DataError, sqlite3.ProgrammingError,
               sqlite3.InterfaceError)  # fmt: skip
"""The errors of a row that cannot be kept. All others are of the file."""
CHECKPOINT_SECONDS = 1.0
"""How long a new row may stand in the write-ahead log only.

A checkpoint waits for the disk for some milliseconds, and so does the first row after it. A
batch with a checkpoint for each row would spend more time on these waits than on its rows.
"""


class _Write:
    """A work that changes rows, and what came of it."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: Exception | None = None
        self.done = False


class Database:
    """One SQLite file; safe for several threads and kernels.

    A damaged file is renamed, with a `LogWarning`, and a new one is begun, so that the kernel can
    go on. Every other failure is a `LogError`. Where the file system locks no files, each later
    call of the same object fails with the same `LogError`, and does not try again.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = (
            ":memory:"
            if str(path) == ":memory:"
            else str(Path(path).expanduser().absolute() if path else default_path())
        )
        self.session_id = uuid.uuid4().hex
        self._lock = threading.RLock()
        self._writes: deque[_Write] = deque()
        """What waits to be written."""
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._inode: tuple[int, int] | None = None
        self._wal_inode: tuple[int, int] | None = None
        self._has_wal = False
        self._no_locks: str | None = None
        """Why the files here cannot be locked; None where they can, or it is not known yet."""
        self._checkpoint_timer: threading.Timer | None = None
        self._patience = BUSY_SECONDS
        """How long the next write waits for another kernel's, in seconds."""
        self.last_id = 0
        """The highest run_id that this kernel has given. The numbers of a new file follow it."""

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in a transaction, whose changes are kept all or not at all.

        What several threads write at once shares a transaction, because each transaction has a
        cost of its own. A row that cannot be kept takes no other with it.
        """
        write = _Write(work)
        self._writes.append(write)
        with self._lock:
            # Another thread may have done it with its own, while this one waited for the lock.
            while not write.done:
                self._write_all()
        self._checkpoint_soon()
        if write.error is not None:
            raise write.error
        return write.result  # type: ignore[no-any-return]

    def _write_all(self) -> None:
        """Do the works that wait, in one transaction.

        One that fails by itself is done then, with its error, and the others wait for another
        transaction: it may have changed a part of what it should.
        """
        writes = []
        with suppress(IndexError):
            while True:
                writes.append(self._writes.popleft())

        def transaction(connection: sqlite3.Connection) -> None:
            with connection:
                for write in writes:
                    write.result, write.error = None, None
                    try:
                        write.result = write.work(connection)
                    except _OF_ONE_ROW as error:
                        write.error = self._problem(error)
                    except (sqlite3.Error, OSError):
                        raise  # of the file
                    except Exception as error:  # such as MemoryError
                        write.error, write.done = error, True
                        raise
            for write in writes:
                write.done = True

        try:
            self._attempt(transaction)
        except Exception as error:
            if not any(write.done for write in writes):
                for write in writes:
                    write.error, write.done = error, True
        finally:  # after an interrupt or another one's failure, their own threads do them
            self._writes.extendleft(write for write in reversed(writes) if not write.done)

    def read(self, sql: str, arguments: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        arguments = tuple(arguments)

        def select(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            try:
                return connection.execute(sql, arguments).fetchall()
            except sqlite3.OperationalError as error:
                if "decode" not in str(error):
                    raise
                # A text with bytes that are not UTF-8, left by damage, must not hide other rows.
                connection.text_factory = lambda data: data.decode(errors="replace")
                return connection.execute(sql, arguments).fetchall()

        return self._attempt(select)

    def execute(self, statement: str) -> None:
        """Carry out a statement that SQLite forbids in a transaction."""
        self._attempt(lambda connection: connection.execute(statement).close())

    def backup(self, path: Path) -> int:
        """Copy the database, as it is at one moment, into another file; the number of its runs."""
        with self._lock:
            self.read("SELECT 1 FROM runs LIMIT 1")
            connection = self._connection
            assert connection is not None
            try:
                # SQLite would apply a write-ahead log or a journal of that name to the copy.
                own = os.path.realpath(path) == os.path.realpath(self.path)
                if own or any(os.path.exists(f"{path}{end}") for end in ("-wal", "-journal")):
                    raise LogError(f"{path} is a run log that is in use: name another file")
                with replacing(path) as part:
                    os.close(os.open(part, os.O_CREAT | os.O_RDWR, 0o600))
                    with closing(sqlite3.connect(part)) as copy:
                        connection.backup(copy)
                        # Without a write-ahead log, a copy in a read-only folder can be read.
                        copy.execute("PRAGMA journal_mode = DELETE")
                        return int(copy.execute("SELECT count(*) FROM runs").fetchone()[0])
            except (sqlite3.Error, OSError) as error:
                said = getattr(error, "strerror", None) or words(error)
                raise LogError(f"the run log cannot be copied to {path}: {said}") from None

    def checkpoint(self) -> None:
        """Bring rows from the write-ahead log into the database, unless a reader prevents it."""
        with self._lock:
            if self._checkpoint_timer is not None:
                self._checkpoint_timer.cancel()
                self._checkpoint_timer = None
            connection = self._connection
            if connection is None or not self._has_wal or self._pid != os.getpid():
                return  # SQLite forbids a forked process to use its parent's connection
            with suppress(sqlite3.Error):  # the rows stay where they are until the next checkpoint
                connection.execute("PRAGMA busy_timeout = 0")
                row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if row[0]:
                    self._checkpoint_soon()

    def _checkpoint_soon(self) -> None:
        with self._lock:
            timer = self._checkpoint_timer
            if not self._has_wal or (timer is not None and timer.is_alive()):
                return
            # The timer's reference is weak, so that a log without users is closed at once.
            timer = threading.Timer(CHECKPOINT_SECONDS, _checkpoint, [weakref.ref(self)])
            timer.name, timer.daemon = "llmwit-checkpoint", True
            with suppress(RuntimeError):  # no thread can start; SQLite makes a checkpoint later
                timer.start()
                self._checkpoint_timer = timer

    def size(self) -> int:
        """Bytes on the disk, the write-ahead log included; 0 in memory."""
        return sum(map(size_of, files_of(self.path)))

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        with self._lock:
            if self._connection is not None:
                if self._checkpoint_timer is not None:
                    self.checkpoint()  # SQLite makes one only when its last user closes it
                with suppress(sqlite3.Error):
                    self._connection.close()
                self._connection = None

    def __del__(self) -> None:
        # A person may open a log and drop it. Python 3.13 warns of connections left open.
        with suppress(AttributeError):
            self.close()

    # Opening ---------------------------------------------------------------------

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work`, and do it again where the file was damaged and has been renamed."""
        with self._lock:
            for again in (True, False):
                if self._no_locks is not None:
                    raise self._unlockable(self._no_locks)
                try:
                    result = work(self._open())
                    self._patience = BUSY_SECONDS
                    return result
                except (sqlite3.Error, OSError, OverflowError, UnicodeError) as error:
                    if not (again and is_damage(error) and self._set_aside(error)):
                        raise self._problem(error) from None
            raise AssertionError("unreachable")

    def _problem(self, error: Exception) -> LogError:
        """The `LogError` for an error of SQLite's or of the system."""
        if is_damage(error):
            return LogError(
                f"{self.path} is no run log ({error}): set %config InferMagics.log_path to "
                "another file"
            )
        self._no_locks = lock_error(error)
        if is_busy(error):
            # The other may hold the file for long, so the next writes wait less.
            self._patience = min(BUSY_SECONDS, BUSY_AGAIN_SECONDS)
            self._no_locks = self._lock_failure()
        if self._no_locks is not None:
            return self._unlockable(self._no_locks)
        return LogError(f"the run log {self.path} cannot be used: {words(error)}")

    def _set_aside(self, error: Exception) -> bool:
        """Rename the damaged file; whether the path can be used again."""
        self.close()
        return set_aside(self.path, error, BUSY_SECONDS)

    def _lock_failure(self) -> str | None:
        return None if self.path == ":memory:" else lock_failure(Path(self.path).parent, "lockf")

    def _unlockable(self, why: str) -> LogError:
        return LogError(
            f"the run log {self.path} cannot be used: its file system does not lock files ({why}): "
            "set %config InferMagics.log_path to a file on another disk"
        )

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._unmoved():
            self._connection.execute(f"PRAGMA busy_timeout = {self._patience * 1000:.0f}")
            return self._connection
        self.close()
        if self.path != ":memory:":
            create_private(Path(self.path))
            self._inode = identity(self.path)
            if (why := self._lock_failure()) is not None:
                self._no_locks = why
                raise self._unlockable(why)
        connection = sqlite3.connect(self.path, timeout=self._patience, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._pid = connection, os.getpid()
        self._wal_inode = identity(f"{self.path}-wal")
        return connection

    def _unmoved(self) -> bool:
        """Whether the open files still have their names: a person may have deleted one.

        Where the write-ahead log was deleted, closing brings its rows into the database.
        """
        return self.path == ":memory:" or (
            identity(self.path) == self._inode and identity(f"{self.path}-wal") == self._wal_inode
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Set the journal mode, bring the schema up to date, and write the row of this session."""
        connection.create_function("holds", 2, holds, deterministic=True)
        schema.check(connection, self.path)
        self._has_wal = self.path != ":memory:" and is_local(self.path)
        if self._has_wal:
            _use_journal(connection, "wal", self._patience)
            # With a write-ahead log, NORMAL loses rows only when the machine itself stops.
            connection.execute("PRAGMA synchronous = NORMAL")
        elif self.path != ":memory:":
            _use_journal(connection, "truncate", self._patience)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            schema.migrate(connection, self.last_id)
            connection.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)",
                [self.session_id, this_host(), os.getpid(), process_started(os.getpid())],
            )


def _checkpoint(database: weakref.ref[Database]) -> None:
    if (there := database()) is not None:
        there.checkpoint()


def _use_journal(connection: sqlite3.Connection, mode: str, patience: float) -> None:
    """Set the journal mode, and try again for `patience` seconds while the file is busy.

    SQLite itself does not wait at this statement. The file is busy when two kernels open a new
    one at once, or while an older version has it open with a write-ahead log.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
