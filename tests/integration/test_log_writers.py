"""Many processes write one run log at once, and some are killed while they do."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.selection import Filter
from tests.support.kernel import engines_of, running_kernel, still_alive
from tests.support.log_writer import open_new_logs, write_runs

RUNS = 500
KILLS = 50


@pytest.fixture
def processes() -> BaseContext:
    """Makes processes that have imported all they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.log_writer"])
    return context


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


@pytest.mark.timeout(180)
def test_four_kernels_write_2000_runs(tiny_model: Path, tmp_path: Path) -> None:
    """Four kernels with 500 runs each at once in a new file: 2,000 rows, each whole."""
    path = tmp_path / "runs.sqlite3"
    with ExitStack() as stack:
        kernels = [stack.enter_context(running_kernel()) for _ in range(4)]
        for kernel in kernels:
            reply = kernel.run(
                "%load_ext llmwit_magic\n"
                "from llmwit_magic import infer\n"
                f"infer({str(tiny_model)!r}, 'before')"
            )
            assert reply.status == "ok", reply.error
        began = time.monotonic()
        cells = [
            kernel.start(
                f"%config InferMagics.log_path = {str(path)!r}\n"
                "import json\n"
                f"found = [infer({str(tiny_model)!r}, f'kernel {name}, prompt {{number}}', "
                f"dict(max_tokens=1, seed=number)) for number in range({RUNS})]\n"
                "print(json.dumps([[r.run_id, r.text, r.params.seed] for r in found]))"
            )
            for name, kernel in enumerate(kernels)
        ]
        replies = [
            kernel.wait(cell, timeout=120) for kernel, cell in zip(kernels, cells, strict=True)
        ]
        print(f"{4 * RUNS} runs in {time.monotonic() - began:.1f} s")
    assert [reply.error for reply in replies] == [""] * 4
    assert integrity(path) == "ok"
    rows = {row["run_id"]: row for row in RunLog(path).rows()}
    assert len(rows) == 4 * RUNS
    sessions = set()
    for name, reply in enumerate(replies):
        found = json.loads(reply.stdout)
        mine = [rows[run_id] for run_id, _, _ in found]
        assert [row["prompt"] for row in mine] == [
            f"kernel {name}, prompt {number}" for number in range(RUNS)
        ]
        assert [[row["text"], row["seed"]] for row in mine] == [found[1:] for found in found]
        (session,) = {row["session_id"] for row in mine}
        sessions.add(session)
    assert len(sessions) == 4
    for row in rows.values():
        assert row["status"] == "ok"
        assert row["finish_detail"] in ("max_tokens", "eos")
        assert row["prompt_token_count"] > 0
        assert row["total_seconds"] > 0
        assert row["model_path"] == str(tiny_model)
    # They did write at once.
    order = [row["session_id"] for row in rows.values()]
    turns = sum(one != other for one, other in itertools.pairwise(order))
    print(f"{turns} changes of the writer")
    assert turns > 4 * RUNS / 10


def test_a_new_file_is_opened_by_many_at_once(tmp_path: Path, processes: BaseContext) -> None:
    """Six processes open each of 100 new files together: nobody finds one locked."""
    together, readers, opened = processes.Barrier(6), [], []
    for _ in range(6):
        reader, told = processes.Pipe(duplex=False)
        process = processes.Process(target=open_new_logs, args=(tmp_path, 100, together, told))
        process.start()
        told.close()
        readers.append(reader)
        opened.append(process)
    for reader, process in zip(readers, opened, strict=True):
        assert reader.recv() == []
        process.join(10)
        process.close()
        reader.close()
    assert {len(RunLog(tmp_path / f"{number}.sqlite3")) for number in range(100)} == {6}


@dataclass
class Writer:
    """A process that makes runs, and what it has said of them."""

    process: BaseProcess
    pipe: Any
    begun: dict[int, str] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)

    def listen(self) -> None:
        """Take in all that it has said; after its end, that is all there is."""
        while self.pipe.poll():
            try:
                what, run_id, text = self.pipe.recv()
            except EOFError:
                return
            (self.begun if what == "begun" else self.ended)[run_id] = text

    def wait_for_answer(self) -> None:
        """Wait until a run has ended."""
        while not self.ended:
            assert self.pipe.poll(20)
            self.listen()

    def kill(self) -> list[psutil.Process]:
        """SIGKILL; the engines that it had at that moment."""
        process = psutil.Process(self.process.pid)
        process.suspend()  # so that it starts none while they are counted
        engines = engines_of(process.pid)
        process.kill()
        self.process.join(10)
        assert self.process.exitcode
        self.listen()
        return engines


@pytest.fixture
def writers(tiny_model: Path, tmp_path: Path, processes: BaseContext) -> Iterator[Any]:
    """Starts writers, one after another."""
    started: list[Writer] = []

    def start() -> Writer:
        ours, theirs = processes.Pipe(duplex=False)
        name = f"writer {len(started)}"
        process = processes.Process(
            target=write_runs, args=(tmp_path / "runs.sqlite3", tiny_model, name, theirs)
        )
        process.start()
        theirs.close()
        started.append(Writer(process, ours))
        return started[-1]

    yield start
    for writer in started:
        if writer.process.is_alive():
            writer.kill()
        writer.pipe.close()
        writer.process.close()


@pytest.mark.timeout(180)
def test_a_killed_process_loses_no_run(writers: Any, tmp_path: Path) -> None:
    """50 SIGKILLs at random moments: the file opens, each run begun is there, engines are gone.

    Two processes write at any time. Every fifth is killed within milliseconds of its first run,
    every other fifth perhaps before its model is loaded, the rest in the stream of its runs.
    """
    path, moments = tmp_path / "runs.sqlite3", random.Random(50)
    running = deque([writers()])
    begun: dict[int, str] = {}
    finished: dict[int, str] = {}
    lost = 0
    for number in range(KILLS):
        running.append(writers())
        assert running[-1].pipe.poll(20)
        if number % 5 == 0:
            time.sleep(moments.uniform(0, 0.005))
            victim = running.pop()
        else:
            victim = running.popleft()
            if number % 5 > 1:
                victim.wait_for_answer()
            time.sleep(moments.uniform(0, 0.5))
        engines = victim.kill()
        log = RunLog(path)
        names = ("run_id", "prompt", "text", "status")
        found = [dict(zip(names, row, strict=True)) for row in log.tuples(Filter(), names)]
        rows = {row["run_id"]: row for row in found}
        log.close()
        assert integrity(path) == "ok"
        begun |= victim.begun
        finished |= victim.ended
        assert victim.begun
        assert {run_id: rows[run_id]["prompt"] for run_id in begun} == begun
        assert {run_id: rows[run_id]["text"] for run_id in finished} == finished
        assert {rows[run_id]["status"] for run_id in finished} <= {"ok"}
        unfinished = [rows[run_id]["status"] for run_id in victim.begun.keys() - victim.ended]
        assert len(unfinished) <= 1
        assert set(unfinished) <= {"ok", "lost"}  # ok: killed before it could say so
        lost += unfinished == ["lost"]
        assert not still_alive(engines, 5)
    print(f"{len(begun)} runs begun, {len(finished)} known to have ended, {lost} lost")
    assert lost > KILLS / 4
    assert len(finished) > 4 * KILLS
