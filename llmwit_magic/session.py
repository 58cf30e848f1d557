"""What one kernel holds: open engines, the run log, aliases. `Session.run` is the one door."""

from __future__ import annotations

import atexit
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from .base.background import GRACE_SECONDS, STOP_SECONDS, in_background, started, wait_patiently
from .base.filesystem import current_folder
from .engines.builds import check_platform
from .engines.pool import EnginePool
from .engines.process import EngineProcess
from .errors import EngineFailed, InferenceError, Interrupted, LogError
from .models.catalog import LocalModel, local_models, resolve
from .protocol import Cancelled, Emit, Event, Prepared, Progress, Report, Request
from .runlog.log import RunLog
from .runlog.run import Run
from .settings import Settings, first_settings, is_worker, tell_children, told
from .wit import EmbeddingsResult, EmbeddingsUsage, ModelInfo

T = TypeVar("T")


class Session:
    """Carries requests out, and keeps the engines open between them.

    `aliases` maps names of your own to paths or hub names; `engines` are the
    loaded models.
    """

    def __init__(self, log_path: str | Path | None = None) -> None:
        self.log = RunLog(log_path)
        self._log_path = log_path
        self._old_logs: list[RunLog] = []
        self._aliases: dict[str, str] = {}
        self.engines = EnginePool()
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
        self._tell()

    def run(self, request: Request, seed: int | None = None, logged: bool = True) -> Run:
        """Start a run and return at once; iterate over it, or wait for it.

        A seed that the request leaves open is set here, to `seed` or else
        drawn, so that it is on record from the first moment. Raises
        `InvalidInput` for a content filter that cannot be used.
        """
        if request.content_filters:
            from .engines.content_filters import check_filters

            check_filters(request.content_filters)
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
            self.log, self._log_path = RunLog(path), path
        self._tell()

    @property
    def settings(self) -> Settings:
        """What other processes are told of it."""
        return Settings(None if self._log_path is None else self.log.path, self._aliases)

    def _tell(self) -> None:
        """Let children know, where this is the session that they would have."""
        if _current is not None and _current == (os.getpid(), self):
            tell_children(self.settings)

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

    def find(self, request: Request, show: Report | None = None) -> ModelInfo:
        """The file that the request's model is, fetched and checked, with its hash; not loaded.

        Raises what a run raises.
        """

        def work(emit: Emit, cancel: threading.Event) -> ModelInfo:
            return self._resolve(request, emit, cancel).info

        return interruptible(work, show)

    def local_models(self) -> list[tuple[str, str, Path | None]]:
        """What can be named without a network; see `catalog.local_models`."""
        return in_background(
            lambda: local_models(self.aliases), lambda: None, 0.1, "llmwit-list"
        )  # an interrupt leaves it behind

    def prepare(self, request: Request, show: Report | None = None) -> Prepared:
        """The request as it would run: rendered prompt, token counts, parameters.

        `show` is called with the progress of fetching and loading. Raises what
        a run raises.
        """

        def work(emit: Emit, cancel: threading.Event) -> Prepared:
            with self._lease(request, emit, cancel) as engine:
                return engine.prepare(request, emit, cancel)

        return interruptible(work, show)

    def embed(
        self, request: Request, texts: list[str], show: Report | None = None, *,
        truncate: bool = False,
    ) -> EmbeddingsResult:  # fmt: skip
        """One vector for each text, by the model and settings of the request.

        A text that is longer than the context is an error, unless `truncate` cuts it.
        """

        def work(emit: Emit, cancel: threading.Event) -> tuple[list[list[float]], int]:
            with self._lease(request, emit, cancel) as engine:
                return engine.embed(texts, truncate, request.threads, emit, cancel)

        vectors, count = interruptible(work, show)
        return EmbeddingsResult(
            embeddings=tuple(map(tuple, vectors)), usage=EmbeddingsUsage(prompt_token_count=count)
        )

    def _lease(
        self, request: Request, emit: Emit, cancel: threading.Event
    ) -> AbstractContextManager[EngineProcess]:
        """The loaded engine for the request's model and settings."""
        return self.engines.lease(
            request,
            lambda: self._resolve(request, emit, cancel),
            emit,
            cancel,
            start_ahead=_name(request) not in self._models,
        )

    def _resolve(self, request: Request, emit: Emit, cancel: threading.Event) -> LocalModel:
        """The checked file of a name, looked at again only when it has changed.

        Cancelled, it leaves a thread behind that the system does not give back.
        """
        name = _name(request)
        deadline: float | None = None

        def find() -> LocalModel:
            known = self._models.get(name)
            if known is None or not known.unchanged():
                check_platform()
                report = _reporter(emit, cancel)
                known = resolve(request.model, request.model_type, self.aliases, report)
                self._models[name] = known
            return known

        def check() -> None:
            nonlocal deadline
            if deadline is None and cancel.is_set():
                deadline = time.monotonic() + GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                raise Cancelled

        return in_background(find, check, 0.05, "llmwit-find")

    def close(self) -> None:
        """Cancel what runs, end the engines, close the log."""
        with self._lock:
            runs = list(self._runs)
        for run in runs:
            run.cancel()
        for run in runs:
            run.wait(1.0)
        self.engines.close()
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
    return request.model, request.model_type, str(current_folder() or "")


def interruptible(work: Callable[[Emit, threading.Event], T], show: Report | None) -> T:
    """Do work in a thread, where an interrupt of the caller cannot tear it apart.

    The interrupt cancels the work, and its end is waited for; not for ever.
    """
    cancel = threading.Event()
    latest: list[Progress] = []

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            latest[:] = [event]

    outcome = started(lambda: work(emit, cancel), "llmwit-work")
    try:
        while not wait([outcome], 0.1).done:
            if show and latest:
                show(latest[0])
        return outcome.result()
    except (KeyboardInterrupt, Cancelled):
        raise Interrupted("stopped; nothing was run") from None
    except InferenceError:
        raise
    except Exception as error:  # a defect of ours, or of the machine's, by name
        raise EngineFailed(f"unexpected {type(error).__name__}: {error}") from error
    finally:
        cancel.set()
        wait_patiently(lambda seconds: bool(wait([outcome], seconds).done), STOP_SECONDS)


_current: tuple[int, Session] | None = None
_followed = Settings()
"""What this process has last been told by another one."""
_current_lock = threading.Lock()


def current_session() -> Session:
    """The session of this process, made at first use.

    A forked process gets its own: it must not speak over its parent's pipes. A
    child, forked or not, follows the settings of the process that started it,
    until it is given others.
    """
    global _current, _followed
    with _current_lock:
        if _current is None or _current[0] != os.getpid():
            _followed = first_settings()
            session = Session(_followed.log_path)
            session.aliases = dict(_followed.aliases)
            _current = (os.getpid(), session)
            atexit.register(_close, *_current)
        session = _current[1]
        settings = told()
        if settings is not None and settings != _followed:
            # Set quietly: what they were told is what their own children read, too.
            _current, _followed = None, settings
            session.use_log(settings.log_path)
            session.aliases = dict(settings.aliases)
            _current = (os.getpid(), session)
        return session


def _close(pid: int, session: Session) -> None:
    if os.getpid() == pid:  # a fork has its parent's engines, which are not its to end
        session.close()


if told() is None and not is_worker():
    tell_children(Settings())  # before a pool is made that nobody tells more
