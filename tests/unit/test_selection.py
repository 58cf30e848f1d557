"""Which runs are meant: each filter by itself, together, and what cannot be meant."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwit_magic.contract.request import Request
from llmwit_magic.errors import InvalidInput
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.selection import Filter, holds, moment
from llmwit_magic.running.run import Run

# What is in the log: the fields of a request, then the columns that a row gets besides.
RUNS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"model": "a", "prompt": "Große STRASSE"}, {"status": "ok", "rating": 1}),
    ({"model": "a", "prompt": "p", "group_id": "g"}, {"status": "ok", "rating": -1}),
    ({"model": "a/b", "prompt": "p", "group_id": "g"}, {"status": "error", "text": "100% sure_"}),
    ({"model": "b", "prompt": "p", "tags": {"k": "v", "a.b[0]": "x", 'quo"te\\': "y"}},
     {"status": "interrupted", "note": "Look at THIS"}),
    ({"model": "b", "prompt": "p", "tags": {"k": "w"}, "system": "Be brief"}, {}),
]  # fmt: skip
AGES = (timedelta(days=100), timedelta(days=3), timedelta(hours=3), timedelta(minutes=3), None)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunLog]:
    """Runs 1 to 5 of this kernel; run 6 of another one that goes on, 7 of one that is gone."""
    path: Path = tmp_path_factory.mktemp("log") / "runs.sqlite3"
    log, other, dead = RunLog(path), RunLog(path), RunLog(path)
    for (fields, columns), age in zip(RUNS, AGES, strict=True):
        run = Run(Request(**fields))
        if age:
            run.started_at -= age
        run_id = log.begin(run.row("running"))
        if columns:
            log.complete(run_id, columns)
    for kernel in (other, dead):
        kernel.begin(Run(Request(model="c", prompt="p")).row())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sessions SET process_started = 1 WHERE session_id = ?",
                           [dead.session_id])  # fmt: skip
    connection.close()
    yield log
    for kernel in (log, other, dead):
        kernel.close()


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"everyone": False}, [1, 2, 3, 4, 5]),
        ({"group": "g"}, [2, 3]),
        ({"group": "G"}, []),
        ({"model": "a"}, [1, 2]),
        ({"status": "ok"}, [1, 2]),
        ({"status": "error"}, [3]),
        ({"status": "interrupted"}, [4]),
        ({"status": "running"}, [5, 6]),
        ({"status": "lost"}, [7]),
        ({"since": "1h"}, [4, 5, 6, 7]),
        ({"since": "4 D"}, [2, 3, 4, 5, 6, 7]),
        ({"since": timedelta(minutes=1)}, [5, 6, 7]),
        ({"before": "1w"}, [1]),
        ({"since": "1w", "before": "60m"}, [2, 3]),
        ({"last": 2}, [6, 7]),
        ({"last": 2**70}, [1, 2, 3, 4, 5, 6, 7]),
        ({"last": 1, "model": "a"}, [2]),
        ({"grep": "große straße"}, [1]),
        ({"grep": "SURE_"}, [3]),
        ({"grep": "%"}, [3]),
        ({"grep": "this"}, [4]),
        ({"grep": "brief"}, [5]),
        ({"grep": "sure.*"}, []),
        ({"tag": "k"}, [4, 5]),
        ({"tag": "k=v"}, [4]),
        ({"tag": "k="}, []),
        ({"tag": "a.b[0]=x"}, [4]),
        ({"tag": 'quo"te\\'}, [4]),
        ({"tag": "z"}, []),
        ({"rating": 1}, [1]),
        ({"rating": "up"}, [1]),
        ({"rating": "down"}, [2]),
        ({"rating": "-1"}, [2]),
        ({"model": "a", "status": "ok", "rating": "down", "group": "g"}, [2]),
    ],
)
def test_runs_are_chosen(log: RunLog, filters: dict[str, Any], wanted: list[int]) -> None:
    """Each filter alone and several together, the oldest run first."""
    assert [row["run_id"] for row in log.rows(**filters)] == wanted
    assert log.to_frame(**filters).index.tolist() == wanted


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"status": "done"}, "status: 'done' .* one of running, ok, interrupted, error, lost"),
        ({"rating": "good"}, "rating: 'good' .* one of up, down, 1, -1"),
        ({"rating": 0}, "rating: '0' is not valid"),
        ({"last": 0}, "last: 0 is not valid: it must be a whole number"),
        ({"last": "3"}, "last: '3' is not valid"),
        ({"since": "yesterday"}, "since: 'yesterday' .* an age such as 30m, 2h, 7d, or a time"),
        ({"since": "2 months"}, "since: '2 months'"),
        ({"since": "99999999999w"}, "since: '99999999999w'"),
        ({"before": 7}, "before: 7 is not valid"),
        ({"before": pandas.NaT}, "before: 'NaT' is not valid"),
        ({"since": "0001-01-01T00:00+05:00"}, "since: '0001-01-01"),
    ],
)
def test_what_cannot_be_meant_is_refused(filters: dict[str, Any], message: str) -> None:
    """The line names the filter, the value and what it must be."""
    with pytest.raises(InvalidInput, match=message):
        Filter(**filters)


@given(
    amount=st.floats(0, 1e6).map(lambda number: round(number, 3)),
    unit=st.sampled_from(["s", "m", "h", "d", "w"]),
)
def test_an_age_is_a_time_before_now(amount: float, unit: str) -> None:
    """`2h` is two hours ago; what would be before all time is the first moment of it."""
    seconds = amount * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]
    now = datetime.now(UTC)
    found = moment("since", f"{amount:.3f}{unit}")
    assert found is not None
    if seconds < 6e10:
        assert math.isclose((now - found).total_seconds(), seconds, abs_tol=2)
    else:
        assert found <= now - timedelta(days=365) * 1000


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-20 14:00", "2026-11-20T14:00:00", datetime(2026, 11, 20, 14),
        pandas.Timestamp("2026-11-20 14:00"),
    ],
)  # fmt: skip
def test_a_time_without_a_zone_is_local(value: Any) -> None:
    """As the table shows it; a timestamp of pandas is a time too."""
    assert moment("since", value) == datetime(2026, 11, 20, 14).astimezone(UTC)


@pytest.mark.parametrize(
    "value", ["2026-11-20T15:00+01:00", pandas.Timestamp("2026-11-20 14:00", tz="UTC")]
)
def test_a_time_with_a_zone_is_that_time(value: Any) -> None:
    """Its own offset counts."""
    assert moment("since", value) == datetime(2026, 11, 20, 14, tzinfo=UTC)


def test_a_day_begins_at_midnight() -> None:
    """A date alone, as text or as a date, is its local midnight."""
    midnight = datetime(2026, 11, 20).astimezone(UTC)
    assert moment("since", "2026-11-20") == moment("since", date(2026, 11, 20)) == midnight


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_a_part_is_found_in_any_case(before: str, part: str, after: str) -> None:
    """A text holds each of its parts, whatever their case."""
    assert holds((before + part + after).upper(), part.upper().casefold())
    assert not holds(None, "")
