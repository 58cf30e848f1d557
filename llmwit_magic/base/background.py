"""Work in a thread that may be left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

GRACE_SECONDS = 2.0
"""How long a cancelled look at files may go on: a thread never comes back from a dead mount."""
STOP_SECONDS = 10.0
"""How long a person who has stopped something waits for its end: every part of it is quicker."""


def started(work: Callable[[], T], name: str) -> Future[T]:
    """What the work will come to. Its thread does not keep the process from ending."""
    outcome: Future[T] = Future()

    def carry_out() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=carry_out, name=name, daemon=True).start()
    return outcome


def in_background(work: Callable[[], T], check: Callable[[], None], seconds: float, name: str) -> T:
    """What the work comes to, or raises; meanwhile `check()` is called every so many seconds.

    Where `check` raises, nobody waits any longer for a work that may never end.
    """
    outcome = started(work, name)
    while not wait([outcome], seconds).done:
        check()
    return outcome.result()


def wait_patiently(done: Callable[[float], bool], seconds: float) -> None:
    """Wait for `done(timeout)`, so many seconds at most; an impatient interrupt changes nothing."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        with suppress(KeyboardInterrupt):
            if done(left):
                return
