"""A click on a thumb, from the page to the log and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.views.live import PageWidget
from tests.support.fake import FakeEngine, FakeSession


@pytest.fixture
def session() -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine(["hello"]))
    session.finish(Request(model="fake", prompt="p"))
    yield session
    session.close()


def answer_of(session: FakeSession, monkeypatch: pytest.MonkeyPatch, **click: Any) -> list[Any]:
    """What the page hears after that click."""
    page = PageWidget(session.log)
    said: list[Any] = []
    monkeypatch.setattr(page, "send", said.append)
    page._receive(page, click, [])
    page.close()
    return said


def test_a_rating_is_kept_and_confirmed(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page marks the button when the log has it."""
    assert answer_of(session, monkeypatch, rate=1, value=-1) == [{"rated": 1, "value": -1}]
    assert session.log.rows()[0]["rating"] == -1


@pytest.mark.parametrize(("run", "problem"), [(1, "readonly"), (99, "99")])
def test_a_rating_that_is_not_kept_says_why(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch, run: int, problem: str
) -> None:
    """A log that cannot be written, and one that has no such run any more."""
    if run == 1:
        session.log._database.execute("PRAGMA query_only = ON")
    [said] = answer_of(session, monkeypatch, rate=run, value=1)
    assert said["rated"] == run
    assert problem in said["refused"]
    assert "value" not in said
    assert session.log.rows()[0]["rating"] is None


@pytest.mark.parametrize("click", [{}, {"rate": "1", "value": 1}, {"rate": 1, "value": 5}])
def test_other_messages_rate_nothing(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch, click: Any
) -> None:
    """Whatever a page may say."""
    assert answer_of(session, monkeypatch, **click) == []
    assert session.log.rows()[0]["rating"] is None
