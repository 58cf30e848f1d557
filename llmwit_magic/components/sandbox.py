"""The limits of a component: what it may use, and how a call is ended.

All components of a process share one engine of wasmtime. Code of a guest looks at the engine's epoch
again and again. The epoch rises every `TICK_SECONDS`, and then each guest asks its own call whether
it may go on. So one call ends without the others.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import wasmtime
from wasmtime import _bindings

from ..base.forked_lock import ForkedLock
from ..errors import InvalidInput
from .wasmtime_repairs import LIBRARY_LOCK

TICK_SECONDS = 0.02
"""How often a guest asks whether it may go on."""
MOST_MEMORIES = 4
"""Memories that a call may have; each may take the bytes of `memory`."""
MOST_TABLES = 100
MOST_TABLE_ELEMENTS = 100_000
MOST_INSTANCES = 500
"""Instances of core modules; a component of Python has about a hundred."""
STACK_BYTES = 512 * 2**10
"""The stack of a guest. Python's threads have more, so endless recursion ends in a trap."""
OUTPUT_BYTES = 64 * 2**10
"""What is kept of a guest's standard output, and as much of its standard error."""
SHOWN_BYTES = 2**20
"""What is shown of each while the call goes on."""

Ask = Callable[[], str | None]
"""Says why a call may not go on; None where it may."""

_asked = threading.local()
"""The call whose guest runs in this thread, as `ask`."""


try:
    _callback = _bindings._wasmtime_store_epoch_deadline_callback.argtypes[1]
except (AttributeError, IndexError):
    raise InvalidInput(
        "this version of wasmtime is not known to llmwit-magic: pip install wasmtime==50.0.1"
    ) from None


@_callback  # type: ignore[untyped-decorator]
def _at_deadline(context: Any, data: Any, delta: Any, kind: Any) -> int:
    """Let the guest of this thread go on until the next tick, or end it with an error.

    wasmtime has this callback for programs in C; its Python part has none of its own.
    """
    try:
        why = _asked.ask()
    except BaseException as error:  # it must not leave this function
        why = f"unexpected {type(error).__name__}"
    if why is None:
        delta[0], kind[0] = 1, 0
        return 0
    error_pointer = wasmtime.WasmtimeError(why)._consume()
    return ctypes.cast(error_pointer, ctypes.c_void_p).value or 0


_NOTHING_TO_FREE = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))


class Engine:
    """wasmtime's engine of this process, whose epoch rises while calls go on."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        config = wasmtime.Config()
        config.wasm_component_model = True
        config.epoch_interruption = True
        config.max_wasm_stack = STACK_BYTES
        # The threads that compile are not forked, and wasmtime would wait for them.
        config.parallel_compilation = not _is_forked
        self.engine = wasmtime.Engine(config)
        self._going = 0
        self._ticks = False
        """Whether the thread that raises the epoch is there."""
        self._lock = threading.Lock()

    @contextmanager
    def ticking(self, ask: Ask) -> Iterator[None]:
        """Let the guest of this thread ask `ask` at each tick."""
        _asked.ask = ask
        with self._lock:
            self._going += 1
            if not self._ticks:
                threading.Thread(target=self._tick, name="llmwit-epoch", daemon=True).start()
                self._ticks = True
        try:
            yield
        finally:
            with self._lock:
                self._going -= 1
            del _asked.ask

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            self.engine.increment_epoch()
            with self._lock:
                if not self._going:
                    self._ticks = False
                    return


_is_forked = False


def _note_the_fork() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_the_fork)

_engine: Engine | None = None
_engine_lock = ForkedLock()


def the_engine() -> Engine:
    """The engine of this process. A forked process gets its own, since threads are not forked."""
    global _engine
    with _engine_lock:
        if _engine is None or _engine.pid != os.getpid():
            _engine = Engine()
        return _engine


_OF_RUNTIMES = re.compile(
    r"^thread '.*panicked at|^note: run with `RUST_BACKTRACE|^lost sys\.stderr"
    r"|^Python function threw an unexpected exception"
)
"""Lines that Rust and componentize-py print after an error."""


class Printed:
    """What a guest writes to its standard output or error: the last of it, and each part at once.

    `show` gets `SHOWN_BYTES` at most.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._kept = b""
        self._show = show
        self._left = SHOWN_BYTES
        # A write may end within a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-OUTPUT_BYTES:]
        if self._left > 0:
            self._show(self._decoder.decode(data[: self._left]))
            self._left -= len(data)

    @property
    def last_line(self) -> str:
        """The last line that says something: an error's own words, where it has printed them."""
        lines = self._kept.decode(errors="replace").splitlines()
        said = (line.strip() for line in reversed(lines))
        return next((line for line in said if line and not _OF_RUNTIMES.search(line)), "")


@contextmanager
def store(
    engine: Engine, memory: int, dirs: Mapping[str, tuple[str, bool]], env: Mapping[str, str],
    out: Printed, err: Printed,
) -> Iterator[wasmtime.Store]:  # fmt: skip
    """A store for one call, with the limits and with what is granted.

    `memory` is in bytes. `dirs` has the guest's names of folders, each with the folder here and
    whether the guest may write. A guest has clocks and random numbers; it has no network, and no
    file or variable that is not granted.
    """
    with LIBRARY_LOCK:
        made = wasmtime.Store(engine.engine)
        wasi = wasmtime.WasiConfig()
        wasi.env = list(env.items())
        for name, (folder, writable) in dirs.items():
            wasi.preopen_dir(folder, name, writable)
        wasi.stdout_custom = out
        wasi.stderr_custom = err
        made.set_wasi(wasi)
    made.set_limits(
        memory_size=memory, table_elements=MOST_TABLE_ELEMENTS, instances=MOST_INSTANCES,
        tables=MOST_TABLES, memories=MOST_MEMORIES,
    )  # fmt: skip
    _bindings._wasmtime_store_epoch_deadline_callback(
        made.ptr(), _at_deadline, None, _NOTHING_TO_FREE
    )
    made.set_epoch_deadline(1)
    try:
        yield made
    finally:
        with LIBRARY_LOCK:
            made.close()
