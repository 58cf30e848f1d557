"""The run log on a network's disk, and on disks that lock no files."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.base.filesystem import lock_failure
from llmwit_magic.contract.request import Request
from llmwit_magic.errors import LogError
from llmwit_magic.runlog import database
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.run import Run
from tests.support.fake import FakeEngine, FakeSession
from tests.support.log_files import alone

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
    first.begin(Run(REQUEST).row())
    connection = first._database._connection
    assert connection is not None
    connection.execute("BEGIN IMMEDIATE")
    second = RunLog(path)
    with pytest.raises(LogError, match="database is locked"):
        second.begin(Run(REQUEST).row())
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
