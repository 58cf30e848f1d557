"""The bindings that componentize-py makes of our WIT files, and how their types compare to ours."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WIT = Path(__file__).parents[2] / "wit"


@contextmanager
def bindings_of(folder: Path, out: Path) -> Iterator[types.ModuleType]:
    """The module of the interface `llm` in a folder's WIT file. `out` is a new folder.

    An error of the file fails the test.
    """
    code = "import sys; from componentize_py import script; sys.exit(script())"
    done = subprocess.run(
        [sys.executable, "-c", code, "-d", folder, "-w", "client", "bindings", out],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(out)
        yield importlib.import_module("wit_world.imports.llm")
    for name in set(sys.modules) - before:
        if name.startswith(("wit_world", "componentize_py_")):
            del sys.modules[name]


def parts(annotation: Any) -> tuple[Any, bool]:
    """A type without its None and its metadata, and whether None was part of it."""
    if typing.get_origin(annotation) is typing.Annotated:
        return parts(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return parts(members[0])[0], len(members) < len(typing.get_args(annotation))
    return annotation, False


def shape(annotation: Any) -> Any:
    """A type in a form that both sides share: any list is a tuple, and a record is its name."""
    kind, _ = parts(annotation)
    if typing.get_origin(kind) in (list, tuple):
        return ["list", shape(typing.get_args(kind)[0])]
    return kind.__name__


def wit_fields(record: Any) -> dict[str, Any]:
    """The fields of a record of the WIT with their types."""
    hints = typing.get_type_hints(record)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


def records_of(bindings: types.ModuleType) -> list[str]:
    """The names of the interface's records and of the cases of its variants."""
    return [
        name for name, value in vars(bindings).items()
        if dataclasses.is_dataclass(value) and value.__module__ == bindings.__name__
    ]  # fmt: skip
