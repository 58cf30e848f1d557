"""Components of WebAssembly that call this package's models."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.background import GRACE_SECONDS, started, wait_patiently
from ..contract.record import shown
from ..contract.request import DEFAULT_MODEL, ModelSpec, Request
from ..errors import ComponentFailed, Interrupted, InvalidInput
from ..running.run import Run
from ..running.session import Session, current_session
from .grants import (
    Granted,
    Limits,
    granted_folders,
    granted_models,
    granted_variables,
    read_component,
)

if TYPE_CHECKING:
    from .compiled_guest import CompiledGuest
    from .guest_call import GuestCall

MEMORY = 512 * 2**20
SECONDS = 600.0
MOST_MEMORY = 2**40
"""wasmtime would take a much larger number for no limit."""
MOST_SECONDS = 10**9
MOST_LEFT_BEHIND = 4
"""Calls that were ended while they waited for a clock of the system, which nothing can end. Each
holds a thread and its memory until then."""
STEP_SECONDS = 0.05

_OPTIONS = {*ModelSpec.model_fields, "threads", "tags", "content_filters"} - {"model"}

_left_behind: list[Future[Any]] = []


class Component:
    """A WebAssembly component, whose calls of a language model are runs of this session.

    It may import `llmwit:llm@0.1.0` and `@0.2.0`, Spin's `fermyon:spin/llm@2.0.0` (also without a
    version), `pharia:skill/inference@0.3`, and WASI 0.2. Another interface is refused by name when
    the component calls it.

    A component has no files, no network and no environment. It has clocks and random numbers, and
    what is granted:

    - `file` is the path of the component, or its bytes.
    - `model` is the model that answers, whatever name the component uses. A list has the names that
      it may use, and a mapping has them with the models that they stand for. By default it may use
      the default model by its name. For any other name it gets `model-not-supported`.
    - `dirs` are folders that it sees: `{"/data": "my/folder"}`, or `{"/out": ("my/folder", "rw")}`
      where it may write.
    - `env` is its environment.
    - `memory` is the most bytes that one memory of a call may have; a call has four at most. By
      default it is 512 MiB.
    - `seconds` is how long a call may take, by the clock: the time of its runs counts too. By
      default it is 600.
    - `seed` is for requests that have none, as those of Spin and Pharia.
    - `output` gets what the component prints, in parts. By default it is dropped.
    - `options` are those of `infer` that say how a model is loaded, and threads, tags and
      content_filters.

    The component is compiled when it is made, which takes seconds for a large one. A child process
    does so, within limits, and an interrupt ends it. The compiled form is kept in the cache. Each
    call is a new instance, so nothing stays from one call to the next. Several threads may call at
    the same time.

    Raises `InvalidInput` for a file that is no component or takes too much to compile, and for an
    option without effect, and `ComponentFailed` where no process to compile can be started.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | bytes,
        *,
        model: str | os.PathLike[str] | Sequence[str] | Mapping[str, str] | None = None,
        dirs: Mapping[str, str | os.PathLike[str] | tuple[str, str]] | None = None,
        env: Mapping[str, str] | None = None,
        memory: int = MEMORY,
        seconds: float = SECONDS,
        seed: int | None = None,
        output: Callable[[str], None] | None = None,
        session: Session | None = None,
        **options: Any,
    ) -> None:
        if find_spec("wasmtime") is None:
            raise InvalidInput('components need wasmtime: pip install "llmwit-magic[wasm]"')
        for name in options:
            if name not in _OPTIONS:
                raise InvalidInput(f"{name} has no effect on a component: leave it out")
        if type(memory) is not int or not 1 <= memory <= MOST_MEMORY:
            raise InvalidInput(
                f"memory: {shown(memory)} is not valid: it must be from 1 to {MOST_MEMORY:,} bytes"
            )
        if type(seconds) not in (int, float) or not 0 < seconds <= MOST_SECONDS:
            raise InvalidInput(
                f"seconds: {shown(seconds)} is not valid: it must be above 0, and {MOST_SECONDS:,} "
                "at most"
            )
        given = bytes(file) if isinstance(file, bytearray | memoryview) else file
        source = given if isinstance(given, bytes) else read_component(given)
        self.name = "component" if isinstance(given, bytes) else Path(given).stem
        self.sha256 = hashlib.sha256(source).hexdigest()
        self._session, self._output = session, output
        self._seconds = seconds
        self._limits = Limits(memory, granted_folders(dirs or {}), granted_variables(env or {}))
        self._granted = Granted(self.name, self.sha256, granted_models(model), seed, options)
        Request(model=DEFAULT_MODEL, prompt="", params={"seed": seed}, **options)  # raises early
        try:
            self._guest = _compiled_guest(self.name, source, self.sha256)
        except (InvalidInput, ComponentFailed) as error:
            raise type(error)(f"{self.name}: {error}") from None
        self._exports = {"#".join(path): path for path in self._guest.functions}

    @property
    def exports(self) -> tuple[str, ...]:
        """The functions that can be called: `NAME`, or `INTERFACE#NAME`."""
        return tuple(self._exports)

    def parameters(self, export: str) -> dict[str, str]:
        """The names of a function's parameters, each with its type in the words of WIT.

        Raises `InvalidInput` as `call` does for the function's name.
        """
        return self._guest.parameters(self._path(export))

    def call(self, export: str, /, *arguments: Any) -> Any:
        """Call a function that the component exports, in a new instance, and return its value.

        `export` is one of `exports`; the name of the function is enough where no other has it. A
        record is a mapping, a variant is a text or a mapping of one case, an option is None or a
        value, and a list of bytes may be `bytes` or a text. What comes back has the same forms.

        Raises `ComponentFailed` where the function returns an error, traps, or is ended by a limit,
        `InvalidInput` for arguments that do not fit, and the error of a run where the interface has
        no word for it. An interrupt ends the component and its runs, and raises `Interrupted`.
        """
        return self.call_and_show(export, arguments, None)

    def call_and_show(
        self, export: str, arguments: Sequence[Any], show: Callable[[Run], None] | None
    ) -> Any:
        """`call`, where `show` gets each run soon after it has begun, in this thread.

        It may follow the run to its end.
        """
        path = self._path(export)
        if self._guest.pid != os.getpid():
            raise InvalidInput(f"{self.name} was made in another process: make it in this one")
        if sum(not left.done() for left in _left_behind) >= MOST_LEFT_BEHIND:
            raise ComponentFailed(
                f"{MOST_LEFT_BEHIND} calls that were ended still wait for a clock of the system: "
                "restart the kernel, or wait until they end"
            )
        from .guest_call import GuestCall

        call = GuestCall(self._session or current_session(), self._granted, self._seconds)
        result: Future[Any] = Future()
        # While `show` follows a run, nothing else here looks at the clock.
        clock = threading.Timer(min(self._seconds, threading.TIMEOUT_MAX), call.cancel)
        clock.daemon = True
        try:
            if show is not None:
                clock.start()
            result = started(
                lambda: self._guest.call(call, path, export, arguments, self._limits),
                "llmwit-component",
            )
            while not wait([result], STEP_SECONDS).done:
                self._tell(call, show)
                if call.is_late:
                    call.cancel()
                    wait_patiently(lambda left: bool(wait([result], left).done), GRACE_SECONDS)
                    break
            self._tell(call, show)
        except KeyboardInterrupt:
            call.cancel()
            wait_patiently(lambda left: bool(wait([result], left).done), GRACE_SECONDS)
            raise Interrupted(f"{self.name} was stopped; its runs are kept in the log") from None
        finally:
            clock.cancel()
            call.close()
            if not result.done():
                _left_behind[:] = [left for left in _left_behind if not left.done()] + [result]
        if not result.done():  # it waits in the system, as for a clock, and ends when that ends
            raise call.out_of_time()
        return result.result()

    def _tell(self, call: GuestCall, show: Callable[[Run], None] | None) -> None:
        """Show what the guest has printed and begun since the last time."""
        while not call.printed.empty():
            text = call.printed.get()
            if self._output is not None:
                self._output(text)
        while not call.begun.empty():
            run = call.begun.get()
            if show is not None:
                show(run)

    def _path(self, export: str) -> tuple[str, ...]:
        """Where a function lies. Raises `InvalidInput` for a name that leads to none, or to several."""
        if isinstance(export, str) and export in self._exports:
            return self._exports[export]
        found = [name for name in self._exports if name.rpartition("#")[2] == export]
        if len(found) == 1:
            return self._exports[found[0]]
        there = ", ".join(found or self._exports) or "no function"
        why = "is the name of several" if found else "is not exported"
        raise InvalidInput(f"{self.name}: {str(export)[:80]!a} {why}: it exports {there}")


def _compiled_guest(name: str, source: bytes, digest: str) -> CompiledGuest:
    """The component, compiled. Only now is wasmtime needed, which not every user has."""
    from .compiled_guest import CompiledGuest

    return CompiledGuest(name, source, digest)
