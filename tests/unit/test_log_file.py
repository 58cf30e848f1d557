"""The files of the run log: what is in them when, copies of them, and disks that lock no files."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.errors import LogError
from llmwit_magic.protocol import Request
from llmwit_magic.runlog import database, trouble
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.run import Run
from tests.support.fake import FakeEngine, FakeSession

REQUEST = Request(model="fake", prompt="p")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


@pytest.fixture
def session(path: Path) -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine(), path)
    yield session
    session.close()


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


needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows locks otherwise")


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
    assert trouble.lock_failure(tmp_path) is None
    assert trouble.lock_failure(tmp_path / "no") is None
    assert list(tmp_path.iterdir()) == []
