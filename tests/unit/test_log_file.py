"""The files of the run log: what is in them when, and copies of them."""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.errors import LogError
from llmwit_magic.runlog import database
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.run import Run
from tests.support.fake import FakeEngine, FakeSession
from tests.support.log_files import alone

REQUEST = Request(model="fake", prompt="p")


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
    session.log.begin(Run(REQUEST).row())
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
    other.begin(Run(REQUEST).row())
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
    log.begin(Run(REQUEST).row())
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
    other.begin(Run(REQUEST).row())
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
    copy.begin(Run(REQUEST).row())
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
    other.begin(Run(REQUEST).row())
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
