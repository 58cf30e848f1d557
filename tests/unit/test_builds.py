"""Which of ctransformers' libraries runs where, compared with the libraries themselves.

Windows and macOS are simulated: stand-ins answer their calls.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmwit_magic.engines import cores
from llmwit_magic.engines.backends.ctransformers import builds
from llmwit_magic.engines.backends.ctransformers import evaluator as ctransformers
from llmwit_magic.engines.backends.ctransformers.builds import (
    Platform,
    choose_build,
    glibc_version,
    library_file,
    linux_features,
    macos_version,
    platform_problem,
    processor_build,
    processor_features,
    refusal,
    windows_features,
    windows_machine,
)
from llmwit_magic.errors import EngineFailed
from tests.support.binaries import Code, code_in
from tests.support.systems import MacLibrary

LINUX = Platform("linux", "x86_64", (2, 36))
WINDOWS = Platform("win32", "x86_64")
INTEL_MAC = Platform("darwin", "x86_64", (13, 6))
APPLE = Platform("darwin", "arm64", (15, 1))
ALL = ("avx", "avx2", "fma", "f16c")

SYSTEMS = ("linux", "win32", "darwin")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the system that the module sees, with what it reads from `sys`."""

    def change(system: str, version: str = "", maxsize: int = 2**63 - 1) -> None:
        there = SimpleNamespace(platform=system, version=version, maxsize=maxsize)
        monkeypatch.setattr(builds, "sys", there)

    return change


def uname(monkeypatch: pytest.MonkeyPatch, machine: str = "x86_64", release: str = "6.1") -> None:
    """Sets the names of the machine and of its kernel. Windows has no such function."""
    told = SimpleNamespace(machine=machine, release=release)
    monkeypatch.setattr(builds.os, "uname", lambda: told, raising=False)


def wheel(build: str, system: str, on: Any) -> list[Code]:
    """What is in one of the installed wheel's libraries."""
    on(system)
    path = library_file(build)
    return code_in(path) if path else []


# The libraries ------------------------------------------------------------------------


@pytest.mark.skipif(library_file("basic") is None, reason="ctransformers was built from source")
def test_what_the_wheel_holds(on: Any) -> None:
    """Each library of the wheel is for these machines and no others."""
    held = {
        (build, system): sorted(code.machine for code in wheel(build, system, on))
        for build in ("basic", "avx", "avx2", "cuda", "metal", "local")
        for system in SYSTEMS
    }
    x86 = ["x86_64"]
    assert held == {
        ("basic", "linux"): x86, ("basic", "win32"): x86, ("basic", "darwin"): ["arm64", "x86_64"],
        ("avx", "linux"): x86, ("avx", "win32"): x86, ("avx", "darwin"): x86,
        ("avx2", "linux"): x86, ("avx2", "win32"): x86, ("avx2", "darwin"): x86,
        ("cuda", "linux"): x86, ("cuda", "win32"): x86, ("cuda", "darwin"): [],
        **{(build, system): [] for build in ("metal", "local") for system in SYSTEMS},
    }  # fmt: skip


@pytest.mark.skipif(library_file("basic") is None, reason="ctransformers was built from source")
@pytest.mark.parametrize(("system", "least"), [("linux", builds.GLIBC), ("darwin", builds.MACOS)])
def test_what_the_wheel_needs(system: str, least: tuple[int, int], on: Any) -> None:
    """The required versions are those that the libraries name."""
    found = [wheel(build, system, on) for build in ("basic", "avx", "avx2", "cuda")]
    assert {code.needs for codes in found for code in codes} == {least}


