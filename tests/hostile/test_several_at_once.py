"""A tuning panel, a batch and cells on one model; several models, and their memory."""

from __future__ import annotations

import faulthandler
import itertools
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import psutil
import pytest

from llmwit_magic import api
from llmwit_magic.contract.events import Emit, Prepared
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.local.model_process import ModelProcess
from llmwit_magic.errors import EngineFailed
from llmwit_magic.requests.options import SLIDERS
from llmwit_magic.requests.snippets import forms
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from llmwit_magic.views.tuning import TuningPanel
from tests.support.kernel import engines_of
from tests.support.promises import are_gone, log_is_whole
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

pytestmark = pytest.mark.timeout(240)

PROMPT = "A language model reads"


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A deadlock shows where each thread stands."""
    faulthandler.dump_traceback_later(200, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.gguf"
    return write_llama_gguf(path, vocabulary="spm", context_length=2048)


@dataclass
class Turn:
    """A caller's time at the engine."""

    caller: str
    came: float
    began: float = 0.0
    ended: float = 0.0


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[Turn]:
    """When each run came to its engine, when the engine took it up, and when it was done with it."""
    seen: list[Turn] = []
    run = ModelProcess.run

    def timed(engine: ModelProcess, request: Request, emit: Emit, cancel: Any) -> None:
        turn = Turn(request.prompt.split(":")[0], time.monotonic())

        def emitted(event: Any) -> None:
            if isinstance(event, Prepared):
                turn.began = time.monotonic()
                seen.append(turn)
            turn.ended = time.monotonic()
            emit(event)

        run(engine, request, emitted, cancel)

    monkeypatch.setattr(ModelProcess, "run", timed)
    return seen


def ask(session: Session, model: Path, prompt: str, count: int | None = 8, **options: Any) -> Run:
    params = InferencingParams(max_tokens=count, seed=1, temperature=0)
    return session.run(Request(model=str(model), prompt=prompt, params=params, **options))


def overtakers(turns: list[Turn], slack: float = 0.02) -> list[int]:
    """For each turn, by how many it was overtaken that came later (by more than that)."""
    return [
        sum(other.came > turn.came + slack and other.began < turn.began for other in turns)
        for turn in turns
    ]


