"""The child that compiles one component.

Its input is one line of JSON with the component's `length` in bytes and the `memory` that compiling
may take, then the component. Its answer is `MARK`, then a line that is `compiled`, `failed` or
`memory`, then the compiled form or the failure in words.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import wasmtime
from wasmtime import component

from ..base.children import private_pipes, watch_parent
from ..engines.memory import limited_memory
from .compiler import MARK
from .sandbox import the_engine


def main(parent: int) -> None:
    """Compile the component of the input. `parent` is the parent's process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders, answers = private_pipes()
    watch_parent(parent, lambda: os._exit(1))
    _leave_no_core()
    order = json.loads(orders.readline())
    source = orders.read(order["length"])
    if len(source) < order["length"]:  # the parent has gone
        os._exit(1)
    kind, answer = _outcome(source, order["memory"])
    answers.write(MARK + kind + b"\n" + answer)
    answers.flush()
    os._exit(0)


def _outcome(source: bytes, memory: int) -> tuple[bytes, bytes | bytearray]:
    engine = the_engine().engine
    try:
        with limited_memory(memory):
            return b"compiled", component.Component(engine, source).serialize()
    except MemoryError:
        return b"memory", b""
    except wasmtime.WasmtimeError as error:
        if source[:8] == b"\0asm\x01\0\0\0":
            why = "it is a core module: make a component of it, as `wasm-tools component new` does"
        else:
            why = " ".join(str(error).split())
        return b"failed", f"it is no WebAssembly component: {why}".encode()


def _leave_no_core() -> None:
    """A compiler that lacks memory aborts. Its memory is not written into a file then."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
