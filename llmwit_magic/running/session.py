"""The session: the engines and the run log of one kernel. `Session.run` is the one door."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from ..base.background import STOP_SECONDS, in_background, started, wait_patiently
from ..base.forked_lock import ForkedLock
from ..contract.engine import Engine, Texts, check_honoured
from ..contract.events import Cancelled, Emit, Event, Prepared, Progress, Report
from ..contract.request import ModelSpec, Request
from ..contract.wit import LARGEST_DRAWN_SEED, EmbeddingsResult, ModelInfo
from ..engines.local.local_engine import LocalEngine
from ..engines.server.addresses import configured, knows_server, names_server
from ..engines.server.own_server import OwnServer
from ..engines.server.own_servers import OwnServerSpec
from ..engines.server.server_engine import ServerEngine
from ..errors import EngineFailed, InferenceError, Interrupted, InvalidInput
from ..models.catalog import is_here, local_models
from ..runlog.log import RunLog
from .embedding_run import EmbeddingRun, KeptVectors
from .known_conversations import KnownConversations
from .run import Run
from .shared_settings import Settings, first_settings, is_worker, tell_children, told

T = TypeVar("T")


class Session:
    """Carries requests out and logs their runs.

    The first of `engines` that serves the request's model carries the request out. If none of them
    does, the engine of servers does it where the name leads to a server, else the local engine.
    """

    def __init__(self, log_path: str | Path | None = None, engines: Sequence[Engine] = ()) -> None:
        self.log = RunLog(log_path)
        self._log_path = log_path
        self._old_logs: list[RunLog] = []
        self.local = LocalEngine()
        self.remote = ServerEngine()
        self.remote.own.changed = self._tell
        self.engines: tuple[Engine, ...] = (*engines, self.remote, self.local)
        self._lock = threading.Lock()
        self._runs: set[Run] = set()
        self.kept_vectors: KeptVectors | None = None
        self.conversations = KnownConversations()

    @property
    def aliases(self) -> Mapping[str, str]:
        """The user's own names for models. Each stands for a path or a hub name."""
        return self.local.aliases

    @aliases.setter
    def aliases(self, aliases: Mapping[str, str]) -> None:
        self.local.aliases = aliases
        self._tell()

    @property
    def llama_library(self) -> str:
        """The path of the library of llama.cpp for the models that are loaded from now on.

        Empty: the one of the environment variable, or of an installed package.
        """
        return self.local.llama_library

    @llama_library.setter
    def llama_library(self, path: str) -> None:
        self.local.llama_library = path
        self._tell()

    @property
    def servers(self) -> Mapping[str, Mapping[str, Any]]:
        """The user's servers by name; see `ServerConfig` for what each has.

        Raises `InvalidInput` where it is set to something else.
        """
        return {
            name: config.model_dump(exclude_defaults=True)
            for name, config in self.remote.servers.items()
        }

    @servers.setter
    def servers(self, servers: Mapping[str, Mapping[str, Any]]) -> None:
        self.remote.servers = configured(servers)
        self._tell()

    def run(self, request: Request, seed: int | None = None, logged: bool = True) -> Run:
        """Start a run and return at once. The caller iterates over it, or waits for it.

        Where the request leaves its seed open, this sets it to `seed`, or else draws one. So the
        seed is logged before the run starts. Raises `InvalidInput` for a content filter that cannot
        be used, and for a setting that the engine cannot honour.
        """
        engine = self._engine_of(request)
        if request.content_filters:
            from ..engines.content_filters import check_filters

            check_filters(request.content_filters)
        request = self.with_seed(request, seed)
        run = Run(request, self.log if logged else None)
        self._start(run, lambda emit, cancel: engine.run(request, emit, cancel))
        return run

    def embed(
        self, request: Request, texts: Sequence[str], show: Report | None = None, *,
        truncate: bool = False,
    ) -> EmbeddingsResult:  # fmt: skip
        """One vector for each text, by the model and settings of the request.

        A text that is longer than the context is cut with `truncate`; else it raises
        `PromptTooLong`. `show` gets the progress. Raises what a run raises.
        """
        numbers = tuple(range(1, len(texts) + 1))
        return self.start_embedding(request, Texts(tuple(texts), numbers, truncate)).finished(show)

    def start_embedding(self, request: Request, texts: Texts) -> EmbeddingRun:
        """Start a run that makes a vector of each text, and return at once.

        The request says by which model, and how it is loaded. Its prompt stands in the log. Raises
        `InvalidInput` where the engine has no vectors.
        """
        engine = self._engine_of(request)
        if not engine.capabilities.embeddings:
            raise InvalidInput(f"the engine of {request.model} has no embeddings")
        run = EmbeddingRun(request, texts, self.log)
        self._start(run, lambda emit, cancel: engine.embed(request, texts, emit, cancel))
        return run

    def _start(self, run: Run, work: Callable[[Emit, threading.Event], None]) -> None:
        try:
            with self._lock:
                self._runs.add(run)
            run.start(work, self._forget)
        except BaseException:  # after an interrupt, no caller has this run
            run.cancel()
            self._forget(run)
            raise

    def _forget(self, run: Run) -> None:
        with self._lock:
            self._runs.discard(run)

    def _engine_of(self, request: Request) -> Engine:
        """The engine that carries the request out.

        Raises `InvalidInput` for a setting that the engine cannot honour.
        """
        engine = next(engine for engine in self.engines if engine.serves(request.spec))
        check_honoured(request, engine.capabilities)
        return engine

    @classmethod
    def with_seed(cls, request: Request, seed: int | None = None) -> Request:
        """The request with a seed: its own, or else `seed`, or else one that is drawn.

        Where something is scored nothing is drawn, and no seed is needed.
        """
        if request.params.seed is not None or request.is_scored:
            return request
        return request.with_params(seed=cls.draw_seed() if seed is None else seed)

    @staticmethod
    def draw_seed() -> int:
        """A random seed, which every server takes."""
        return secrets.randbelow(LARGEST_DRAWN_SEED + 1)

    def use_log(self, path: str | Path | None) -> None:
        """Log the runs from now on in another file; None is the default one.

        A run that has begun is completed in the log in which it began.
        """
        with self._lock:
            self._old_logs.append(self.log)
            self.log, self._log_path = RunLog(path), path
        self._tell()

    @property
    def settings(self) -> Settings:
        """What the processes that this one starts are told."""
        log_path = None if self._log_path is None else self.log.path
        return Settings(log_path, self.aliases, self.llama_library, self.servers)

    def _follow(self, settings: Settings) -> None:
        """Take over what another process has told, all but where to log."""
        self.aliases = dict(settings.aliases)
        self.llama_library = settings.llama_library
        self.servers = settings.servers

    def _tell(self) -> None:
        """Tell the settings to child processes, if this is the session of this process."""
        if _current is not None and _current == (os.getpid(), self):
            tell_children(self.settings)

    def start_llama_server(
        self, spec: ModelSpec, own: OwnServerSpec, show: Report | None = None
    ) -> OwnServer:
        """Start a llama-server for a local model, and wait until it is ready.

        It is one of `servers` then, as `local::NAME`. `show` gets the progress. Raises what a local
        run raises, and `EngineFailed` where there is no llama-server.
        """
        start = self.remote.own.start
        return interruptible(
            lambda emit, cancel: start(spec, own, self.aliases, emit, cancel), show
        )

    @property
    def llama_servers(self) -> list[OwnServer]:
        """The llama-servers that this session has started, the newest at the end."""
        return list(self.remote.own)

    def stop_llama_servers(self, name: str = "") -> list[str]:
        """End the llama-server of that name, or all that this session has started; their names."""
        return self.remote.own.stop(name)

    def server_models(self, name: str, show: Report | None = None) -> list[str]:
        """The names of the models that a server has, given as `lab::` or as a URL.

        Raises what a run raises.
        """
        return interruptible(lambda emit, cancel: self.remote.models(name, emit, cancel), show)

    def find(self, request: Request, show: Report | None = None) -> ModelInfo:
        """The model that the request's name leads to, with its hash.

        The model is fetched and checked, but not loaded. `show` gets the progress. Raises what a
        run raises.
        """
        engine = self._engine_of(request)

        def work(emit: Emit, cancel: threading.Event) -> ModelInfo:
            return engine.find(request.spec, emit, cancel)

        return interruptible(work, show)

    def runs_at_once(self, request: Request) -> int:
        """How many runs on the request's model may go on side by side; nothing is asked for it."""
        return self._engine_of(request).capabilities.runs_at_once

    def slots(self, request: Request, show: Report | None = None) -> int | None:
        """How many runs on the request's model the server carries out at once; None where it does
        not say so, or where another engine runs it. Raises what a run raises."""
        engine = self._engine_of(request)
        if not isinstance(engine, ServerEngine):
            return None
        return interruptible(lambda emit, cancel: engine.slots(request.spec, emit, cancel), show)

    def prepare(self, request: Request, show: Report | None = None) -> Prepared:
        """The request as it would run: rendered prompt, token counts, params.

        `show` gets the progress of fetching and loading. Raises what a run raises.
        """
        engine = self._engine_of(request)

        def work(emit: Emit, cancel: threading.Event) -> Prepared:
            return engine.prepare(request, emit, cancel)

        return interruptible(work, show)

    def count_tokens(
        self, spec: ModelSpec, texts: Sequence[str], show: Report | None = None
    ) -> list[int]:
        """How many tokens each text has by itself; see `Engine.count`. Raises what a run raises.

        `show` gets the progress of fetching the model.
        """
        engine = next(engine for engine in self.engines if engine.serves(spec))

        def work(emit: Emit, cancel: threading.Event) -> list[int]:
            return engine.count(spec, texts, emit, cancel)

        return interruptible(work, show)

    def local_models(self) -> list[tuple[str, str, Path | None]]:
        """The models that can be named without a network: name, kind and path of each, as in
        `catalog.local_models`."""
        return in_background(
            lambda: local_models(self.aliases), lambda: None, 0.1, "llmwit-list"
        )  # after an interrupt, the thread is left behind

    def has_model(self, text: str) -> bool:
        """Whether a text is the name of a model that is here, or is on a server that is known."""
        if names_server(text):
            return not re.search(r"\s", text) and knows_server(text, self.remote.servers)
        return in_background(
            lambda: is_here(text, self.aliases), lambda: None, 0.1, "llmwit-list"
        )  # after an interrupt, the thread is left behind

    def close(self) -> None:
        """Cancel the runs, end the engines and close the logs."""
        with self._lock:
            runs = list(self._runs)
        for run in runs:
            run.cancel()
        for run in runs:
            run.wait(1.0)
        with ExitStack() as stack:  # all of them, though one fails
            for log in (*self._old_logs, self.log):
                stack.callback(log.close)
            for engine in self.engines:
                stack.callback(engine.close)


