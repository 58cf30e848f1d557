"""A lock for what a forked process has in common with its parent."""

from __future__ import annotations

import os
import threading


class ForkedLock:
    """An `RLock` that is free in a forked process, where the thread that held it is not there."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
