"""Loading llama.cpp's library into this process, once it has passed its checks.

Where it comes from is in `llama_sources`. The interface is declared in `llama_h`, for one version
of the library. The package `llama-cpp-python` has declarations of its own, which fit the library
that it brings. Then its module `llama_cpp.llama_cpp` is used in their place, and the rest of that
package is not imported. The code for the processor may be a library of its own, which is loaded at
run time. So may that for GPUs, which is loaded only for a model that may be put on one.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

from ....errors import EngineFailed
from . import llama_h
from .llama_placement import Placed
from .llama_sources import BINDINGS, INSTALL, INSTALL_BINDINGS, VARIABLE, Source, source

_DEBUG, _ERROR, _CONTINUED = 1, 4, 5
"""Levels of the log; a text of the last one goes on with the one before it."""


class LlamaLibrary:
    """The loaded library: its functions are attributes. It remembers what it has logged."""

    def __init__(self, source: Source) -> None:
        self._error = self._last = ""
        self.placed = Placed()
        self._source = source
        path = source.find("llama")
        if path is None:
            raise EngineFailed(source.problem)
        try:
            parts = [source.find(name) for name in ("ggml-base", "ggml")]
            self._parts = [_load(part) for part in parts if part]
            self._library = (
                _bindings(source.bindings) if source.bindings else ctypes.CDLL(str(path))
            )
            self._check(path)
        except (OSError, AttributeError, ImportError, RuntimeError) as error:
            raise EngineFailed(f"the library of llama.cpp cannot be used: {error}") from None
        self._callback = self.llama_log_callback(self._log)
        self.llama_log_set(self._callback, None)
        self._load_processor_code()
        self.llama_backend_init()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    @property
    def description(self) -> str:
        """Its version, and where it comes from."""
        return f"ggml {self.version} of {self._source.name}"

    def _check(self, path: Path) -> None:
        """Refuse a library of another version: its structs may lie otherwise in memory."""
        base = self._parts[0] if self._parts else self._library
        base.ggml_version.restype = base.ggml_commit.restype = ctypes.c_char_p
        version, commit = base.ggml_version().decode(), base.ggml_commit().decode()
        self.version = version if commit == "unknown" else f"{version} ({commit})"
        if self._source.bindings:
            if missing := llama_h.missing(self._library):
                raise EngineFailed(
                    f"{self._source.name} lacks {missing}, which llmwit-magic uses: "
                    f"{INSTALL_BINDINGS}"
                )
        else:
            known = (llama_h.GGML_VERSION, llama_h.GGML_COMMIT)
            if (version, commit.partition("-")[0]) != known:
                own = os.environ.get(VARIABLE)
                advice = f"unset {VARIABLE} or llama_library, and {INSTALL}" if own else INSTALL
                raise EngineFailed(
                    f"{path.name} is of ggml {version} ({commit}), and llmwit-magic knows "
                    f"{known[0]} ({known[1]}): {advice}"
                )
            llama_h.declare(self._library)
        self.ggml = llama_h.ggml_functions([*self._parts, self._library])
        if other := llama_h.unlike(self._library):
            name = self._source.name if self._source.bindings else path.name
            raise EngineFailed(f"{name} has other default parameters than known: {other}")

    def _load_processor_code(self) -> None:
        """Load the code for the processor, and none for a GPU, which would take large batches."""
        path = self.find("ggml-cpu")
        if path is None or self.ggml.ggml_backend_dev_by_type(llama_h.PROCESSOR):
            return  # it is built into the library, or is linked to it
        if not self.load_code(path):
            raise EngineFailed(f"llama.cpp could not load {path.name}: {self.last_words()}")

    def find(self, name: str) -> Path | None:
        """The file of one of its parts; None where there is none."""
        return self._source.find(name)

    def load_code(self, path: Path) -> bool:
        """Load the code for a kind of device, and whether that worked."""
        return bool(self.ggml.ggml_backend_load(os.fsencode(path)))

    def _log(self, level: int, text: bytes, _: Any) -> None:
        if level == _DEBUG:  # most of the lines are, and none says what failed
            return
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


def _load(path: Path) -> ctypes.CDLL:
    """Load one of its libraries for all that come later, and before it the OpenMP beside it."""
    if sys.platform == "linux" and (bundled := sorted(path.parent.glob("libgomp.so*"))):
        ctypes.CDLL(str(bundled[0]), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _bindings(folder: Path) -> Any:
    """The module of `llama-cpp-python` that declares the interface of its library.

    Its package imports far more. So an empty package stands for it.
    """
    spec = ModuleSpec(BINDINGS, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules.setdefault(BINDINGS, module_from_spec(spec))
    # The declarations fit the library beside them, and this variable would load another one.
    os.environ.pop("LLAMA_CPP_LIB_PATH", None)
    return importlib.import_module(f"{BINDINGS}.llama_cpp")


@cache
def library() -> LlamaLibrary:
    """The library of this process, loaded when it is first needed."""
    return LlamaLibrary(source())
