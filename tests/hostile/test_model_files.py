"""Damaged and hostile model files, given to a session as a user gives them.

The process of the tests stands for the kernel, and real ctransformers runs in its children.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from llmwit_magic.engines.backends.ctransformers.checks import check_runnable
from llmwit_magic.models.gguf import read_header
from llmwit_magic.runlog.log import RunLog
from tests.support.hostile_kernel import NO_END, Kernel, check_message, outcome_of
from tests.support.hostile_models import KINDS, HostileModel, hostile_models, hostile_old_models
from tests.support.report import Report

pytestmark = pytest.mark.timeout(2400)


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
            kernel.check_good_model(report)
    kernel.check_good_model(report)


def test_an_old_file_costs_at_most_the_engine(kernel: Kernel, report: Report, long: bool) -> None:
    """Formats before GGUF: only their vocabulary is checked, so some of them end the engine."""
    for model in hostile_old_models(long):
        outcome = _try(kernel, model, report)
        assert outcome != NO_END, model.what
        report.tried("model file: before GGUF", outcome)
    kernel.check_good_model(report)


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
    check_message(run, model.what)
    kernel.check_row(run, report, model.what)
    kernel.check_children(report, model.what)
    kernel.session.local.pool.unload(str(path))
    _check_cache(kernel, report, model.what)
    path.unlink()
    return outcome_of(run)


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
