"""Damaged and hostile model files, given to a session as a user gives them.

The process of the tests stands for the kernel, and real ctransformers runs in its children.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.backends.ctransformers.checks import check_runnable
from llmwit_magic.errors import EngineDied
from llmwit_magic.models.gguf import read_header
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.hostile_models import KINDS, HostileModel, hostile_models, hostile_old_models
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

pytestmark = pytest.mark.timeout(2400)

MOST_SECONDS = 20
NO_END = "had no end and was cancelled"
#: How the message of an error begins that nobody foresaw.
UNFORESEEN = re.compile(r"(unexpected )?[A-Za-z]*(Error|Exception|Warning|Interrupt)\b")


class Kernel:
    """A session with its log and a cache of its own, and a sound model whose answer is known."""

    def __init__(self, folder: Path) -> None:
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


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        kernel = Kernel(folder)
        yield kernel
        kernel.session.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_file_costs_at_most_the_engine(
    kind: str, kernel: Kernel, report: Report, long: bool
) -> None:
    """Every file runs, is refused in one line or ends its engine; nothing else is lost."""
    for number, model in enumerate(hostile_models(kind, long)):
        outcome = _try(kernel, model, report)
        assert outcome != NO_END, model.what
        report.tried(f"model file: {kind}", outcome)
        if number % 25 == 0:
            _check_good_model(kernel, report)
    _check_good_model(kernel, report)


def test_an_old_file_costs_at_most_the_engine(kernel: Kernel, report: Report, long: bool) -> None:
    """Formats before GGUF: only their vocabulary is checked, so some of them end the engine."""
    for model in hostile_old_models(long):
        outcome = _try(kernel, model, report)
        assert outcome != NO_END, model.what
        report.tried("model file: before GGUF", outcome)
    _check_good_model(kernel, report)


def test_nothing_is_left(kernel: Kernel, report: Report) -> None:
    """After the session there is no process, and the log has a row for each run, in order."""
    kernel.session.close()
    report.promise("orphan processes", not kernel.children(), "after session.close()")
    log = RunLog(kernel.session.log.path)
    rows = log.rows()
    log.close()
    ends = {row["run_id"]: row["status"] for row in rows}
    lost = [run_id for run_id, status in kernel.tried if ends.get(run_id) != status]
    report.promise("log rows lost", not lost, f"runs {lost}")
    report.promise("unreadable databases", len(rows) >= len(kernel.tried), f"{len(rows)} rows")


def _try(kernel: Kernel, model: HostileModel, report: Report) -> str:
    """Run a file; what it ended in."""
    path = kernel.models / model.name
    path.write_bytes(model.data)
    run = kernel.run(path, chat=model.chat, model_type=model.model_type)
    _check_message(run, model.what)
    _check_row(kernel, run, report, model.what)
    alive = {pid for _, pid in kernel.session.local.pool.loaded_models()}
    report.promise("orphan processes", kernel.children() <= alive, model.what)
    kernel.session.local.pool.unload(str(path))
    _check_cache(kernel, report, model.what)
    path.unlink()
    if run.status == "interrupted":
        return NO_END
    if isinstance(run.error, EngineDied):
        signal = re.search(r"SIG\w+|code \d+", str(run.error))
        return f"engine died ({signal and signal[0]})"
    return f"refused ({type(run.error).__name__})" if run.error else "ran"


def _check_message(run: Run, what: str) -> None:
    if run.error is not None:
        message = str(run.error)
        assert message, what
        assert message.isprintable(), f"{what}: {message!r}"
        assert len(message) < 1100, what
        assert not UNFORESEEN.match(message), f"{what}: {message}"


def _check_row(kernel: Kernel, run: Run, report: Report, what: str) -> None:
    assert run.log_problem is None, f"{what}: {run.log_problem}"
    assert run.run_id is not None
    row = kernel.session.log.row(run.run_id)
    report.promise("log rows lost", row["status"] == run.status, f"{what}: {row['status']}")
    assert row["error_message"] == (str(run.error) if run.error else None), what
    kernel.tried.append((run.run_id, run.status))


def _check_cache(kernel: Kernel, report: Report, what: str) -> None:
    """What a later run would take for an adapted model is whole; then it is taken away."""
    names = []
    for path in sorted((kernel.cache / "adapted").glob("*")):
        if path.suffix == ".gguf":
            check_runnable(read_header(path))
            hash_beside = path.with_name(f"{path.name}.sha256")
            assert hash_beside.read_text() == hashlib.sha256(path.read_bytes()).hexdigest()
            if not path.name.startswith("good."):
                path.unlink()
                hash_beside.unlink()
        elif path.suffix == ".sha256":
            assert not path.exists() or path.with_suffix("").exists(), what
        elif path.suffix != ".lock":
            names.append(path.name)
    report.promise("half files taken for whole", not names, f"{what}: {names}")


def _check_good_model(kernel: Kernel, report: Report) -> None:
    run = kernel.run(kernel.good)
    held = run.status == "ok" and run.text == kernel.answer
    report.promise("kernel deaths", held, f"a sound model: {run.error}")
