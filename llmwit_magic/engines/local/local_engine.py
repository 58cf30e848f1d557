"""The local engine. Its models are files, and each is loaded in a child process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from ...base.background import GRACE_SECONDS, in_background
from ...base.filesystem import current_folder
from ...contract.constraint import CONSTRAINT_KINDS
from ...contract.engine import Capabilities, Texts
from ...contract.events import Cancelled, Emit, Prepared, Progress
from ...contract.request import ModelSpec, Request
from ...contract.wit import ModelInfo
from ...errors import EngineFailed
from ..backends.base import Backend
from ..backends.llamacpp.llama_backend import LlamaCpp
from ..backends.registry import BACKENDS
from .model_files import LocalModel, environment_of, resolve
from .model_process import ModelProcess
from .pool import Pool

TOKENIZER_MINUTES = 5
"""How long a process with a vocabulary alone is kept unused."""


class LocalEngine:
    """Runs model files with its backends. See `contract.engine.Engine` for its methods."""

    capabilities = Capabilities(constraints=CONSTRAINT_KINDS, scores=True)

    def __init__(self, backends: Sequence[Backend] = BACKENDS, pool: Pool | None = None) -> None:
        self.pool = pool or Pool()
        self._tokenizers = Pool(self.pool.start)
        """Processes that have a vocabulary alone."""
        self._tokenizers.idle_unload_minutes = TOKENIZER_MINUTES
        self._backends = tuple(backends)
        self._aliases: Mapping[str, str] = {}
        self._found: dict[tuple[Any, ...], LocalModel] = {}

    @property
    def aliases(self) -> Mapping[str, str]:
        """The user's own names of models; each stands for a path or a hub name."""
        return self._aliases

    @aliases.setter
    def aliases(self, aliases: Mapping[str, str]) -> None:
        self._aliases = aliases
        self._found.clear()

    @property
    def llama_library(self) -> str:
        """The path of the library of llama.cpp that is used; empty where none is configured."""
        return next((each.library for each in self._backends if isinstance(each, LlamaCpp)), "")

    @llama_library.setter
    def llama_library(self, path: str) -> None:
        self._backends = tuple(
            LlamaCpp(path) if isinstance(each, LlamaCpp) else each for each in self._backends
        )

    def serves(self, spec: ModelSpec) -> bool:
        """Every name is served. `find` says whether there is such a file."""
        return True

    def find(self, spec: ModelSpec, emit: Emit, cancel: threading.Event) -> ModelInfo:
        """Find or fetch the file of the name, check it and hash it. The file is not loaded."""
        return self._resolve(spec, emit, cancel).info

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        with self._lease(request.spec, emit, cancel) as process:
            process.run(request, emit, cancel)

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        with self._lease(request.spec, emit, cancel) as process:
            return process.prepare(request, emit, cancel)

    def embed(self, request: Request, texts: Texts, emit: Emit, cancel: threading.Event) -> None:
        with self._lease(request.spec, emit, cancel) as process:
            process.embed(request, texts, emit, cancel)

    def count(
        self, spec: ModelSpec, texts: Sequence[str], emit: Emit, cancel: threading.Event
    ) -> list[int]:
        if spec.model_type is not None:  # only the library that has loaded such a file knows
            with self._lease(spec, emit, cancel) as process:
                return process.count(texts, emit, cancel)
        bare = ModelSpec(model=spec.model, engine=spec.engine)

        def find() -> LocalModel:
            return replace(self._resolve(bare, emit, cancel), tokenizer_only=True)

        with self._tokenizers.lease(bare, find, emit, cancel, start_ahead=False) as process:
            return process.count(texts, emit, cancel)

    def close(self) -> None:
        self.pool.close()
        self._tokenizers.close()

    def _lease(
        self, spec: ModelSpec, emit: Emit, cancel: threading.Event
    ) -> AbstractContextManager[ModelProcess]:
        """The process that has the model loaded, for the time of the block."""
        return self.pool.lease(
            spec,
            lambda: self._resolve(spec, emit, cancel),
            emit,
            cancel,
            start_ahead=self._name(spec) not in self._found,
        )

    def _resolve(self, spec: ModelSpec, emit: Emit, cancel: threading.Event) -> LocalModel:
        """The checked file of a name. A known file is looked at again only when it has changed.

        Where a cancelled look at the file does not end, its thread is left behind: a call of the
        system may never return.
        """
        name = self._name(spec)
        deadline: float | None = None

        def report(progress: Progress) -> None:
            if cancel.is_set():  # the work ends at its next report
                raise Cancelled
            emit(progress)

        def find() -> LocalModel:
            known = self._found.get(name)
            if known is None or not known.unchanged():
                self._check_available(spec.engine)
                known = resolve(
                    spec.model, spec.model_type, self.aliases, report, self._backends, spec.engine
                )
                self._found[name] = known
            return known

        def check() -> None:
            nonlocal deadline
            if deadline is None and cancel.is_set():
                deadline = time.monotonic() + GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                raise Cancelled

        return in_background(find, check, 0.05, "llmwit-find")

    def _name(self, spec: ModelSpec) -> tuple[Any, ...]:
        """What a model's file is known by. A path is one from the current folder.

        The environment counts, since it may decide which backend can run.
        """
        place = str(current_folder() or "")
        return (
            spec.model, spec.model_type or "", spec.engine, place, environment_of(self._backends),
        )  # fmt: skip

    def _check_available(self, engine: str) -> None:
        """Raise `EngineFailed` where no backend that may run the model can run on this machine."""
        wanted = [item for item in self._backends if engine in ("auto", item.name)]
        problems = [backend.unavailable() for backend in wanted]
        if all(problems):
            raise EngineFailed("; ".join(problems))
