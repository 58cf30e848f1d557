"""A warning names a line of the person who gets it, and never one of this package."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmwit_magic.contract.request import Request
from llmwit_magic.magics import extension, infer
from llmwit_magic.running.batch import run_batch
from llmwit_magic.running.embedding_calls import normalized
from tests.support.fake import FakeEngine, FakeSession
from tests.support.shown_warnings import shown_warnings

ZEROS = numpy.zeros((1, 2))
SAID = "normalize: 1 of 1 vectors are zeros and stay so: text 1"


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What Python shows of the warnings."""
    with shown_warnings(warnings.formatwarning) as found:
        yield found


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    session = FakeSession(FakeEngine(), tmp_path / "runs.sqlite3")
    monkeypatch.setattr(infer, "current_session", lambda: session)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    yield shell
    session.close()


def test_a_program_is_told_its_own_line(said: list[str]) -> None:
    """The line that called the package, once, however often it runs."""
    program = "for _ in range(2):\n    normalized(zeros)\n"
    names = {"__name__": "theirs", "normalized": normalized, "zeros": ZEROS}
    exec(compile(program, "theirs.py", "exec"), names)
    assert said == [f"theirs.py:2: UserWarning: {SAID}\n"]


def test_a_cell_is_told_each_time_it_runs(shell: Any, said: list[str]) -> None:
    """Its text is left out: the line of a magic is the whole cell."""
    shell.run_cell("def word(result): return 'good'")
    for _ in range(2):
        shell.run_cell("%%infer --metric word --seed 1:2\na long prompt")
    assert said == 2 * [
        "<cell>:1: UserWarning: metric word gives no number for some answers: 'good' is not valid: "
        "it must be a finite number\n"
    ]


def test_rows_that_are_alike_are_told_once(said: list[str], shell: Any) -> None:
    """Each row of a batch is filled in anew."""
    frame = pandas.DataFrame({"x": [["a"], ["b"], ["c"]]})
    run_batch(infer.current_session(), frame, "{{x}} is", Request(model="fake", prompt=""),
              progress=False)  # fmt: skip
    assert [line.partition(" is a list, and")[0] for line in said] == [
        "<llmwit_magic>:1: UserWarning: {{x}}"
    ]


def test_a_thread_of_the_package_has_no_line(said: list[str]) -> None:
    """Nobody's line led to it."""
    for _ in range(2):
        thread = threading.Thread(target=normalized, args=(ZEROS,))
        thread.start()
        thread.join()
    assert said == [f"<llmwit_magic>:1: UserWarning: {SAID}\n"]
