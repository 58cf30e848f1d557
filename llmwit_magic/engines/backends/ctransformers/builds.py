"""Which build of ctransformers runs on this machine, or why none does.

ctransformers 0.2.27 has one wheel for all systems. So pip also installs it where
nothing in it can run. Its folder `lib` has these folders, each with a library
for these processors:

    folder   Linux     Windows   macOS
    basic    x86-64    x86-64    x86-64 and arm64
    avx      x86-64    x86-64    x86-64
    avx2     x86-64    x86-64    x86-64
    cuda     x86-64    x86-64    -

A ctransformers that is installed from source has only the folder `local`, with
one library for the machine that built it. Where that folder is there,
ctransformers takes its library, and so does this module.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import EngineFailed
from ...cores import sysctl

GLIBC = (2, 29)
"""The wheel's libraries for Linux need this version or a later one, for its `expf` and `logf`."""
MACOS = (12, 6)
"""The wheel's libraries for macOS were built for this version."""

FROM_SOURCE = "pip install --no-binary ctransformers --force-reinstall --no-deps ctransformers"
"""Builds ctransformers. Without `--force-reinstall`, pip would keep the wheel that is installed."""
_BUILD_HERE = f"build it here, which takes a C++ compiler: {FROM_SOURCE}"
_LIBRARY = {
    "linux": "libctransformers.so", "win32": "ctransformers.dll",
    "darwin": "libctransformers.dylib",
}  # fmt: skip
_FEATURES = ("avx", "avx2", "fma", "f16c", "bmi2")


@dataclass(frozen=True, slots=True)
class Platform:
    """What decides which native code this process can load."""

    system: str
    """Its name in `sys.platform`."""
    machine: str
    """The processor that this Python is built for: x86_64 also where an Arm machine emulates it."""
    version: tuple[int, ...] = ()
    """On Linux the version of glibc, () with another C library. On macOS its own, () if unknown."""


def platform_problem() -> str:
    """Why no build of ctransformers can run on this machine; empty where one can."""
    return refusal(here()) if local_build() is None else ""


def choose_build(*, gpu: bool = False) -> str:
    """The folder of the library that this machine can run. Raises `EngineFailed` where none can.

    `gpu` asks for a library with CUDA or Metal. `devices.find_gpu` says whether one can be used.
    """
    if local_build() is not None:
        return "local"
    place = here()
    if why := refusal(place):
        raise EngineFailed(why)
    return "cuda" if gpu else processor_build(place.system, processor_features())


def refusal(place: Platform) -> str:
    """Why none of the wheel's libraries can run there, and what to do, in one line.

    Empty where one of them can.
    """
    machine, version = place.machine, ".".join(map(str, place.version))
    if place.system == "linux":
        if machine != "x86_64":
            return (
                f"ctransformers for Linux is built for x86-64, and this is {machine}: {_BUILD_HERE}"
            )
        if not place.version:
            return (
                "ctransformers for Linux is built for glibc, and this Python has another C library, "
                f"such as Alpine's musl: take a system with glibc, or {_BUILD_HERE}"
            )
        if place.version < GLIBC:
            return (
                f"ctransformers for Linux needs glibc 2.29 or later, and this is {version}: "
                f"{_BUILD_HERE}"
            )
        return ""
    if place.system == "win32":
        if machine == "x86_64":
            return ""
        return (
            f"ctransformers for Windows is built for x86-64, and this Python is built for {machine}: "
            "install the 64-bit Python for x86-64, which Windows on Arm runs too, and "
            "llmwit-magic in it"
        )
    if place.system == "darwin":
        if machine not in ("x86_64", "arm64"):
            return f"ctransformers for macOS is built for x86-64 and arm64, and this is {machine}"
        if place.version and place.version < MACOS:
            return (
                f"ctransformers for macOS needs macOS 12.6 or later, and this is {version}: "
                f"update it, or {_BUILD_HERE}"
            )
        return ""
    return f"ctransformers runs on Linux, Windows and macOS, and this is {place.system}"


def processor_build(system: str, features: Collection[str]) -> str:
    """The fastest of the wheel's libraries that a processor with these features can run.

    By its compiler's flags, `avx2` uses FMA and F16C too, and `avx` uses F16C too.
    Only `avx` for Windows uses no F16C, since its compiler has F16C with AVX2 only.
    """
    if {"avx2", "fma", "f16c"} <= set(features):
        return "avx2"
    if "avx" in features and ("f16c" in features or system == "win32"):
        return "avx"
    return "basic"


