"""A batch over real engines: killed, interrupted, and over executors."""

from __future__ import annotations

import json
import multiprocessing
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas
import psutil
import pytest

from llmwit_magic import api
from llmwit_magic.engines.local.conversation import CANCEL_SECONDS
from llmwit_magic.engines.threads import usable_cores
from llmwit_magic.errors import EngineFailed, InvalidInput
from llmwit_magic.requests.arguments import request_from
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.selection import Filter
from llmwit_magic.running.session import Session
from tests.support.kernel import Once, Reply, engines_of, running_kernel, still_alive

NAMES = [f"robot {number}" for number in range(200)]
FRAME = pandas.DataFrame({"name": NAMES})
TEMPLATE = "Once upon a time there was {{name}}"
PARAMS = {"max_tokens": 30, "temperature": 1.2, "seed": 7}


def run_batch(
    session: Session, frame: pandas.DataFrame, model: Any, **options: Any
) -> pandas.DataFrame:
    """`infer_frame` in that session."""
    options = {"template": TEMPLATE, "params": PARAMS, "progress": False} | options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "current_session", lambda: session)
        return api.infer_frame(frame, options.pop("template"), model, **options)


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> list[str]:
    """The texts of a batch that runs undisturbed."""
    session = Session(":memory:")
    found = run_batch(session, FRAME, tiny_model)
    session.close()
    assert set(found["infer_status"]) == {"ok"}
    assert len(set(found["infer_text"])) > 190
    return list(found["infer_text"])


# Killed -----------------------------------------------------------------------------

SCRIPT = f"""
import sys
import pandas
from llmwit_magic import infer_frame
from llmwit_magic.running.session import current_session

model, log, target = sys.argv[1:]
current_session().use_log(log)
frame = pandas.DataFrame({{"name": {NAMES!r}}})
found = infer_frame(frame, {TEMPLATE!r}, model, {PARAMS!r}, progress=False)
found.to_json(target)
"""


@pytest.mark.timeout(180)
def test_a_killed_batch_goes_on_where_it_was(
    tiny_model: Path, tmp_path: Path, expected: list[str]
) -> None:
    """After SIGKILL at some 100 of 200 rows, the same call runs the others. No text differs."""
    log, target = RunLog(tmp_path / "runs.sqlite3"), tmp_path / "found.json"
    command = [sys.executable, "-c", SCRIPT, str(tiny_model), log.path, str(target)]
    with subprocess.Popen(command) as process:
        while len(log.tuples(Filter(status="ok"), ("run_id",))) < 100:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    before = {row["prompt"]: row["run_id"] for row in log.rows(status="ok")}
    assert 100 <= len(before) < 190
    last = log.row(-1)["run_id"]

    subprocess.run(command, check=True, timeout=120)
    found = json.loads(target.read_text())
    assert list(found["infer_text"].values()) == expected
    fresh = []
    for name, run_id in zip(NAMES, found["infer_run_id"].values(), strict=True):
        prompt = TEMPLATE.replace("{{name}}", name)
        assert log.row(run_id)["prompt"] == prompt
        if prompt in before:
            assert run_id == before[prompt]
        else:
            fresh.append(run_id)
    assert min(fresh) > last
    states = [row["status"] for row in log.rows()]
    print(f"{len(before)} rows before the kill, {len(fresh)} after it")
    assert states.count("ok") == 200
    assert states.count("lost") == len(states) - 200 <= 1


# Over executors -----------------------------------------------------------------------


@contextmanager
def dask_cluster() -> Iterator[Executor]:
    """The executor of a local Dask cluster: a scheduler and two worker processes."""
    from distributed import Client

    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        yield client.get_executor()


# Python 3.12 warns of it; 3.14 no longer does it by default. Notebooks do it all the same.
forks = pytest.mark.filterwarnings("ignore:.*is multi-threaded, use of fork:DeprecationWarning")

EXECUTORS: dict[str, Any] = {
    "threads": lambda: ThreadPoolExecutor(2),
    "processes": lambda: ProcessPoolExecutor(2),
    "new processes": lambda: ProcessPoolExecutor(
        2, mp_context=multiprocessing.get_context("spawn")
    ),
    "dask": dask_cluster,
}


@contextmanager
def engines_seen() -> Iterator[set[psutil.Process]]:
    """All engines of this process and of its child processes that were seen meanwhile."""
    seen: set[psutil.Process] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            seen.update(engines_of())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@forks
