"""A run that could not be logged says so, wherever it is seen."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmwit_magic import api
from llmwit_magic.contract.request import Request
from llmwit_magic.errors import LogWarning
from llmwit_magic.magics import extension, infer
from llmwit_magic.running.batch import run_batch
from tests.support.fake import FakeEngine, FakeSession
from tests.support.shown_warnings import shown_warnings

PROBLEM = "database or disk is full"


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSession]:
    """Its log's disk is full from the start."""
    session = FakeSession(FakeEngine(["x" * 100_000]), tmp_path / "runs.sqlite3")
    session.log.rows()
    session.log._database.execute("PRAGMA max_page_count = 1")
    for module in (infer, api):
        monkeypatch.setattr(module, "current_session", lambda: session)
    yield session
    session.log._database.execute("PRAGMA max_page_count = 1000000")
    session.close()


@pytest.fixture
def shell(session: FakeSession) -> Any:
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    return shell


def test_the_result_carries_it(session: FakeSession) -> None:
    """Also as a copy and as a pickle; a logged run's says nothing."""
    result = session.finish(Request(model="fake", prompt="p")).result
    assert PROBLEM in (result.log_problem or "")
    assert pickle.loads(pickle.dumps(result)).log_problem == result.log_problem
    session.log._database.execute("PRAGMA max_page_count = 1000000")
    assert session.finish(Request(model="fake", prompt="p")).result.log_problem is None


def test_a_result_shown_again_says_so(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """At the end of a cell, as text and as HTML."""
    shell.run_cell_magic("infer", "", "prompt")
    capsys.readouterr()
    data, _ = shell.display_formatter.format(shell.user_ns["_infer"])
    for form in ("text/plain", "text/html"):
        assert f"not logged: the run log {shell.user_ns['_infer'].log_problem[12:]}" in data[form]
        assert PROBLEM in data[form]


def test_a_sweep_says_how_many(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Under its table, as text and as HTML, with the reason."""
    shell.run_cell_magic("infer", "--temperature 0,1", "prompt")
    assert "── 2 of 2 runs not logged: " in capsys.readouterr().out
    data, _ = shell.display_formatter.format(shell.user_ns["_infer"])
    for form in ("text/plain", "text/html"):
        assert "2 of 2 runs not logged: " in data[form]
        assert PROBLEM in data[form]


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What was warned of the log, as Python shows it."""

    def text_of(message: Warning, category: type[Warning], *place: object) -> str | None:
        return str(message) if category is LogWarning else None

    with shown_warnings(text_of) as found:
        yield found


def test_quiet_runs_say_so_once(
    shell: Any, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning at the first of them, and nothing on the screen of a view."""
    for line in ("--quiet", "--quiet --temperature 0,1", "--quiet"):
        shell.run_cell_magic("infer", line, "prompt")
    assert len(said) == 1
    assert PROBLEM in said[0]
    assert capsys.readouterr().out == ""


def test_python_functions_say_so(session: FakeSession, said: list[str]) -> None:
    """`infer` warns, and its result carries it; that of `stream` does too."""
    assert PROBLEM in (api.infer("fake", "p").log_problem or "")
    api.infer("fake", "p")
    assert len(said) == 1
    with api.stream("fake", "p") as stream:
        list(stream)
        assert PROBLEM in (stream.result.log_problem or "")


def test_a_batch_says_so(session: FakeSession, said: list[str]) -> None:
    """Also where it shows no bar."""
    frame = pandas.DataFrame({"n": [1, 2]})
    request = Request(model="fake", prompt="", group_id="g")
    run_batch(session, frame, "{{n}}", request, progress=False)
    assert len(said) == 1
    assert PROBLEM in said[0]
