"""Which process a session belongs to, and whether that process still lives.

Linux and macOS give each start of a machine an identity, which no other start and no other
machine has. It identifies the machine of a process even after the machine has been renamed.
Containers number their processes themselves; the namespace of the numbers tells them apart.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..base import macos

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PROCESSES = "/proc/self/ns/pid"
_UNKNOWN = "-"


def this_host() -> str:
    """Where this process runs: machine name, machine start and namespace of process numbers."""
    return " ".join([socket.gethostname(), boot_identity(), _numbers()])


@cache
def boot_identity() -> str:
    """The identity of the machine's present start; `-` where the system has none, as on Windows."""
    if sys.platform == "darwin":
        told = macos.sysctl("kern.bootsessionuuid", 64) or b""
        return told.partition(b"\0")[0].decode("ascii", "replace") or _UNKNOWN
    try:
        return _BOOT.read_text("ascii").strip() or _UNKNOWN
    except (OSError, ValueError):
        return _UNKNOWN


def _numbers() -> str:
    """The namespace of process numbers, one for each container; `-` where the system has none."""
    try:
        return os.readlink(_PROCESSES)
    except OSError:
        return _UNKNOWN


def is_alive(host: Any, pid: Any, began: Any) -> bool | None:
    """Whether the process that wrote a session still lives; None where that cannot be known here.

    `host` is what `this_host` said in that process; in older rows it is the machine's name only.
    `began` is when the process started, as `process_started` said.
    """
    if not isinstance(host, str) or type(pid) is not int or not 0 <= pid < 2**31:
        return None
    name, *rest = host.rsplit(" ", 2)
    boot, numbers = rest if len(rest) == 2 else (_UNKNOWN, _UNKNOWN)
    own_name, own_boot, own_numbers = this_host().rsplit(" ", 2)
    if _UNKNOWN in (boot, own_boot):
        if name != own_name:
            return None
    elif boot != own_boot:
        return False if name == own_name else None  # it was restarted, or is another machine
    if numbers != own_numbers and _UNKNOWN not in (numbers, own_numbers):
        return None  # in another container
    started = process_started(pid)
    if not isinstance(began, float):
        return started is not None
    return started is not None and abs(started - began) < 0.05


def process_started(pid: int) -> float | None:
    """When the living process with that ID started, in seconds; None where there is none.

    Systems use IDs again, and the time tells two processes with one ID apart. The seconds count
    from the epoch, but on Linux from the machine's start: there, a start in seconds from the epoch
    changes whenever the clock is set.
    """
    import psutil

    try:
        # The boot time is read first: older versions of psutil keep it for `create_time`.
        boot = psutil.boot_time() if psutil.LINUX else 0.0
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return _create_time(process) - boot
    except psutil.Error:
        return None


def _create_time(process: Any) -> float:
    """When the process started, as the system says.

    On macOS the system's answer does not change when the clock is set, but psutil 7.1 adds the
    change of the clock unless it is asked not to.
    """
    if sys.platform == "darwin":
        with suppress(TypeError, AttributeError):
            return float(process._proc.create_time(monotonic=True))
    return float(process.create_time())
