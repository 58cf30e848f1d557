"""The file of the run log: its schema, its migration, and what to do when it is damaged.

New rows go into SQLite's write-ahead log, the file beside it that ends with
`-wal`, and are brought into the file itself within `CHECKPOINT_SECONDS`: a
person may copy the one without the other, or take the other for a remnant.
On a network's disk there is no write-ahead log (`disks.py`): SQLite's rollback
journal works there too, where the disk locks files.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from filelock import FileLock, Timeout

from ..base.filesystem import lock_failure, replace, replacing
from ..errors import LogError, LogWarning, one_line
from .columns import COLUMNS
from .disks import is_local
from .processes import process_started, this_host
from .selection import holds
from .trouble import damaged, is_busy, is_damage, lock_error, words

T = TypeVar("T")

VERSION = 4
"""Of the schema. 1 had fewer columns and no indexes; later ones add columns, and take none away."""
APPLICATION_ID = 0x6C6C6D77  # "llmw": other programs' databases are left alone
BUSY_SECONDS = 5.0
"""How long a write waits for another kernel's."""
BUSY_AGAIN_SECONDS = 0.5
"""The same after a wait that was in vain."""
CHECKPOINT_SECONDS = 1.0
"""How long after it was written a row may stand in the write-ahead log alone.

A checkpoint waits for the disk, and so does the first row after it, some
milliseconds each: with every row a batch would wait more than it logs.
"""

_FIRST_COLUMNS = {"run_id", "session_id", "started_at", "prompt", "stop", "seed"}
"""Some of those of schema 1, which had no application_id."""
_SQL = {"integer": "INTEGER", "real": "REAL", "boolean": "INTEGER"}
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS runs_group ON runs (group_id) WHERE group_id IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS runs_session ON runs (session_id)",
    "CREATE INDEX IF NOT EXISTS runs_running ON runs (session_id) WHERE status = 'running'",
)
_OUR_ENDINGS = (".sqlite3", ".sqlite", ".db")


def default_path() -> Path:
    """The log of this user, one file for all kernels."""
    return Path(platformdirs.user_data_path("llmwit-magic", appauthor=False)) / "runs.sqlite3"


