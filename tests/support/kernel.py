"""A real IPython kernel in a process of its own, driven over its own protocol."""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
from jupyter_client.manager import KernelManager


@dataclass
class Reply:
    """What a cell gave."""

    status: str = "running"
    error: str = ""
    traceback: list[str] = field(default_factory=list)
    stdout: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The last state of the cell's text/plain output, streams included."""
        shown = [data.get("text/plain", "") for data in self._shown()]
        return self.stdout + (shown[-1] if shown else "")

    @property
    def html(self) -> str:
        """The last state of the cell's HTML output."""
        shown = [data["text/html"] for data in self._shown() if "text/html" in data]
        return shown[-1] if shown else ""

    def _shown(self) -> list[dict[str, Any]]:
        """What the cell has displayed, each state of it; messages of widgets are none."""
        kinds = ("display_data", "update_display_data", "execute_result")
        return [
            message["content"]["data"] for message in self.messages if message["msg_type"] in kinds
        ]


class Kernel:
    """Starts at once; `run` executes a cell and waits for its end."""

    def __init__(self) -> None:
        self.manager = KernelManager(
            kernel_name="python3", transport="tcp" if sys.platform == "win32" else "ipc"
        )
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    @property
    def pid(self) -> int:
        return int(self.manager.provisioner.pid)

    def start(
        self, code: str, cell_id: str = "a-cell", metadata: dict[str, Any] | None = None
    ) -> str:
        """Send a cell as JupyterLab does, or without its id as a console does; its message id.

        `metadata` is what another front end says of the cell.
        """
        content = {
            "code": code, "silent": False, "store_history": True, "user_expressions": {},
            "allow_stdin": True, "stop_on_error": True,
        }  # fmt: skip
        if metadata is None:
            metadata = {"cellId": cell_id, "deletedCells": []} if cell_id else {}
        message = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def run(
        self, code: str, timeout: float = 60, when: Callable[[Reply], None] | None = None,
        cell_id: str = "a-cell",
    ) -> Reply:  # fmt: skip
        """Execute a cell; `when` is called with the reply so far after each message."""
        return self.wait(self.start(code, cell_id), timeout, when)

    def wait(
        self, message_id: str, timeout: float = 60, when: Callable[[Reply], None] | None = None
    ) -> Reply:
        reply, began = Reply(), time.monotonic()
        while time.monotonic() - began < timeout:
            try:
                message = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                if when:
                    when(reply)
                continue
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            reply.messages.append(message)
            if kind == "stream":
                reply.stdout += content["text"]
            elif kind == "error":
                reply.error = f"{content['ename']}: {content['evalue']}"
                reply.traceback = content["traceback"]
            elif kind == "status" and content["execution_state"] == "idle":
                reply.status = "error" if reply.error else "ok"
                reply.seconds = time.monotonic() - began
                return reply
            if when:
                when(reply)
        raise TimeoutError(f"the cell did not end within {timeout} s")

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def kill(self) -> None:
        psutil.Process(self.pid).kill()

    def engines(self) -> list[psutil.Process]:
        """The engine processes of this kernel."""
        return engines_of(self.pid)

    def close(self) -> None:
        self.client.stop_channels()
        if self.manager.is_alive():
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


class Once:
    """Acts once, as soon as the cell's output fulfils the condition."""

    def __init__(self, condition: Callable[[Reply], bool], action: Callable[[], object]) -> None:
        self.condition, self.action = condition, action
        self.time: float | None = None

    def __call__(self, reply: Reply) -> None:
        if self.time is None and self.condition(reply):
            self.time = time.monotonic()
            self.action()


def engines_of(pid: int | None = None) -> list[psutil.Process]:
    """The engine processes below a process (None: this one), at whatever depth."""
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if any("llmwit_magic.engines.local.child" in part for part in _command(child))
    ]


def still_alive(processes: list[psutil.Process], seconds: float = 5) -> list[psutil.Process]:
    """Those that have not ended after so long; what has only not been reaped yet has ended."""
    deadline = time.monotonic() + seconds
    while alive := [process for process in processes if _runs(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def running_kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    try:
        yield kernel
    finally:
        kernel.close()
