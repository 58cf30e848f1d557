"""What one kernel holds: open engines, the run log, aliases. `Session.run` is the one door."""

from __future__ import annotations

import atexit
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .engines.pipe import ChildProcess, Standby
from .engines.process import EngineProcess
from .errors import Interrupted, InvalidInput, LogError
from .models.catalog import LocalModel, resolve
from .models.fetch import Report
from .protocol import Cancelled, Emit, Event, Prepared, Progress, Request
from .runlog.log import RunLog
from .runlog.run import Run
from .wit import EmbeddingsResult, EmbeddingsUsage, ModelInfo

T = TypeVar("T")
Show = Callable[[Progress], None]


class Session:
    """Carries requests out, and keeps the engines open between them.

    `aliases` maps names of your own to paths or hub names; of the loaded
    models the `max_loaded_models` used last stay in memory, and of these the
    ones that were used in the last `idle_unload_minutes` (None: for ever). A
    model that is loaded keeps the evaluation of its last `kept_prompts` prompts.
    """

    def __init__(self, log_path: str | Path | None = None) -> None:
        self.log = RunLog(log_path)
        self._old_logs: list[RunLog] = []
        self._aliases: dict[str, str] = {}
        self.max_loaded_models = 2
        self.kept_prompts = 3
        self._standby = Standby()
        self._idle_unload_minutes: float | None = None
        self._idle_timer: threading.Timer | None = None
        self._engines: dict[tuple[Any, ...], EngineProcess] = {}
        self._models: dict[tuple[str, str | None, str], LocalModel] = {}
        self._lock = threading.Lock()
        self._runs: set[Run] = set()

    @property
    def aliases(self) -> dict[str, str]:
        """Names of your own, to paths or hub names."""
        return self._aliases

    @aliases.setter
    def aliases(self, aliases: dict[str, str]) -> None:
        self._aliases = aliases
        self._models.clear()

    def run(self, request: Request, seed: int | None = None, logged: bool = True) -> Run:
        """Start a run and return at once; iterate over it, or wait for it.

        A seed that the request leaves open is set here, to `seed` or else
        drawn, so that it is on record from the first moment.
        """
        run = Run(self.with_seed(request, seed))
        run.log = self.log if logged else None
        try:
            with self._lock:
                self._runs.add(run)
            run.start(self._carry_out, self._finish)
        except BaseException:  # an interrupt: nobody will ever hear of this run
            run.cancel()
            with self._lock:
                self._runs.discard(run)
            raise
        return run

    @classmethod
    def with_seed(cls, request: Request, seed: int | None = None) -> Request:
        """The request with a seed: its own, else `seed`, else one that is drawn."""
        if request.params.seed is not None:
            return request
        seed = cls.draw_seed() if seed is None else seed
        params = request.params.model_copy(update={"seed": seed})
        return request.model_copy(update={"params": params})

    @staticmethod
    def draw_seed() -> int:
        """A seed of 53 bits: JSON readers and spreadsheets keep such a number exactly."""
        return secrets.randbits(53)

    def use_log(self, path: str | Path | None) -> None:
        """Log the runs from now on in another file (None: the default one).

        A run that goes on is completed in the log in which it began.
        """
        with self._lock:
            self._old_logs.append(self.log)
            self.log = RunLog(path)

    def _carry_out(self, run: Run, cancel: threading.Event) -> None:
        try:
            if run.log is not None:
                run.run_id = run.log.begin(run)
        except LogError as error:
            run.log_problem = str(error)
        with self._lease(run.request, run.emit, cancel) as engine:
            engine.run(run.request, run.emit, cancel)

    def _finish(self, run: Run, status: str) -> None:
        try:
            if run.log is not None:
                run.log.complete(run, status)
                run.log_problem = None
        except LogError as error:
            run.log_problem = str(error)
        finally:
            with self._lock:
                self._runs.discard(run)

    def find(self, request: Request, show: Show | None = None) -> ModelInfo:
        """The file that the request's model is, fetched and checked, with its hash; not loaded.

        Raises what a run raises.
        """

        def work(emit: Emit, cancel: threading.Event) -> ModelInfo:
            return self._resolve(request, _reporter(emit, cancel)).info

        return interruptible(work, show)

    def prepare(self, request: Request, show: Show | None = None) -> Prepared:
        """The request as it would run: rendered prompt, token counts, parameters.

        `show` is called with the progress of fetching and loading. Raises what
        a run raises.
        """

        def work(emit: Emit, cancel: threading.Event) -> Prepared:
            with self._lease(request, emit, cancel) as engine:
                return engine.prepare(request, emit, cancel)

        return interruptible(work, show)

    def embed(
        self, request: Request, texts: list[str], show: Show | None = None
    ) -> EmbeddingsResult:
        """One vector for each text, by the model and settings of the request."""

        def work(emit: Emit, cancel: threading.Event) -> tuple[list[list[float]], int]:
            with self._lease(request, emit, cancel) as engine:
                return engine.embed(texts, request.threads, emit, cancel)

        vectors, count = interruptible(work, show)
        return EmbeddingsResult(
            embeddings=tuple(map(tuple, vectors)), usage=EmbeddingsUsage(prompt_token_count=count)
        )

    # Engines ---------------------------------------------------------------------

    @contextmanager
    def _lease(
        self, request: Request, emit: Emit, cancel: threading.Event
    ) -> Iterator[EngineProcess]:
        """The loaded engine for the request's model and settings, kept while it is used."""
        ahead = self._standby.taken()
        if ahead is None and _name(request) not in self._models:
            ahead = ChildProcess()  # starts while the file is looked at: it has a core of its own
        try:
            model = self._resolve(request, _reporter(emit, cancel))
            key = _engine_key(model, request)
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
            engine.load(emit, cancel)
            for surplus in self._take_surplus():
                surplus.close()
            yield engine
        finally:
            with self._lock:
                engine.users -= 1
                engine.unused_since = time.monotonic()
                self._watch_idle()
                if not engine.users and not engine.alive and self._engines.get(key) is engine:
                    del self._engines[key]

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
            anyway=request.anyway,
            kept_prompts=self.kept_prompts,
            child=child,
        )

    def stand_by(self, child: ChildProcess) -> None:
        """Take a child for the first run; unused for some minutes, it ends."""
        self._standby.put(child)

    def _take_surplus(self) -> list[EngineProcess]:
        """Take out the engines beyond the limit: the longest unused first, used ones never."""
        with self._lock:
            idle = [key for key, engine in self._engines.items() if not engine.users]
            count = len(self._engines) - max(1, self.max_loaded_models)
            return [self._engines.pop(key) for key in idle[: max(0, count)]]

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

    def _resolve(self, request: Request, report: Report) -> LocalModel:
        """The checked file of a name, looked at again only when it has changed."""
        name = _name(request)
        known = self._models.get(name)
        if known is None or not known.unchanged():
            known = resolve(request.model, request.model_type, self.aliases, report)
            self._models[name] = known
        return known

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
        """Cancel what runs, end the engines, close the log."""
        with self._lock:
            runs = list(self._runs)
            self._stop_watching()
        for run in runs:
            run.cancel()
        for run in runs:
            run.wait(1.0)
        self.unload()
        for log in (*self._old_logs, self.log):
            log.close()


