"""The run log: a row from the first moment, whole afterwards."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pandas
import pytest

from llmwit_magic.errors import EngineDied, LogError
from llmwit_magic.protocol import Request
from llmwit_magic.runlog.columns import COLUMNS
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.run import Run
from llmwit_magic.wit import InferencingParams
from tests.support.fake import FakeEngine, FakeSession

REQUEST = Request(
    model="fake", prompt="a\nprompt with 日本語", tags={"k": "v"}, group_id="g",
    params=InferencingParams(max_tokens=None, stop=("\n",), seed=2**63 - 1),
)  # fmt: skip


def test_the_row_is_there_when_the_run_starts(tmp_path: Path) -> None:
    """A row is written before the engine is asked, with the prompt and all params."""
    log = RunLog(tmp_path / "log.sqlite3")
    run = Run(REQUEST)
    run.run_id = log.begin(run)
    (row,) = RunLog(tmp_path / "log.sqlite3").rows()
    assert row["status"] == "running"
    assert row["prompt"] == REQUEST.prompt
    assert row["stop"] == ["\n"]
    assert row["tags"] == {"k": "v"}
    assert row["seed"] == 2**63 - 1
    assert row["text"] is None


def test_the_row_is_completed(tmp_path: Path) -> None:
    """Afterwards it holds text, reason, usage, timings and device."""
    session = FakeSession(FakeEngine(), tmp_path / "log.sqlite3")
    run = session.run(REQUEST)
    run.wait(10)
    (row,) = session.log.rows()
    assert (row["run_id"], row["status"], row["text"]) == (run.run_id, "ok", "Hello world")
    assert (row["finish_reason"], row["finish_detail"]) == ("stop", "eos")
    assert (row["prompt_token_count"], row["generated_token_count"]) == (5, 2)
    assert row["total_seconds"] > 0
    assert row["device"] == "cpu"


def test_a_failure_is_logged_with_its_text(tmp_path: Path) -> None:
    """The row of a failed run has the partial text, the class and the message of the error."""
    session = FakeSession(FakeEngine(["half"], EngineDied("killed")), tmp_path / "log.sqlite3")
    session.run(REQUEST).wait(10)
    (row,) = session.log.rows()
    assert (row["status"], row["text"]) == ("error", "half")
    assert (row["error_type"], row["error_message"]) == ("EngineDied", "killed")


def test_the_frame_has_one_type_a_column(tmp_path: Path) -> None:
    """Integers with missing values stay integers, times carry UTC, texts are texts."""
    session = FakeSession(FakeEngine(), tmp_path / "log.sqlite3")
    for params in (InferencingParams(max_tokens=None), InferencingParams(max_tokens=7)):
        session.run(Request(model="fake", prompt="p", params=params)).wait(10)
    frame = session.log.to_frame()
    assert list(frame.columns) == [column.name for column in COLUMNS[1:]]
    assert frame.index.name == "run_id"
    assert frame["max_tokens"].dtype == "Int64"
    assert frame["max_tokens"].tolist() == [pandas.NA, 7]
    assert str(frame["started_at"].dtype) == "datetime64[us, UTC]"
    assert frame["chat"].dtype == "boolean"
    assert frame["text"].tolist() == ["Hello world"] * 2


def test_an_empty_log_is_an_empty_frame() -> None:
    """No runs give a frame without rows and with the same types."""
    frame = RunLog(":memory:").to_frame()
    assert len(frame) == 0
    assert frame["seed"].dtype == "Int64"
    assert str(frame["started_at"].dtype) == "datetime64[us, UTC]"


def test_a_session_sees_its_own_runs(tmp_path: Path) -> None:
    """Two kernels share the file; each can tell its own rows."""
    path = tmp_path / "log.sqlite3"
    one, two = FakeSession(FakeEngine(), path), FakeSession(FakeEngine(), path)
    one.run(REQUEST).wait(10)
    two.run(REQUEST).wait(10)
    assert len(one.log.rows()) == 2
    assert len(one.log.rows(everyone=False)) == len(two.log.rows(everyone=False)) == 1


def test_a_run_of_a_dead_kernel_reads_lost(tmp_path: Path) -> None:
    """A row that still runs while its process is gone is lost; a living one's is not."""
    path = tmp_path / "log.sqlite3"
    log = RunLog(path)
    log.begin(Run(REQUEST))
    assert RunLog(path).rows()[0]["status"] == "running"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sessions SET process_started = 1")
    connection.close()
    assert RunLog(path).rows()[0]["status"] == "lost"
    assert log.rows()[0]["status"] == "running"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_the_file_is_private(tmp_path: Path) -> None:
    """Prompts are nobody else's: mode 0600."""
    log = RunLog(tmp_path / "deep" / "log.sqlite3")
    log.begin(Run(REQUEST))
    assert stat.S_IMODE((tmp_path / "deep" / "log.sqlite3").stat().st_mode) == 0o600


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A log of a later version is not touched; the message says what to do."""
    path = tmp_path / "log.sqlite3"
    RunLog(path).begin(Run(REQUEST))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LogError, match=r"newer llmwit-magic.*upgrade"):
        RunLog(path).rows()


def test_a_run_goes_on_without_its_log(tmp_path: Path) -> None:
    """A log that cannot be written does not stop the run; the run says so."""
    session = FakeSession(FakeEngine(), tmp_path)  # a folder
    run = session.run(REQUEST)
    run.wait(10)
    assert run.status == "ok"
    assert run.run_id is None
    assert "run log" in (run.log_problem or "")
