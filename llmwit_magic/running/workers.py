"""The workers of a batch over an executor: processes, threads, or processes on other machines."""

from __future__ import annotations

import atexit
import os
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from ..contract.request import Request
from ..engines.threads import physical_cores
from ..errors import EngineFailed
from ..runlog.rows import Row
from .session import Session


def worker_count(executor: Executor) -> int:
    """How many tasks an executor carries out at once.

    Where an executor does not say so, it is the number of this machine's processors.
    """
    if isinstance(count := getattr(executor, "_max_workers", None), int):
        return count
    client = getattr(executor, "_client", None)  # an executor of Dask has it
    if client is not None and getattr(client, "status", "") != "closed":
        return max(1, int(sum(client.nthreads().values())))
    return os.cpu_count() or 1


def row_of_future(future: Future[Row]) -> Row:
    """The row of a task that is done. A cancelled task is an interrupted run."""
    if future.cancelled():
        return {"status": "interrupted"}
    error = future.exception()
    return future.result() if error is None else lost_row(error)


def lost_row(error: BaseException) -> Row:
    """The row of a task that the executor could not carry out."""
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted"}
    message = f"the executor could not run it: {type(error).__name__}: {error}"
    return {"status": "error", "error_type": "EngineFailed", "error_message": message}


def broken(error: BaseException | None) -> EngineFailed:
    """The error of a batch whose executor takes no more work."""
    return EngineFailed(
        f"the executor takes no more work ({error}): what is done is kept in the log, and the same "
        "call with a new executor goes on there"
    )


# In a worker ----------------------------------------------------------------------

_sessions: dict[tuple[str, int], Session] = {}
"""The sessions of the workers in this process, by batch and thread. Each thread has its own
session, and so its own engine."""


class Owner:
    """The batch as the owner of its workers' sessions, where these are threads of this process.

    `close` ends those sessions with their engines.
    """

    def __init__(self) -> None:
        self.name = f"{os.getpid()}-{uuid.uuid4().hex}"

    def close(self) -> None:
        for key in [key for key in _sessions if key[0] == self.name]:
            if session := _sessions.pop(key, None):
                session.close()


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker gets.

    `place` is the row's place in the batch. It tells equal requests apart: Dask would carry equal
    tasks out only once.
    """

    place: int
    request: Request
    workers: int
    owner: str
    aliases: Mapping[str, str]
    llama_library: str
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Without keys: a worker takes those from its own environment."""


def run_in_worker(task: Task) -> Row:
    """Carry the request out in this thread's own session. Returns the row, also of a failed run."""
    session, request = _worker_session(task), task.request
    asked = str(request.threads)
    if asked == "auto" and task.workers > 1 and session.runs_at_once(request) == 1:
        share = max(1, physical_cores() // task.workers)
        request = request.model_copy(update={"threads": share})
    run = session.run(request, logged=False)
    try:
        run.wait()
    except KeyboardInterrupt:  # an interrupt of the notebook reaches its whole process group
        run.stop()
    return run.row() | {"threads_requested": asked}


def _worker_session(task: Task) -> Session:
    """The session of this thread.

    Where the workers of a batch are threads of its own process, each batch has its own sessions.
    """
    ours = task.owner.startswith(f"{os.getpid()}-")
    key = (task.owner if ours else "", threading.get_ident())
    session = _sessions.get(key)
    if session is None:
        session = _sessions[key] = Session(":memory:")
        if not ours:
            atexit.register(session.close)
    if session.aliases != task.aliases:
        session.aliases = dict(task.aliases)
    if session.llama_library != task.llama_library:
        session.llama_library = task.llama_library
    if session.servers != task.servers:
        session.servers = task.servers
    return session