@pytest.mark.parametrize(
    ("place", "features", "build"),
    [
        (LINUX, ALL, "avx2"),
        (LINUX, ("avx", "avx2", "f16c"), "avx"),
        (LINUX, ("avx", "f16c"), "avx"),
        (LINUX, ("avx", "avx2"), "basic"),
        (LINUX, ("avx",), "basic"),
        (LINUX, (), "basic"),
        (Platform("linux", "x86_64", (2, 29)), ALL, "avx2"),
        (WINDOWS, ALL, "avx2"),
        (WINDOWS, ("avx",), "avx"),
        (WINDOWS, (), "basic"),
        (INTEL_MAC, ALL, "avx2"),
        (INTEL_MAC, ("avx", "f16c"), "avx"),
        (INTEL_MAC, ("avx",), "basic"),
        (INTEL_MAC, (), "basic"),
        (Platform("darwin", "x86_64", (12, 6)), ALL, "avx2"),
        (APPLE, (), "basic"),
        (Platform("darwin", "arm64"), (), "basic"),  # a macOS that tells no version
    ],
)
def test_the_library_of_a_platform(
    place: Platform,
    features: tuple[str, ...],
    build: str,
    on: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ctransformers finds the chosen library without py-cpuinfo. It is for that machine."""
    on(place.system)
    monkeypatch.setattr(builds, "here", lambda: place)
    monkeypatch.setattr(builds, "processor_features", lambda: frozenset(features))
    monkeypatch.setattr(builds, "local_build", lambda: None)
    assert platform_problem() == ""
    assert choose_build() == build
    if library_file("basic") is None:
        pytest.skip("ctransformers was built from source")
    from ctransformers.lib import find_library

    monkeypatch.setitem(sys.modules, "cpuinfo", None)
    names = {"linux": "Linux", "win32": "Windows", "darwin": "Darwin"}
    monkeypatch.setattr(platform, "system", lambda: names[place.system])
    found = {code.machine: code for code in code_in(Path(find_library(build)))}
    code = found[place.machine]
    assert code.system == place.system
    assert not place.version or code.needs is None or code.needs <= place.version


SOURCE = "pip install --no-binary ctransformers --force-reinstall --no-deps ctransformers"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Platform("linux", "aarch64", (2, 36)), ("x86-64", "aarch64", SOURCE)),
        (Platform("linux", "aarch64"), ("x86-64", "aarch64", SOURCE)),
        (Platform("linux", "armv7l", (2, 36)), ("armv7l", SOURCE)),
        (Platform("linux", "riscv64", (2, 39)), ("riscv64", SOURCE)),
        (Platform("linux", "32-bit x86", (2, 36)), ("32-bit x86", SOURCE)),
        (Platform("linux", "x86_64"), ("glibc", "musl", SOURCE)),
        (Platform("linux", "x86_64", (2, 28)), ("glibc 2.29", "2.28", SOURCE)),
        (Platform("win32", "Arm (arm64)"), ("Arm (arm64)", "install the 64-bit Python for x86-64")),
        (Platform("win32", "32-bit x86"), ("32-bit x86", "install the 64-bit Python for x86-64")),
        (Platform("darwin", "x86_64", (12, 5)), ("macOS 12.6", "12.5", "update", SOURCE)),
        (Platform("darwin", "arm64", (11, 7)), ("macOS 12.6", "11.7", "update", SOURCE)),
        (Platform("darwin", "ppc", (15, 0)), ("ppc",)),
        (Platform("freebsd14", "amd64"), ("Linux, Windows and macOS", "freebsd14")),
        (Platform("emscripten", "wasm32"), ("Linux, Windows and macOS", "emscripten")),
    ],
)
def test_a_platform_without_a_library(
    place: Platform, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what is missing and what to do, in the kernel and in the child."""
    monkeypatch.setattr(builds, "here", lambda: place)
    monkeypatch.setattr(builds, "local_build", lambda: None)
    told = [platform_problem()]
    for call in (choose_build, lambda: choose_build(gpu=True)):
        with pytest.raises(EngineFailed) as caught:
            call()
        told.append(str(caught.value))
    for said in told:
        assert said == refusal(place)
        assert said.isprintable()
        assert [word for word in words if word not in said] == []


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("gpu", [False, True])
def test_a_library_built_from_source(
    system: str, gpu: bool, tmp_path: Path, on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library built from source comes first, as in ctransformers. The wheel may have none."""
    package = fake_package(tmp_path, monkeypatch)
    on(system)
    for place in (LINUX, Platform(system, "aarch64"), Platform(system, "x86_64", (2, 17))):
        monkeypatch.setattr(builds, "here", lambda place=place: place)
        name = {"win32": "ctransformers.dll", "darwin": "libctransformers.dylib"}
        file = package / "lib" / "local" / name.get(system, "libctransformers.so")
        file.unlink(missing_ok=True)
        assert builds.local_build() is None
        file.touch()
        assert choose_build(gpu=gpu) == "local"
        assert platform_problem() == ""


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ctransformers with nothing in it but a folder for a library that was built from source."""
    package = folder / "ctransformers"
    (package / "lib" / "local").mkdir(parents=True)
    spec = SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr(builds.importlib.util, "find_spec", lambda name: spec)
    return package


def test_the_cuda_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel's CUDA library is taken for a GPU where nothing was built from source."""
    monkeypatch.setattr(builds, "here", lambda: LINUX)
    monkeypatch.setattr(builds, "local_build", lambda: None)
    assert choose_build(gpu=True) == "cuda"


@pytest.mark.parametrize("place", [LINUX, WINDOWS, INTEL_MAC, APPLE])
@pytest.mark.parametrize("gpu_layers", [0, 1])
def test_ctransformers_never_chooses(
    place: Platform, gpu_layers: int, on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ctransformers always gets a build's name.

    Without one, it would ask py-cpuinfo for over a second.
    """
    given: list[Any] = []

    class LLM(SimpleNamespace):
        def __init__(self, path: str, kind: str | None, *, config: Any, lib: str | None) -> None:
            given.append(lib)
            names = ("batch_eval", "logits_size", "logits_data")
            functions = {f"ctransformers_llm_{name}": None for name in names}
            super().__init__(vocab_size=8, context_length=8, **functions)

    on(place.system)
    monkeypatch.setattr(builds, "here", lambda: place)
    monkeypatch.setattr(builds, "processor_features", frozenset)
    local = Path("local") if place is APPLE and gpu_layers else None
    monkeypatch.setattr(builds, "local_build", lambda: local)
    monkeypatch.setattr(ctransformers, "_library", lambda: (LLM, SimpleNamespace))
    model = ctransformers.CTransformersEvaluator(
        "m.gguf", model_type=None, context_length=8, gpu_layers=gpu_layers
    )
    expected = "local" if local else "cuda" if gpu_layers else "basic"
    assert given == [model.library] == [expected]


# What the machine tells ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "machine"),
    [
        ("3.11.9 (tags/v3.11.9:de54cf5) [MSC v.1938 64 bit (AMD64)]", "x86_64"),
        ("3.13.1 (tags/v3.13.1:0671451) [MSC v.1942 64 bit (ARM64)]", "Arm (arm64)"),
        ("3.11.9 (tags/v3.11.9:de54cf5) [MSC v.1938 32 bit (Intel)]", "32-bit x86"),
        ("3.12.7 (main, Oct  6 2024) [GCC UCRT 14.2.0 64 bit (AMD64)]", "x86_64"),
        ("3.14.0 of another make", "an unknown processor"),
    ],
)
def test_python_for_windows(version: str, machine: str, on: Any) -> None:
    """What Python is built for counts.

    An Arm machine runs a Python for x86-64, and its libraries.
    """
    on("win32", version)
    assert windows_machine(version) == machine
    assert builds.here() == Platform("win32", machine)


def test_this_machine() -> None:
    """This machine has a library, chosen by the features that Linux tells."""
    if sys.platform != "linux":
        pytest.skip("asks a Linux machine")
    place = builds.here()
    assert (place.system, place.machine) == ("linux", os.uname().machine)
    name, version = platform.libc_ver()
    assert name != "glibc" or place.version == tuple(map(int, version.split(".")[:2]))


@pytest.mark.parametrize(
    ("told", "version"), [("glibc 2.36", (2, 36)), ("glibc 2.36.9000", (2, 36)), ("", ()), (None, ())]
)  # fmt: skip
def test_linux_and_its_c_library(
    told: str | None, version: tuple[int, ...], on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """glibc tells its version."""
    assert glibc_version(told) == version
    on("linux")
    monkeypatch.setattr(builds.os, "confstr", lambda name: told, raising=False)
    uname(monkeypatch)
    assert builds.here() == Platform("linux", "x86_64", version)


@pytest.mark.parametrize("error", [ValueError("unrecognized"), OSError(22, "Invalid"), None])
def test_another_c_library(
    error: Exception | None, on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """musl does not know the name that is asked for. Some systems have no `os.confstr`."""

    def confstr(name: str) -> str:
        assert error
        raise error

    on("linux")
    if error:
        monkeypatch.setattr(builds.os, "confstr", confstr, raising=False)
    else:
        monkeypatch.delattr(builds.os, "confstr", raising=False)
    uname(monkeypatch)
    assert builds.here().version == ()


def test_a_32_bit_python(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 32-bit Python cannot load what the machine's kernel could run."""
    on("linux", maxsize=2**31 - 1)
    uname(monkeypatch)
    assert builds.here().machine == "32-bit x86"


@pytest.mark.parametrize(
    ("told", "kernel", "enough"),
    [
        ("15.1", "24.1.0", True), ("26.0.1", "25.0.0", True), ("12.6", "21.6.0", True),
        ("12.5.1", "21.6.0", False), ("11.7.10", "20.6.0", False), ("10.16", "20.6.0", False),
        ("10.16", "21.6.0", True), ("10.16", "22.1.0", True), ("", "24.1.0", True),
    ],
)  # fmt: skip
def test_versions_of_macos(
    told: str, kernel: str, enough: bool, on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every macOS tells 10.16 to an old Python. The number of its kernel says more."""
    on("darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: (told, ("", "", ""), "arm64"))
    uname(monkeypatch, "arm64", kernel)
    assert builds.here() == Platform("darwin", "arm64", macos_version(kernel))
    assert (not refusal(builds.here())) == enough


# The processor ------------------------------------------------------------------------


def test_features_that_linux_tells() -> None:
    """The flags of the first processor count. The rest of the file is not read."""
    lines = iter(["processor\t: 0\n", "flags\t\t: fpu avx avx2 f16c bmi2 fma\n", "unread"])
    assert linux_features(lines) == {"avx", "avx2", "bmi2", "f16c", "fma"}
    assert next(lines) == "unread"
    assert linux_features(iter(["flags : fpu sse3 xavx\n"])) == set()
    assert linux_features(iter(["Features : fp asimd\n"])) == set()


def test_linux_without_its_file(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the file no feature is known. The slowest library needs none."""

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    on("linux")
    monkeypatch.setattr(builds, "open", refuse, raising=False)
    assert processor_features() == frozenset()
    assert processor_build("linux", processor_features()) == "basic"


class Kernel32:
    """A Windows with the features that it tells and the registers that it keeps."""

    def __init__(self, *present: int, kept: int = 0b11) -> None:
        self.present, self.kept = present, kept

    def IsProcessorFeaturePresent(self, feature: int) -> int:
        return int(feature in self.present)

    def GetEnabledXStateFeatures(self) -> int:
        return self.kept


@pytest.mark.parametrize(
    ("kernel", "build"),
    [
        (Kernel32(36, 39, 40, kept=0b111), "avx2"),
        (Kernel32(36, 39, kept=0b111), "avx"),
        (Kernel32(36), "basic"),
        (Kernel32(36, kept=0b111), "basic"),  # an emulator without AVX on a machine with it
        (Kernel32(kept=0b111), "avx"),  # Windows Server 2019
        (Kernel32(), "basic"),
    ],
)
def test_features_that_windows_tells(
    kernel: Kernel32, build: str, on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has AVX2 with all that belongs to it, AVX alone, or neither."""
    on("win32")
    monkeypatch.setattr(ctypes, "WinDLL", {"kernel32": kernel}.__getitem__, raising=False)
    assert processor_features() == windows_features(kernel)
    assert processor_build("win32", processor_features()) == build


def hw(**features: int) -> dict[str, int]:
    return {f"hw.optional.{name}": value for name, value in features.items()}


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize(
    ("known", "build"),
    [
        (hw(avx1_0=1, avx2_0=1, fma=1, f16c=1), "avx2"),
        (hw(avx1_0=1, avx2_0=0, fma=0, f16c=1), "avx"),
        (hw(avx1_0=1, avx2_0=1, fma=0, f16c=1), "avx"),
        (hw(avx1_0=0, avx2_0=0, fma=0, f16c=0), "basic"),
        ({}, "basic"),
    ],
)
def test_features_that_macos_tells(
    known: dict[str, int], build: str, size: int, on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feature for which macOS has no name is missing."""
    on("darwin")
    monkeypatch.setattr(cores.ctypes, "CDLL", lambda name: MacLibrary(known, size))
    assert processor_build("darwin", processor_features()) == build
