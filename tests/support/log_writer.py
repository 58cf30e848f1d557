"""What processes do that write run logs."""

from __future__ import annotations

import itertools
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import LogError
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.rows import Row
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session


class TellingLog(RunLog):
    """Says that a row is begun, as soon as it is."""

    def __init__(self, path: Path, told: Connection) -> None:
        super().__init__(path)
        self._told = told

    def begin(self, row: Row) -> int:
        run_id = super().begin(row)
        self._told.send(("begun", run_id, row["prompt"]))
        return run_id


def open_new_logs(folder: Path, count: int, together: Barrier, told: Connection) -> None:
    """Open so many new files, each at the same moment as others do; says what went wrong."""
    problems = []
    for number in range(count):
        log = RunLog(folder / f"{number}.sqlite3")
        together.wait()
        try:
            log.begin(Run(Request(model="-", prompt="-")).row())
        except LogError as error:
            problems.append(str(error))
        log.close()
    told.send(problems)


def write_runs(path: Path, model: Path, name: str, told: Connection) -> None:
    """Run after run, each with a prompt of its own, until the process is killed.

    Says `("begun", run_id, prompt)` and `("ended", run_id, text)`.
    """
    session = Session(":memory:")
    session.log = TellingLog(path, told)
    for number in itertools.count():
        run = session.run(Request(
            model=str(model), prompt=f"{name}, prompt {number}",
            params=InferencingParams(max_tokens=1 + number % 3, seed=number),
        ))  # fmt: skip
        run.wait()
        told.send(("ended", run.run_id, run.text))
