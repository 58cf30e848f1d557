"""The engines that are open: one for each model and its settings, kept from run to run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..errors import InvalidInput
from ..models.catalog import LocalModel
from ..protocol import Emit, Request
from .pipe import ChildProcess, Standby
from .process import EngineProcess


class EnginePool:
    """Lends engines, and gives the memory of those back that are not used.

    Of the loaded models the `max_loaded_models` used last stay in memory, and of
    these the ones that were used in the last `idle_unload_minutes` (None: for
    ever). A model that is loaded keeps the evaluation of its last `kept_prompts`
    prompts.
    """

    def __init__(self) -> None:
        self.max_loaded_models = 2
        self.kept_prompts = 3
        self._standby = Standby()
        self._idle_unload_minutes: float | None = None
        self._idle_timer: threading.Timer | None = None
        self._engines: dict[tuple[Any, ...], EngineProcess] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lease(
        self,
        request: Request,
        find: Callable[[], LocalModel],
        emit: Emit,
        cancel: threading.Event,
        *,
        start_ahead: bool,
    ) -> Iterator[EngineProcess]:
        """The loaded engine for the request's model and settings, kept while it is used.

        `find()` gives the model's checked file. With `start_ahead`, for a model
        that was never seen, a child starts while it looks: it has a core of its own.
        """
        ahead = self._standby.taken()
        if ahead is None and start_ahead:
            ahead = ChildProcess()
        try:
            model = find()
            key = _key(model, request)
            with self._lock:
                engine = self._engines.pop(key, None)
                if engine is None:
                    engine, ahead = self._new_engine(model, request, ahead), None
                self._engines[key] = engine  # the newest stands last
                engine.users += 1
        finally:
            if ahead is not None:
                ahead.kill()
        try:
            self._close_surplus()  # first: there may be no room for one more
            engine.load(emit, cancel)
            yield engine
        finally:
            with self._lock:
                engine.users -= 1
                engine.unused_since = time.monotonic()
                self._watch_idle()
                if not engine.users and not engine.alive and self._engines.get(key) is engine:
                    del self._engines[key]
            self._close_surplus()  # others may have been in use until now

    def _new_engine(
        self, model: LocalModel, request: Request, child: ChildProcess | None
    ) -> EngineProcess:
        return EngineProcess(
            info=model.info,
            source=model.source,
            loaded=model.loaded,
            model_type=model.model_type,
            context_length=request.context_length,
            gpu_layers=request.gpu_layers,
            anyway=request.takes_long_context,
            kept_prompts=self.kept_prompts,
            child=child,
        )

    def stand_by(self, child: ChildProcess) -> None:
        """Take a child for the first run; unused for some minutes, it ends."""
        self._standby.put(child)

    def _close_surplus(self) -> None:
        """Close the engines beyond the limit: the longest unused first, used ones never."""
        with self._lock:
            idle = [key for key, engine in self._engines.items() if not engine.users]
            count = len(self._engines) - max(1, self.max_loaded_models)
            surplus = [self._engines.pop(key) for key in idle[: max(0, count)]]
        for engine in surplus:
            engine.close()

    @property
    def idle_unload_minutes(self) -> float | None:
        """After so long without a run a model's memory is given back; None: never."""
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
        """See to it that unused engines are closed in time. The caller holds the lock."""
        minutes = self._idle_unload_minutes
        unused = [engine.unused_since for engine in self._engines.values() if not engine.users]
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
        """Close the engines that nobody has used for long; those in use never."""
        with self._lock:
            self._idle_timer = None
            before = time.monotonic() - 60 * (self._idle_unload_minutes or 0)
            keys = [
                key
                for key, engine in self._engines.items()
                if self._idle_unload_minutes is not None
                and not engine.users
                and engine.unused_since <= before
            ]
            engines = [self._engines.pop(key) for key in keys]
            self._watch_idle()
        for engine in engines:
            engine.close()

    def loaded_models(self) -> list[tuple[str, int]]:
        """Name and process id of each model in memory."""
        with self._lock:
            engines = list(self._engines.values())
        return [(engine.name, engine.pid) for engine in engines if engine.alive and engine.pid]

    def unload(self, name: str | None = None) -> list[str]:
        """End the engines of a model, or of all; the names of those that were loaded."""
        with self._lock:
            chosen = {
                key: engine
                for key, engine in self._engines.items()
                if name is None or engine.name == name
            }
            for key in chosen:
                del self._engines[key]
        if name is None:
            self._standby.close()
        names = [engine.name for engine in chosen.values() if engine.alive]
        with ExitStack() as stack:  # all of them, though an interrupt comes between
            for engine in chosen.values():
                stack.callback(engine.close)
        return names

    def close(self) -> None:
        """End all engines, and look after idle ones no more."""
        with self._lock:
            self._stop_watching()
        self.unload()


def _key(model: LocalModel, request: Request) -> tuple[Any, ...]:
    return (
        str(model.source), model.state, model.model_type,
        request.context_length, request.takes_long_context, request.gpu_layers,
    )  # fmt: skip
