"""The run log: a row from the first moment, whole afterwards."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmwit_magic.contract.events import Chunk, Emit
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import (
    DeviceInfo,
    FinishDetail,
    InferencingParams,
    InferencingResult,
    TokenAlternative,
    TokenInfo,
)
from llmwit_magic.errors import EngineDied, InvalidInput, LogError, RunNotFound
from llmwit_magic.runlog.columns import COLUMNS
from llmwit_magic.runlog.frame import frame_of_rows
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.results import row_of
from llmwit_magic.running.run import Run
from tests.support.fake import MODEL, FakeEngine, FakeSession, end, prepared

REQUEST = Request(
    model="fake", prompt="a\nprompt with 日本語", tags={"k": "v"}, group_id="g",
    params=InferencingParams(max_tokens=None, stop=("\n",), seed=2**63 - 1),
)  # fmt: skip


def test_the_row_is_there_when_the_run_starts(tmp_path: Path) -> None:
    """A row is written before the engine is asked, with the prompt and all params."""
    log = RunLog(tmp_path / "log.sqlite3")
    run = Run(REQUEST)
    run.run_id = log.begin(run.row("running"))
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
    """Integers with missing values stay integers, times are UTC's, texts are texts."""
    session = FakeSession(FakeEngine(), tmp_path / "log.sqlite3")
    for params in (InferencingParams(max_tokens=None), InferencingParams(max_tokens=7)):
        session.run(Request(model="fake", prompt="p", params=params)).wait(10)
    frame = session.log.to_frame()
    spread = ("tags", "metrics")  # each tag and each metric has a column of its own
    assert list(frame.columns) == [
        column.name for column in COLUMNS[1:] if column.name not in spread
    ]
    assert frame.index.name == "run_id"
    assert frame["max_tokens"].dtype == "Int64"
    assert frame["max_tokens"].tolist() == [pandas.NA, 7]
    assert str(frame["started_at"].dtype) == "datetime64[us]"
    assert frame["chat"].dtype == "boolean"
    assert frame["text"].tolist() == ["Hello world"] * 2


