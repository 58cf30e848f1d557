"""A session that is given hostile model files, and what must hold after each of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psutil

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import EngineDied
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

MOST_SECONDS = 20
NO_END = "had no end and was cancelled"
#: How the message of an error begins that nobody foresaw.
UNFORESEEN = re.compile(r"(unexpected )?[A-Za-z]*(Error|Exception|Warning|Interrupt)\b")


class Kernel:
    """A session with its log and a cache of its own, and a sound model whose answer is known.

    `options` are those of each run.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self.options = options
        self.cache = folder / "cache" / "llmwit-magic"
        self.models = folder / "models"
        self.models.mkdir()
        self.others = psutil.Process().children(recursive=True)
        self.session = Session(folder / "runs.sqlite3")
        self.good = write_llama_gguf(folder / "good.gguf")
        self.answer = self.run(self.good).text
        self.tried: list[tuple[int, str]] = []

    def run(self, model: Path, **options: Any) -> Run:
        """A run of four tokens that has ended, or was cancelled after its time."""
        params = InferencingParams(max_tokens=4, seed=1)
        options = self.options | options
        request = Request(model=str(model), prompt="Hello 1", params=params, **options)
        run = self.session.run(request)
        if not run.wait(MOST_SECONDS):
            run.cancel()
            assert run.wait(MOST_SECONDS), "a run that cannot be cancelled"
        return run

    def children(self) -> set[int]:
        """The processes under this one, but for those of other tests."""
        children = psutil.Process().children(recursive=True)
        return {child.pid for child in children if child not in self.others}

    def check_row(self, run: Run, report: Report, what: str) -> None:
        """The log has the end of the run."""
        assert run.log_problem is None, f"{what}: {run.log_problem}"
        assert run.run_id is not None
        row = self.session.log.row(run.run_id)
        report.promise("log rows lost", row["status"] == run.status, f"{what}: {row['status']}")
        assert row["error_message"] == (str(run.error) if run.error else None), what
        self.tried.append((run.run_id, run.status))

    def check_children(self, report: Report, what: str) -> None:
        """There are no processes but those of the loaded models."""
        alive = {pid for _, pid in self.session.local.pool.loaded_models()}
        report.promise("orphan processes", self.children() <= alive, what)

    def check_good_model(self, report: Report) -> None:
        """The sound model answers as before."""
        run = self.run(self.good)
        held = run.status == "ok" and run.text == self.answer
        report.promise("kernel deaths", held, f"a sound model: {run.error}")


def check_message(run: Run, what: str) -> None:
    """An error is one printable line that somebody has written."""
    if run.error is not None:
        message = str(run.error)
        assert message, what
        assert message.isprintable(), f"{what}: {message!r}"
        assert len(message) < 1100, what
        assert not UNFORESEEN.match(message), f"{what}: {message}"


def outcome_of(run: Run) -> str:
    """What a run ended in, for the report."""
    if run.status == "interrupted":
        return NO_END
    if isinstance(run.error, EngineDied):
        signal = re.search(r"SIG\w+|code \d+", str(run.error))
        return f"engine died ({signal and signal[0]})"
    return f"refused ({type(run.error).__name__})" if run.error else "ran"
