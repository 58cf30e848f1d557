"""One holder at a time, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STEP_SECONDS = 0.05


class Turns:
    """A lock that is fair: a `threading.Lock` goes to whoever asks at the right moment."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        """The holder stands first, and behind it who waits."""

    @contextmanager
    def taken(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Wait for the turn and hold it; `waiting` is called now and then, and may raise."""
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
