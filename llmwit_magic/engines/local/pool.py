"""The loaded models. Each model with its settings has a process, which is kept from run to run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ...contract.events import Emit
from ...contract.request import ModelSpec
from ...errors import InvalidInput
from .model_files import LocalModel
from .model_process import ModelProcess
from .pipe import ChildProcess, Standby


@dataclass(slots=True)
class _Place:
    """A process in the pool."""

    process: ModelProcess
    users: int = 0
    """How many callers use it or are about to."""
    unused_since: float = 0.0
    """When its last user was done, in seconds of the monotonic clock."""


class Pool:
    """Lends model processes, and ends those that are not used, so that their memory comes back.

    The `max_loaded_models` models that were used last stay in memory. A model that was
    not used for `idle_unload_minutes` is ended too (None: never). A loaded model keeps
    the evaluation of its last `kept_prompts` prompts. `start` starts a child process.
    """

    def __init__(self, start: Callable[[], ChildProcess] = ChildProcess) -> None:
        self.max_loaded_models = 2
        self.kept_prompts = 3
        self.start = start
        self._standby = Standby()
        self._idle_unload_minutes: float | None = None
        self._idle_timer: threading.Timer | None = None
        self._places: dict[tuple[Any, ...], _Place] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lease(
        self,
        spec: ModelSpec,
        find: Callable[[], LocalModel],
        emit: Emit,
        cancel: threading.Event,
        *,
        start_ahead: bool,
    ) -> Iterator[ModelProcess]:
        """The process that has the model loaded. It stays loaded in the block.

        `find()` gives the model's checked file. With `start_ahead`, a child starts on
        another core while `find()` works. That helps for a model that was never seen.
        """
        ahead = self._standby.taken()
        if ahead is None and start_ahead:
            ahead = self.start()
        try:
            model = find()
            key = _key(model, spec)
            with self._lock:
                place = self._places.pop(key, None)
                if place is None:
                    load = model.load_command(spec, self.kept_prompts)
                    place, ahead = _Place(ModelProcess(load, ahead, self.start)), None
                self._places[key] = place  # the newest stands last
                place.users += 1
        finally:
            if ahead is not None:
                ahead.kill()
        try:
            self._close_surplus()  # before loading, since memory may be short for one model more
            place.process.load(emit, cancel)
            yield place.process
        finally:
            with self._lock:
                place.users -= 1
                place.unused_since = time.monotonic()
                self._watch_idle()
                if not place.users and not place.process.alive and self._places.get(key) is place:
                    del self._places[key]
            self._close_surplus()  # again, since all surplus models may have been in use before

    def stand_by(self, child: ChildProcess) -> None:
        """Keep a child for the first run. It is ended where no run takes it within minutes."""
        self._standby.put(child)

    def _close_surplus(self) -> None:
        """End the processes beyond the limit, the least recently used first, and none in use."""
        with self._lock:
            idle = [key for key, place in self._places.items() if not place.users]
            count = len(self._places) - max(1, self.max_loaded_models)
            surplus = [self._places.pop(key) for key in idle[: max(0, count)]]
        for place in surplus:
            place.process.close()

    @property
    def idle_unload_minutes(self) -> float | None:
        """A model is ended after so many minutes without a run; None: never.

        Setting it raises `InvalidInput` for a negative number.
        """
        return self._idle_unload_minutes

    @idle_unload_minutes.setter
    def idle_unload_minutes(self, minutes: float | None) -> None:
        if minutes is not None and not minutes >= 0:
            raise InvalidInput(
                f"idle_unload_minutes: {minutes} is not valid: it must be a number ≥ 0, or None"
            )
        with self._lock:
            self._idle_unload_minutes = minutes
            self._stop_watching()
            self._watch_idle()

    def _watch_idle(self) -> None:
        """Start the timer that ends unused processes, where needed. The caller has the lock."""
        minutes = self._idle_unload_minutes
        unused = [place.unused_since for place in self._places.values() if not place.users]
        if minutes is None or self._idle_timer is not None or not unused:
            return
        wait = max(0.0, min(unused) + 60 * minutes - time.monotonic())
        self._idle_timer = threading.Timer(min(wait, threading.TIMEOUT_MAX), self._unload_idle)
        self._idle_timer.name, self._idle_timer.daemon = "llmwit-idle", True
        self._idle_timer.start()

    def _stop_watching(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _unload_idle(self) -> None:
        """End the processes that were unused for `idle_unload_minutes`, and none in use."""
        with self._lock:
            self._idle_timer = None
            before = time.monotonic() - 60 * (self._idle_unload_minutes or 0)
            keys = [
                key
                for key, place in self._places.items()
                if self._idle_unload_minutes is not None
                and not place.users
                and place.unused_since <= before
            ]
            places = [self._places.pop(key) for key in keys]
            self._watch_idle()
        for place in places:
            place.process.close()

    def loaded_models(self) -> list[tuple[str, int]]:
        """Name and process id of each model in memory."""
        with self._lock:
            processes = [place.process for place in self._places.values()]
        return [
            (process.name, process.pid) for process in processes if process.alive and process.pid
        ]

    def unload(self, name: str | None = None) -> list[str]:
        """End the processes of a model, or of all models. Returns the names of those loaded."""
        with self._lock:
            chosen = {
                key: place.process
                for key, place in self._places.items()
                if name is None or place.process.name == name
            }
            for key in chosen:
                del self._places[key]
        if name is None:
            self._standby.close()
        names = [process.name for process in chosen.values() if process.alive]
        with ExitStack() as stack:  # all of them, even where an interrupt comes in between
            for process in chosen.values():
                stack.callback(process.close)
        return names

    def close(self) -> None:
        """End all processes, and the timer for unused ones."""
        with self._lock:
            self._stop_watching()
        self.unload()


def _key(model: LocalModel, spec: ModelSpec) -> tuple[Any, ...]:
    """What two requests must have in common to share a loaded model.

    The file's path stands for the model's name, since two names may lead to one file. The backend
    stands for the engine that was asked for, since `auto` leads to one of them. A model that is
    loaded in one way is shared by requests that are exact and that are not.
    """
    exact = spec.exact or model.always_exact
    shared = {"model": str(model.source), "engine": model.backend, "exact": exact}
    return model.state, model.environment, spec.model_copy(update=shared)
