"""The files of the run log: what is in them when, copies of them, and disks that lock no files."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.base.filesystem import lock_failure
from llmwit_magic.errors import LogError
from llmwit_magic.protocol import Request
from llmwit_magic.runlog import database
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.run import Run
from tests.support.fake import FakeEngine, FakeSession

REQUEST = Request(model="fake", prompt="p")
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows locks otherwise")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


@pytest.fixture
def session(path: Path) -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine(), path)
    yield session
    session.close()


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk counts as this machine's own, whatever it is."""
    monkeypatch.setattr(database, "is_local", lambda place: True)


@pytest.fixture
def no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """None by itself, that is."""
    monkeypatch.setattr(database, "CHECKPOINT_SECONDS", 3600)


def alone(path: Path) -> list[str]:
    """The states of the runs in a copy of the file, without the files beside it."""
    copy = path.with_name("alone.sqlite3")
    shutil.copyfile(path, copy)
    with closing(sqlite3.connect(copy)) as connection:
        there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
        order = "SELECT status FROM runs ORDER BY run_id"
        found = [row[0] for row in connection.execute(order)] if there else []
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for file in path.parent.glob("alone.sqlite3*"):
        file.unlink()
    return found


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def checkpoints() -> list[threading.Timer]:
    """Those to come."""
    return [
        thread
        for thread in threading.enumerate()
        if isinstance(thread, threading.Timer)
        and thread.name == "llmwit-checkpoint"
        and not thread.finished.is_set()
    ]


# What is in the file ---------------------------------------------------------------------


def test_the_file_alone_has_the_rows(session: FakeSession, path: Path) -> None:
    """Soon after a run its row is in the file itself, whose copy has it; the kernel lives on."""
    for _ in range(3):
        session.finish(REQUEST)
    until(lambda: wal(path).stat().st_size == 0)
    assert alone(path) == ["ok"] * 3
    session.log.begin(Run(REQUEST))
    until(lambda: wal(path).stat().st_size == 0)
    assert alone(path) == ["ok"] * 3 + ["running"]


def test_a_deleted_write_ahead_log_loses_nothing(
    session: FakeSession, path: Path, no_checkpoints: None
) -> None:
    """Rows that stood in it alone are brought into the file by the kernel that wrote them."""
    for _ in range(3):
        session.finish(REQUEST)
    assert wal(path).stat().st_size > 0
    assert alone(path) == []
    wal(path).unlink()
    session.finish(REQUEST)
    assert alone(path) == ["ok"] * 3
    assert len(session.log) == 4
    other = RunLog(path)
    assert [row["status"] for row in other.rows()] == ["ok"] * 4
    other.begin(Run(REQUEST))
    other.close()
    assert len(session.log) == 5


def test_a_checkpoint_reaches_a_deleted_write_ahead_log(session: FakeSession, path: Path) -> None:
    """Where nothing is logged any more, it is the checkpoint that brings the rows home."""
    session.finish(REQUEST)
    wal(path).unlink()
    until(lambda: not checkpoints())
    with session.log._database._lock:  # the checkpoint holds it to its end
        assert alone(path) == ["ok"]


def test_closing_brings_the_rows_into_the_file(
    session: FakeSession, path: Path, no_checkpoints: None
) -> None:
    """Also where another kernel has the log open, and is the last to close it."""
    other = RunLog(path)
    assert len(other) == 0
    session.finish(REQUEST)
    assert alone(path) == []
    session.close()
    assert alone(path) == ["ok"]
    other.close()


def test_many_rows_share_a_checkpoint(session: FakeSession, no_checkpoints: None) -> None:
    """A batch does not wait for the disk with every row."""
    for _ in range(20):
        session.finish(REQUEST)
        assert len(checkpoints()) == 1


