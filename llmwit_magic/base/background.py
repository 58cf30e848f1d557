"""Work in a thread that nobody has to wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

GRACE_SECONDS = 2.0
"""How long to wait for a cancelled search of files. On a dead mount it never ends."""
STOP_SECONDS = 10.0
"""The longest that a person waits for the end of something stopped. Each part takes less."""


def started(work: Callable[[], T], name: str) -> Future[T]:
    """Start the work in a thread of that name. The process can end before the thread does."""
    outcome: Future[T] = Future()

    def carry_out() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=carry_out, name=name, daemon=True).start()
    return outcome


def in_background(work: Callable[[], T], check: Callable[[], None], seconds: float, name: str) -> T:
    """Do the work in a thread, and return or raise what it does; call `check` every `seconds`.

    Where `check` raises, its exception is raised at once. The thread goes on, perhaps for ever.
    """
    outcome = started(work, name)
    while not wait([outcome], seconds).done:
        check()
    return outcome.result()


def wait_patiently(done: Callable[[float], bool], seconds: float) -> None:
    """Wait until `done(timeout)` is true, `seconds` at most. Interrupts meanwhile are ignored."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        with suppress(KeyboardInterrupt):
            if done(left):
                return
