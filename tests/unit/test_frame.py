"""The log's table in other programs: plain values, one type for each column."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams, TokenInfo
from llmwit_magic.runlog.export import read_export
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.results import Results
from llmwit_magic.running.run import Run
from tests.support.fake import FakeEngine, FakeSession, end, prepared, run_of

TOKEN = TokenInfo(id=7, bytes=b"\xff", logprob=-0.5, rank=0)
TAGS: list[list[dict[str, str]]] = [
    [{}, {}, {}], [{"k": "v"}, {}, {"other key": "w", "k": "日本"}],
]  # fmt: skip


@pytest.fixture(params=TAGS, ids=["no run has tags", "some have"])
def log(request: pytest.FixtureRequest) -> Iterator[RunLog]:
    """Two runs that ended, with lists and tokens, and one that goes on."""
    session = FakeSession(FakeEngine())
    runs = []
    for number, tags in enumerate(request.param):
        asked = Request(
            model="fake", prompt="p", tags=tags, top_logprobs=0, content_filters=("a+",),
            params=InferencingParams(
                stop=("\n", "b"), max_tokens=number or None, seed=2**53 + 1,
                temperature=numpy.float32(0.1),
            ),
        )  # fmt: skip
        runs.append(run_of([prepared(asked), Chunk("x\n", 1, (TOKEN,)), end(1)], asked))
    for number, run in enumerate(runs):
        run.run_id = session.log.begin(run.row("running"))
        if number < 2:
            session.log.complete(run.run_id, run.row("ok"))
    yield session.log
    session.close()


def tags_of(frame: pandas.DataFrame) -> list[str]:
    return [name for name in frame.columns if name.startswith("tag")]


def test_a_cell_is_a_plain_value(log: RunLog) -> None:
    """No list, no mapping: everything can be counted, compared and told apart."""
    frame = log.to_frame()
    assert len(frame.drop_duplicates()) == 3
    assert frame.nunique()["seed"] == 1
    for name in frame.columns:
        assert sum(frame.groupby(name, dropna=False).size()) == 3
        for value in frame[name]:
            hash(value)
            assert not isinstance(value, tuple)


def test_tags_are_columns_and_lists_are_json(log: RunLog) -> None:
    """`tag.KEY` has a tag's values, missing where a run has none; `json.loads` reads a list."""
    frame = log.to_frame()
    tags = [run.request.tags for run in log]
    assert tags_of(frame) == [f"tag.{key}" for key in dict.fromkeys(k for t in tags for k in t)]
    for name in tags_of(frame):
        wanted = [items.get(name.removeprefix("tag."), pandas.NA) for items in tags]
        assert frame[name].tolist() == wanted
        assert frame[name].dtype == "string"
    assert json.loads(frame.loc[1, "stop"]) == ["\n", "b"]
    assert json.loads(frame.loc[1, "content_filters"]) == ["a+"]
    assert json.loads(frame.loc[1, "tokens"])[0]["logprob"] == -0.5
    assert frame["tokens"].tolist()[2] is pandas.NA


def test_integers_with_missing_values_stay_integers(log: RunLog) -> None:
    """In the table of a log and in that of a sweep; large ones keep all digits."""
    runs = [run_of([prepared(run.request), end(1)], run.request) for run in log]
    for frame in (log.to_frame(), Results(runs).to_frame()):
        assert frame["max_tokens"].dtype == frame["rating"].dtype == "Int64"
        assert frame["max_tokens"].tolist() == [pandas.NA, 1, 2]
        assert frame["seed"].tolist() == [2**53 + 1] * 3


def test_a_short_number_prints_as_it_was_given(log: RunLog) -> None:
    """numpy's float32 0.1 is 0.1, and groups with Python's."""
    frame = log.to_frame()
    assert frame["temperature"].tolist() == [0.1] * 3
    assert "0.1\n" in frame[["temperature"]].to_string()


def test_it_goes_into_a_database(log: RunLog) -> None:
    """`to_sql` has a column for each, and nothing is lost."""
    frame = log.to_frame()
    connection = sqlite3.connect(":memory:")
    frame.to_sql("runs", connection)
    back = pandas.read_sql("SELECT * FROM runs", connection, index_col="run_id")
    connection.close()
    assert list(back.columns) == list(frame.columns)
    assert back["stop"].tolist() == frame["stop"].tolist()
    assert back["seed"].tolist() == frame["seed"].tolist()
    assert pandas.to_datetime(back["started_at"]).tolist() == frame["started_at"].tolist()


def test_it_goes_into_a_spreadsheet(log: RunLog, tmp_path: Path) -> None:
    """`to_excel` takes times, missing values and texts."""
    frame = log.to_frame()
    frame.to_excel(tmp_path / "runs.xlsx")
    back = pandas.read_excel(tmp_path / "runs.xlsx", index_col="run_id")
    assert list(back.columns) == list(frame.columns)
    assert back["temperature"].tolist() == [0.1] * 3
    gap = abs(back["started_at"] - frame["started_at"]).max()
    assert gap < pandas.Timedelta("1ms")  # Excel's own unit


def test_it_goes_into_parquet_and_back(log: RunLog, tmp_path: Path) -> None:
    """`to_parquet` keeps types and values, also where no run has tags."""
    frame = log.to_frame()
    frame.to_parquet(tmp_path / "runs.parquet")
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "runs.parquet"), frame)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_exports_come_back_as_the_same_table(log: RunLog, tmp_path: Path, ending: str) -> None:
    """Tags' columns, JSON texts and times, too."""
    log.export(tmp_path / f"runs.{ending}")
    pandas.testing.assert_frame_equal(read_export(tmp_path / f"runs.{ending}"), log.to_frame())


def test_a_time_is_utc(log: RunLog) -> None:
    """Without a zone, wherever it is read; as aware times it is what the run says."""
    started = log.to_frame()["started_at"]
    assert str(started.dtype) == "datetime64[us]"
    wanted = [row["started_at"] for row in log.rows()]
    assert [f"{time.isoformat(timespec='microseconds')}+00:00" for time in started] == wanted
    since = started.iloc[1].tz_localize("UTC")
    assert log.to_frame(since=since).index.tolist() == [2, 3]


def test_tables_of_sweep_and_log_can_be_joined(log: RunLog) -> None:
    """Both have the same columns in the same order, those of tags by what they have."""
    runs: list[Any] = []
    for logged in log:
        run = Run(logged.request)
        run.run_id = logged.run_id
        runs.append(run)
    assert list(Results(runs).to_frame().columns) == list(log.to_frame().columns)