def interruptible(work: Callable[[Emit, threading.Event], T], show: Report | None) -> T:
    """The result of `work(emit, cancel)`, which a thread does: no interrupt comes in its middle.

    `show` gets the latest progress. An interrupt of the caller cancels the work, waits for its end
    (`STOP_SECONDS` at most) and raises `Interrupted`. Raises `InferenceError` as the work does, and
    `EngineFailed` for any other exception.
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
    except Exception as error:  # a defect of this package or of the machine
        raise EngineFailed(f"unexpected {type(error).__name__}: {error}") from error
    finally:
        cancel.set()
        wait_patiently(lambda seconds: bool(wait([outcome], seconds).done), STOP_SECONDS)


_current: tuple[int, Session] | None = None
_followed = Settings()
"""The settings that another process has last told this one."""
_current_lock = ForkedLock()


def current_session() -> Session:
    """The session of this process, made at first use.

    A forked process gets its own session, because it must not speak over its parent's pipes. A
    child process, forked or not, follows the settings of the process that started it, until it is
    given others.
    """
    global _current, _followed
    with _current_lock:
        if _current is None or _current[0] != os.getpid():
            _followed = first_settings()
            session = Session(_followed.log_path)
            session._follow(_followed)
            _current = (os.getpid(), session)
            atexit.register(_close, *_current)
        session = _current[1]
        settings = told()
        if settings is not None and settings != _followed:
            # Without a current session, these changes are not told to children: they read the same
            # settings where this process has read them.
            _current, _followed = None, settings
            session.use_log(settings.log_path)
            session._follow(settings)
            _current = (os.getpid(), session)
        return session


def _close(pid: int, session: Session) -> None:
    if os.getpid() == pid:  # a forked process must not end its parent's engines
        session.close()


if told() is None and not is_worker():
    # The workers of a pool keep the environment in which they were made. So the variable is there
    # from the beginning, and the file that it names can change later.
    tell_children(Settings())
