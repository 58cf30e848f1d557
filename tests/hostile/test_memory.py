"""What a context is estimated to need, beside what it takes."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.backends.ctransformers.loading import needed_memory
from llmwit_magic.errors import OutOfMemory
from llmwit_magic.models.gguf import read_header
from llmwit_magic.running.session import Session
from tests.support.kernel import engines_of
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf


def own_memory(process: psutil.Process) -> int:
    """Bytes that are the process's alone: mapped weights are not."""
    return int(process.memory_full_info().uss)


@pytest.mark.timeout(120)
def test_the_estimate_is_no_less_than_what_is_taken(
    session: Session, default_model_source: Path, report: Report
) -> None:
    """A context filled to its end takes less than was estimated, and more than a sixth of it.

    At so short a length most of the estimate is the library's work buffer, of which a model of
    this size fills little: a fifth of the whole is what is seen.
    """
    length = 1_024
    header = read_header(default_model_source)
    params = InferencingParams(max_tokens=1, seed=1)

    def run(words: int) -> int:
        request = Request(
            model=str(default_model_source), prompt="one " * words, params=params,
            context_length=length,
        )  # fmt: skip
        run = session.run(request)
        assert run.wait(100)
        run.raise_failure()
        return own_memory(engines_of()[0])

    before = run(1)
    taken = run(1_000) - before
    estimate = needed_memory(header, length)
    assert estimate / 6 < taken < estimate, (taken, estimate)
    report.tried("memory: a context of the default model", "within its estimate")


def test_too_much_is_refused_with_what_would_fit(
    session: Session, tmp_path: Path, report: Report
) -> None:
    """Before anything is loaded: the numbers, and a length that then runs."""
    path = write_llama_gguf(tmp_path / "tiny.gguf")
    free = psutil.virtual_memory().available
    needed = needed_memory(read_header(path), 2**20) / 2**20
    asked = int(min(2**31, 8 * free / needed))

    def request(length: int) -> Request:
        return Request(
            model=str(path), prompt="A model", context_length=length, anyway=True,
            params=InferencingParams(max_tokens=1, seed=1),
        )  # fmt: skip

    run = session.run(request(asked))
    assert run.wait(30)
    with pytest.raises(OutOfMemory, match=r"needs [\d.]+ GB and [\d.]+ GB are free") as caught:
        run.raise_failure()
    assert not engines_of()
    fitting = int(str(caught.value).split("--context-length ")[1].split()[0])
    assert fitting < asked
    report.tried("memory: more than there is", "refused")
    report.promise("orphan processes", not engines_of(), "a refused model's engine")
