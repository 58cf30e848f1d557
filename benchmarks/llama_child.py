"""A real llama-server in a process of its own: `python -m benchmarks.llama_child MODEL SLOTS`.

The first line of its output is its URL. It ends when its input does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTEXT_LENGTH = 512
"""Tokens of prompt and answer in each slot."""


@contextmanager
def llama_server(model: Path, slots: int) -> Iterator[str]:
    """The URL of a running server."""
    command = [sys.executable, "-m", "benchmarks.llama_child", str(model), str(slots)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        lines = (line.strip() for line in process.stdout)
        yield next(line for line in lines if line.startswith("http://"))
    finally:
        process.kill()
        process.communicate()


def main(model: str, slots: str) -> None:
    import xllamacpp

    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the server logs there
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = int(slots)
    params.n_ctx = CONTEXT_LENGTH * int(slots)
    params.warmup = False
    server = xllamacpp.Server(params)
    said.write(f"{server.listening_address}/v1\n")
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
