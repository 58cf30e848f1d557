"""The log's database: a full disk, a lock, a deleted file, who may read it, many writers."""

from __future__ import annotations

import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import LogError
from llmwit_magic.runlog import database
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.run import Run
from llmwit_magic.views.text import status_parts
from tests.support.fake import FakeEngine, FakeSession, Meanwhile

REQUEST = Request(model="fake", prompt="p", params=InferencingParams(seed=1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


# A full disk, a lock, a file that is gone ---------------------------------------------


def limit(log: RunLog, pages: int) -> None:
    """SQLite's own word for a full disk: no more pages than these, or than there are."""
    log._database.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_stops_no_run(path: Path) -> None:
    """The result is there, the status line says that it is not logged; later it is."""
    session = FakeSession(FakeEngine(["x" * 100_000]), path)
    session.log.begin(Run(REQUEST).row())
    limit(session.log, 1)
    run = session.finish(REQUEST)
    assert (run.status, len(run.result.text)) == ("ok", 100_000)
    said = status_parts(run.result, run.log_problem)[-1]
    assert said == f"not logged: the run log {path} cannot be used: database or disk is full"
    assert session.log.rows()[-1]["status"] == "running"
    limit(session.log, 1_000_000)
    session.finish(REQUEST)
    assert [row["status"] for row in session.log.rows()] == ["running", "ok", "ok"]
    assert len(session.log.rows()[1]["text"]) == 100_000
    session.close()


def test_what_waits_is_written_at_the_end(path: Path) -> None:
    """Closing the log writes the rows that could not be written, where there is room again."""
    session = FakeSession(FakeEngine(["x" * 100_000]), path)
    session.log.begin(Run(REQUEST).row())
    limit(session.log, 1)
    run = session.finish(REQUEST)
    assert run.log_problem is not None
    limit(session.log, 1_000_000)
    session.close()
    log = RunLog(path)
    assert len(log.rows()[1]["text"]) == 100_000
    log.close()


def test_rows_that_wait_are_all_written(path: Path) -> None:
    """Several runs end on a full disk; none is forgotten, and a try in between loses none."""
    session = FakeSession(FakeEngine(["x" * 100_000]), path)
    runs = [Run(REQUEST) for _ in range(3)]
    for run in runs:
        run.run_id = session.log.begin(run.row("running"))
    row = {"text": "y" * 100_000, "status": "ok"}
    limit(session.log, 1)
    for run in runs:
        with pytest.raises(LogError, match="full"):
            session.log.complete(run.run_id or 0, row)
    limit(session.log, 1_000_000)
    session.log.begin(Run(REQUEST).row())
    assert [item["status"] for item in session.log.rows()] == ["ok"] * 3 + ["running"]
    session.close()


def test_a_locked_log_stops_no_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another program holds the file too long, the run says that it is not logged; later it is."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    session = FakeSession(FakeEngine(), path)
    session.finish(REQUEST)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    run = session.finish(REQUEST)
    assert (run.status, run.run_id) == ("ok", None)
    assert "database is locked" in (run.log_problem or "")
    other.execute("ROLLBACK")
    other.close()
    assert session.finish(REQUEST).run_id == 3
    assert [(row["run_id"], row["status"], row["text"]) for row in session.log.rows()] == [
        (number, "ok", "Hello world") for number in (1, 2, 3)
    ]
    session.close()


def delete(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


@pytest.mark.parametrize("all_files", [True, False])
def test_a_deleted_log_is_begun_again(path: Path, all_files: bool) -> None:
    """Under a running kernel too; the run under way is whole in the new file, numbers go on."""
    session = FakeSession(Meanwhile(lambda: delete(path) if all_files else path.unlink()), path)
    run = session.finish(REQUEST)
    assert (run.run_id, run.log_problem) == (1, None)
    assert session.finish(REQUEST).run_id == 2
    assert [(row["run_id"], row["text"]) for row in session.log.rows()] == [
        (1, "Hello world"), (2, "Hello world"),
    ]  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    session.close()


def test_numbers_go_on_in_a_new_file(path: Path) -> None:
    """A run that begins in the new file does not take the number of one that goes on."""
    log, first, second = RunLog(path), Run(REQUEST), Run(REQUEST)
    first.run_id = log.begin(first.row("running"))
    delete(path)
    second.run_id = log.begin(second.row("running"))
    assert (first.run_id, second.run_id) == (1, 2)
    log.complete(first.run_id, first.row("ok"))
    assert [(row["run_id"], row["status"]) for row in log.rows()] == [(1, "ok"), (2, "running")]
    log.close()


def test_no_run_takes_anothers_place(path: Path) -> None:
    """A file made anew meanwhile gives numbers again: a run that goes on gets another one."""
    session, other = FakeSession(FakeEngine(), path), RunLog(path)

    def happens() -> None:
        delete(path)
        assert other.begin(Run(Request(model="fake", prompt="other")).row()) == 1

    session.engine = Meanwhile(happens)
    run = session.finish(REQUEST)
    assert run.run_id == 2
    assert [(row["run_id"], row["prompt"]) for row in other.rows()] == [(1, "other"), (2, "p")]
    session.close()
    other.close()


# Who may read, who may write ------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_all_files_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write-ahead log holds prompts too; a folder that is made is its owner's alone."""
    monkeypatch.setattr(database, "is_local", lambda place: True)
    log = RunLog(tmp_path / "deep" / "er" / "runs.sqlite3")
    log.begin(Run(REQUEST).row())
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in
             (tmp_path / "deep" / "er").iterdir()}  # fmt: skip
    assert modes == dict.fromkeys(("runs.sqlite3", "runs.sqlite3-wal", "runs.sqlite3-shm"), 0o600)
    assert stat.S_IMODE((tmp_path / "deep" / "er").stat().st_mode) == 0o700
    log.close()


def test_many_write_at_once(path: Path) -> None:
    """Kernels and their threads that begin a log together lose no row and share no number."""
    logs = [RunLog(path) for _ in range(3)]

    def work(log: RunLog) -> list[int]:
        numbers = []
        for _ in range(10):
            run = Run(REQUEST)
            run.run_id = log.begin(run.row("running"))
            log.complete(run.run_id, run.row("ok"))
            numbers.append(run.run_id)
        return numbers

    with ThreadPoolExecutor(6) as pool:
        numbers = [number for found in pool.map(work, logs * 2) for number in found]
    assert sorted(numbers) == list(range(1, 61))
    assert {row["status"] for row in logs[0].rows()} == {"ok"}
    for log in logs:
        log.close()


def test_a_log_in_memory_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`:memory:` is a log as others are, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    log = RunLog(":memory:")
    log.begin(Run(REQUEST).row())
    assert (len(log), log.size, list(tmp_path.iterdir())) == (1, 0, [])
    assert log.prune("0s") == (0, 0)
    log.close()
