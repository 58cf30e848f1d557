"""What is granted to a component: its file, models, folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contract.record import shown
from ..contract.request import DEFAULT_MODEL, ModelSpec
from ..errors import InvalidInput, ModelNotSupported

LARGEST_FILE = 256 * 2**20
"""Bytes that the file of a component may have."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What a component may ask of the session."""

    name: str
    """The component's name, for the log and for errors."""
    digest: str
    """The SHA-256 of its file in hexadecimal."""
    models: Mapping[str, str] | str
    """The guest's names of models, each with the name here; or the one model of any name."""
    seed: int | None = None
    """The seed of requests that have none."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of each request."""

    def target(self, name: str) -> str:
        """The name here of a guest's model. Raises `ModelNotSupported` for one it may not use."""
        if isinstance(self.models, str):
            return self.models
        if name not in self.models:
            known = ", ".join(self.models)
            raise ModelNotSupported(f"the component {self.name} may use {known}, not {name[:80]!a}")
        return self.models[name]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a call of a component may use beside models."""

    memory: int
    """Bytes that one of its memories may have."""
    dirs: Mapping[str, tuple[str, bool]]
    """Its names of folders, each with the folder here and whether it may be written."""
    env: Mapping[str, str]
    """Its environment."""


def read_component(file: Any) -> bytes:
    """The bytes of a component's file. Raises `InvalidInput` where they cannot be read."""
    try:
        path: Path = Path(file).expanduser()
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InvalidInput(f"{path}: it is no regular file")
            if found.st_size > LARGEST_FILE:
                raise InvalidInput(f"{path}: it has more than {LARGEST_FILE // 2**20} MiB")
            return opened.read()
    except OSError as error:
        raise InvalidInput(f"{path}: it cannot be read: {error.strerror or error}") from None
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(
            f"{shown(file)} is neither a path nor the bytes of a component"
        ) from None


def granted_folder(name: str, value: str | os.PathLike[str] | tuple[str, str]) -> tuple[str, bool]:
    """A folder that is granted, and whether it may be written. Raises `InvalidInput`."""
    folder, mode = value if isinstance(value, tuple) and len(value) == 2 else (value, "r")
    try:
        path = Path(folder).expanduser()
        os.fsencode(path)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(
            f"dirs: {name}: {shown(value)} is not valid: it must be a folder, or (folder, 'rw')"
        ) from None
    if mode not in ("r", "rw"):
        raise InvalidInput(f"dirs: {name}: {shown(mode)} is not valid: it must be r or rw")
    if not path.is_dir():
        raise InvalidInput(f"dirs: {name}: {path} is no folder")
    return str(path.absolute()), mode == "rw"


def granted_models(model: Any) -> Mapping[str, str] | str:
    """The models that a component may use, as `Granted` has them."""
    if model is None:
        return {DEFAULT_MODEL: DEFAULT_MODEL}
    if isinstance(model, str | os.PathLike):
        return ModelSpec(model=os.fspath(model)).model
    try:
        given = model if isinstance(model, Mapping) else {name: name for name in model}
        return {
            os.fspath(name): ModelSpec(model=os.fspath(target)).model
            for name, target in given.items()
        }
    except TypeError:
        raise InvalidInput(
            f"model: {shown(model)} is not valid: it must be a name, a list or a mapping of names"
        ) from None


def granted_folders(dirs: Any) -> dict[str, tuple[str, bool]]:
    """The folders that are granted by their names for the guest. Raises `InvalidInput`."""
    if not isinstance(dirs, Mapping):
        raise InvalidInput(f"dirs: {shown(dirs)} is not valid: it must be a mapping")
    return {_text("dirs", name): granted_folder(name, value) for name, value in dirs.items()}


def granted_variables(env: Any) -> dict[str, str]:
    """The environment that is granted. Raises `InvalidInput`."""
    if not isinstance(env, Mapping):
        raise InvalidInput(f"env: {shown(env)} is not valid: it must be a mapping")
    for name in env:
        if not name or "=" in _text("env", name):
            raise InvalidInput(f"env: {shown(name)} is not the name of a variable")
    return {name: _text("env", value) for name, value in env.items()}


def _text(what: str, value: Any) -> str:
    """A text that a guest can get. Raises `InvalidInput`."""
    try:
        if isinstance(value, str) and b"\0" not in value.encode():
            return value
    except UnicodeEncodeError:
        pass
    raise InvalidInput(f"{what}: {shown(value)} is not valid: it must be a text")
