"""A child process and the pipe to it: commands out, answers in, and how the child ended."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from typing import Any

from ...base.children import PACKAGE, beginning, package_code, start
from ...errors import NO_PYTHON, EngineFailed
from .wire import Answer, Broken, Command, Exit, decoded, encoded

EXIT_SECONDS = 2.0
"""How long a child may take to end by itself. Then it is killed."""
KILL_SECONDS = 5.0
"""How long to wait for the end of a killed child. One that is in a system call may end later."""
STANDBY_SECONDS = 300.0
"""How long a child that was started in advance waits for its model. It takes some 50 MB."""
_REPORT_BYTES = 2000
"""How many of the last bytes of a child's output are searched for its last line."""

# Garbage collection is off while the child imports and loads. The objects made in that time live
# until the child ends. Looking for garbage among them would make that time a tenth longer.
_CODE = "import gc\ngc.disable()\n" + package_code("llmwit_magic.engines.local.child")

# The child needs no plugins of pydantic, which looks for them in all packages when it is imported.
# It needs no threads for numpy's linear algebra, which numpy starts when it is imported.
# It needs docstrings, since ctransformers writes into its own. PYTHONOPTIMIZE=2 would remove them.
# It needs no debugger of llama.cpp's, which would start where the library aborts, and would have the
# last word.
_ENVIRONMENT = {
    "PYDANTIC_DISABLE_PLUGINS": "__all__", "OPENBLAS_NUM_THREADS": "1", "PYTHONOPTIMIZE": "",
    "GGML_NO_BACKTRACE": "1",
}  # fmt: skip


class ChildProcess:
    """A child that has been started and has no model yet. See `child.py` for what it answers.

    A child takes some tenths of a second to start. Its parent can do something else
    meanwhile, since nothing waits for the child before its first answer is taken.
    Raises `EngineFailed` where the system starts no process.
    """

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        """The child's answers, then None when the child has gone."""
        self._output: Any = None
        if not sys.executable:
            raise EngineFailed(f"the engine could not be started: {NO_PYTHON}")
        try:
            self._output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
            self._process: subprocess.Popen[bytes] = start(
                [sys.executable, "-P", "-c", beginning() + _CODE, str(PACKAGE),
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
        # Of a child that nobody holds any more, the garbage collector would warn.
        weakref.finalize(self, self._output.close).atexit = False
        for work, line in ((_write, self._commands), (_read, self.answers)):
            threading.Thread(
                target=work, args=(self._process, line), name=f"llmwit{work.__name__}", daemon=True
            ).start()

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send a command. This never blocks, although a child that is stopped reads nothing."""
        self._commands.put(encoded(command))

    def close(self) -> None:
        """Ask the child to end. Kill it where it does not end in time."""
        self.send(Exit())
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the child, and wait for its end for `KILL_SECONDS` at most.

        Its memory has been given back when it has ended.
        """
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECONDS)
        self.release()

    def release(self) -> None:
        """Let the child go. It finds its pipe closed, and ends."""
        self._commands.put(None)
        self._output.close()

    def ending(self) -> tuple[int | None, str]:
        """The exit code of a child that closed its pipe, as `Popen` has it, and its last words.

        The code is None where the child did not end by itself. It is killed here, and the code of
        that would say nothing of what went wrong.
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
        """The last line that the native library or Python wrote, cut where it is long."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - _REPORT_BYTES))
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""


class Standby:
    """A place for one child that was started in advance. After `STANDBY_SECONDS` it is ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._timer: threading.Timer | None = None

    def put(self, child: ChildProcess) -> None:
        """Keep a child. One that was kept before is ended."""
        self.close()
        with self._lock:
            self._child = child
            self._timer = threading.Timer(STANDBY_SECONDS, self.close)
            self._timer.name, self._timer.daemon = "llmwit-standby", True
            self._timer.start()

    def taken(self) -> ChildProcess | None:
        """The kept child, or None. It belongs to the caller from now on."""
        with self._lock:
            child, self._child = self._child, None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return child

    def close(self) -> None:
        """End the kept child, if there is one."""
        if (child := self.taken()) is not None:
            child.kill()


def start_child() -> ChildProcess | None:
    """A child before one is needed. None where none can be started: the first use raises why."""
    with suppress(EngineFailed):
        return ChildProcess()
    return None


def _write(process: subprocess.Popen[bytes], commands: queue.SimpleQueue[bytes | None]) -> None:
    """Write commands until the child is released. `_read` notices when the child has gone."""
    assert process.stdin is not None
    with suppress(OSError), process.stdin:
        while (line := commands.get()) is not None:
            process.stdin.write(line)
            process.stdin.flush()
    # A `ModelProcess` may be let go without `close`. Then nobody else sees to the child's end.
    try:
        process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read(process: subprocess.Popen[bytes], answers: queue.SimpleQueue[Answer | None]) -> None:
    """Put the child's answers into the queue, and None at its end."""
    assert process.stdout is not None
    try:
        with process.stdout:
            for line in process.stdout:
                # Lines that are no answers are skipped. The user's sitecustomize may print the
                # first lines, and the last one may be cut off.
                with suppress(ValueError):
                    answers.put(decoded(line))
    except Exception as error:  # as for a line nested too deep, or too large for the memory
        answers.put(Broken(f"{type(error).__name__}: {error}"))
    finally:
        answers.put(None)
