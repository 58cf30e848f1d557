"""What a person may write beside a run, and nothing else of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.errors import InvalidInput, RunNotFound
from tests.support.fake import FakeEngine, FakeSession


@pytest.fixture
def session() -> Iterator[FakeSession]:
    """A session with one run."""
    session = FakeSession(FakeEngine())
    session.finish(Request(model="fake", prompt="p", tags={"k": "v"}))
    yield session
    session.close()


@pytest.mark.parametrize(
    "name", ["text", "prompt", "run_id", "status", "seed", "note = 'x', text", "rating--", ""]
)
def test_what_a_run_was_stays(session: FakeSession, name: str) -> None:
    """Another column than rating, note, tags and metrics is refused, and a name never becomes SQL."""
    before = session.log.row(1)
    with pytest.raises(InvalidInput, match="only rating, note, tags, metrics of a run can be set"):
        session.log.annotate(1, **{"rating": 1, name: "x"})
    assert session.log.row(1) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("rating", value) for value in (7, 0, True, "up", "1", 1.0, -1.5, [1])),
        *(("note", value) for value in (3, b"x", ["x"], "a\ud800")),
        *(("tags", value) for value in ("k=v", ["k"], {"k": 1}, {1: "v"}, {"k": "\udfff"})),
        *(("metrics", value) for value in ("a=1", ["a"], {"a": "x"}, {1: 1}, {"a": float("nan")})),
    ],
)
def test_values_that_cannot_be_meant_are_refused(
    session: FakeSession, name: str, value: Any
) -> None:
    """The line names the field; nothing of the row is changed."""
    before = session.log.row(1)
    with pytest.raises(InvalidInput, match=f"{name}: ") as caught:
        session.log.annotate(1, **{name: value})
    assert len(str(caught.value).splitlines()) == 1
    assert session.log.row(1) == before


def test_rate_takes_thumbs_alone(session: FakeSession) -> None:
    """`runs.rate(1, 7)` is refused as `runs[1].rate(7)` is; numpy's numbers are numbers."""
    with pytest.raises(InvalidInput, match="rating: 7 is not valid: it must be 1, -1 or None"):
        session.log.rate(1, 7)
    with pytest.raises(InvalidInput, match="rating: 7 is not valid"):
        session.log[1].rate(7)
    session.log.rate(1, numpy.int64(-1))
    assert session.log.row(1)["rating"] == -1


def test_none_takes_an_annotation_away(session: FakeSession) -> None:
    """Of tags, all."""
    session.log.annotate(1, rating=1, note="n", tags={"a": "b"})
    session.log.annotate(1, rating=None, note=None, tags=None)
    row = session.log.row(1)
    assert (row["rating"], row["note"], row["tags"]) == (None, None, {})


@pytest.mark.parametrize("number", [2, -2, 2**63, -(2**70), "1", None])
def test_a_run_that_is_not_there_is_said(session: FakeSession, number: Any) -> None:
    """One error for all numbers that are none; -1 is the newest run."""
    with pytest.raises(RunNotFound):
        session.log.annotate(number, note="n")
    session.log.annotate(-1, note="n")
    assert session.log.row(1)["note"] == "n"
