"""Batches and sweeps over a server that has slots: full, bounded, aligned, resumable."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas
import pytest

from llmwit_magic import api
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import Interrupted, InvalidInput, ServerUnreachable
from llmwit_magic.running.session import Session
from llmwit_magic.running.window import Ahead
from tests.support.batches import needs_signals
from tests.support.busy_server import Running, busy_server

GREEDY = {"temperature": 0, "max_tokens": 4}


@pytest.fixture
def server() -> Iterator[Running]:
    with busy_server(slots=32, seconds=0.3) as server:
        yield server


def infer_frame(session: Session, values: Any, model: Any, **options: Any) -> pandas.DataFrame:
    """`infer_frame` in that session, with a row for each value."""
    options = {"template": "Row {{x}}", "params": GREEDY, "progress": False} | options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "current_session", lambda: session)
        return api.infer_frame(
            pandas.DataFrame({"x": values}), options.pop("template"), model, **options
        )


def answers(values: Any) -> list[str]:
    return [f"answer to Row {value} 1 2 3" for value in values]


def wait_until(holds: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Full, and bounded ----------------------------------------------------------------------


def test_rows_go_side_by_side_and_are_aligned(session: Session) -> None:
    """As many at once as were asked for; each answer stands in its row, and each run in the log."""
    values = random.Random(0).sample(range(1000), 200)
    # Long answers, so that a slow machine has asked for all of the window before the first ends.
    with busy_server(slots=64, seconds=1.0) as server:
        found = infer_frame(session, values, server.url, concurrency=64)
        assert server.counts["most open"] == 64
    assert found["infer_text"].tolist() == answers(values)
    rows = session.log.rows()
    assert {row["run_id"]: row["text"] for row in rows} == dict(
        zip(found["infer_run_id"], found["infer_text"], strict=True)
    )
    assert {row["status"] for row in rows} == {"ok"}


def test_a_server_that_tells_no_slots_gets_sixteen(session: Session, server: Running) -> None:
    """That is the default where the server does not say how many requests it carries out."""
    infer_frame(session, range(64), server.url)
    assert server.counts["most open"] == 16


def test_a_server_that_tells_its_slots_gets_twice_as_many(
    session: Session, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it answers in a slot, the next request is on its way."""
    monkeypatch.setattr(session.remote, "slots", lambda spec, emit, cancel: 5)
    infer_frame(session, range(40), server.url)
    assert server.counts["most open"] == 10


def test_connections_are_used_again(session: Session, server: Running) -> None:
    """One that is opened for each row would cost a handshake each time."""
    infer_frame(session, range(40), server.url, concurrency=4)
    assert server.counts["connections"] <= 6


def test_rows_that_begin_alike_are_sent_together(session: Session, server: Running) -> None:
    """A server reads a common beginning once, while it still has it."""
    values = ["b 2", "a 1", "b 1", "a 2"]
    found = infer_frame(session, values, server.url, concurrency=1)
    assert server.prompts == ["Row a 1", "Row a 2", "Row b 1", "Row b 2"]
    assert found["infer_text"].tolist() == answers(values)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "8", 2000])
def test_a_size_that_cannot_be_is_refused(session: Session, server: Running, wrong: Any) -> None:
    """The error names the value and the range."""
    with pytest.raises(InvalidInput, match=r"concurrency: .* is not valid"):
        infer_frame(session, [1], server.url, concurrency=wrong)


def test_a_local_model_does_one_run_at_a_time(session: Session, tiny_model: Path) -> None:
    """More than one at once is refused, and so are several models."""
    assert len(infer_frame(session, [1], tiny_model, concurrency=1)) == 1
    with pytest.raises(InvalidInput, match="a local model does one run at a time"):
        infer_frame(session, [1], tiny_model, concurrency=2)
    with pytest.raises(InvalidInput, match="rows are shared among servers only"):
        infer_frame(session, [1], [str(tiny_model), "http://localhost:9"])


# Equal rows -----------------------------------------------------------------------------


@pytest.mark.parametrize("params", [GREEDY, {"seed": 7, "max_tokens": 4}])
def test_equal_rows_are_asked_once(session: Session, server: Running, params: Any) -> None:
    """They share a run, also when the same call takes it from the log."""
    values = [1, 2, 1, 1, 2, 3]
    for _ in range(2):
        found = infer_frame(session, values, server.url, params=params)
        assert found["infer_text"].tolist() == answers(values)
        numbers = found["infer_run_id"].tolist()
        assert [numbers.index(number) for number in numbers] == [0, 1, 0, 0, 1, 5]
    assert server.counts["asked"] == 3
    infer_frame(session, values, server.url, params=params, deduplicate=False)
    assert server.counts["asked"] == 6


