"""The rows of a batch on their way: which must be run, and what became of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from enum import Enum
from functools import partial
from itertools import islice
from typing import Any

from ..contract.request import Request
from ..errors import InvalidInput, LogError
from ..runlog.rows import Row
from .resuming import KEPT, EqualRows, KnownRows
from .run import Run
from .session import Session
from .workers import Owner, Task, broken, lost_row, row_of_future, run_in_worker

SLICE = 1024
"""How many rows are looked through at once: for those in the log, and for equal beginnings. It takes
a fraction of a second, for which the runs that go on keep a server busy."""

Result = tuple[Any, ...]
"""The values of the columns `KEPT` of a row."""
_STATUS = KEPT.index("status")


class BatchRows:
    """The rows of a batch and how far they are done, with the progress bar."""

    def __init__(self, session: Session, results: list[Result | None], bar: Any) -> None:
        self._session, self._results, self._bar = session, results, bar
        self.done = 0
        self._counts = {"from the log": 0, "equal to another": 0, "failed": 0,
                        "with notices in the log": 0}  # fmt: skip
        self._equal: dict[int, list[int]] = {}
        """The places of rows that are equal to the row at a place that is not done yet."""
        self._tokens = 0
        self._began = time.monotonic()
        self._waiting = ""
        self.log_problem: str | None = None

    def take(self, place: int, row: Row, from_log: bool = False) -> None:
        """Keep the result of the row at that place, and count it in the bar."""
        # A tuple of plain values is none of the objects that the garbage collector goes through. An
        # Enum's member in it would make it one, and there may be a million of them.
        self._results[place] = result = tuple(_plain(row.get(name)) for name in KEPT)
        self._counts["from the log"] += from_log
        self._counts["with notices in the log"] += bool(row.get("notices"))
        if not from_log:
            self._tokens += row.get("generated_token_count") or 0
        self._count(result)
        for other in self._equal.pop(place, ()):
            self._copy(other, result)

    def _copy(self, place: int, result: Result) -> None:
        """Keep the result of an equal row."""
        self._results[place] = result
        self._counts["equal to another"] += 1
        self._count(result)

    def _count(self, result: Result) -> None:
        # A worker gets the interrupt too, and may tell of its row before this process stops.
        self.done += result[_STATUS] != "interrupted"
        self._counts["failed"] += result[_STATUS] != "ok"
        self._bar.set_postfix_str(", ".join(self._said_in_bar()), False)
        self._bar.update()

    def _said_in_bar(self) -> Iterator[str]:
        if self._tokens:
            yield f"{self._tokens / (time.monotonic() - self._began):,.1f} tokens/s"
        yield from (f"{count:,} {what}" for what, count in self._counts.items() if count)
        if self._waiting:
            yield self._waiting
        if self.log_problem:
            yield f"not logged: {self.log_problem}"

    def left(
        self,
        requests: Iterable[Request | InvalidInput],
        known: KnownRows | None,
        equal: EqualRows | None,
        by_beginning: bool,
        cancel: threading.Event,
    ) -> Iterator[tuple[int, Request]]:
        """The rows that must be run, each as its place and request.

        The other rows are done here: their result is in the log, or that of an equal row, or their
        request is an error. Rows are looked through in slices, so that memory holds the requests
        of one slice only. With `by_beginning`, rows of a slice that begin alike come together: a
        server reads their common beginning once, while it still has it.
        """
        self._began = time.monotonic()
        rows = enumerate(requests)
        while not cancel.is_set() and (part := list(islice(rows, SLICE))):
            fresh: list[tuple[int, Request]] = []
            for place, wanted in part:
                if isinstance(wanted, InvalidInput):
                    self._refuse(place, wanted)
                elif equal is None or not self._is_equal(place, equal.first(place, wanted)):
                    fresh.append((place, wanted))
            found = known.take([wanted for _, wanted in fresh]) if known else [None] * len(fresh)
            todo = []
            for (place, wanted), row in zip(fresh, found, strict=True):
                if row is None:
                    todo.append((place, wanted))
                else:
                    self.take(place, row, from_log=True)
            if by_beginning:
                todo.sort(key=lambda item: (item[1].system or "", item[1].prompt))
            yield from todo

    def _refuse(self, place: int, error: InvalidInput) -> None:
        self.take(place, {
            "status": "error", "error_type": type(error).__name__, "error_message": str(error),
        })  # fmt: skip

    def _is_equal(self, place: int, first: int) -> bool:
        """Whether the row has the result of another one, which stands first."""
        if place == first:
            return False
        result = self._results[first]
        if result is None:
            self._equal.setdefault(first, []).append(place)
        else:
            self._copy(place, result)
        return True

    # In this session ---------------------------------------------------------------

    def ended(self, place: int, run: Run) -> None:
        """Take the result of an ended run."""
        self._said(run.log_problem)
        self.take(place, run.row() | {"run_id": run.run_id})

    def wait(self, runs: Iterable[Run]) -> None:
        """Say in the bar why runs wait, where a server is busy or does not answer."""
        notes = (run.progress for run in runs)
        waiting = next((str(note) for note in notes if note and note.stage == "server"), "")
        if waiting != self._waiting:
            self._waiting = waiting
            self._bar.set_postfix_str(", ".join(self._said_in_bar()))

    def _said(self, log_problem: str | None) -> None:
        if log_problem:
            self.log_problem = log_problem

    # Over an executor --------------------------------------------------------------

    def over(
        self,
        executor: Executor,
        workers: int,
        todo: Iterable[tuple[int, Request]],
        cancel: threading.Event,
    ) -> None:
        """Run the rows in the executor's workers. This process writes the log, wherever they are.

        Raises `EngineFailed` where the executor takes no more work.
        """
        waiting = iter(todo)
        running: dict[Future[Row], tuple[int, int | None]] = {}
        owner = Owner()
        try:
            while not cancel.is_set():
                # Only few tasks are handed over at once: an interrupt loses those that have not
                # begun.
                while len(running) < 2 * workers and (item := next(waiting, None)):
                    place, request = item[0], self._session.with_seed(item[1])
                    run_id = self._begin(request)
                    task = self._task(place, request, workers, owner)
                    try:
                        future = executor.submit(run_in_worker, task)
                    except Exception as error:  # broken or shut down: the class depends on the kind
                        self._end(run_id, lost_row(error))
                        raise broken(error) from None
                    running[future] = (place, run_id)
                if not running:
                    return
                finished, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in finished:
                    place, run_id = running.pop(future)
                    row = row_of_future(future)
                    self._end(run_id, row)
                    if not future.cancelled() and isinstance(future.exception(), BrokenExecutor):
                        # A broken executor fails every future. It raises an error if one of them
                        # was cancelled before that, so we give it time before we cancel the rest.
                        wait(running, timeout=1)
                        raise broken(future.exception())
                    self.take(place, row | {"run_id": run_id})
        finally:
            for future, (_, run_id) in running.items():
                future.cancel()
                # A run that has begun goes on, and its row is kept in the log for the next call.
                future.add_done_callback(partial(self._late, run_id, owner, list(running)))
            if not running:
                owner.close()

    def _task(self, place: int, request: Request, workers: int, owner: Owner) -> Task:
        session = self._session
        return Task(
            place,
            request,
            workers,
            owner.name,
            session.aliases,
            session.llama_library,
            session.servers,
        )

    def _begin(self, request: Request) -> int | None:
        try:
            return self._session.log.begin(Run(request).row())
        except LogError as error:
            self._said(str(error))
            return None

    def _end(self, run_id: int | None, row: Row) -> None:
        try:
            if run_id is not None or "prompt" in row:
                self._session.log.complete(run_id, row)
        except LogError as error:
            self._said(str(error))

    def _late(
        self, run_id: int | None, owner: Owner, all_late: list[Future[Row]], future: Future[Row]
    ) -> None:
        self._end(run_id, row_of_future(future))
        if all(late.done() for late in all_late):
            owner.close()


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