def test_an_empty_log_is_an_empty_frame() -> None:
    """No runs give a frame without rows and with the same types."""
    frame = RunLog(":memory:").to_frame()
    assert len(frame) == 0
    assert frame["seed"].dtype == "Int64"
    assert str(frame["started_at"].dtype) == "datetime64[us]"


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
    log.begin(Run(REQUEST).row())
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
    log.begin(Run(REQUEST).row())
    assert stat.S_IMODE((tmp_path / "deep" / "log.sqlite3").stat().st_mode) == 0o600


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A log of a later version is not touched; the message says what to do."""
    path = tmp_path / "log.sqlite3"
    RunLog(path).begin(Run(REQUEST).row())
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


# Runs again -----------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine())
    yield session
    session.close()


TEXT = st.text(max_size=20)
LOGPROB = st.floats(max_value=0, allow_nan=False)
TOKENS = st.lists(
    st.builds(
        TokenInfo, id=st.integers(0, 9), bytes=st.binary(max_size=4), logprob=LOGPROB,
        rank=st.integers(0, 9),
        top=st.lists(
            st.builds(TokenAlternative, id=st.integers(0, 9), bytes=st.binary(max_size=4),
                      logprob=LOGPROB), max_size=2,
        ).map(tuple),
    ), max_size=3,
)  # fmt: skip
PARAMS = st.builds(
    InferencingParams, max_tokens=st.none() | st.integers(0, 2**32 - 1),
    repeat_penalty=st.floats(0.001, 1e30), top_p=st.floats(0.001, 1), top_k=st.integers(0, 99),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=2),
    temperature=st.floats(0, 1e30), seed=st.none() | st.integers(0, 2**63 - 1),
)  # fmt: skip
REQUESTS = st.builds(
    Request, model=TEXT, prompt=TEXT, params=PARAMS, chat=st.booleans(), system=st.none() | TEXT,
    context_length=st.none() | st.integers(1, 2**32 - 1),
    gpu_layers=st.just("auto") | st.integers(0, 99), threads=st.just("auto") | st.integers(1, 99),
    top_logprobs=st.none() | st.integers(0, 100), model_type=st.none() | TEXT,
    content_filters=st.lists(TEXT.map(lambda text: f"x{re.escape(text)}"), max_size=2),
    tags=st.dictionaries(TEXT, TEXT, max_size=2), group_id=st.none() | TEXT,
    replay_of=st.none() | st.integers(0, 2**63 - 1),
)  # fmt: skip


class AnyEngine(FakeEngine):
    """Says what it was told, of the model and device that were asked for."""

    rendered: str | None = None
    tokens: tuple[TokenInfo, ...] = ()

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        device = DeviceInfo(
            threads=3, library="avx2", reason="a test", requested_gpu_layers=request.gpu_layers
        )
        emit(
            replace(
                prepared(request),
                model=MODEL.model_copy(update={"name": request.model}),
                device=device,
                prompt=request.prompt if self.rendered is None else self.rendered,
            )
        )
        emit(Chunk("".join(self.chunks), 1, self.tokens))
        if isinstance(self.last, Exception):
            raise self.last
        emit(self.last or end(1))


@settings(max_examples=25)
@given(
    request=REQUESTS, text=TEXT, tokens=TOKENS, rendered=st.none() | TEXT,
    last=st.sampled_from([
        end(1), end(1, FinishDetail.STOP_SEQUENCE, "x"), end(0, None), EngineDied("gone"),
    ]),
)  # fmt: skip
@example(
    request=REQUEST.model_copy(update={"system": '\0\ud7ff"\n'}),
    text="",
    tokens=[],
    rendered="",
    last=end(0),
)
def test_a_run_of_the_log_is_the_run_as_it_was(
    request: Request, text: str, tokens: list[TokenInfo], rendered: str | None, last: Any
) -> None:
    """`runs[n]` has the result and the request of the run, and the frame its row, to the last bit."""
    engine = AnyEngine([text], last)
    engine.rendered, engine.tokens = rendered, tuple(tokens)
    session = FakeSession(engine)
    run = session.finish(request)
    assert run.log_problem is None
    assert run.run_id is not None
    again = session.log[run.run_id]
    assert InferencingResult(**dict(again)) == run.result
    # A system message makes it a chat.
    chat = request.chat or request.system is not None
    assert again.request == run.request.model_copy(update={"chat": chat})
    assert session.log.row(run.run_id) == row_of(run) | {"session_id": session.log.session_id}
    pandas.testing.assert_frame_equal(session.log.to_frame(), frame_of_rows(session.log.rows()))
    session.close()


def test_a_run_is_found_by_any_number(session: FakeSession) -> None:
    """Numbers of numpy and pandas will do, and negative ones count from the newest."""
    for prompt in ("one", "two", "three"):
        session.finish(Request(model="fake", prompt=prompt))
    log = session.log
    assert log[2].request.prompt == "two"
    assert log[numpy.int64(2)].run_id == 2
    assert log[log.to_frame().index[1]].run_id == 2
    assert (log[-1].run_id, log[-3].run_id) == (3, 1)
    assert [run.run_id for run in log] == [1, 2, 3]
    assert len(log) == 3


@pytest.mark.parametrize("number", [0, 4, -4, 2**63, -(2**70), "2", None, slice(1, 2)])
def test_what_is_not_there_is_said(session: FakeSession, number: Any) -> None:
    """A number that the log does not have says which it has; what is no number is told so."""
    for _ in range(3):
        session.finish(REQUEST)
    said = "it has runs 1 to 3" if isinstance(number, int) else "is not the number of a run"
    with pytest.raises(RunNotFound, match=said):
        session.log[number]


def test_an_empty_log_has_no_run() -> None:
    """The newest run of an empty log is not there, and a log is true even so."""
    log = RunLog(":memory:")
    with pytest.raises(RunNotFound, match="it is empty"):
        log[-1]
    assert (len(log), bool(log), list(log)) == (0, True, [])
    assert repr(log) == "<RunLog :memory:: 0 runs, 0.0 MB>"


def test_function_filters_are_named_and_left_out(session: FakeSession) -> None:
    """The log has the names of functions; the request of a row has the patterns alone."""

    class Filter:
        def __call__(self, text: str) -> None: ...

    session.finish(Request(model="fake", prompt="p", content_filters=("a+", len, Filter())))
    (row,) = session.log.rows()
    assert row["content_filters"][:2] == ["a+", "<function len>"]
    assert row["content_filters"][2].startswith("<function <")
    assert session.log[1].request.content_filters == ("a+",)


def test_a_pattern_that_looks_like_a_functions_name_is_one(session: FakeSession) -> None:
    """Only what begins and ends as a function is written is left out."""
    patterns = ("<function [a-z]+", ".*>", "a<function >")
    session.finish(Request(model="fake", prompt="p", content_filters=patterns))
    assert session.log[1].request.content_filters == patterns


# Opinions -------------------------------------------------------------------------


def test_a_rating_a_note_and_tags_stay(session: FakeSession) -> None:
    """They are in the row, in the frame and in later looks at the run; None takes them away."""
    session.finish(REQUEST)
    run = session.log[1]
    run.rate(1)
    run.note("why\nnot 日本")
    run.tag(k="", new="v", number=3)
    row = session.log[1].row
    assert (row["rating"], row["note"]) == (1, "why\nnot 日本")
    assert row["tags"] == {"new": "v", "number": "3"}
    frame = session.log.to_frame()
    assert frame.loc[1, ["rating", "note"]].tolist() == [1, "why\nnot 日本"]
    run.rate(None)
    run.note(None)
    assert (run.row["rating"], run.row["note"]) == (None, None)


@pytest.mark.parametrize("rating", [0, 2, "up", 0.5])
def test_a_rating_is_up_or_down(session: FakeSession, rating: Any) -> None:
    """Other numbers are refused, in one line."""
    session.finish(REQUEST)
    with pytest.raises(InvalidInput, match="it must be 1, -1 or None"):
        session.log[1].rate(rating)


def test_a_removed_run_takes_no_opinion(session: FakeSession) -> None:
    """To rate a run that is not in the log any more says so."""
    session.finish(REQUEST)
    run = session.log[1]
    session.log.prune("0s")
    with pytest.raises(RunNotFound, match="there is no run 1"):
        run.rate(1)


def test_text_that_cannot_be_kept_is_refused(session: FakeSession) -> None:
    """A lone surrogate in a note has no form in the file: one line, not a codec's traceback."""
    session.finish(REQUEST)
    with pytest.raises(InvalidInput, match=r"note: .* has a lone surrogate"):
        session.log[1].note("\ud800")
    with pytest.raises(LogError, match="cannot be used"):
        session.log._writer.update(1, {"note": "\ud800"})


