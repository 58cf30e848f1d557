"""Engines that are killed, stopped, starved of memory, or whose model file changes under them."""

from __future__ import annotations

import gc
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.local import conversation
from llmwit_magic.errors import EngineDied, EngineFailed, InferenceError
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.broken_children import child_with
from tests.support.kernel import engines_of
from tests.support.promises import are_gone, log_is_whole, no_half_files
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are POSIX's"),
]

SHORT = "A language model reads"
LONG = "The quick brown fox jumps over the lazy dog. " * 60


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`spm.gguf`, which is loaded as it is, and `bpe.gguf`, of which an adapted copy is.

    The first one says the same token for ever.
    """
    folder = tmp_path_factory.mktemp("models")
    size: dict[str, Any] = {"context_length": 8192, "embedding": 128, "feed_forward": 512}
    write_llama_gguf(folder / "spm.gguf", vocabulary="spm", weights="constant", **size)
    write_llama_gguf(folder / "bpe.gguf", **size)
    return folder


def ask(session: Session, model: Path, prompt: str, count: int | None = 4, pause: float = 0) -> Run:
    """A run that rests so many seconds after each token."""
    params = InferencingParams(max_tokens=count, seed=1, temperature=0)
    filters = (lambda text: time.sleep(pause),) if pause else ()
    return session.run(
        Request(model=str(model), prompt=prompt, params=params, content_filters=filters)
    )


def works(session: Session, model: Path) -> None:
    run = ask(session, model, SHORT)
    assert run.wait(30)
    run.raise_failure()
    assert run.status == "ok"


def one_line(error: InferenceError | None) -> str:
    assert error is not None
    assert str(error).isprintable()
    return str(error)


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return found


MOMENTS: dict[str, Callable[[Run], Any]] = {
    "load": lambda run: run.progress and run.progress.stage == "load" and engines_of(),
    "prompt": lambda run: run.prepared,  # which a quick machine soon has read
    "generate": lambda run: run.generated_token_count > 3,
}
DEADLY = ("SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGTERM")


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_random_moments(
    session: Session, models: Path, report: Report, long: bool, moment: str
) -> None:
    """Any signal in loading, prompt or generation: the error has its name, the next run works."""
    chance = random.Random(moment)
    begun = []
    for number in range(36 if long else 3):
        name = DEADLY[number % len(DEADLY)]
        if moment == "load":
            session.local.pool.unload()
        prompt = f"{number} {LONG if moment == 'prompt' else SHORT}"
        begun.append(prompt)
        run = ask(session, models / "spm.gguf", prompt, 2000, 0.02)
        until(lambda run=run: run.done or MOMENTS[moment](run))
        if moment == "load":
            time.sleep(chance.uniform(0, 0.6))
        elif moment == "generate":
            time.sleep(chance.uniform(0, 0.2))
        (engine,) = engines_of()
        engine.send_signal(getattr(signal, name))
        until(lambda run=run, engine=engine: run.done or engines_of() not in ([], [engine]))
        if not run.done:  # it had taken nothing up yet, and another one does
            assert moment == "load"
            run.stop()
            are_gone(report, [engine])
            report.tried(f"engine killed: {moment}", f"ran in another one ({name})")
            continue
        assert isinstance(run.error, EngineDied), (run.status, run.error)
        assert f"was ended by {name} while" in one_line(run.error)
        report.tried(f"engine killed: {moment}", f"EngineDied by {name}")
        are_gone(report, [engine])
        works(session, models / "spm.gguf")
        log_is_whole(report, Path(session.log.path), begun)


@pytest.mark.parametrize("moment", ["idle", "load", "prompt", "generate"])
def test_stopped(
    session: Session, models: Path, report: Report, long: bool, moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A child that is stopped is killed a grace after the cancellation; the next run works.

    The idle one is asked with a prompt that no pipe holds.
    """
    if not long:
        monkeypatch.setattr(conversation, "CANCEL_SECONDS", 0.5)
    works(session, models / "spm.gguf")
    if moment == "load":
        session.local.pool.unload()
    if moment == "idle":
        (engine,) = engines_of()
        engine.suspend()
        run = ask(session, models / "spm.gguf", "x" * 1_000_000)
        time.sleep(0.3)
    else:
        run = ask(session, models / "spm.gguf", LONG, 2000, 0.02)
        until(lambda: run.done or MOMENTS[moment](run))
        (engine,) = engines_of()
        engine.suspend()
    assert not run.wait(0.5)
    began = time.monotonic()
    run.cancel()
    assert run.wait(30)
    seconds = time.monotonic() - began
    assert seconds < conversation.CANCEL_SECONDS + 1
    assert run.status == "interrupted"
    are_gone(report, [engine])
    report.tried("engine stopped", f"ended within the grace ({moment})")
    works(session, models / "spm.gguf")
    log_is_whole(report, Path(session.log.path), [run.request.prompt])


