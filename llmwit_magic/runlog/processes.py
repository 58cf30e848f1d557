"""Which process has a session, and whether it is still there.

The start of the machine has an identity on Linux and macOS, which no other
machine has, and no other start of this one. With it a process is known again
whatever the machine is called meanwhile. A container's own numbers of
processes are told apart by their namespace.
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
    """Where this process runs: the machine's name, its start, and whose numbers processes have."""
    return " ".join([socket.gethostname(), boot_identity(), _numbers()])


@cache
def boot_identity() -> str:
    """Of the machine's present start; `-` where the system tells none, as on Windows."""
    if sys.platform == "darwin":
        told = macos.sysctl("kern.bootsessionuuid", 64) or b""
        return told.partition(b"\0")[0].decode("ascii", "replace") or _UNKNOWN
    try:
        return _BOOT.read_text("ascii").strip() or _UNKNOWN
    except (OSError, ValueError):
        return _UNKNOWN


def _numbers() -> str:
    """The namespace of process numbers, which each container has; `-` where there is none."""
    try:
        return os.readlink(_PROCESSES)
    except OSError:
        return _UNKNOWN


def is_alive(host: Any, pid: Any, began: Any) -> bool | None:
    """Whether the process is there that a session was written by; None where nobody can tell.

    `host` is `this_host()` of that process, or the machine's name alone in
    older rows; `began` is when it started, as `process_started` said.
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
        return False if name == own_name else None  # the machine has started anew, or is another
    if numbers != own_numbers and _UNKNOWN not in (numbers, own_numbers):
        return None  # in another container
    started = process_started(pid)
    if not isinstance(began, float):
        return started is not None
    return started is not None and abs(started - began) < 0.05


def process_started(pid: int) -> float | None:
    """When the living process of that id began (ids are used again), None where there is none.

    In seconds since the epoch; on Linux since the machine's start, where the
    former is not known: it changes when the clock is set.
    """
    import psutil

    try:
        # In this order: older versions of psutil remember the boot time.
        boot = psutil.boot_time() if psutil.LINUX else 0.0
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return _create_time(process) - boot
    except psutil.Error:
        return None


def _create_time(process: Any) -> float:
    """What the system says, which macOS keeps while the clock is set: psutil 7.1 adds the step."""
    if sys.platform == "darwin":
        with suppress(TypeError, AttributeError):
            return float(process._proc.create_time(monotonic=True))
    return float(process.create_time())
