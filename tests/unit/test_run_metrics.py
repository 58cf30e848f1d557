"""Metrics are kept with the runs that they judge: in the result, the log, its table and exports."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from sklearn.metrics import accuracy_score
from traitlets.config import Config

import llmwit_magic
from llmwit_magic.analysis.run_metrics import judge, log_metrics, result_metrics
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.errors import EngineDied, InvalidInput, LogWarning, RunNotFound
from llmwit_magic.magics import extension, infer
from llmwit_magic.runlog.export import read_export
from llmwit_magic.runlog.log import RunLog
from tests.support.fake import FakeEngine, FakeSession


@pytest.fixture
def session(tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine(), tmp_path / "runs.sqlite3")
    for _ in range(3):
        session.finish(Request(model="fake", prompt="p"))
    yield session
    session.close()


@pytest.fixture
def shell(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(infer, "current_session", lambda: session)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    shell.user_ns["warm"] = lambda_named("warm", lambda result: result.params.temperature > 0)
    shell.user_ns["length"] = lambda_named("length", lambda result: len(result.text))
    return shell


def lambda_named(name: str, function: Any) -> Any:
    function.__name__ = name
    return function


def test_metrics_are_added_and_removed(session: FakeSession) -> None:
    """`runs[1].metrics(…)` adds numbers to those that are there; None removes one."""
    run = session.log[1]
    assert run.metrics(accuracy=0.8, right=True) == {"accuracy": 0.8, "right": 1.0}
    assert run.metrics(accuracy=numpy.float32(0.1)) == {"accuracy": 0.1, "right": 1.0}
    assert run.metrics(right=None) == {"accuracy": 0.1}
    assert session.log[1].metric_values == {"accuracy": 0.1}
    assert session.log[2].metrics() == {}


@pytest.mark.parametrize("value", ["0.8", float("nan"), float("inf"), [1], 10**400])
def test_what_is_no_finite_number_is_no_metric(session: FakeSession, value: Any) -> None:
    """One line names the metric, and the run keeps what it had."""
    session.log[1].metrics(kept=1)
    with pytest.raises(InvalidInput, match=r"metrics: bad: .* must be a finite number") as caught:
        session.log[1].metrics(fine=1, bad=value)
    assert len(str(caught.value).splitlines()) == 1
    assert session.log[1].metrics() == {"kept": 1}


def test_all_runs_get_their_metrics_or_none(session: FakeSession) -> None:
    """A run that is not there leaves the others as they were."""
    with pytest.raises(RunNotFound):
        session.log.add_metrics({1: {"a": 1}, 99: {"a": 1}})
    assert session.log[1].metrics() == {}
    session.log.add_metrics({1: {"a": 1}, -1: {"a": 3}})
    assert [run.metrics() for run in session.log] == [{"a": 1}, {}, {"a": 3}]


def test_metrics_are_columns_and_exports(session: FakeSession, tmp_path: Path) -> None:
    """`metric.NAME` is a column of numbers, missing where a run has none; exports keep them."""
    session.log[1].metrics(accuracy=0.25)
    session.log[3].metrics(accuracy=1, other=2)
    frame = session.log.to_frame()
    assert frame["metric.accuracy"].dtype == "Float64"
    assert frame["metric.accuracy"].tolist() == [0.25, pandas.NA, 1]
    assert frame["metric.other"].tolist() == [pandas.NA, pandas.NA, 2]
    for ending in ("jsonl", "parquet"):
        session.log.export(tmp_path / f"runs.{ending}")
        pandas.testing.assert_frame_equal(read_export(tmp_path / f"runs.{ending}"), frame)


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [("accuracy", [1, 3]), ("accuracy>=0.5", [3]), ("accuracy < 0.5", [1]), ("accuracy=1", [3]),
     ("accuracy<=1", [1, 3]), ("accuracy > 1", []), ("other", [])],
)  # fmt: skip
def test_metrics_are_filters(session: FakeSession, metric: str, wanted: list[int]) -> None:
    """A name alone, or compared with a number."""
    session.log[1].metrics(accuracy=0.25)
    session.log[3].metrics(accuracy=1)
    assert [row["run_id"] for row in session.log.rows(metric=metric)] == wanted
    for wrong in ("accuracy>much", "accuracy>>1", "accuracy=<1", ">1"):
        with pytest.raises(InvalidInput, match=f"metric: '{wrong}' is not valid: write NAME"):
            session.log.rows(metric=wrong)


def test_damaged_metrics_hide_no_row(session: FakeSession) -> None:
    """They read as missing, match no filter, and the next metric replaces them."""
    session.log._database.execute('UPDATE runs SET metrics = \'{"a": "x"}\' WHERE run_id = 1')
    session.log._database.execute("UPDATE runs SET metrics = '{' WHERE run_id = 2")
    with pytest.warns(LogWarning, match="metrics of run 1 .* is damaged"):
        assert [row["metrics"] for row in session.log.rows()] == [None, None, None]
    session.log.add_metrics({2: {"b": 1}})
    assert session.log[2].metrics() == {"b": 1}


def test_a_sweep_has_its_metrics(shell: Any, session: FakeSession) -> None:
    """They are in the results, their frame, the log, and a column of the table."""
    shell.run_cell_magic(
        "infer", "--quiet --temperature 0,1 --metric warm --metric length -o sweep", "p\n"
    )
    sweep = shell.user_ns["sweep"]
    assert [dict(one.metric_values) for one in sweep] == [
        {"warm": 0, "length": 11}, {"warm": 1, "length": 11}
    ]  # fmt: skip
    assert sweep.to_frame()["metric.warm"].tolist() == [0, 1]
    assert [session.log[number].metrics()["warm"] for number in (4, 5)] == [0, 1]
    data, _ = shell.display_formatter.format(sweep)
    assert ">warm<" in data["text/html"]
    assert ">length<" in data["text/html"]
    assert data["text/plain"].splitlines()[0].split()[:5] == [
        "run", "temperature", "repeat_penalty", "warm", "length"
    ]  # fmt: skip
    table = shell.run_line_magic("infer_log", "--metric length>=11")
    assert table.index.tolist() == [4, 5]
    assert "metric.warm" in repr(table)


def test_a_single_run_says_its_metrics(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal says them under the status line, and the saved result in it."""
    shell.run_cell_magic("infer", "--metric length", "p\n")
    assert capsys.readouterr().out.endswith("── length 11\n")
    assert "length 11" in shell.display_formatter.format(shell.user_ns["_infer"])[0]["text/plain"]