def test_a_stopped_engine_is_unloaded(session: Session, models: Path, report: Report) -> None:
    """`%infer_unload` of a child that is stopped kills it."""
    works(session, models / "spm.gguf")
    (engine,) = engines_of()
    engine.suspend()
    session.local.pool.unload()
    are_gone(report, [engine], 0)
    report.tried("engine stopped", "unloaded")
    works(session, models / "spm.gguf")


# Memory ---------------------------------------------------------------------------------


def test_out_of_memory_while_loading(
    session: Session, models: Path, report: Report, long: bool
) -> None:
    """With any limit that is too low the run fails by name, and without it the next one works."""
    limits = range(40, 1000, 40) if long else (100, 500)
    for limit in limits:
        session.local.pool.unload()
        limit_it = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit << 20},) * 2)"
        with child_with(limit_it):
            run = ask(session, models / "spm.gguf", f"{limit} {SHORT}")
            assert run.wait(60)
        if run.error is None:
            report.tried("out of memory: load", "ran")
            continue
        assert isinstance(run.error, EngineFailed)
        message = one_line(run.error)
        assert "exited with code" not in message or "it ran out of memory" in message
        report.tried("out of memory: load", type(run.error).__name__)
        works(session, models / "spm.gguf")
    log_is_whole(report, Path(session.log.path), [f"{limit} {SHORT}" for limit in limits])


def test_out_of_memory_in_a_run(session: Session, models: Path, report: Report, long: bool) -> None:
    """A limit set while the child lives: the run is whole, or fails by name; the next one works."""
    begun = []
    for number, extra in enumerate((0, 1, 4, 16, 64, 256) if long else (0, 4)):
        works(session, models / "spm.gguf")
        (engine,) = engines_of()
        limit = engine.memory_info().vms + (extra << 20)
        resource.prlimit(engine.pid, resource.RLIMIT_AS, (limit, limit))
        begun.append(f"{number} {LONG}")
        run = ask(session, models / "spm.gguf", begun[-1], 50)
        assert run.wait(60)
        if run.error is not None:
            assert isinstance(run.error, EngineFailed)
            one_line(run.error)
        ended = type(run.error).__name__ if run.error else run.status
        report.tried("out of memory: run", ended)
        session.local.pool.unload()
        are_gone(report, [engine])
    works(session, models / "spm.gguf")
    log_is_whole(report, Path(session.log.path), begun)


def test_no_descriptors_left(session: Session, models: Path, report: Report) -> None:
    """Where the child cannot be started at all, one line says so, and later it can."""
    works(session, models / "spm.gguf")
    session.local.pool.unload()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, hard))
    try:
        run = ask(session, models / "spm.gguf", "no descriptors")
        assert run.wait(30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "could not be started: Too many open files" in one_line(run.error)
    gc.collect()  # a file that was left open is a warning, and an error here
    report.tried("no descriptors left", type(run.error).__name__)
    works(session, models / "spm.gguf")
    log_is_whole(report, Path(session.log.path), ["no descriptors"])


def test_a_child_that_talks(session: Session, models: Path, report: Report, tmp_path: Path) -> None:
    """What a sitecustomize prints to the child's standard output is not taken for an answer."""
    talk = "import sys; print('hello'); print('5'); print('{\"a\": 1}'); sys.stdout.flush()"
    with child_with(talk):
        works(session, models / "spm.gguf")
    report.tried("child that prints", "ran")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("ImportError('x.so: failed to map segment from shared object')", "it ran out of memory"),
        ("RuntimeError('not\\nforeseen')", "run the cell again"),
    ],
)
def test_a_child_that_meets_the_unexpected(
    session: Session, models: Path, report: Report, error: str, advice: str
) -> None:
    """An error that nobody foresaw is told with its words, and the next run has a new child."""
    meet = f"""
from llmwit_magic.engines.local import child
def fail(*anything):
    raise {error}
child.TextParts = fail
"""
    with child_with(meet, last=True):
        run = ask(session, models / "spm.gguf", "unexpected")
        until(engines_of)
        (engine,) = engines_of()
        assert run.wait(30)
    message = one_line(run.error)
    assert f"failed while evaluating the prompt: {advice}" in message
    assert error.split("(")[0] in message
    are_gone(report, [engine])
    report.tried("child that meets the unexpected", type(run.error).__name__)
    works(session, models / "spm.gguf")


