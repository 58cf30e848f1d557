"""What ctransformers' libraries need on Windows, read from the libraries and simulated."""

from __future__ import annotations

import ctypes
import importlib.util
import locale
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.engines.backends.ctransformers import evaluator as ctransformers
from llmwit_magic.engines.backends.ctransformers import loading
from llmwit_magic.engines.backends.ctransformers import windows_paths as windows
from llmwit_magic.engines.backends.ctransformers.windows_paths import RUNTIME, path_to_open
from llmwit_magic.errors import EngineFailed
from tests.support.binaries import imports

NAMES = ["Jörg", "田中", "a b/ß.gguf"]


def libraries() -> list[Path]:
    """The wheel's libraries for Windows. They are the same on each system."""
    spec = importlib.util.find_spec("ctransformers")
    assert spec
    return [
        path
        for folder in spec.submodule_search_locations or ()
        for path in Path(folder, "lib").glob("*/ctransformers.dll")
    ]


def test_what_the_libraries_load() -> None:
    """They load parts of Windows, Microsoft's C++ runtime and, for CUDA, NVIDIA's libraries.

    So the error that names the runtime names all that can be missing.
    """
    if not (found := libraries()):
        pytest.skip("ctransformers was built from source here")
    assert {path.parent.name for path in found} == {"avx", "avx2", "basic", "cuda"}
    for path in found:
        needed = {name for name in imports(path) if not name.startswith("api-ms-win-crt-")}
        cuda = {"cudart64_12.dll", "cublas64_12.dll"} if path.parent.name == "cuda" else set()
        assert needed == {"KERNEL32.dll", *RUNTIME} | cuda


def test_the_libraries_share_the_locale_of_python() -> None:
    """They open files with the C library that is part of Windows, not with one of their own.

    Microsoft's C++ runtime, which is not here, makes C++'s streams do so too.
    """
    for path in libraries():
        functions = imports(path)
        assert "fopen" in functions["api-ms-win-crt-stdio-l1-1-0.dll"]
        assert not [name for name in functions["KERNEL32.dll"] if name.startswith("CreateFileA")]


@pytest.fixture
def before_1803(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Windows whose C library knows no UTF-8, with the other paths that it has for a file."""
    others: list[str] = []

    def refuse(*arguments: Any) -> str:
        raise locale.Error("unsupported locale setting")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(locale, "setlocale", refuse)
    monkeypatch.setattr(windows, "_other_paths", lambda path: iter(others))
    return others


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_is_not_ascii_is_told_in_utf8(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The C library is set to UTF-8 before it gets the path."""
    asked: list[Any] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(locale, "setlocale", lambda *arguments: asked.append(arguments))
    assert path_to_open(str(tmp_path / name)) == str(tmp_path / name)
    assert asked == [(locale.LC_CTYPE, ".UTF8")]


def test_other_paths_leave_the_locale_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASCII is the same in each code page. Other systems pass bytes on unchanged."""
    monkeypatch.setattr(locale, "setlocale", None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.chdir(tmp_path)
    for name in (*NAMES, "m.gguf"):
        assert path_to_open(name) == str(tmp_path / name)
    monkeypatch.setattr(sys, "platform", "win32")
    assert path_to_open("m.gguf") == str(tmp_path / "m.gguf")


def test_a_short_or_a_relative_path_where_there_is_no_utf8(
    before_1803: list[str], tmp_path: Path
) -> None:
    """The first path that is ASCII is taken. Where none is, one line says what to do."""
    path = str(tmp_path / "Jörg" / "m.gguf")
    before_1803[:] = ["C:/JRG~1/m.gguf", "../m.gguf"]
    assert path_to_open(path) == "C:/JRG~1/m.gguf"
    before_1803[:] = ["C:/Jörg/m.gguf", "../m.gguf"]
    assert path_to_open(path) == "../m.gguf"
    before_1803[:] = ["C:/Jörg/m.gguf"]
    with pytest.raises(EngineFailed) as caught:
        path_to_open(path)
    assert path in str(caught.value)
    assert "update Windows, or copy the model into a folder with a path in ASCII" in str(
        caught.value
    )


def test_a_relative_path_of_the_same_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path from inside a folder that is not ASCII may be ASCII, and Windows opens it."""
    here = tmp_path / "田中" / "notebooks"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    *_, relative = windows._other_paths(str(tmp_path / "田中" / "m.gguf"))
    assert relative == os.path.join("..", "m.gguf")


def test_the_library_gets_that_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CTransformersEvaluator` opens files in no other way."""

    class Opened(Exception):
        pass

    def open_(path: str, *arguments: Any, **options: Any) -> None:
        raise Opened(path)

    monkeypatch.setattr(ctransformers, "_library", lambda: (open_, dict))
    monkeypatch.setattr(ctransformers, "path_to_open", lambda path: f"{path}, in ASCII")
    with pytest.raises(Opened, match=r"^m.gguf, in ASCII$"):
        ctransformers.CTransformersEvaluator(
            "m.gguf", model_type=None, context_length=1, gpu_layers=0
        )


@pytest.mark.parametrize("missing", [["MSVCP140.dll"], ["VCRUNTIME140_1.dll", "MSVCP140.dll"], []])
def test_a_missing_runtime_is_named(missing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the missing runtime and where to get it.

    Without that, Windows' words stay.
    """
    words = "Could not find module 'C:\\ctransformers.dll' (or one of its dependencies)."

    def fail(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError(words)

    def load(name: str) -> None:
        if name in missing:
            raise FileNotFoundError(name)

    monkeypatch.setattr(loading, "CTransformersEvaluator", fail)
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EngineFailed, match=r"ctransformers could not load m.gguf: ") as caught:
        loading._open(Path("m.gguf"), None, 1, 0)
    said = str(caught.value).partition("load m.gguf: ")[2]
    if missing:
        names = ", ".join(sorted(missing))
        assert said.startswith(f"Windows lacks {names}: install the Microsoft Visual C++ Redistr")
        assert "https://aka.ms/" in said
    else:
        assert said == words
