"""One client of the HTTP server beside a cell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from . import ways
from .compare import Figures, Say, Size, over_http


def http(size: Size, say: Say) -> Figures:
    """How fast one client gets its answer, and how fast a cell does."""
    with _server() as port:
        return over_http([ways.infer(), ways.http(port)], size, say)


@contextmanager
def _server() -> Iterator[int]:
    """The port of a server of the default model, which ends with the block."""
    child = subprocess.Popen(
        [sys.executable, "-m", "llmwit_magic", "http", "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    with child, child.stdout:
        try:
            yield int(child.stdout.readline().rsplit(":", 1)[1].partition("/")[0])
        finally:
            child.terminate()
            child.wait(30)