@pytest.mark.parametrize("kind", EXECUTORS)
def test_an_executor_gives_the_same_texts(
    session: Session, tiny_model: Path, expected: list[str], kind: str
) -> None:
    """Two workers have an engine and a share of the cores each. The rows are in this log."""
    places = [0, 0, 1, 1, *range(2, 40)]  # equal rows are runs of their own
    session.aliases = {"mine": str(tiny_model)}
    with EXECUTORS[kind]() as executor, engines_seen() as engines:
        found = run_batch(session, FRAME.iloc[places], "mine", executor=executor)
        if kind == "threads":
            assert engines_of() == []
    assert list(found["infer_text"]) == [expected[place] for place in places]
    rows = session.log.rows()
    assert found["infer_run_id"].nunique() == len(rows) == len(places)
    assert sorted(found["infer_run_id"]) == [row["run_id"] for row in rows]
    for row in rows:
        assert (row["status"], row["model"]) == ("ok", "mine")
        assert (row["session_id"], row["group_id"]) == (
            session.log.session_id, found.attrs["batch"],
        )  # fmt: skip
        assert row["threads_requested"] == "auto"
        assert 1 <= row["threads"] <= max(1, usable_cores() // 2)
    assert len(engines) == 2
    assert not still_alive(list(engines), 5)


@forks
def test_a_killed_worker_costs_no_finished_row(
    session: Session, tiny_model: Path, expected: list[str]
) -> None:
    """A pool whose worker dies fails with one line. A new pool goes on from the log."""
    log = RunLog(session.log.path)

    def kill_a_worker(pool: ProcessPoolExecutor) -> None:
        while len(log.tuples(Filter(status="ok"), ("run_id",))) < 50:
            time.sleep(0.01)
        psutil.Process(next(iter(pool._processes))).kill()

    with ProcessPoolExecutor(2) as pool, engines_seen() as engines:
        killer = threading.Thread(target=kill_a_worker, args=(pool,))
        killer.start()
        with pytest.raises(EngineFailed, match="the same call with a new executor") as caught:
            run_batch(session, FRAME, tiny_model, executor=pool)
        killer.join()
    assert "\n" not in str(caught.value)
    assert not still_alive(list(engines), 5)
    before = {row["prompt"]: row["run_id"] for row in log.rows(status="ok")}
    assert 50 <= len(before) < 190
    assert {row["status"] for row in log.rows()} == {"ok", "error"}
    with ProcessPoolExecutor(2) as pool:
        found = run_batch(session, FRAME, tiny_model, executor=pool)
    assert list(found["infer_text"]) == expected
    assert set(before.values()) < set(found["infer_run_id"])
    assert len(log.rows(status="ok")) == 200


@pytest.mark.parametrize("kind", ["threads", "dask"])
def test_an_executor_that_was_shut_down_is_said(
    session: Session, tiny_model: Path, kind: str
) -> None:
    """No row is run, and the row that was begun is an error in the log."""
    with EXECUTORS[kind]() as executor:
        pass
    with pytest.raises(EngineFailed, match=r"takes no more work \(.+\): what is done is kept"):
        run_batch(session, FRAME, tiny_model, executor=executor)
    assert [row["status"] for row in session.log.rows()] == ["error"]


def test_a_pattern_that_is_none_is_refused_at_once(session: Session, tiny_model: Path) -> None:
    """It can fit no row, so nothing is run and nothing is logged."""
    with pytest.raises(InvalidInput, match="is not a regular expression"):
        run_batch(session, FRAME, tiny_model, content_filters=["("])
    assert len(session.log) == 0


# Rows that fail ------------------------------------------------------------------------


@forks
@pytest.mark.parametrize("kind", [None, "threads", "processes"])
def test_a_row_that_fails_is_its_own_value(
    session: Session, tiny_model: Path, kind: str | None
) -> None:
    """A prompt that is too long, empty or missing fails its row. The next call tries again."""
    frame = pandas.DataFrame({"text": ["a", "word " * 5000, "", None, "b"]}, index=[*"vwxyz"])

    def run() -> pandas.DataFrame:
        if kind is None:
            return run_batch(session, frame, tiny_model, template="{{text}}")
        with EXECUTORS[kind]() as executor:
            return run_batch(session, frame, tiny_model, template="{{text}}", executor=executor)

    found = run()
    assert list(found.index) == [*"vwxyz"]
    assert list(found["infer_status"]) == ["ok", "error", "error", "error", "ok"]
    assert list(found["infer_error_type"].dropna()) == [
        "PromptTooLong", "InvalidInput", "InvalidInput",
    ]  # fmt: skip
    assert found.loc["w", "infer_error_message"].startswith("the prompt has 15,001 tokens")
    assert found.loc["x", "infer_error_message"].startswith("the prompt is empty")
    assert found.loc["y", "infer_error_message"] == "column 'text' has no value in this row"
    assert found["infer_run_id"].isna().tolist() == [False, False, False, True, False]
    assert [row["status"] for row in session.log.rows()].count("error") == 2
    again = run()
    assert again.loc[["v", "z"], "infer_run_id"].tolist() == (
        found.loc[["v", "z"], "infer_run_id"].tolist()
    )
    assert len(session.log) == 6


def test_without_a_seed_each_row_has_its_own(session: Session, tiny_model: Path) -> None:
    """The seeds differ and are logged, and each seed repeats its row."""
    found = run_batch(session, FRAME.head(5), tiny_model, params={"max_tokens": 10})
    rows = session.log.rows()
    assert len({row["seed"] for row in rows}) == 5
    for row, text in zip(rows, found["infer_text"], strict=True):
        params = {"max_tokens": 10, "seed": row["seed"]}
        run = session.run(request_from(tiny_model, row["prompt"], params, {}))
        assert run.wait(20)
        assert run.text == text
    again = run_batch(session, FRAME.head(5), tiny_model, params={"max_tokens": 10})
    assert list(again["infer_run_id"]) == list(found["infer_run_id"])


# Interrupted ---------------------------------------------------------------------------


def rows_done(reply: Reply) -> int:
    """The number of rows that the progress bar says."""
    counts = re.findall(r"(\d+)/200", reply.stdout)
    return int(counts[-1]) if counts else 0


@pytest.mark.parametrize("executor", ["None", "ThreadPoolExecutor(2)", "ProcessPoolExecutor(2)"])
def test_an_interrupted_batch_goes_on_where_it_was(
    tiny_model: Path, tmp_path: Path, expected: list[str], executor: str
) -> None:
    """Each of three Ctrl-C gives one line and leaves nothing running. The same call goes on."""
    log = RunLog(tmp_path / "runs.sqlite3")
    call = (
        f"found = infer_frame(frame, {TEMPLATE!r}, {str(tiny_model)!r}, {PARAMS!r}, "
        f"executor={executor})"
    )
    with running_kernel() as kernel:
        reply = kernel.run(
            f"%load_ext llmwit_magic\n%config InferMagics.log_path = {log.path!r}\n"
            "import pandas\n"
            "from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor\n"
            "from llmwit_magic import infer_frame\n"
            f"frame = pandas.DataFrame({{'name': {NAMES!r}}})"
        )
        assert reply.status == "ok", reply.error
        standby = set(kernel.engines())  # for a cell of this kernel
        before = 0
        for count in (10, 40, 70):
            stop = Once(lambda reply, count=count: rows_done(reply) >= count, kernel.interrupt)
            reply = kernel.run(call, when=stop)
            assert stop.time is not None
            assert time.monotonic() - stop.time < 5
            told = re.fullmatch(
                r"Interrupted: stopped after (\d+) of 200 rows; the same call goes on there",
                reply.error,
            )
            assert told, reply.error
            assert len(reply.traceback) == 1
            # What was under way in a worker ends by itself, and the threads' engines with it. An
            # engine that does not answer an interrupt is ended after CANCEL_SECONDS.
            deadline = time.monotonic() + 3 * CANCEL_SECONDS
            while log.rows(status="running") or (
                "Thread" in executor and set(kernel.engines()) - standby
            ):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            done = len(log.rows(status="ok"))
            assert before < int(told[1]) <= done < 190
            before = done

        reply = kernel.run(call + "\nprint('TEXTS' + found['infer_text'].to_json())")
        assert reply.status == "ok", reply.error
    texts = json.loads(reply.stdout.partition("TEXTS")[2])
    assert list(texts.values()) == expected
    assert len(log.rows(status="ok")) == 200