def local_build() -> Path | None:
    """The library of a ctransformers that was built from source; None where it is the wheel."""
    return library_file("local")


def library_file(build: str) -> Path | None:
    """The file of one of ctransformers' libraries for this system; None where it is missing."""
    name = _LIBRARY.get(sys.platform)
    spec = importlib.util.find_spec("ctransformers") if name else None
    folders = (spec.submodule_search_locations or []) if spec else []
    paths = [Path(folder) / "lib" / build / str(name) for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def has_metal(library: Path) -> bool:
    """Whether a library was built with Metal. Then its program for the GPU lies beside it."""
    return library.with_name("ggml-metal.metal").is_file()


def has_cuda(library: Path) -> bool:
    """Whether a library was built with CUDA. Then it names NVIDIA's cuBLAS, which it needs."""
    data = library.read_bytes()
    return b"libcublas.so" in data or b"cublas64_" in data


def loads(name: str) -> bool:
    """Whether the system loads a library of that name, with all that the library needs."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


# What this machine is -----------------------------------------------------------------


def here() -> Platform:
    """The platform of this process."""
    if sys.platform == "win32":
        return Platform(sys.platform, windows_machine(sys.version))
    system = os.uname()
    if sys.platform == "darwin":
        return Platform(sys.platform, system.machine, macos_version(system.release))
    machine = "32-bit x86" if system.machine == "x86_64" and sys.maxsize < 2**32 else system.machine
    try:
        glibc = glibc_version(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):  # other C libraries do not know the name
        glibc = ()
    return Platform(sys.platform, machine, glibc)


def windows_machine(version: str) -> str:
    """The processor that a Python for Windows is built for, by its `sys.version`.

    From Python 3.12 on, `platform.machine()` tells the machine's own processor. It
    does so also in a Python for x86-64 that an Arm machine emulates. Such a Python
    loads libraries for x86-64.
    """
    if found := re.search(r"\((AMD64|ARM64|Intel|ARM)\)", version, re.IGNORECASE):
        names = {"amd64": "x86_64", "arm64": "Arm (arm64)", "intel": "32-bit x86"}
        return names.get(found[1].lower(), found[1])
    return "an unknown processor"


def glibc_version(told: str | None) -> tuple[int, ...]:
    """The version in a text such as `glibc 2.36`; () for another C library and for None."""
    name, _, numbers = (told or "").partition(" ")
    return tuple(map(int, numbers.split(".")[:2])) if name == "glibc" else ()


def macos_version(kernel: str) -> tuple[int, ...]:
    """The first two numbers of macOS's version. `kernel` is the release of its kernel (Darwin)."""
    told = tuple(map(int, re.findall(r"\d+", platform.mac_ver()[0])[:2]))
    if told != (10, 16):
        return told
    # Every macOS from 11 on tells 10.16 to a Python that was built before macOS 11. The kernel's
    # release begins with 20 on macOS 11 and with 21 on macOS 12. It does not tell the second number
    # of macOS's version, so 99 stands for that.
    return int(kernel.partition(".")[0]) - 9, 99


def processor_features() -> frozenset[str]:
    """Which of avx, avx2, fma and f16c this process may use; none where they are not told."""
    if sys.platform == "win32":
        return windows_features(ctypes.WinDLL("kernel32"))
    if sys.platform == "darwin":
        names = {"avx": "avx1_0", "avx2": "avx2_0", "fma": "fma", "f16c": "f16c"}
        return frozenset(name for name in names if sysctl(f"hw.optional.{names[name]}"))
    with suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        return linux_features(lines)
    return frozenset()


def linux_features(lines: Iterator[str]) -> frozenset[str]:
    """The features of the first processor in `/proc/cpuinfo`. The rest of the file is not read."""
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return frozenset(_FEATURES).intersection(flags)


_PF_SSSE3, _PF_AVX, _PF_AVX2 = 36, 39, 40
_XSTATE_AVX = 1 << 2


def windows_features(kernel32: Any) -> frozenset[str]:
    """The features that Windows tells of the processor.

    Windows has no numbers for FMA and F16C. Every Intel or AMD processor with AVX2
    has both. Windows before 10 2004, such as Windows Server 2019, has no numbers for
    AVX and SSSE3 either. It does tell whether it keeps AVX's registers.
    """
    told = kernel32.IsProcessorFeaturePresent
    if told(_PF_AVX2):
        return frozenset(_FEATURES)
    if told(_PF_AVX) or (not told(_PF_SSSE3) and kernel32.GetEnabledXStateFeatures() & _XSTATE_AVX):
        return frozenset({"avx"})
    return frozenset()
