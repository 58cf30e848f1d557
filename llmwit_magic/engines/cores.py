"""How many of the processor's cores are its fast ones.

Apple silicon, many processors of Intel and most of Arm have slow cores beside
the fast ones, which save power. Threads that wait for one another go at the
pace of the slowest.
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
"""Of the fastest core's capacity, as Linux tells it: what a core needs to count as a fast one.

Fast cores differ by a tenth or a fifth, and slow ones have about half of it.
"""
_CORES = 0  # RelationProcessorCore


def fast_cores() -> int | None:
    """The fast cores, without hyper-threads; None where the system does not tell them apart."""
    if sys.platform == "win32":
        return fastest_class(windows_cores(ctypes.WinDLL("kernel32")))
    if sys.platform == "darwin":
        return sysctl("hw.perflevel0.physicalcpu")
    if sys.platform == "linux":
        return linux_fast_cores(Path("/sys/devices"), os.sched_getaffinity(0))
    return None


def sysctl(name: str) -> int | None:
    """A number that macOS knows by that name; None where it has none."""
    told = macos.sysctl(name, 8)
    return None if told is None else int.from_bytes(told, sys.byteorder)


def linux_fast_cores(devices: Path, ours: Iterable[int]) -> int | None:
    """Of the processors `ours`, by what the folder `/sys/devices` says of them."""
    cpus = devices / "system" / "cpu"
    try:
        # Intel's: processors with fast cores and slow ones have these files.
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
    """The numbers of a list as Linux writes it: `0-3,8`. Raises ValueError for another text."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def fastest_class(data: bytes) -> int | None:
    """How many cores have the highest class of what Windows tells of its cores.

    `data` holds SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX structures, one a core:
    its relationship (0 for a core) and its own size in 4 bytes each, then a
    PROCESSOR_RELATIONSHIP, whose second byte is the EfficiencyClass: the higher
    the faster.
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
    """What Windows tells of its cores; empty where it does not."""
    size = ctypes.c_uint32(0)
    kernel32.GetLogicalProcessorInformationEx(_CORES, None, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    told = kernel32.GetLogicalProcessorInformationEx(_CORES, buffer, ctypes.byref(size))
    return buffer.raw[: size.value] if told else b""
