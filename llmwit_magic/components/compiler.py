"""The compiler of components: a child process, so that a hostile file costs this one nothing.

wasmtime's compiler has no limits of its own. A file of 1.5 KB can make it take minutes and all
memory, and a lack of memory ends its process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from ..base.background import in_background
from ..base.children import PACKAGE, beginning, package_code, start
from ..errors import NO_PYTHON, ComponentFailed, InvalidInput
from .sandbox import Printed

SECONDS = 120.0
"""How long compiling may take. A component of Python with 35 MB takes 3 seconds of two cores."""
MEMORY = 2**30
MEMORY_PER_BYTE = 16
"""Compiling may take `MEMORY` bytes and so many more for each byte of the file, where the system
limits it. A component of Python with 35 MB takes 570 MB. What is loaded later takes no more."""
POLL_SECONDS = 0.05
MARK = b"\nllmwit-compiled\n"
"""It stands in front of the child's answer. What the user's sitecustomize prints comes before it."""
OUT_OF_MEMORY = "out of memory"
_CODE = package_code("llmwit_magic.components.compiler_child")
# More threads would need more memory, and so would an arena of malloc for each of them.
_THREADS = min(8, os.cpu_count() or 1)
_ENVIRONMENT = {
    "RAYON_NUM_THREADS": str(_THREADS), "MALLOC_ARENA_MAX": "4", "RUST_BACKTRACE": "0",
}  # fmt: skip
_MEMORY_WORDS = ("memory allocation of", "MemoryError", "Cannot allocate memory", "os error 12")
"""Rust says the first, Python the second, and the system the others."""


def compile_apart(source: bytes) -> bytes:
    """The compiled form of a component, made in a child process.

    The child is ended when this function ends, also by an interrupt. Raises `InvalidInput` where
    the source is no component or takes too much to compile, and `ComponentFailed` where there can
    be no child.
    """
    if not sys.executable:
        raise ComponentFailed(f"it could not be compiled: {NO_PYTHON}")
    memory = MEMORY + MEMORY_PER_BYTE * len(source)
    try:
        process: subprocess.Popen[bytes] = start(
            [sys.executable, "-P", "-c", beginning() + _CODE, str(PACKAGE), str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | _ENVIRONMENT,
        )  # fmt: skip
    except OSError as error:
        raise ComponentFailed(f"it could not be compiled: {error.strerror or error}") from None
    deadline = time.monotonic() + SECONDS

    def check() -> None:
        if time.monotonic() > deadline:
            raise InvalidInput(
                f"compiling it takes more than {SECONDS:g} s: use a smaller build of it, or try "
                "again when the machine is less busy"
            )

    # The child knows the length, since a forked process can hold its input open.
    order = json.dumps({"memory": memory, "length": len(source)}).encode() + b"\n"
    try:
        output, errors = in_background(
            lambda: process.communicate(order + source), check, POLL_SECONDS, "llmwit-compile"
        )
    finally:
        process.kill()  # it does nothing where the child has ended
    kind, _, answer = output.partition(MARK)[2].partition(b"\n")
    if kind == b"compiled" and process.returncode == 0:
        return answer
    said = Printed(lambda text: None)
    said(errors)
    if kind == b"failed":
        raise InvalidInput(answer.decode())
    if kind == b"memory" or any(word in said.last_line for word in _MEMORY_WORDS):
        raise InvalidInput(
            f"compiling it takes more than {memory // 2**20} MiB of memory, which is far more than "
            "a component of its size should: use another build of it"
        )
    words = f"; its last words: {said.last_line}" if said.last_line else ""
    raise InvalidInput(
        f"wasmtime's compiler cannot take it: it ended with code {process.returncode}{words}; use "
        "another build of it"
    )