@pytest.mark.parametrize("name", ["nothing", "number"])
def test_a_metric_must_be_a_function(shell: Any, name: str) -> None:
    """Nothing runs before that is known."""
    shell.user_ns["number"] = 3
    with pytest.raises(UsageError, match=f"--metric: there is no function '{name}'"):
        shell.run_cell_magic("infer", f"--metric {name}", "p\n")
    with pytest.raises(UsageError, match=f"--metric: there is no function '{name}'"):
        shell.run_line_magic("infer_replay", f"1 --metric {name}")


def test_a_replay_is_judged(shell: Any, session: FakeSession) -> None:
    """The numbers belong to the new run, from the magic and from Python."""
    replay = shell.run_line_magic("infer_replay", "1 --quiet --metric length")
    assert replay.result.metric_values == {"length": 11}
    assert session.log[-1].metrics() == {"length": 11}
    assert session.log[1].metrics() == {}


def test_replay_takes_a_metric(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """`replay(1, metric=f)`."""
    monkeypatch.setattr("llmwit_magic.api.current_session", lambda: session)

    def length(result: InferencingResult) -> int:
        return len(result.text)

    assert llmwit_magic.replay(1, metric=length).result.metric_values == {"length": 11}
    with pytest.raises(InvalidInput, match="accuracy_score needs the right answers"):
        llmwit_magic.replay(1, metric=accuracy_score)


def test_a_metric_that_fails_is_said(session: FakeSession) -> None:
    """One warning of one line; the other metrics go on, and None says nothing."""

    def broken(result: InferencingResult) -> int:
        return int(result.text)

    def word(result: InferencingResult) -> str:
        return "much"

    def silent(result: InferencingResult) -> None:
        return None

    run = session.finish(Request(model="fake", prompt="p"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        judge(run, result_metrics([broken, word, silent, functools.partial(pow, 2)][:3]))
    gives = "gives no number for some answers"
    assert [str(one.message) for one in caught] == [
        f"metric broken {gives}: ValueError: invalid literal for int() with base 10: 'Hello world'",
        f"metric word {gives}: 'much' is not valid: it must be a finite number",
    ]
    assert run.result.metric_values == {}


def test_a_run_that_failed_has_no_metrics(session: FakeSession) -> None:
    """There is no answer to judge."""
    session.engine = FakeEngine(["x"], EngineDied("gone"))
    run = session.finish(Request(model="fake", prompt="p"))
    judge(run, {"one": lambda result: 1})
    assert run.result.metric_values == {}


def test_metrics_of_a_batch_are_in_the_log(session: FakeSession) -> None:
    """Rows that share a run have the mean. What is no number stays in the DataFrame alone."""
    frame = pandas.DataFrame({
        "infer_run_id": pandas.array([1, 1, 2, None], dtype="Int64"),
        "infer_right": [True, False, True, None], "infer_word": ["a", "b", "c", "d"],
    })  # fmt: skip
    log_metrics(session.log, frame, ["right", "word"])
    assert [run.metrics() for run in session.log] == [{"right": 0.5}, {"right": 1}, {}]


def test_a_run_without_a_log_keeps_its_metrics() -> None:
    """The result has them."""
    session = FakeSession(FakeEngine())
    session.log = RunLog(":memory:")
    run = session.finish(Request(model="fake", prompt="p"))
    run.run_id = 77  # no such row
    with pytest.warns(LogWarning, match="there is no run 77"):
        run.add_metrics({"a": 1})
    assert run.result.metric_values == {"a": 1}
    session.close()
