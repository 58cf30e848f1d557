"""Runs side by side: as many at once as their servers carry out, and no more."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

from ..contract.events import Report
from ..contract.request import Request
from ..errors import InferenceError, InvalidInput, ServerUnreachable
from .run import Run
from .session import Session

DEFAULT_CONCURRENCY = 16
"""How many runs go on at once on a server that does not say how many it carries out."""
TICK_SECONDS = 0.25
LEAST_REFUSALS = 3
"""A server is given up when so many runs in a row did not reach it, or as many as its share of the
window."""


@dataclass(slots=True, eq=False)
class Server:
    """A model's share of the window."""

    model: str
    size: int
    going: int = 0
    refusals: int = 0
    """How many runs in a row have not reached it."""

    @property
    def is_lost(self) -> bool:
        return self.refusals >= max(self.size, LEAST_REFUSALS)


@dataclass(slots=True, eq=False)
class _Row:
    """A row that is to be run, and the servers that could not be reached for it."""

    place: int
    request: Request
    tried: list[Server] = field(default_factory=list)


def default_size(session: Session, request: Request, show: Report | None = None) -> int:
    """How many runs on the request's model go on at once, where nobody says it.

    One on a local engine. Else twice the server's slots: while it answers one request in a slot,
    the next one is on its way. It is at least 1, and at most what the engine does at once, whatever
    the server says. Raises what asking the server raises.
    """
    most = session.runs_at_once(request)
    if most == 1:
        return 1
    slots = session.slots(request, show)
    return min(max(DEFAULT_CONCURRENCY if slots is None else 2 * slots, 1), most)


def check_concurrency(
    session: Session, requests: Sequence[Request], concurrency: int | None
) -> None:
    """Raise `InvalidInput` for a size of a window that cannot be. No server is asked.

    `requests` has one for each model that shares the window.
    """
    most = _most_at_once(session, requests)
    if most == 1 and len(requests) > 1:
        raise InvalidInput("model: rows are shared among servers only; give one local model")
    if concurrency is None:
        return
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InvalidInput(
            f"concurrency: {concurrency!r} is not valid: it must be a whole number ≥ 1"
        )
    if concurrency > 1 and most == 1:
        raise InvalidInput(
            "concurrency: a local model does one run at a time: leave it out, or run the model on "
            "a server"
        )
    if concurrency > most:
        raise InvalidInput(f"concurrency: {concurrency:,} is not valid: it is at most {most:,}")


def servers_for(
    session: Session, requests: Sequence[Request], concurrency: int | None, show: Report
) -> list[Server]:
    """The share of each model's server. `concurrency` is the size of the whole window.

    `requests` has one for each model. The size has been checked. Raises what asking the servers
    raises.
    """
    count = len(requests)
    if concurrency is None:
        # All of them together are at most what the engine does at once.
        share = max(_most_at_once(session, requests) // count, 1)
        sizes = [min(default_size(session, request, show), share) for request in requests]
    else:
        sizes = [(concurrency + number) // count or 1 for number in range(count)]
    return [Server(request.model, size) for request, size in zip(requests, sizes, strict=True)]


def _most_at_once(session: Session, requests: Sequence[Request]) -> int:
    return min(session.runs_at_once(request) for request in requests)


class Window:
    """Carries requests out, a bounded number at once. The least busy server gets the next one."""

    def __init__(self, session: Session, servers: Sequence[Server]) -> None:
        self._session, self._servers = session, servers
        self._ended: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._going: dict[Run, tuple[_Row, Server]] = {}
        self._again: deque[_Row] = deque()
        self._missed: InferenceError | None = None
        """Why a run did not reach its server, the last time that one did not."""

    def carry_out(
        self,
        requests: Iterable[tuple[int, Request]],
        take: Callable[[int, Run], None],
        wait: Callable[[Iterable[Run]], None],
        cancel: threading.Event,
    ) -> None:
        """Run the requests, each of which has a place; `take(place, run)` gets the ended run.

        Interrupted runs are not taken. `wait(runs)` is called from time to time with those that go
        on. `cancel` ends all of them at once. Raises `ServerUnreachable` where no server is left.
        """
        rows = (_Row(place, request) for place, request in requests)
        try:
            while not cancel.is_set():
                self._fill(rows, cancel)
                if not self._going:
                    if self._missed and self._next(rows) is not None:
                        raise ServerUnreachable(
                            f"{self._missed}; what is done is kept in the log, and the same call "
                            "goes on there"
                        )
                    return
                with suppress(queue.Empty):
                    self._end(self._ended.get(timeout=TICK_SECONDS), take)
                wait(self._going)
        finally:
            for run in self._going:
                run.cancel()
            for run, (row, _) in self._going.items():
                run.stop()
                if run.status != "interrupted":
                    take(row.place, run)

    def _fill(self, rows: Iterator[_Row], cancel: threading.Event) -> None:
        while not cancel.is_set() and self._least_busy([]) is not None:
            if (row := self._next(rows)) is None:
                return
            server = self._least_busy(row.tried) or self._least_busy([])
            assert server is not None
            request = row.request
            if request.model != server.model:
                request = request.model_copy(update={"model": server.model})
            run = self._session.run(request)
            server.going += 1
            self._going[run] = (row, server)
            run.watch(partial(self._changed, run))

    def _next(self, rows: Iterator[_Row]) -> _Row | None:
        return self._again.popleft() if self._again else next(rows, None)

    def _least_busy(self, tried: Sequence[Server]) -> Server | None:
        """The server with the most room; None where none has any."""
        free = [
            server for server in self._servers
            if server.going < server.size and not server.is_lost and server not in tried
        ]  # fmt: skip
        return min(free, key=lambda server: server.going / server.size, default=None)

    def _changed(self, run: Run) -> None:
        if run.done:
            self._ended.put(run)

    def _end(self, run: Run, take: Callable[[int, Run], None]) -> None:
        if run not in self._going:  # it has said so before
            return
        row, server = self._going.pop(run)
        server.going -= 1
        missed = isinstance(run.error, ServerUnreachable)
        self._missed = run.error if missed else self._missed
        server.refusals = server.refusals + 1 if missed else 0
        if missed:
            row.tried.append(server)
            others = [other for other in self._servers if other not in row.tried]
            if any(not other.is_lost for other in others):
                self._again.append(row)
                return
        if run.status != "interrupted":
            take(row.place, run)


class Ahead:
    """The runs of a sweep in their order, begun ahead of the one that is drawn.

    Leaving the context ends those that still go on.
    """

    def __init__(self, session: Session, requests: Sequence[Request], seed: int) -> None:
        self._session, self._requests, self._seed = session, requests, seed
        self.runs: list[Run] = []
        """The runs that have begun."""

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        for run in self.runs:
            run.cancel()
        for run in self.runs:
            run.stop()

    def __iter__(self) -> Iterator[Run]:
        size = self._size()
        for number in range(len(self._requests)):
            while len(self.runs) < min(number + size, len(self._requests)):
                request = self._requests[len(self.runs)]
                self.runs.append(self._session.run(request, self._seed))
            yield self.runs[number]

    def _size(self) -> int:
        if len(self._requests) == 1:
            return 1
        first = {request.model: request for request in self._requests}
        try:
            return min(default_size(self._session, request) for request in first.values())
        except InferenceError:  # the first run says why, in its row of the log
            return 1