# House-keeping ----------------------------------------------------------------------


def test_pruning_removes_what_is_old(tmp_path: Path) -> None:
    """Runs from before an age go, those that go on stay; the file gives its space back."""
    session = FakeSession(FakeEngine(["x" * 100_000]), tmp_path / "log.sqlite3")
    log = session.log
    for _ in range(4):
        session.finish(REQUEST)
    log.begin(Run(REQUEST).row())
    _set(log, "started_at = '2020-01-01T00:00:00.000000+00:00'", "run_id != 4")
    removed, freed = log.prune("90d")
    assert removed == 3
    assert freed > 300_000
    assert [row["run_id"] for row in log.rows()] == [4, 5]
    assert log.rows()[1]["status"] == "running"
    assert log.size < 200_000
    assert log.begin(Run(REQUEST).row()) == 6
    session.close()


def test_pruning_takes_filters(session: FakeSession) -> None:
    """Of the old ones only those that meet the rest are removed."""
    for model in ("one", "two"):
        session.finish(Request(model=model, prompt="p"))
    assert session.log.prune("0s", model="one") == (1, 0)
    assert [row["model"] for row in session.log.rows()] == ["two"]


def test_pruning_removes_lost_runs(tmp_path: Path) -> None:
    """A running row of a dead kernel is no running run."""
    path = tmp_path / "log.sqlite3"
    dead, alive = RunLog(path), RunLog(path)
    dead.begin(Run(REQUEST).row())
    alive.begin(Run(REQUEST).row())
    _set(alive, "process_started = 1", f"session_id = '{dead.session_id}'", "sessions")
    assert RunLog(path).prune("0s", status="lost")[0] == 1
    assert [row["run_id"] for row in alive.rows()] == [2]
    dead.close()
    alive.close()


def _set(log: RunLog, what: str, where: str, table: str = "runs") -> None:
    with sqlite3.connect(log.path) as connection:
        connection.execute(f"UPDATE {table} SET {what} WHERE {where}")
    connection.close()
