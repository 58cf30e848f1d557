"""A model's name becomes a local file.

A name is looked up in this order:

1. an alias
2. the name of the default model
3. a path of a file, or of a folder with one model file
4. a model in the nearest `.spin/ai-models` folder, in the working directory or above it
5. `owner/repo[:file][@revision]` on the Hugging Face hub
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..base.filesystem import current_folder
from ..contract.events import Report
from ..contract.request import DEFAULT_MODEL
from ..contract.urls import is_url
from ..errors import ModelNotFound, ModelNotSupported, did_you_mean
from .cache import cache_folder, state_of
from .default_model import fetch_default
from .gguf import Header, is_gguf, read_header
from .hub import fetch_from_hub, has_repository
from .kinds import START_BYTES, not_a_model, not_a_model_before_gguf
from .parts import files_of, joined, model_stem, one_of_each

_REPOSITORY = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<file>[^@]+))?(?:@(?P<revision>.+))?"
)
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_OLD_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"ccgg")  # ggml, ggmf, ggjt, ggcc


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What may be a model: the name that led to it, its files, and its header."""

    name: str
    path: Path
    """The file, or the first part of a model in several files."""
    state: tuple[int, ...]
    """Of all its files: see `state_of`. Once it is another one, this record describes them no more."""
    header: Header | None
    """None for a file of a format from before GGUF: its header does not say what it holds."""
    parts: tuple[Path, ...]
    """All its files; `path` alone where there is one."""


def find(name: str, aliases: Mapping[str, str], report: Report) -> ModelFile:
    """The local file of a name, fetched if it is not here, with its header.

    Raises `ModelNotFound`, `DownloadFailed`, and `ModelNotSupported` for a file that is not a
    whole model.
    """
    path = locate(name, aliases, report).absolute()
    with readable(path):
        _check_kind(path)
        state = state_of(path)
        if not is_gguf(path):
            with path.open("rb") as file:
                start = file.read(START_BYTES)
            if (what := not_a_model_before_gguf(start)) is not None:
                raise ModelNotSupported(f"{path.name}: {what}")
            if start[:4] not in _OLD_MAGICS:
                raise ModelNotSupported(
                    f"{path.name} is no GGUF and no GGML file: it cannot be run"
                )
            return ModelFile(name, path, state, None, (path,))
        header = read_header(path)
        parts = files_of(header)
        if len(parts) > 1:
            for part in parts:
                _check_kind(part)
            state, header = state_of(*parts), joined(parts)
        if (what := not_a_model(header)) is not None:
            raise ModelNotSupported(f"{path.name}: {what}")
        return ModelFile(name, parts[0], state, header, parts)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise `ModelNotFound` for an `OSError` that occurs inside."""
    try:
        yield
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror or error}") from None


def _check_kind(path: Path) -> None:
    """Raise `ModelNotFound` for anything but a regular file.

    Reading a pipe waits for its writer, and reading a device may never end.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ModelNotFound(f"{path} is {kind}, and a model is a regular file: name one")


def locate(name: str, aliases: Mapping[str, str], report: Report) -> Path:
    """The path of the file of a name, fetched if the default model or a hub's file is not here.

    Raises `ModelNotFound` and `DownloadFailed`.
    """
    if not name or "\0" in name:
        raise ModelNotFound(f"{name!r} is not the name of a model")
    if name in aliases:
        # Neither is repeated: a URL may have a password in it.
        if is_url(str(aliases[name])) or "::" in str(aliases[name]):
            raise ModelNotFound(
                f"the alias '{name}' stands for a server's model, and an alias is for a local model: "
                "name the server by InferMagics.servers"
            )
        return locate(aliases[name], {}, report)
    if name == DEFAULT_MODEL:
        return fetch_default(report)
    try:
        path = Path(name).expanduser()
        if mode := _mode(path):
            return _only_file(path) if stat.S_ISDIR(mode) else path
    except OSError as error:
        raise ModelNotFound(f"{name}: {error.strerror or error}") from None
    except RuntimeError as error:  # `~user` names a user who does not exist
        raise ModelNotFound(f"{name}: {error}") from None
    if spin := _in_spin_folder(name):
        return spin
    near = difflib.get_close_matches(path.name, _names_in(path.parent), 1)
    beside = near and len(path.parts) > 1 and ":" not in name and "@" not in name
    if beside or _looks_like_path(name):
        hint = f": did you mean {path.parent / near[0]}?" if near else ""
        raise ModelNotFound(f"there is no file {name}{hint}")
    if match := _REPOSITORY.fullmatch(name):
        return fetch_from_hub(match["repo"], match["file"], match["revision"], report)
    known = [DEFAULT_MODEL, *aliases, *(model_stem(path.name) for path in _spin_files())]
    forms = f"name a file, owner/repo of the hub, or one of: {', '.join(known)}"
    raise ModelNotFound(f"there is no model '{name}': {did_you_mean(name, known, forms)}")