def _reporter(emit: Emit, cancel: threading.Event) -> Report:
    """Passes progress on; a cancellation ends the work at its next report."""

    def report(progress: Progress) -> None:
        if cancel.is_set():
            raise Cancelled
        emit(progress)

    return report


def _name(request: Request) -> tuple[str, str | None, str]:
    """What a model is known by; a path is one from the current folder."""
    return request.model, request.model_type, os.getcwd()


def _engine_key(model: LocalModel, request: Request) -> tuple[Any, ...]:
    return (
        str(model.source), model.state, model.model_type,
        request.context_length, request.anyway, request.gpu_layers,
    )  # fmt: skip


def interruptible(work: Callable[[Emit, threading.Event], T], show: Show | None) -> T:
    """Do work in a thread, where an interrupt of the caller cannot tear it apart."""
    cancel = threading.Event()
    latest: list[Progress] = []

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            latest[:] = [event]

    with ThreadPoolExecutor(1, "llmwit-work") as pool:
        try:
            future = pool.submit(work, emit, cancel)
            while True:
                try:
                    return future.result(timeout=0.1)
                except FutureTimeout:
                    if show and latest and not future.done():
                        show(latest[0])
        except (KeyboardInterrupt, Cancelled):
            raise Interrupted("stopped; nothing was run") from None
        finally:
            cancel.set()


_current: tuple[int, Session] | None = None
_current_lock = threading.Lock()


def current_session() -> Session:
    """The session of this process, made at first use.

    A forked process gets its own: it must not speak over its parent's pipes.
    """
    global _current
    with _current_lock:
        if _current is None or _current[0] != os.getpid():
            session = Session()
            _current = (os.getpid(), session)
            atexit.register(session.close)
        return _current[1]
