"""How many fast cores the processor has.

Apple silicon, many Intel processors and most Arm processors have slow cores
beside the fast ones. The slow cores save power. Threads that wait for one
another are all as slow as the slowest of them.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..base import macos

FAST_SHARE = 2 / 3
"""A core is a fast one if it has at least this share of the fastest core's capacity.

Linux tells the capacities. Those of fast cores differ by a tenth or a fifth. Slow
cores have about half the capacity of a fast one.
"""
_CORES = 0  # RelationProcessorCore


def fast_cores() -> int | None:
    """The number of fast cores, hyper-threads not counted.

    None where the system does not tell fast cores from slow ones.
    """
    if sys.platform == "win32":
        return fastest_class(windows_cores(ctypes.WinDLL("kernel32")))
    if sys.platform == "darwin":
        return sysctl("hw.perflevel0.physicalcpu")
    if sys.platform == "linux":
        return linux_fast_cores(Path("/sys/devices"), os.sched_getaffinity(0))
    return None


def sysctl(name: str) -> int | None:
    """The number that macOS has under that name; None where it has none."""
    told = macos.sysctl(name, 8)
    return None if told is None else int.from_bytes(told, sys.byteorder)


def linux_fast_cores(devices: Path, ours: Iterable[int]) -> int | None:
    """The number of fast cores among the processors `ours`; None where it cannot be told.

    `devices` is the folder `/sys/devices`, or one like it.
    """
    cpus = devices / "system" / "cpu"
    try:
        # Intel processors with fast and slow cores have this file.
        fast = set(ours) & numbers((devices / "cpu_core" / "cpus").read_text("ascii"))
    except (OSError, ValueError):
        try:
            capacity = {
                cpu: int((cpus / f"cpu{cpu}" / "cpu_capacity").read_text("ascii")) for cpu in ours
            }
        except (OSError, ValueError):
            return None
        fast = {
            cpu for cpu, size in capacity.items() if size >= FAST_SHARE * max(capacity.values())
        }
    siblings = set()
    for cpu in fast:
        topology = cpus / f"cpu{cpu}" / "topology"
        same = f"{cpu}"
        with suppress(OSError):
            same = (topology / "thread_siblings_list").read_text("ascii")
        siblings.add(same)
    return len(siblings) or None


def numbers(text: str) -> set[int]:
    """The numbers in a list as Linux writes it: `0-3,8`. Raises `ValueError` for another text."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def fastest_class(data: bytes) -> int | None:
    """The number of cores with the highest efficiency class; None where `data` has no cores.

    `data` holds one SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX structure for each
    core. The structure begins with its relationship (0 for a core) and its own
    size, with 4 bytes each. A PROCESSOR_RELATIONSHIP follows. Its second byte is
    the EfficiencyClass, which is higher for faster cores.
    """
    classes: list[int] = []
    place = 0
    while place + 10 <= len(data):
        relationship, size, _, efficiency = struct.unpack_from("<IIBB", data, place)
        if size < 10:
            return None
        if relationship == _CORES:
            classes.append(efficiency)
        place += size
    return classes.count(max(classes)) if classes else None


def windows_cores(kernel32: Any) -> bytes:
    """What Windows tells of its cores, for `fastest_class`; empty where it tells nothing."""
    size = ctypes.c_uint32(0)
    kernel32.GetLogicalProcessorInformationEx(_CORES, None, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    told = kernel32.GetLogicalProcessorInformationEx(_CORES, buffer, ctypes.byref(size))
    return buffer.raw[: size.value] if told else b""