def _mode(path: Path) -> int | None:
    """The `st_mode` of what a path leads to; None if nothing is there.

    Raises `ModelNotFound` for a link to nothing.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ModelNotFound(
                f"{path} is a link to {os.readlink(path)}, which is not there"
            ) from None
    except ValueError:  # no path can have this name, such as one with a lone surrogate
        pass
    return None


def _looks_like_path(name: str) -> bool:
    """Whether a name without a file is a mistyped path. Such a name is not asked of the hub."""
    return (
        name.startswith((".", "~", os.sep))
        or (name.lower().endswith((".gguf", ".bin")) and ":" not in name)
        or os.path.isabs(name)
    )


def _only_file(folder: Path) -> Path:
    found = [folder / name for name in _names_in(folder) if name.endswith((".gguf", ".bin"))]
    files = one_of_each([path for path in found if path.is_file()] or found)
    if len(files) == 1:
        return files[0]
    what = f"{len(files)} model files" if files else "no model file"
    hint = f": name one, such as {files[0]}" if files else ""
    raise ModelNotFound(f"the folder {folder} has {what}{hint}")


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _spin_files() -> Iterator[Path]:
    """The models in the nearest `.spin/ai-models` folder, where Spin keeps them: one file of each."""
    yield from one_of_each(path for path in _in_spin_folders() if path.is_file())


def _in_spin_folders() -> Iterator[Path]:
    """Everything in and below the nearest `.spin/ai-models` folder, except folders."""
    here = current_folder()
    for folder in (here, *here.parents) if here else ():
        models = folder / ".spin" / "ai-models"
        if models.is_dir():
            yield from sorted(path for path in models.rglob("*") if not path.is_dir())
            return


def _in_spin_folder(name: str) -> Path | None:
    """The file of a Spin model. Spin names a model by its file, with or without the suffix.

    The number of a part may be left out as well.
    """
    files = list(_in_spin_folders())
    exact = (path for path in files if name in (path.name, path.stem))
    return next(exact, next((path for path in files if name == model_stem(path.name)), None))


def is_here(name: str, aliases: Mapping[str, str]) -> bool:
    """Whether a text is the name of a model that is on this machine. No network is used."""
    if not name or "\0" in name:
        return False
    if name in aliases or name == DEFAULT_MODEL:
        return True
    try:
        path = Path(name).expanduser()
        if mode := _mode(path):
            path = _only_file(path) if stat.S_ISDIR(mode) else path
            return stat.S_ISREG(path.stat().st_mode) and (
                path.suffix.lower() in (".gguf", ".ggml", ".bin") or is_gguf(path)
            )
    except (OSError, RuntimeError, ModelNotFound):  # no file can have this name, or it is no model
        return False
    if _in_spin_folder(name):
        return True
    match = _REPOSITORY.fullmatch(name)
    return match is not None and has_repository(match["repo"])


def local_models(aliases: Mapping[str, str]) -> list[tuple[str, str, Path | None]]:
    """The models that have a name here, each as (name, kind, file). No network is used.

    The kind is `default`, `alias` or `spin`. The file of the default model is None until it has
    been fetched. The file of an alias is what the alias says, whether or not it exists.
    """
    default = cache_folder() / "models" / DEFAULT_MODEL
    fetched = next(iter(default.glob("*.gguf")), None) if default.is_dir() else None
    models: list[tuple[str, str, Path | None]] = [(DEFAULT_MODEL, "default", fetched)]
    models += [(name, "alias", Path(target)) for name, target in aliases.items()]
    models += [(model_stem(path.name), "spin", path) for path in _spin_files()]
    return models