def test_a_reader_puts_a_checkpoint_off(
    session: FakeSession, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another program's look at the log holds up comes when that has ended."""
    monkeypatch.setattr(database, "CHECKPOINT_SECONDS", 0.05)
    session.finish(REQUEST)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        session.finish(REQUEST)
        began = time.monotonic()
        session.log._database.checkpoint()
        assert time.monotonic() - began < database.BUSY_SECONDS  # nobody waits for the reader
        assert wal(path).stat().st_size > 0
    until(lambda: wal(path).stat().st_size == 0)
    assert alone(path) == ["ok", "ok"]


def test_a_log_that_is_let_go_is_closed_at_once(path: Path, no_checkpoints: None) -> None:
    """A checkpoint to come keeps no file open."""
    log = RunLog(path)
    log.begin(Run(REQUEST))
    assert wal(path).exists()
    del log
    gc.collect()
    assert not wal(path).exists()  # the last to close removes it
    assert alone(path) == ["running"]


def test_a_fork_leaves_the_connection_alone(
    session: FakeSession, path: Path, no_checkpoints: None
) -> None:
    """SQLite forbids a forked process to use what its parent has opened."""
    session.finish(REQUEST)
    session.log._database._pid = 1
    session.log._database.checkpoint()
    assert alone(path) == []
    session.log._database._pid = os.getpid()
    session.log._database.checkpoint()
    assert alone(path) == ["ok"]


def test_a_log_in_memory_has_no_checkpoints() -> None:
    """There is no file to bring anything into."""
    session = FakeSession(FakeEngine())
    session.finish(REQUEST)
    assert checkpoints() == []
    session.log._database.checkpoint()
    session.close()


# Copies ----------------------------------------------------------------------------------


def test_a_backup_is_a_log(session: FakeSession, tmp_path: Path, no_checkpoints: None) -> None:
    """It has all runs of all kernels, is one file for its owner alone, and can be written on."""
    session.finish(REQUEST)
    other = RunLog(session.log.path)
    other.begin(Run(REQUEST))
    target = tmp_path / "copies" / "copy.sqlite3"
    target.parent.mkdir()
    target.write_text("what was there is replaced")
    assert session.log.backup(target) == 2
    assert [file.name for file in target.parent.iterdir()] == ["copy.sqlite3"]
    if sys.platform != "win32":
        assert target.stat().st_mode & 0o777 == 0o600
    assert alone(target) == ["ok", "running"]
    copy = RunLog(target)
    assert [row["text"] for row in copy.rows()] == ["Hello world", None]
    copy.begin(Run(REQUEST))
    assert len(copy) == 3
    copy.close()
    other.close()
    assert len(session.log) == 2


def test_a_backup_of_a_log_in_memory(tmp_path: Path) -> None:
    """What was kept in memory can be kept after all."""
    session = FakeSession(FakeEngine())
    session.finish(REQUEST)
    assert session.log.backup(tmp_path / "copy.sqlite3") == 1
    assert alone(tmp_path / "copy.sqlite3") == ["ok"]
    session.close()


def test_a_backup_spoils_no_log_in_use(session: FakeSession, path: Path, tmp_path: Path) -> None:
    """A copy onto the log itself, under whatever name, or onto another open one is refused."""
    (tmp_path / "link.sqlite3").symlink_to(path)
    other = RunLog(tmp_path / "other.sqlite3")
    other.begin(Run(REQUEST))
    for target in (path, tmp_path / "link.sqlite3", tmp_path / "other.sqlite3"):
        with pytest.raises(LogError, match=r"is a run log that is in use: name another file"):
            session.log.backup(target)
    assert len(other) == 1
    other.close()


def test_a_backup_that_cannot_be_written_says_why(session: FakeSession, tmp_path: Path) -> None:
    """One line, and nothing is left behind."""
    with pytest.raises(LogError, match=r"cannot be copied to .*no/c\.sqlite3: No such file"):
        session.log.backup(tmp_path / "no" / "c.sqlite3")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LogError, match=r"cannot be copied to .*folder: Is a directory"):
        session.log.backup(tmp_path / "folder")
    assert sorted(file.name for file in tmp_path.iterdir() if "part" in file.name) == []


# A network's disk -----------------------------------------------------------------------------


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """All folders count as a network's."""
    monkeypatch.setattr(database, "is_local", lambda place: False)


def mode(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def names(path: Path) -> set[str]:
    """The files of a log, by their endings."""
    return {file.name.removeprefix(path.name) for file in path.parent.glob(f"{path.name}*")}


def test_a_network_s_disk_has_no_write_ahead_log(path: Path, far: None) -> None:
    """Each row is in the file at once, none needs another file, and no thread brings it there."""
    session = FakeSession(FakeEngine(), path)
    for _ in range(2):
        session.finish(REQUEST)
    assert alone(path) == ["ok", "ok"]
    assert names(path) == {"", "-journal"}
    assert path.with_name(f"{path.name}-journal").stat().st_size == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "llmwit-checkpoint"]
    assert session.log.backup(path.with_name("copy.sqlite3")) == 2
    assert session.log.prune("0s")[0] == 2
    session.close()
    assert mode(path) == "delete"  # no write-ahead log: the others are a connection's own


def test_kernels_write_one_log_on_a_network_s_disk(path: Path, far: None) -> None:
    """Each waits for the other's transaction, and sees what it wrote."""
    sessions = [FakeSession(FakeEngine(), path) for _ in range(3)]
    for session in sessions:
        session.finish(REQUEST)
    runs = [session.run(REQUEST) for session in sessions for _ in range(10)]
    for run in runs:
        assert run.wait(20)
    assert [run.log_problem for run in runs] == [None] * 30
    assert all(len(session.log.rows()) == 33 for session in sessions)
    for session in sessions:
        session.close()