class Database:
    """One SQLite file; safe for several threads and kernels.

    A damaged file is set aside under another name, with a `LogWarning`, and a
    new one begun: a kernel must not stop for it. Everything else that goes
    wrong is a `LogError`. Where the file system locks no files, that stays so
    for as long as the object lives.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = (
            ":memory:"
            if str(path) == ":memory:"
            else str(Path(path).expanduser().absolute() if path else default_path())
        )
        self.session_id = uuid.uuid4().hex
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._inode: tuple[int, int] | None = None
        self._wal_inode: tuple[int, int] | None = None
        self._has_wal = False
        self._no_locks: str | None = None
        """Why files cannot be locked where this one is."""
        self._checkpoint_timer: threading.Timer | None = None
        self._patience = BUSY_SECONDS
        self.last_id = 0
        """The highest run_id that this kernel has given: a new file goes on from there."""

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in a transaction; all of it is kept, or nothing."""

        def transaction(connection: sqlite3.Connection) -> T:
            with connection:
                return work(connection)

        result = self._attempt(transaction)
        self._checkpoint_soon()
        return result

    def read(self, sql: str, arguments: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        arguments = tuple(arguments)

        def select(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            try:
                return connection.execute(sql, arguments).fetchall()
            except sqlite3.OperationalError as error:
                if "decode" not in str(error):
                    raise
                # Bytes that damage has left in a text must not hide all other rows.
                connection.text_factory = lambda data: data.decode(errors="replace")
                return connection.execute(sql, arguments).fetchall()

        return self._attempt(select)

    def execute(self, statement: str) -> None:
        """A statement that cannot stand in a transaction."""
        self._attempt(lambda connection: connection.execute(statement).close())

    def backup(self, path: Path) -> int:
        """Copy all of it, as it stands at one moment, into another file; the number of its runs."""
        with self._lock:
            self.read("SELECT 1 FROM runs LIMIT 1")
            connection = self._connection
            assert connection is not None
            try:
                # What stands in a write-ahead log or a journal would be taken for the copy's.
                own = os.path.realpath(path) == os.path.realpath(self.path)
                if own or any(os.path.exists(f"{path}{end}") for end in ("-wal", "-journal")):
                    raise LogError(f"{path} is a run log that is in use: name another file")
                with replacing(path) as part:
                    os.close(os.open(part, os.O_CREAT | os.O_RDWR, 0o600))
                    with closing(sqlite3.connect(part)) as copy:
                        connection.backup(copy)
                        # One file, which can be read where nothing can be written.
                        copy.execute("PRAGMA journal_mode = DELETE")
                        return int(copy.execute("SELECT count(*) FROM runs").fetchone()[0])
            except (sqlite3.Error, OSError) as error:
                said = getattr(error, "strerror", None) or words(error)
                raise LogError(f"the run log cannot be copied to {path}: {said}") from None

    def checkpoint(self) -> None:
        """Bring what was written into the file itself, as far as no other kernel is in the way."""
        with self._lock:
            if self._checkpoint_timer is not None:
                self._checkpoint_timer.cancel()
                self._checkpoint_timer = None
            connection = self._connection
            if connection is None or not self._has_wal or self._pid != os.getpid():
                return  # a connection is none of a fork's business
            with suppress(sqlite3.Error):  # it stays where it is, and the next one will do
                connection.execute("PRAGMA busy_timeout = 0")
                row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if row[0]:
                    self._checkpoint_soon()

    def _checkpoint_soon(self) -> None:
        with self._lock:
            timer = self._checkpoint_timer
            if not self._has_wal or (timer is not None and timer.is_alive()):
                return
            # The reference is weak: a log that is let go is closed at once.
            timer = threading.Timer(CHECKPOINT_SECONDS, _checkpoint, [weakref.ref(self)])
            timer.name, timer.daemon = "llmwit-checkpoint", True
            with suppress(RuntimeError):  # no more threads: SQLite itself sees to it, if later
                timer.start()
                self._checkpoint_timer = timer

    def size(self) -> int:
        """Bytes on the disk, the write-ahead log included; 0 in memory."""
        return sum(map(_size, self._files()))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                if self._checkpoint_timer is not None:
                    self.checkpoint()  # the last to close does so in any case
                with suppress(sqlite3.Error):
                    self._connection.close()
                self._connection = None

    def __del__(self) -> None:
        # A log may be opened for a look and dropped; Python 3.13 warns of files left open.
        with suppress(AttributeError):
            self.close()

    # Opening ---------------------------------------------------------------------

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work`; once more where the file had to be set aside."""
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
        if is_damage(error):
            return LogError(
                f"{self.path} is no run log ({error}): set %config InferMagics.log_path to "
                "another file"
            )
        self._no_locks = lock_error(error)
        if is_busy(error):
            # Others may hold it for long: the next ones do not wait as much.
            self._patience = min(BUSY_SECONDS, BUSY_AGAIN_SECONDS)
            self._no_locks = self._lock_failure()
        if self._no_locks is not None:
            return self._unlockable(self._no_locks)
        return LogError(f"the run log {self.path} cannot be used: {words(error)}")

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
            self._create_file()
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
        self._wal_inode = _inode(f"{self.path}-wal")
        return connection

    def _unmoved(self) -> bool:
        """Whether the open files are still those of these names: a person may have deleted one.

        Where it was the write-ahead log, closing brings what it holds into the file.
        """
        return self.path == ":memory:" or (
            _inode(self.path) == self._inode and _inode(f"{self.path}-wal") == self._wal_inode
        )

    def _create_file(self) -> None:
        """Prompts are private: folder and file are for their owner alone.

        A file that is there is not opened: closing it would take this process' locks from it,
        those of another object's connection too.
        """
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._inode = _inode(self.path)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.create_function("holds", 2, holds, deterministic=True)
        self._check(connection)
        self._has_wal = self.path != ":memory:" and is_local(self.path)
        if self._has_wal:
            _use_journal(connection, "wal", self._patience)
            # With WAL, NORMAL loses nothing when a process dies, only when the machine does.
            connection.execute("PRAGMA synchronous = NORMAL")
        elif self.path != ":memory:":
            _use_journal(connection, "truncate", self._patience)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            self._migrate(connection)
            connection.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)",
                [self.session_id, this_host(), os.getpid(), process_started(os.getpid())],
            )

    def _check(self, connection: sqlite3.Connection) -> None:
        """Whose file it is, before anything is written into it."""
        version = _pragma(connection, "user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == 1:
            ours = _columns(connection) >= _FIRST_COLUMNS
        else:
            ours = _pragma(connection, "application_id") == APPLICATION_ID
        if (version or tables) and not ours:
            raise LogError(
                f"{self.path} is a database of another program: set "
                "%config InferMagics.log_path to another file"
            )
        if version > VERSION:
            raise LogError(
                f"the run log {self.path} was written by a newer llmwit-magic (schema "
                f"{version}, this one knows {VERSION}): upgrade, or set "
                "%config InferMagics.log_path to another file"
            )

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Bring the schema to this version: a new file from nothing, an old one by new columns."""
        version = _pragma(connection, "user_version")
        if version == VERSION:
            return
        connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (run_id INTEGER PRIMARY KEY AUTOINCREMENT)"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS sessions "
            "(session_id TEXT PRIMARY KEY, host TEXT, pid INTEGER, process_started REAL)"
        )
        if not version:
            # The file may stand for one that was deleted or set aside: a run that went on
            # meanwhile is still to be completed, under a number that is its own.
            connection.execute("INSERT INTO sqlite_sequence VALUES ('runs', ?)", [self.last_id])
        there = _columns(connection)
        for column in COLUMNS:
            if column.name not in there:
                kind = _SQL.get(column.kind, "TEXT")
                connection.execute(f"ALTER TABLE runs ADD COLUMN {column.name} {kind}")
        for index in _INDEXES:
            connection.execute(index)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")

    # Damage ----------------------------------------------------------------------

    def _files(self) -> list[str]:
        if self.path == ":memory:":
            return []
        return [self.path + end for end in ("", "-wal", "-shm", "-journal")]

    def _set_aside(self, error: Exception) -> bool:
        """Give a damaged file another name; False where that is not ours to do."""
        self.close()
        if self.path == ":memory:" or not _looks_like_log(self.path):
            return False
        lock = FileLock(f"{self.path}.lock", timeout=BUSY_SECONDS)
        with suppress(OSError, NotImplementedError, Timeout), lock:
            if not damaged(self.path, BUSY_SECONDS):
                return True  # another kernel was here first
            name = f"{self.path}.damaged-{datetime.now():%Y%m%d-%H%M%S-%f}"
            for file in self._files():
                with suppress(FileNotFoundError):
                    replace(file, name + file.removeprefix(self.path))
            warnings.warn(
                one_line(
                    f"the run log was damaged ({error}): it is kept as {name}, and a new one is "
                    "begun"
                ),
                LogWarning,
                stacklevel=2,
            )
            return True
        return False


def _checkpoint(database: weakref.ref[Database]) -> None:
    if (there := database()) is not None:
        there.checkpoint()


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {row[1] for row in connection.execute("PRAGMA table_info(runs)")}


def _use_journal(connection: sqlite3.Connection, mode: str, patience: float) -> None:
    """Two kernels may open a new file at once, and here SQLite itself does not wait.

    It does not either where an older version has the file open with a write-ahead log.
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


def _looks_like_log(path: str) -> bool:
    """Whether a file that SQLite cannot read may be renamed: a person may have named it by mistake."""
    if path == str(default_path()) or path.endswith(_OUR_ENDINGS):
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return True  # another kernel has just set it aside
    except OSError:
        return False
    return start.startswith(b"SQLite format 3") or not start.strip(b"\0")


def _size(path: str) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _inode(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
