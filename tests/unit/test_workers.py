"""A batch over an executor: its workers, their failures, and interrupts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pandas
import pytest

from llmwit_magic.errors import EngineFailed, Interrupted
from llmwit_magic.running import workers as batch_workers
from llmwit_magic.running.workers import worker_count
from tests.support.batches import Echo, interrupt, needs_signals, run
from tests.support.fake import FakeSession


@pytest.fixture
def engine() -> Echo:
    return Echo()


@pytest.fixture
def session(engine: Echo, tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(engine, tmp_path / "runs.sqlite3")
    yield session
    session.close()


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    """The sessions that workers make in threads."""
    made: list[FakeSession] = []

    def make(path: str) -> FakeSession:
        made.append(FakeSession(Echo(), path))
        return made[-1]

    monkeypatch.setattr(batch_workers, "Session", make)
    return made


def test_threads_share_the_rows(session: FakeSession, workers: list[FakeSession]) -> None:
    """Results stand in their own rows, in whatever order they end. This process logs each once."""
    frame = pandas.DataFrame({"name": [f"n{number}" for number in range(20)]})
    with ThreadPoolExecutor(3) as pool:
        result = run(session, frame, executor=pool)
        assert result["infer_text"].tolist() == [f"HI N{number}" for number in range(20)]
        rows = {row["run_id"]: row for row in session.log.rows()}
        assert [rows[run_id]["text"] for run_id in result["infer_run_id"]] == (
            result["infer_text"].tolist()
        )
        assert {row["status"] for row in rows.values()} == {"ok"}
        assert {row["threads_requested"] for row in rows.values()} == {"auto"}
        again = run(session, frame, executor=pool)
    pandas.testing.assert_frame_equal(again, result)
    assert 1 <= len(workers) <= 3
    assert sum(len(worker.engine.requests) for worker in workers) == 20
    assert batch_workers._sessions == {}


@pytest.mark.parametrize(("count", "threads"), [(1, {"auto"}), (2, {4}), (16, {1})])
def test_workers_share_the_cores(
    count: int, threads: set[object], session: FakeSession, workers: list[FakeSession],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Several workers take the same number of threads each. A single one takes what a cell does."""
    monkeypatch.setattr(batch_workers, "physical_cores", lambda: 8)
    with ThreadPoolExecutor(count) as pool:
        run(session, pandas.DataFrame({"name": ["Ada", "Bob"]}), executor=pool)
    asked = {request.threads for worker in workers for request in worker.engine.requests}
    assert asked == threads


def test_a_failure_in_a_worker_fails_its_row(
    session: FakeSession, workers: list[FakeSession]
) -> None:
    """A failed run fails its row, as it does without workers."""
    with ThreadPoolExecutor(2) as pool:
        frame = run(session, pandas.DataFrame({"name": ["Ada", "bad"]}), executor=pool)
    assert frame["infer_status"].tolist() == ["ok", "error"]
    assert session.log.rows(status="error")[0]["error_message"] == "gone"


def test_workers_know_the_configuration(session: FakeSession, workers: list[FakeSession]) -> None:
    """An alias of the notebook is an alias in the workers too, and the library is the same."""
    session.aliases = {"tiny": "/models/tiny.gguf"}
    session.llama_library = "/opt/llama"
    with ThreadPoolExecutor(1) as pool:
        run(session, executor=pool)
    assert workers[0].aliases == {"tiny": "/models/tiny.gguf"}
    assert workers[0].llama_library == "/opt/llama"


class Broken(Executor):
    """An executor that fails in the given way at each task."""

    def __init__(self, error: Exception | None, at_submit: bool = False) -> None:
        self.error, self.at_submit = error, at_submit

    def submit(self, *call: Any, **options: Any) -> Future[Any]:  # type: ignore[override]
        if self.at_submit and self.error:
            raise self.error
        future: Future[Any] = Future()
        if self.error is None:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_exception(self.error)
        return future


def test_an_executor_that_fails_a_task_fails_its_row(session: FakeSession) -> None:
    """A task that cannot be sent, or whose worker is lost, fails only its own row."""
    frame = run(session, executor=Broken(TypeError("no pickle")), workers=1)
    assert frame["infer_status"].tolist() == ["error"] * 3
    said = "the executor could not run it: TypeError: no pickle"
    assert frame["infer_error_message"].tolist() == [said] * 3
    assert [row["error_message"] for row in session.log.rows()] == [said] * 3


def test_a_task_that_was_cancelled_is_interrupted(session: FakeSession) -> None:
    """A shutdown of the executor cancels its tasks. No row stays `running`."""
    frame = run(session, executor=Broken(None), workers=1)
    assert frame["infer_status"].tolist() == ["interrupted"] * 3
    assert {row["status"] for row in session.log.rows()} == {"interrupted"}


@pytest.mark.parametrize(
    ("error", "at_submit"),
    [
        (BrokenProcessPool("a worker died"), False),
        (RuntimeError("cannot schedule new futures after shutdown"), True),
    ],
)
def test_a_broken_executor_ends_the_batch(
    session: FakeSession, engine: Echo, error: Exception, at_submit: bool
) -> None:
    """The error says what broke and how to go on. No row stays `running`."""
    with pytest.raises(EngineFailed, match=f"takes no more work .{error}.: what is done is kept"):
        run(session, executor=Broken(error, at_submit), workers=1)
    assert {row["status"] for row in session.log.rows()} == {"error"}
    assert run(session)["infer_status"].tolist() == ["ok"] * 3


@needs_signals
def test_an_interrupt_keeps_what_workers_still_do(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has begun is finished and logged for the next call. A waiting one is not begun."""
    release = threading.Event()

    def slow(prompt: str, cancel: threading.Event) -> None:
        if "n3" in prompt:
            interrupt()
            release.wait(10)

    monkeypatch.setattr(batch_workers, "Session", lambda path: FakeSession(Echo(slow), path))
    frame = pandas.DataFrame({"name": [f"n{number}" for number in range(9)]})
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Interrupted, match="stopped after 3 of 9 rows"):
            run(session, frame, executor=pool)
        release.set()
    rows = session.log.rows()
    # With one worker, one more at most was waiting.
    assert [row["status"] for row in rows] in (["ok"] * 4, ["ok"] * 4 + ["interrupted"])
    assert rows[3]["text"] == "HI N3"
    assert batch_workers._sessions == {}


def test_workers_are_counted() -> None:
    """The executor or Dask's client says their number; else it is that of the processors."""
    with ThreadPoolExecutor(3) as pool:
        assert worker_count(pool) == 3
    with ProcessPoolExecutor(2) as processes:
        assert worker_count(processes) == 2

    class Client:
        status = "running"

        def nthreads(self) -> dict[str, int]:
            return {"a": 2, "b": 3}

    dask = Broken(None)
    dask._client = Client()  # type: ignore[attr-defined]
    assert worker_count(dask) == 5
    assert worker_count(Broken(None)) >= 1
