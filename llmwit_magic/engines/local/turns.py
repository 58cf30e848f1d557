"""A lock with one holder at a time. Callers get it in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STEP_SECONDS = 0.05
"""How often a caller that waits calls `waiting`."""


class Turns:
    """A fair lock. A `threading.Lock` goes to whoever asks at the right moment."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        """The holder is the first. Those who wait come after it."""

    @contextmanager
    def taken(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Wait for the turn and hold it in the block.

        `waiting()` is called now and then while the caller waits. It may raise to give up.
        """
        ticket = object()
        try:
            with self._changed:
                self._queue.append(ticket)
            while not self._reached(ticket):
                waiting()
            yield
        finally:
            with self._changed:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                self._changed.notify_all()

    def _reached(self, ticket: object) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._queue[0] is ticket, STEP_SECONDS)
