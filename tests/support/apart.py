"""Python in a process of its own, also one that sees file systems which nobody else does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
APART = """
import json, os, sys, shutil, subprocess, time
from pathlib import Path
from llmwit_magic.running.session import Session
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams

said = {}
model, logged = sys.argv[1:3]
session = Session(logged)

def ask(prompt, model=model, count=4):
    run = session.run(Request(model=model, prompt=prompt, params=InferencingParams(
        max_tokens=count, seed=1)))
    assert run.wait(60)
    timings = run.result.timings
    return dict(status=run.status, error=type(run.error).__name__ if run.error else None,
                message=str(run.error or ""), log_problem=run.log_problem, run_id=run.run_id,
                timings=timings.model_dump())

def say():
    session.close()
    print("SAID", json.dumps(said))
"""
"""Code for another process: `ask(prompt)` makes a run and says what became of it."""


def python_apart(
    code: str, *arguments: object, mounts: str = "", env: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> Any:  # fmt: skip
    """Run code; what it prints after `SAID` as JSON. Its engines must have ended with it.

    `mounts` are shell commands that are carried out before, in a mount
    namespace that ends with the process.
    """
    command = [sys.executable, "-c", code, *map(str, arguments)]
    if mounts:
        command = ["unshare", "-m", "sh", "-ec", f'{mounts}\nexec "$@"', "sh", *command]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    assert "SAID " in done.stdout, done.stderr[-4000:]
    return json.loads(done.stdout.rsplit("SAID ", 1)[1])


@cache
def can_mount() -> bool:
    """Whether this process may make file systems of its own: as root, mostly."""
    try:
        command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


def preloaded(source: str, folder: Path) -> Path:
    """A library for `LD_PRELOAD`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("another libc's answers take Linux and a C compiler")
    text, library = folder / "shim.c", folder / "shim.so"
    text.write_text(source)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(text), "-ldl"], check=True
    )
    return library


class Told(threading.Thread):
    """Collects the lines of a process as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self.lines: list[str] = []
        self._new = threading.Condition()
        self._ended = False
        self.start()

    def run(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._new:
                self.lines.append(line.rstrip("\n"))
                self._new.notify_all()
        with self._new:
            self._ended = True
            self._new.notify_all()

    def line(self, number: int, timeout: float = 60) -> str:
        """The line of that number, when it is there."""
        with self._new:
            self._new.wait_for(lambda: len(self.lines) > number or self._ended, timeout)
            assert len(self.lines) > number, self.lines[-5:]
            return self.lines[number]
