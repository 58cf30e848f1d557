"""An IPython shell in a process of its own, whose cells a test interrupts.

python -m tests.support.interrupted LOG < lines of JSON: {"code": …, "before": …, "at": …}

Says `begins` when a cell is about to run, or when its run has come to the stage
`at`, and afterwards what became of it. As in a kernel, an interrupt counts only
while a cell runs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
from IPython.core.interactiveshell import InteractiveShell

from llmwit_magic.contract.events import Event, Progress
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session, current_session
from tests.support.kernel import engines_of


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    said_it = threading.Event()

    def begins() -> None:
        if not said_it.is_set():
            said_it.set()
            said.write("begins\n")

    at: list[str] = []
    runs = _watch_runs(at, begins)
    shell = InteractiveShell.instance()
    shell.run_cell("%load_ext llmwit_magic")
    shell.run_cell(f"%config InferMagics.log_path = {sys.argv[1]!r}")
    for line in sys.stdin:
        job = json.loads(line)
        shell.run_cell(job.get("before") or "")
        del runs[:]
        at[:] = [job.get("at") or ""]
        said_it.clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not at[0]:
            begins()
        began, escaped = time.monotonic(), ""
        try:
            try:
                result = shell.run_cell(job["code"], store_history=False)
                error = result.error_in_exec or result.error_before_exec
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt as interrupt:  # between the shell's own handlers
            error, escaped = interrupt, "escaped"
        begins()
        said.write(json.dumps(_outcome(runs, error, escaped, time.monotonic() - began)) + "\n")


def _watch_runs(at: list[str], begins: Callable[[], None]) -> list[Run]:
    """The runs whose thread has begun since the list was emptied.

    Calls `begins` when one comes to the stage `at`.
    """
    runs: list[Run] = []
    work, emit = Run._work, Run.emit

    def emitted(run: Run, event: Event) -> None:
        emit(run, event)
        if isinstance(event, Progress) and event.stage == at[0]:
            begins()

    Run.emit = emitted  # type: ignore[method-assign]

    def watched(run: Run, *arguments: Any) -> None:
        runs.append(run)
        work(run, *arguments)

    Run._work = watched  # type: ignore[method-assign]
    return runs


def _outcome(
    runs: list[Run], error: BaseException | None, escaped: str, seconds: float
) -> dict[str, Any]:
    session: Session = current_session()
    done = [run.done for run in runs]
    for run in runs:
        run.wait(10)
    engines = {engine.pid for engine in engines_of()}
    known = {pid for _, pid in session.local.pool.loaded_models()}
    others = [
        " ".join(child.cmdline())
        for child in psutil.Process().children(recursive=True)
        if child.pid not in engines
    ]
    return {
        "error": type(error).__name__ if error else None,
        "message": str(error or ""),
        "escaped": escaped,
        "seconds": seconds,
        "stage": _stage(runs),
        "done": done,
        "status": [run.status for run in runs],
        "problems": [run.log_problem for run in runs if run.log_problem],
        "prompts": [run.request.prompt for run in runs],
        "orphans": [*map(str, engines - known), *others],
    }


def _stage(runs: list[Run]) -> str:
    """How far it had come."""
    if not runs:
        return "before the run"
    if runs[-1].generated_token_count:
        return "generate"
    stages = [event.stage for event in runs[-1].events if isinstance(event, Progress)]
    return stages[-1] if stages else "log or start"


if __name__ == "__main__":
    main()