def test_rows_that_may_differ_are_each_asked(session: Session, server: Running) -> None:
    """Rows that draw their seeds do, and so do rows that are found by different tags."""
    infer_frame(session, [1, 1], server.url, params={"max_tokens": 4})
    assert server.counts["asked"] == 2
    frame = pandas.DataFrame({"x": [1, 1, 1], "id": ["a", "b", "a"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "current_session", lambda: session)
        found = api.infer_frame(frame, "Row {{x}}", server.url, GREEDY, progress=False,
                                tags={"id": "{{id}}"})  # fmt: skip
    assert server.counts["asked"] == 4
    assert found["infer_run_id"].nunique() == 2


def test_the_bar_tells_tokens_a_second(
    session: Session, server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside rows, rows a second and the time that is left."""
    infer_frame(session, [1, 1, 2], server.url, progress=True)
    line = capsys.readouterr().out.split("\r")[-1]
    assert "3/3" in line
    assert "tokens/s, 1 equal to another" in line


# Going on -------------------------------------------------------------------------------


def test_what_is_done_is_not_asked_again(session: Session, server: Running) -> None:
    """The same call takes its rows from the log, and asks for new ones only."""
    first = infer_frame(session, range(20), server.url)
    again = infer_frame(session, range(30), server.url)
    assert again["infer_run_id"].tolist()[:20] == first["infer_run_id"].tolist()
    assert server.counts["asked"] == 30


@needs_signals
def test_an_interrupt_closes_all_streams(session: Session, request: pytest.FixtureRequest) -> None:
    """No stream stays open at the server, every row has ended in the log, and what is done stays."""
    numbers = random.Random(1)
    trials = 50 if request.config.getoption("--long") else 4
    with busy_server(slots=8, seconds=0.2) as server:
        infer_frame(session, [-1], server.url)
        for trial in range(trials):
            before = server.counts["asked"]
            values = range(1000 * trial, 1000 * trial + 300)
            stopper = threading.Timer(
                numbers.uniform(0.05, 0.8),
                lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT),
            )
            began = time.monotonic()
            stopper.start()
            with pytest.raises(Interrupted, match=r"stopped after \d+ of 300 rows"):
                infer_frame(session, values, server.url, concurrency=32)
            stopper.join()
            assert time.monotonic() - began < 8
            wait_until(lambda: server.counts["open"] == 0, 2.0)
            rows = session.log.rows()
            assert {row["status"] for row in rows} <= {"ok", "interrupted"}
            # The row stands before the request is sent.
            assert {row["prompt"] for row in rows} >= set(server.prompts)
            assert server.counts["asked"] > before or trial > 0
        done = sum(row["status"] == "ok" for row in session.log.rows())
        assert done >= server.counts["answered"] - 32 * trials
    assert not [thread for thread in threading.enumerate() if thread.name == "llmwit-run"]


# Several servers ------------------------------------------------------------------------


def test_servers_share_the_rows(session: Session, server: Running) -> None:
    """The least busy one gets the next row, so the quicker one gets more; any may have answered
    when the same call goes on."""
    session.servers = {"a": {"url": server.url}}
    with busy_server(slots=1, seconds=0.2) as slow:
        session.servers = {"a": {"url": server.url}, "b": {"url": slow.url}}
        models = ["a::m", "b::m"]
        found = infer_frame(session, range(60), models, concurrency=8)
        assert found["infer_text"].tolist() == answers(range(60))
        quick, rest = server.counts["answered"], slow.counts["answered"]
        assert quick + rest == 60
        assert quick > 2 * rest > 0
        infer_frame(session, range(60), models, concurrency=8)
        assert server.counts["asked"] + slow.counts["asked"] == 60


def test_a_server_without_room_leaves_its_rows_to_the_others(
    session: Session, server: Running
) -> None:
    """No row fails, and the server gets no more rows after some that it refused."""
    with busy_server(slots=8, seconds=0.05, unreachable_after=2) as full:
        session.servers = {"a": {"url": full.url}, "b": {"url": server.url}}
        found = infer_frame(session, range(40), ["a::m", "b::m"], concurrency=8)
        assert found["infer_text"].tolist() == answers(range(40))
        assert full.counts["asked"] < 20


def test_a_batch_ends_where_no_server_has_room(session: Session) -> None:
    """What is done is kept, and every row that was begun has ended."""
    with busy_server(slots=4, seconds=0.05, unreachable_after=10) as server:
        with pytest.raises(ServerUnreachable, match="the same call goes on there"):
            infer_frame(session, range(100), server.url, concurrency=4)
        assert server.counts["asked"] < 30
    statuses = [row["status"] for row in session.log.rows()]
    assert statuses.count("ok") == 10
    assert "running" not in statuses


def test_workers_ask_servers_by_name(session: Session, server: Running) -> None:
    """The workers of an executor know the notebook's servers."""
    session.servers = {"lab": {"url": server.url}}
    with ThreadPoolExecutor(4) as executor:
        found = infer_frame(session, range(12), "lab::m", executor=executor)
        with pytest.raises(InvalidInput, match="concurrency: an executor has workers instead"):
            infer_frame(session, [1], "lab::m", executor=executor, concurrency=4)
    assert found["infer_text"].tolist() == answers(range(12))


# Sweeps ---------------------------------------------------------------------------------


def test_the_runs_of_a_sweep_begin_ahead(session: Session, server: Running) -> None:
    """They come in their order, side by side, with one seed; leaving early ends the rest."""
    requests = [
        Request(model=server.url, prompt=f"Row {n}", params=InferencingParams(**GREEDY))
        for n in range(40)
    ]
    with Ahead(session, requests, seed=5) as ahead:
        for number, run in enumerate(ahead):
            run.follow()
            assert run.text == answers([number])[0]
            assert run.request.params.seed == 5
    assert 8 <= server.counts["most open"] <= 16
    with Ahead(session, requests, seed=5) as ahead:
        next(iter(ahead)).follow()
    assert len(ahead.runs) < 40
    assert all(run.done for run in ahead.runs)
    wait_until(lambda: server.counts["open"] == 0, 2.0)
