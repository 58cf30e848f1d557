"""Python in a process of its own, also one that sees file systems which nobody else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


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
