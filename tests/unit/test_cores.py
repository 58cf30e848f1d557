"""How many cores are fast ones, on simulated machines."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmwit_magic.engines import cores
from llmwit_magic.engines.cores import (
    fast_cores,
    fastest_class,
    linux_fast_cores,
    numbers,
    sysctl,
    windows_cores,
)
from tests.support.systems import MacLibrary


def on(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "sys", SimpleNamespace(platform=system, byteorder=sys.byteorder))


# Linux ----------------------------------------------------------------------------------


def devices(
    folder: Path, cores: list[list[int]], fast: str | None = None,
    capacity: dict[int, int] | None = None,
) -> Path:  # fmt: skip
    """A folder like `/sys/devices`.

    It tells which processors share a core, and how fast they are.
    """
    for core in cores:
        for cpu in core:
            place = folder / "system" / "cpu" / f"cpu{cpu}"
            (place / "topology").mkdir(parents=True)
            shared = ",".join(map(str, core)) + "\n"
            (place / "topology" / "thread_siblings_list").write_text(shared)
            if capacity:
                (place / "cpu_capacity").write_text(f"{capacity[cpu]}\n")
    if fast is not None:
        (folder / "cpu_core").mkdir()
        (folder / "cpu_core" / "cpus").write_text(fast + "\n")
    return folder


# Six fast cores of two threads each, and eight slow cores of one thread each.
ALDER_LAKE = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], *([cpu] for cpu in range(12, 20))]


@pytest.mark.parametrize(
    ("ours", "count"),
    [
        (range(20), 6),
        (range(4), 2),  # two cores are ours
        ((0, 2, 12, 13), 2),
        ((1, 19), 1),
        ((12, 13), None),  # none of ours is fast, so all of ours are equally fast
    ],
)
def test_hybrid_processors_of_intel(ours: range, count: int | None, tmp_path: Path) -> None:
    """Linux names the fast processors. Those of one core count once, and only ours count."""
    assert linux_fast_cores(devices(tmp_path, ALDER_LAKE, "0-11"), ours) == count


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([1024] * 4, 4),
        ([250, 250, 250, 250, 1024, 1024, 1024, 1024], 4),
        ([325, 325, 325, 840, 840, 900, 900, 1024], 5),  # one large, four nearly so, three small
        ([530, 530, 530, 530, 1024, 1024, 1010, 1010], 4),
        ([460, 460, 1024, 1024], 2),
    ],
)
def test_processors_of_arm(sizes: list[int], count: int, tmp_path: Path) -> None:
    """Linux tells a capacity for each core. Cores with about the highest capacity count as fast."""
    each = [[cpu] for cpu in range(len(sizes))]
    folder = devices(tmp_path, each, capacity=dict(enumerate(sizes)))
    assert linux_fast_cores(folder, range(len(sizes))) == count
    assert linux_fast_cores(folder, (0, 1)) == 2  # equally fast, whatever cores there are besides


def test_a_linux_that_tells_nothing(tmp_path: Path) -> None:
    """Linux tells nothing on most machines whose cores are alike, and in some containers."""
    assert linux_fast_cores(devices(tmp_path / "alike", [[0, 1], [2, 3]]), range(4)) is None
    assert linux_fast_cores(tmp_path / "none", range(4)) is None
    assert linux_fast_cores(devices(tmp_path / "empty", [[0], [1]], ""), range(2)) is None


def test_processors_whose_siblings_are_not_told(tmp_path: Path) -> None:
    """Where a processor's siblings are not told, it counts as a core."""
    folder = devices(tmp_path, [[0, 1], [2]], "0-1")
    for cpu in range(3):
        (folder / "system" / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list").unlink()
    assert linux_fast_cores(folder, range(3)) == 2


def test_lists_of_linux() -> None:
    """Linux writes lists of single numbers and ranges."""
    assert numbers("0-3,8\n") == {0, 1, 2, 3, 8}
    assert numbers("5") == {5}
    with pytest.raises(ValueError, match="invalid literal"):
        numbers("")


@pytest.mark.skipif(sys.platform != "linux", reason="asks a Linux machine")
def test_this_machine() -> None:
    """This machine tells nothing, or at least one core and no more than are ours."""
    told = fast_cores()
    assert told is None or 1 <= told <= len(os.sched_getaffinity(0))


# macOS ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 8])
def test_apple_silicon(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple silicon's first performance level has the fast cores. Intel Macs have no levels."""
    on("darwin", monkeypatch)
    known = {"hw.perflevel0.physicalcpu": 8, "hw.perflevel1.physicalcpu": 2, "hw.physicalcpu": 10}
    monkeypatch.setattr(cores.ctypes, "CDLL", lambda name: MacLibrary(known, size))
    assert fast_cores() == 8
    monkeypatch.setattr(cores.ctypes, "CDLL", lambda name: MacLibrary({"hw.physicalcpu": 4}))
    assert fast_cores() is None


def test_a_library_without_the_function() -> None:
    """A system without `sysctlbyname`, such as this one, tells nothing."""
    if sys.platform == "linux":
        assert sysctl("hw.physicalcpu") is None


# Windows --------------------------------------------------------------------------------


def core(efficiency: int, groups: int = 1, relationship: int = 0) -> bytes:
    """A SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX of a core, as winnt.h lays it out for 64 bits."""
    affinity = struct.pack("<QH6x", 1, 0) * groups  # GROUP_AFFINITY: Mask, Group, Reserved
    processor = struct.pack("<BB20xH", 1, efficiency, groups) + affinity
    return struct.pack("<II", relationship, 8 + len(processor)) + processor


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (core(1) * 6 + core(0) * 8, 6),
        (core(0) * 8 + core(1) * 6, 6),
        (core(2) * 6 + core(1) * 8 + core(0) * 2, 6),
        (core(0) * 4, 4),
        (core(1, groups=2) * 3 + core(0), 3),
        (core(0) * 2 + core(9, relationship=3), 2),  # a package is no core
        (core(1) + core(0)[:9], 1),
        (struct.pack("<IIBB", 0, 0, 0, 1), None),
        (b"", None),
    ],
)
def test_classes_of_windows(data: bytes, count: int | None) -> None:
    """Cores of the highest efficiency class are fast, however many classes there are."""
    assert fastest_class(data) == count


def test_a_structure_has_its_documented_size() -> None:
    """A structure with one group has 48 bytes. Its tenth byte is the class."""
    assert len(core(7)) == 48
    assert core(7)[9] == 7


class Kernel32:
    """A Windows that first tells the size of the buffer that it needs."""

    def __init__(self, data: bytes, fails: bool = False) -> None:
        self.data, self.fails = data, fails

    def GetLogicalProcessorInformationEx(self, relationship: int, buffer: Any, size: Any) -> int:
        assert relationship == 0
        room, size._obj.value = size._obj.value, len(self.data)
        if buffer is None or room < len(self.data) or self.fails:
            return 0
        ctypes.memmove(buffer, self.data, len(self.data))
        return 1


def test_what_windows_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows is asked twice, for the size and for the cores. Where it refuses, nothing is told."""
    on("win32", monkeypatch)
    data = core(1) * 2 + core(0) * 8
    assert windows_cores(Kernel32(data)) == data
    assert windows_cores(Kernel32(data, fails=True)) == windows_cores(Kernel32(b"")) == b""
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: Kernel32(data), raising=False)
    assert fast_cores() == 2
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: Kernel32(data, fails=True), raising=False)
    assert fast_cores() is None


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown system is not asked."""
    on("freebsd14", monkeypatch)
    assert fast_cores() is None
