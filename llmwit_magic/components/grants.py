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


def read_component(path: Path) -> bytes:
    """The bytes of a component's file. Raises `InvalidInput` where they cannot be read."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InvalidInput(f"{path}: it is no regular file")
            if found.st_size > LARGEST_FILE:
                raise InvalidInput(f"{path}: it has more than {LARGEST_FILE // 2**20} MiB")
            return file.read()
    except OSError as error:
        raise InvalidInput(f"{path}: it cannot be read: {error.strerror or error}") from None


def granted_folder(name: str, value: str | os.PathLike[str] | tuple[str, str]) -> tuple[str, bool]:
    """A folder that is granted, and whether it may be written. Raises `InvalidInput`."""
    folder, mode = value if isinstance(value, tuple) else (value, "r")
    path = Path(folder).expanduser()
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
    given = model if isinstance(model, Mapping) else {name: name for name in model}
    return {name: ModelSpec(model=os.fspath(target)).model for name, target in given.items()}