def test_a_panel_a_batch_and_cells(
    session: Session, model: Path, report: Report, long: bool, turns: list[Turn],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One run at a time, in the order they came, each of them whole; nobody starves."""
    monkeypatch.setattr(api, "current_session", lambda: session)
    seconds, chance = 60 if long else 4, random.Random(6)
    ask(session, model, "warm up").wait(30)
    stop, cells = threading.Event(), []
    frames: list[pandas.DataFrame] = []
    names = pandas.DataFrame({"name": [f"row {number}" for number in range(10)]})

    def batches(which: str) -> None:
        while not stop.is_set():
            frames.append(api.infer_frame(
                names, which + ": {{name}}", model, {"max_tokens": 20, "seed": 1}, progress=False,
                resume=False,
            ))  # fmt: skip

    def asks() -> None:
        while not stop.is_set():
            cells.append(api.infer(model, f"cell: {len(cells)}", {"max_tokens": 8, "seed": 1}))

    request = Request(model=str(model), prompt="panel: x", params=InferencingParams(max_tokens=60))
    panel = TuningPanel(session, request, lambda request: forms(request, {}), SLIDERS)
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(batches, "batch"), pool.submit(batches, "another"), pool.submit(asks),
                pool.submit(asks)]  # fmt: skip
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            panel.controls["temperature"].value = round(chance.uniform(0, 2), 2)
            time.sleep(chance.uniform(0.05, 0.5))
        stop.set()
        for future in work:
            future.result(60)
    panel.close()
    assert panel.wait(20)
    assert {status for frame in frames for status in frame["infer_status"]} == {"ok"}
    assert {cell.status for cell in cells} == {"ok"}
    turns.sort(key=lambda turn: turn.began)
    for one, other in itertools.pairwise(turns):
        assert one.ended <= other.began, "two runs at once"
    waits = {
        caller: [turn.began - turn.came for turn in turns if turn.caller == caller]
        for caller in ("panel", "batch", "another", "cell")
    }
    for caller, times in waits.items():
        print(f"{caller}: {len(times)} runs, waited {statistics.median(times) * 1000:.0f} ms, at "
              f"most {max(times) * 1000:.0f} ms")  # fmt: skip
        report.tried("several at once on one engine", f"ran ({caller})", len(times))
        assert len(times) > 3
    assert max(overtakers(turns)) == 0
    assert len(engines_of()) == 1
    log_is_whole(report, Path(session.log.path), [f"cell: {number}" for number in (0, 1)])
    assert len(session.log.rows(status="ok")) >= 10 * len(frames) + len(cells)


def test_the_first_to_come_is_the_first_to_run(
    session: Session, model: Path, report: Report, turns: list[Turn]
) -> None:
    """Twenty runs behind a busy engine are taken up in the order in which they came."""
    busy = ask(session, model, "busy", None, content_filters=(lambda text: time.sleep(0.01),))
    while not busy.generated_token_count:
        time.sleep(0.01)
    waiting = []
    for number in range(20):
        waiting.append(ask(session, model, f"{number}: x", 2))
        time.sleep(0.06)
    busy.cancel()
    for run in (busy, *waiting):
        assert run.wait(30)
    assert [turn.caller for turn in turns[1:]] == [str(number) for number in range(20)]
    report.tried("several at once on one engine", "waited, in order", 20)


def test_waiting_runs_are_cancelled(session: Session, model: Path, report: Report) -> None:
    """Any of those that wait can go, at once; those behind it go on."""
    chance = random.Random(3)
    busy = ask(session, model, "busy", None, content_filters=(lambda text: time.sleep(0.01),))
    while not busy.generated_token_count:
        time.sleep(0.01)
    runs = [ask(session, model, f"{number}: x", 2) for number in range(40)]
    cancelled = chance.sample(runs, 20)
    time.sleep(0.3)
    for run in cancelled:
        began = time.monotonic()
        run.cancel()
        assert run.wait(10)
        assert time.monotonic() - began < 1
        assert run.status == "interrupted"
    assert not busy.done
    busy.cancel()
    for run in runs:
        assert run.wait(30)
    assert [run.status for run in runs if run not in cancelled] == ["ok"] * 20
    report.tried("several at once on one engine", "cancelled while it waited", 20)
    log_is_whole(report, Path(session.log.path), [run.request.prompt for run in runs])


def test_unloading_with_many_waiting(session: Session, model: Path, report: Report) -> None:
    """`%infer_unload` comes back soon; each run says that it was unloaded, or has a new engine."""
    ask(session, model, "warm up").wait(30)
    first = engines_of()
    runs = [ask(session, model, f"{number}: x", 300) for number in range(12)]
    while not runs[0].generated_token_count:
        time.sleep(0.005)
    began = time.monotonic()
    session.local.pool.unload()
    assert time.monotonic() - began < 5
    are_gone(report, first)
    for run in runs:
        assert run.wait(60)
        assert run.status == "ok" or "was unloaded" in str(run.error)
        assert run.error is None or isinstance(run.error, EngineFailed)
        report.tried("unloaded with many waiting", run.status)
    last = ask(session, model, "last")
    assert last.wait(30)
    assert last.status == "ok"
    log_is_whole(report, Path(session.log.path), [run.request.prompt for run in runs])


# Memory ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of some 40 MB."""
    folder = tmp_path_factory.mktemp("large")
    return [
        write_llama_gguf(
            folder / f"{name}.gguf", vocabulary="spm", seed=name, embedding=512, feed_forward=4096,
            blocks=1, context_length=128,
        )
        for name in range(3)
    ]  # fmt: skip


def resident(processes: list[psutil.Process]) -> int:
    """Bytes of memory of all of them; what has ended has none."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answer(session: Session, model: Path, **options: Any) -> Run:
    run = ask(session, model, PROMPT, **options)
    assert run.wait(60)
    run.raise_failure()
    return run


def test_models_beyond_the_limit_give_their_memory_back(
    session: Session, large: list[Path], report: Report
) -> None:
    """With room for two, a third one's memory is that of the one unused for longest."""
    session.local.pool.max_loaded_models = 2
    for path in large[:2]:
        answer(session, path)
    two = engines_of()
    assert [name for name, _ in session.local.pool.loaded_models()] == [
        str(path) for path in large[:2]
    ]
    with_two = resident(two)
    answer(session, large[0])  # now the second one is unused for longer
    answer(session, large[2])
    assert [name for name, _ in session.local.pool.loaded_models()] == [
        str(large[0]),
        str(large[2]),
    ]
    gone = [engine for engine in two if not engine.is_running()]
    assert len(gone) == 1
    assert len(engines_of()) == 2
    with_others = resident(engines_of())
    print(f"two models: {with_two / 1e6:.0f} MB; two of three: {with_others / 1e6:.0f} MB")
    assert with_others < 1.2 * with_two
    session.local.pool.max_loaded_models = 1
    answer(session, large[0])
    with_one = resident(engines_of())
    print(f"one model: {with_one / 1e6:.0f} MB")
    assert with_two - with_one > large[0].stat().st_size
    report.tried("models beyond max_loaded_models", "gave their memory back", 2)
    are_gone(report, gone)


def test_idle_models_give_their_memory_back(
    session: Session, large: list[Path], report: Report
) -> None:
    """After the minutes asked for, not before; the next run loads again."""
    assert session.local.pool.idle_unload_minutes is None
    for path in large[:2]:
        answer(session, path)
    engines = engines_of()
    full = resident(engines)
    assert len(engines) == 2
    used = time.monotonic()
    answer(session, large[1])
    session.local.pool.idle_unload_minutes = 1.2 / 60
    until(lambda: not engines[0].is_running(), 4)
    until(lambda: not engines[1].is_running(), 4)
    assert time.monotonic() - used > 1.2
    freed = full - resident(engines)
    print(f"two idle models: {full / 1e6:.0f} MB before, {(full - freed) / 1e6:.0f} MB after")
    assert freed > 2 * large[0].stat().st_size
    assert session.local.pool.loaded_models() == []
    report.tried("idle models", "gave their memory back", 2)
    are_gone(report, engines)
    answer(session, large[0])
    assert len(session.local.pool.loaded_models()) == 1


def test_a_model_in_use_is_never_idle(session: Session, large: list[Path], report: Report) -> None:
    """A run longer than the time allowed goes on, and the time begins at its end."""
    session.local.pool.idle_unload_minutes = 0.5 / 60
    began = time.monotonic()
    slow = (lambda text: time.sleep(0.05),)
    run = ask(session, large[0], PROMPT, 25, content_filters=slow)
    assert run.wait(60)
    run.raise_failure()
    assert time.monotonic() - began > 1
    (engine,) = engines_of()
    until(lambda: not engine.is_running(), 4)
    report.tried("idle models", "stayed while in use")
    are_gone(report, [engine])


def test_idle_time_is_changed_at_any_time(
    session: Session, large: list[Path], report: Report
) -> None:
    """None keeps a model; a time set later counts from its last use; runs go on in between."""
    session.local.pool.idle_unload_minutes = 0.7 / 60
    answer(session, large[0])
    session.local.pool.idle_unload_minutes = None
    (engine,) = engines_of()
    time.sleep(1)
    assert engine.is_running()
    session.local.pool.idle_unload_minutes = 0.5 / 60  # it has been idle for longer
    until(lambda: not engine.is_running(), 2)
    session.local.pool.idle_unload_minutes = 0.0
    for _ in range(2):
        assert answer(session, large[0]).status == "ok"
    until(lambda: not engines_of(), 4)
    session.local.pool.idle_unload_minutes = 60
    answer(session, large[0])
    engines = engines_of()
    session.close()
    assert not [item for item in threading.enumerate() if item.name == "llmwit-idle" and
                not item.finished.is_set()]  # fmt: skip
    report.tried("idle models", "kept with None, ended with the session", 2)
    are_gone(report, engines)


def test_runs_and_idle_unloading_race(
    session: Session, model: Path, report: Report, long: bool
) -> None:
    """Runs that come just when the model is unloaded are whole all the same."""
    session.local.pool.idle_unload_minutes = 0.05 / 60
    chance = random.Random(8)
    count = 100 if long else 6
    for number in range(count):
        run = ask(session, model, f"race {number}", 2)
        assert run.wait(30)
        assert run.status == "ok", run.error
        time.sleep(chance.uniform(0.03, 0.08))
    report.tried("idle models", "run came as it was unloaded", count)
    log_is_whole(report, Path(session.log.path), [f"race {number}" for number in range(count)])