# The model file --------------------------------------------------------------------------


def cut_to(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))


def replace_by_rename(path: Path) -> None:
    write_llama_gguf(path.with_suffix(".new"), vocabulary="spm", seed=2, context_length=8192)
    os.replace(path.with_suffix(".new"), path)


CHANGES = {
    "cut to 90%": cut_to(0.9),
    "cut to 10%": cut_to(0.1),
    "cut to nothing": cut_to(0),
    "overwritten": overwrite,
    "replaced by rename": replace_by_rename,
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_file_changes_while_it_is_loaded(
    session: Session, models: Path, report: Report, tmp_path: Path, change: str, long: bool
) -> None:
    """In a run and between two: text, or an error by name; with the file back, all is well."""
    path = tmp_path / "model.gguf"
    in_short = "idle" if change in ("cut to 10%", "overwritten") else "generate"
    moments = ("generate", "prompt", "idle") if long else (in_short,)
    for moment in moments:
        shutil.copyfile(models / "spm.gguf", path)
        works(session, path)
        (engine,) = engines_of()
        prompt = f"{change} {moment} {LONG if moment == 'prompt' else SHORT}"
        if moment == "idle":
            CHANGES[change](path)
            run = ask(session, path, prompt, 4)
        else:
            run = ask(session, path, prompt, 50, 0.01)
            until(lambda run=run, moment=moment: run.done or MOMENTS[moment](run))
            CHANGES[change](path)
        assert run.wait(60)
        ended = type(run.error).__name__ if run.error else run.status
        report.tried(f"model file {change}", f"{ended} ({moment})")
        if run.error is not None:
            one_line(run.error)
        if change in ("replaced by rename", "removed") and moment != "idle":
            assert run.status == "ok"
        if isinstance(run.error, EngineDied):
            are_gone(report, [engine])
        shutil.copyfile(models / "spm.gguf", path.with_suffix(".back"))
        os.replace(path.with_suffix(".back"), path)
        works(session, path)
        session.local.pool.unload()
        log_is_whole(report, Path(session.log.path), [prompt])


@pytest.mark.parametrize("loaded", [True, False])
def test_an_adapted_copy_that_is_cut_is_made_again(
    session: Session, models: Path, report: Report, tmp_path: Path, loaded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The cache's own copy cut by a failing disk, while it is loaded and before: no lasting harm."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    works(session, models / "bpe.gguf")
    (copy,) = (tmp_path / "cache").rglob("*.gguf")
    size = copy.stat().st_size
    other = session if loaded else Session(":memory:")
    os.truncate(copy, size * 9 // 10)
    works(other, models / "bpe.gguf")
    assert copy.stat().st_size == size
    other.close()
    report.tried("adapted copy cut to 90%", "made again")
    no_half_files(report, tmp_path / "cache")


def test_engines_end_with_their_session(models: Path, report: Report) -> None:
    """A session that is let go without being closed leaves no process behind."""
    session = Session(":memory:")
    works(session, models / "spm.gguf")
    (engine,) = [
        item for item in engines_of() if item.pid == session.local.pool.loaded_models()[0][1]
    ]
    del session
    gc.collect()
    until(lambda: not psutil.pid_exists(engine.pid))
    report.tried("session let go", "engine ended")
    are_gone(report, [engine])
