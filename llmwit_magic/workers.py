"""The workers of a batch over an executor: processes, threads, or other machines."""

from __future__ import annotations

import atexit
import os
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from .engines.threads import physical_cores
from .errors import EngineFailed
from .protocol import Request
from .runlog.rows import Row, ended_row
from .session import Session


def worker_count(executor: Executor) -> int:
    """How many tasks an executor carries out at once, as far as it says so."""
    if isinstance(count := getattr(executor, "_max_workers", None), int):
        return count
    client = getattr(executor, "_client", None)  # Dask's
    if client is not None and getattr(client, "status", "") != "closed":
        return max(1, int(sum(client.nthreads().values())))
    return os.cpu_count() or 1


def row_of_future(future: Future[Row]) -> Row:
    if future.cancelled():
        return {"status": "interrupted"}
    error = future.exception()
    return future.result() if error is None else lost_row(error)


def lost_row(error: BaseException) -> Row:
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted"}
    message = f"the executor could not run it: {type(error).__name__}: {error}"
    return {"status": "error", "error_type": "EngineFailed", "error_message": message}


def broken(error: BaseException | None) -> EngineFailed:
    return EngineFailed(
        f"the executor takes no more work ({error}): what is done is kept in the log, and the same "
        "call with a new executor goes on there"
    )


# In a worker ----------------------------------------------------------------------

_sessions: dict[tuple[str, int], Session] = {}
"""Of this process's workers: each thread has its own, and so its own engine."""


class Owner:
    """A batch whose workers may be threads of this process: their engines end with it."""

    def __init__(self) -> None:
        self.name = f"{os.getpid()}-{uuid.uuid4().hex}"

    def close(self) -> None:
        for key in [key for key in _sessions if key[0] == self.name]:
            if session := _sessions.pop(key, None):
                session.close()


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker gets; the place in the batch tells equal requests apart, which Dask would
    carry out once."""

    place: int
    request: Request
    workers: int
    owner: str
    aliases: Mapping[str, str]


def run_in_worker(task: Task) -> Row:
    """Carry a request out in this thread's own session; its row, whatever becomes of it."""
    session, request = _worker_session(task), task.request
    asked = str(request.threads)
    if asked == "auto" and task.workers > 1:
        share = max(1, physical_cores() // task.workers)
        request = request.model_copy(update={"threads": share})
    run = session.run(request, logged=False)
    try:
        run.wait()
    except KeyboardInterrupt:  # the notebook's interrupt reaches its process group
        run.stop()
    return ended_row(run, run.status) | {"threads_requested": asked}


def _worker_session(task: Task) -> Session:
    """The session of this thread, and of this batch where its workers are threads of its process."""
    ours = task.owner.startswith(f"{os.getpid()}-")
    key = (task.owner if ours else "", threading.get_ident())
    session = _sessions.get(key)
    if session is None:
        session = _sessions[key] = Session(":memory:")
        if not ours:
            atexit.register(session.close)
    if session.aliases != task.aliases:
        session.aliases = dict(task.aliases)
    return session
