"""A child process and the pipe to it: commands out, answers in, and how it ended."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..children import beginning, start
from ..errors import NO_PYTHON, EngineFailed

EXIT_SECONDS = 2.0
KILL_SECONDS = 5.0
"""How long the end of a killed child is waited for: one that sits in the system ends later."""
STANDBY_SECONDS = 300.0
"""How long a child that was started ahead waits for its model: it holds some 50 MB."""
_REPORT_BYTES = 2000

_PACKAGE = Path(__file__).resolve().parents[1]
# The package is loaded by its path, not with `-m` or through `sys.path`: the notebook's folder may
# have its own random.py, and another copy of this package may be installed. Garbage collection is
# off while the child imports and loads: these objects live until its end, and looking for garbage
# among them would cost a tenth of that time.
_CODE = """
import gc, importlib.util, sys
gc.disable()
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(
    "llmwit_magic", folder + "/__init__.py", submodule_search_locations=[folder])
package = sys.modules["llmwit_magic"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from llmwit_magic.engines.child import main
main(int(sys.argv[2]))
"""


# What the child has no use for, and would look for or start when it is imported: plugins of
# pydantic in all that is installed, and threads for the linear algebra of numpy.
# ctransformers writes into docstrings of its own, which PYTHONOPTIMIZE=2 takes away.
_ENVIRONMENT = {
    "PYDANTIC_DISABLE_PLUGINS": "__all__", "OPENBLAS_NUM_THREADS": "1", "PYTHONOPTIMIZE": "",
}  # fmt: skip


class ChildProcess:
    """A child that has been started and knows no model yet; see `child.py` for what it answers.

    Starting takes a child some tenths of a second, in which its parent may do
    something else: nothing waits for it before the first answer is taken.
    Raises `EngineFailed` where the system starts no process.
    """

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        """What the child says, and None when it has gone."""
        self._output: Any = None
        if not sys.executable:
            raise EngineFailed(f"the engine could not be started: {NO_PYTHON}")
        try:
            self._output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
            self._process: subprocess.Popen[bytes] = start(
                [sys.executable, "-P", "-c", beginning() + _CODE, str(_PACKAGE),
                 str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._output,
                env=os.environ | _ENVIRONMENT,
            )  # fmt: skip
        except BaseException as error:
            if self._output is not None:
                self._output.close()
            if not isinstance(error, OSError | RuntimeError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise EngineFailed(f"the engine could not be started: {reason}") from None
        for work, line in ((_write, self._commands), (_read, self.answers)):
            threading.Thread(
                target=work, args=(self._process, line), name=f"llmwit{work.__name__}", daemon=True
            ).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Mapping[str, Any]) -> None:
        """Hand a command on. It does not block: a child that is stopped reads nothing."""
        self._commands.put(json.dumps(command).encode() + b"\n")

    def close(self) -> None:
        """Ask the child to end, and end it where it does not in time."""
        self.send({"do": "exit"})
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End the child; its memory is given back when this returns."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECONDS)
        self.release()

    def release(self) -> None:
        """Let the child go: it finds its pipe closed, and ends."""
        self._commands.put(None)
        self._output.close()

    def ending(self) -> tuple[int | None, str]:
        """The exit code of a child that closed its pipe, as `Popen` has it, and its last words.

        None where it lived on: it is ended here, and that says nothing of what befell it.
        """
        code: int | None = None
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        said = self._last_output()
        self.release()
        return code, said

    def _last_output(self) -> str:
        """The last line that the native library or Python wrote before the end."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - _REPORT_BYTES))
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""


class Standby:
    """A place for a child that has been started ahead, which ends there after a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._timer: threading.Timer | None = None

    def put(self, child: ChildProcess) -> None:
        """Keep a child; one that was there already ends."""
        self.close()
        with self._lock:
            self._child = child
            self._timer = threading.Timer(STANDBY_SECONDS, self.close)
            self._timer.name, self._timer.daemon = "llmwit-standby", True
            self._timer.start()

    def taken(self) -> ChildProcess | None:
        """The child, which is the caller's from now on."""
        with self._lock:
            child, self._child = self._child, None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return child

    def close(self) -> None:
        """End the child that is there."""
        if (child := self.taken()) is not None:
            child.kill()


def start_child() -> ChildProcess | None:
    """A child ahead of its need; None where none can be started, which the need will say."""
    with suppress(EngineFailed):
        return ChildProcess()
    return None


def _write(process: subprocess.Popen[bytes], commands: queue.SimpleQueue[bytes | None]) -> None:
    """Pass commands on until the child is released; that it has gone is noticed by `_read`."""
    assert process.stdin is not None
    with suppress(OSError), process.stdin:
        while (line := commands.get()) is not None:
            process.stdin.write(line)
            process.stdin.flush()
    # Where the engine was let go without being closed, nobody else sees to the child's end.
    try:
        process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read(
    process: subprocess.Popen[bytes], answers: queue.SimpleQueue[dict[str, Any] | None]
) -> None:
    """Take the child's answers in until its end, which is None."""
    assert process.stdout is not None
    try:
        with process.stdout:
            for line in process.stdout:
                # What a sitecustomize of the user's prints comes first; a line cut off comes last.
                with suppress(ValueError):
                    answers.put(_message(json.loads(line)))
    except Exception as error:  # nested too deep for the reader, too large for the memory
        answers.put({"kind": "broken", "value": f"{type(error).__name__}: {error}"})
    finally:
        answers.put(None)


def _message(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != {"kind", "value"}:
        raise ValueError("no answer of a child")
    return value
