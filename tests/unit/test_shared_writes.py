"""Writes of several threads at once share a transaction."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.errors import LogError
from llmwit_magic.runlog.database import Database

INSERT = "INSERT INTO runs (session_id, started_at, prompt, status) VALUES ('s', 't', ?, 'ok')"


def insert(prompt: Any) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: int(connection.execute(INSERT, [prompt]).lastrowid or 0)


def write_at_once(database: Database, works: list[Any]) -> list[Any]:
    """The result or the error of each work; all of them wait while the database is in use."""
    outcomes: list[Any] = [None] * len(works)

    def write(place: int) -> None:
        try:
            outcomes[place] = database.write(works[place])
        except (LogError, MemoryError) as error:
            outcomes[place] = error

    threads = [threading.Thread(target=write, args=[place]) for place in range(len(works))]
    with database._lock:
        for thread in threads:
            thread.start()
        while len(database._writes) < len(works):
            pass
    for thread in threads:
        thread.join()
    return outcomes


@pytest.fixture
def database(tmp_path: Path) -> Any:
    database = Database(tmp_path / "runs.sqlite3")
    yield database
    database.close()


def commits(database: Database) -> list[str]:
    """The transactions from now on."""
    database.read("SELECT 1")
    said: list[str] = []
    connection = database._connection
    assert connection is not None
    connection.set_trace_callback(lambda text: said.append(text) if text == "COMMIT" else None)
    return said


def test_what_waits_is_written_in_one_transaction(database: Database) -> None:
    """Each thread gets the number of its own row."""
    said = commits(database)
    numbers = write_at_once(database, [insert(f"p{place}") for place in range(20)])
    assert len(said) == 1
    rows = dict(database.read("SELECT run_id, prompt FROM runs"))
    assert [rows[number] for number in numbers] == [f"p{place}" for place in range(20)]


@pytest.mark.parametrize("bad", [2**70, "\ud800", object()])
def test_a_row_that_cannot_be_kept_takes_no_other_with_it(database: Database, bad: Any) -> None:
    """Its own thread gets the error, and the others their numbers."""
    outcomes = write_at_once(database, [insert("a"), insert(bad), insert("b")])
    assert isinstance(outcomes[1], LogError)
    found = database.read("SELECT prompt FROM runs ORDER BY prompt")
    assert found == [("a",), ("b",)]
    assert {outcomes[0], outcomes[2]} == {1, 2}


def test_a_file_that_cannot_be_written_fails_all(database: Database) -> None:
    """Nobody is told that a row is kept which is not; the next writes try again."""
    database.write(insert("before"))

    def full(connection: sqlite3.Connection) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    outcomes = write_at_once(database, [insert("a"), full, insert("b")])
    assert all(isinstance(outcome, LogError) for outcome in outcomes)
    assert database.read("SELECT prompt FROM runs") == [("before",)]
    assert database.write(insert("after")) == 2


def test_a_work_that_fails_by_itself_fails_no_other(database: Database) -> None:
    """Nothing of it is kept, its own thread gets its error, and it is not tried again."""
    tried = []

    def short(connection: sqlite3.Connection) -> int:
        tried.append(connection.execute(INSERT, ["half"]))
        raise MemoryError("no room for the row")

    outcomes = write_at_once(database, [insert("a"), short, insert("b")])
    assert isinstance(outcomes[1], MemoryError)
    assert len(tried) == 1
    rows = dict(database.read("SELECT prompt, run_id FROM runs"))
    assert rows == {"a": outcomes[0], "b": outcomes[2]}
    assert not database._writes


def test_a_file_that_cannot_be_opened_for_lack_of_memory_fails_all_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is that of each write, and the next write finds none of them waiting."""

    def fail() -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(database, "_open", fail)
        outcomes = write_at_once(database, [insert("a"), insert("b")])
    assert [type(outcome) for outcome in outcomes] == [MemoryError, MemoryError]
    assert database.write(insert("c")) == 1
    assert database.read("SELECT prompt FROM runs") == [("c",)]