@needs_posix
def test_a_log_opened_twice_keeps_its_lock(
    path: Path, far: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that a process closes takes all its locks of it: a log that is there is not opened."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    first = RunLog(path)
    first.begin(Run(REQUEST))
    connection = first._database._connection
    assert connection is not None
    connection.execute("BEGIN IMMEDIATE")
    second = RunLog(path)
    with pytest.raises(LogError, match="database is locked"):
        second.begin(Run(REQUEST))
    code = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert "database is locked" in done.stderr
    connection.rollback()
    first.close()
    second.close()


def test_an_old_log_on_a_network_s_disk_is_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its write-ahead log ends; where a kernel of an older version has it open, that is said."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    old = FakeSession(FakeEngine(), path)
    old.finish(REQUEST)
    monkeypatch.setattr(database, "is_local", lambda place: False)
    session = FakeSession(FakeEngine(), path)
    assert "database is locked" in str(session.finish(REQUEST).log_problem)
    old.close()
    assert session.finish(REQUEST).log_problem is None
    assert alone(path) == ["ok", "ok", "ok"]  # what could not be logged is logged then
    assert names(path) == {"", "-journal"}
    session.close()


def test_no_copy_goes_over_a_log_on_a_network_s_disk(path: Path, far: None) -> None:
    """It may be in use, and what its journal holds would be taken for the copy's."""
    session = FakeSession(FakeEngine(), path)
    session.finish(REQUEST)
    other = FakeSession(FakeEngine(), path.with_name("other.sqlite3"))
    other.finish(REQUEST)
    with pytest.raises(LogError, match="is a run log that is in use"):
        session.log.backup(other.log.path)
    session.close()
    other.close()


# Disks that lock no files ------------------------------------------------------------------


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The locks that were tried, where the system locks nothing."""
    import fcntl

    tried: list[int] = []

    def lockf(file: Any, how: int) -> None:
        tried.append(how)
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    return tried


@needs_posix
def test_no_locks_is_said_at_once(path: Path, tried: list[int]) -> None:
    """The run goes on and says why it is not logged; the next ones ask no more."""
    session = FakeSession(FakeEngine(), path)
    for _ in range(3):
        run = session.finish(REQUEST)
        assert (run.status, run.run_id) == ("ok", None)
        assert run.log_problem == (
            f"the run log {path} cannot be used: its file system does not lock files (No locks "
            "available): set %config InferMagics.log_path to a file on another disk"
        )
    assert len(tried) == 1
    session.close()


@needs_posix
def test_a_log_elsewhere_is_tried_anew(path: Path, tmp_path: Path, tried: list[int]) -> None:
    """What one file system cannot do is not held against another."""
    session = FakeSession(FakeEngine(), path)
    session.finish(REQUEST)
    session.use_log(tmp_path / "elsewhere.sqlite3")
    session.finish(REQUEST)
    assert len(tried) == 2
    session.use_log(":memory:")
    assert session.finish(REQUEST).run_id == 1
    assert len(tried) == 2
    session.close()


@needs_posix
def test_locks_that_fail_later(
    session: FakeSession, path: Path, request: pytest.FixtureRequest, no_checkpoints: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """SQLite waits as for another program; that there is none is found out afterwards, once."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    session.finish(REQUEST)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "database is locked" in str(session.finish(REQUEST).log_problem)
        tried = request.getfixturevalue("tried")
        for _ in range(3):
            said = str(session.finish(REQUEST).log_problem)
            assert "does not lock files (No locks available)" in said
        assert len(tried) == 1


def an_error(name: str, words: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(words)
    error.sqlite_errorname, error.sqlite_errorcode = name, code
    return error


@pytest.mark.parametrize(
    ("error", "said", "for_good"),
    [
        (an_error("SQLITE_IOERR_LOCK", "disk I/O error", 3850),
         "its file system does not lock files (SQLITE_IOERR_LOCK)", True),
        (an_error("SQLITE_IOERR_SHMLOCK", "disk I/O error", 5130),
         "its file system does not lock files (SQLITE_IOERR_SHMLOCK)", True),
        (an_error("SQLITE_PROTOCOL", "locking protocol", 15),
         "its file system does not lock files (SQLITE_PROTOCOL)", True),
        (an_error("SQLITE_IOERR_WRITE", "disk I/O error", 778),
         "cannot be used: disk I/O error (SQLITE_IOERR_WRITE)", False),
        (an_error("SQLITE_FULL", "database or disk is full", 13),
         "cannot be used: database or disk is full", False),
    ],
    ids=lambda value: getattr(value, "sqlite_errorname", None),
)  # fmt: skip
def test_what_sqlite_says_is_told_with_its_cause(
    session: FakeSession, error: sqlite3.Error, said: str, for_good: bool
) -> None:
    """An error of the disk has its name; where locks are the cause, that is said from then on."""

    def fail(connection: sqlite3.Connection) -> None:
        raise error

    with pytest.raises(LogError) as caught:
        session.log._database.write(fail)
    assert said in str(caught.value)
    assert (session.finish(REQUEST).log_problem is not None) == for_good


def test_a_folder_that_locks_files(tmp_path: Path) -> None:
    """Nothing is the matter with it; of one that cannot be written nobody can tell."""
    for call in ("lockf", "flock"):
        assert lock_failure(tmp_path, call) is None
        assert lock_failure(tmp_path / "no", call) is None
    assert list(tmp_path.iterdir()) == []
