"""Work in a thread that may be left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], T], check: Callable[[], None], seconds: float, name: str) -> T:
    """What the work comes to, or raises; meanwhile `check()` is called every so many seconds.

    Where `check` raises, nobody waits any longer for a work that may never end.
    """
    outcome: Future[T] = Future()

    def carry_out() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=carry_out, name=name, daemon=True).start()
    while not wait([outcome], seconds).done:
        check()
    return outcome.result()
