"""Runs the newest of several requests, one run at a time.

A request is run when no newer one has come for `PAUSE_SECONDS`. A newer request
cancels the run in flight. A thread exists only while something runs or waits to
run, so a panel that nobody uses costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..contract.request import Request
from ..errors import InferenceError, Interrupted
from ..running.run import Run
from ..running.session import Session

PAUSE_SECONDS = 0.15
"""How long a request must have been the newest one before it is run."""


class NewestRunner:
    """Runs the newest request in a thread, and calls `draw` there with its run."""

    def __init__(self, session: Session, draw: Callable[[Run], None]) -> None:
        self._session = session
        self._draw = draw
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._wanted: Request | None = None
        self._since = 0.0
        self._run: Run | None = None
        self._thread: threading.Thread | None = None

    def want(self, request: Request) -> None:
        """Run this request next; cancel what runs, and forget what waits to run."""
        with self._lock:
            self._wanted, self._since = request, time.monotonic()
            if self._run is not None:
                self._run.cancel()
            if self._thread is None:
                self._idle.clear()
                self._thread = threading.Thread(target=self._work, name="llmwit-tune", daemon=True)
                self._thread.start()

    def cancel(self) -> None:
        """Cancel what runs, and forget what waits to run."""
        with self._lock:
            self._wanted = None
            if self._run is not None:
                self._run.cancel()

    def wait(self, timeout: float) -> bool:
        """Block until nothing runs or waits to run, `timeout` seconds at most; whether that is so."""
        return self._idle.wait(timeout)

    def _work(self) -> None:
        while (run := self._next()) is not None:
            # No cell could raise the error of this run. The view shows it.
            with suppress(InferenceError, Interrupted):
                run.follow(self._drawn)

    def _drawn(self, run: Run) -> None:
        """Draw the run. A failure, as on a closed page, ends neither the run nor the thread."""
        with suppress(Exception):
            self._draw(run)

    def _next(self) -> Run | None:
        """The next run, started after the pause; None when no request is left."""
        while True:
            with self._lock:
                self._run = None
                rested = time.monotonic() - self._since
                if self._wanted is None:
                    self._thread = None
                    self._idle.set()
                    return None
                if rested >= PAUSE_SECONDS:
                    request, self._wanted = self._wanted, None
                    self._run = self._session.run(request)
                    return self._run
            time.sleep(max(PAUSE_SECONDS - rested, 0.005))
