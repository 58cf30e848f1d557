"""A model name becomes a checked local file.

A name is, in this order: an alias; a path; a model in a `.spin/ai-models`
folder above the working directory; `owner/repo[:file][@revision]` on the
Hugging Face hub.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..base.filesystem import current_folder, discard, is_held
from ..errors import (
    EngineFailed,
    InvalidInput,
    ModelDamaged,
    ModelNotFound,
    ModelNotSupported,
)
from ..protocol import Progress, Report
from ..wit import ModelInfo
from . import adapt
from .checks import OLD_FORMATS, check_runnable, quantisation
from .fetch import DEFAULT_NAME, fetch_default, fetch_from_hub
from .files import IN_USE, Check, cache_folder, exclusive, sha256, state_of, write_whole
from .ggml import check_old_vocabulary
from .gguf import Header, is_gguf, read_header

_REPOSITORY = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<file>[^@]+))?(?:@(?P<revision>.+))?"
)
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_OLD_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"ccgg")  # ggml, ggmf, ggjt, ggcc


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A checked file, and the form of it that the engine loads (the same, or the adapted one)."""

    info: ModelInfo
    source: Path
    loaded: Path
    model_type: str | None
    state: tuple[tuple[int, ...], ...]
    """Of both (see `state_of`): when they change, it is another model."""

    def unchanged(self) -> bool:
        """Whether the source and its loaded form are still the files that were checked."""
        try:
            return (state_of(self.source), state_of(self.loaded)) == self.state
        except OSError:
            return False


def resolve(
    name: str, model_type: str | None, aliases: Mapping[str, str], report: Report
) -> LocalModel:
    """The local file of a name: found or fetched, checked, and adapted where that is needed."""
    source = _find(name, aliases, report).absolute()
    try:
        _check_kind(source)
        if model_type is not None and model_type not in OLD_FORMATS:
            raise InvalidInput(
                f"model_type: {model_type!r} is not valid: it must be one of "
                f"{', '.join(OLD_FORMATS)}"
            )
        if is_gguf(source):
            if model_type is not None:
                raise InvalidInput(
                    f"model_type: {source.name} is a GGUF file, which says its own architecture: "
                    "leave --model-type out"
                )
            return _gguf_model(name, source, report)
        return _old_model(name, source, model_type, report)
    except OSError as error:
        raise ModelNotFound(f"{source} cannot be read: {error.strerror or error}") from None


def _gguf_model(name: str, source: Path, report: Report) -> LocalModel:
    state = state_of(source)
    header = read_header(source)
    check_runnable(header)
    digest = sha256(source, lambda: report(Progress("load", note="hashing the file")))
    loaded = source
    if adapt.needs_adaptation(header):
        loaded = _adapted(header, digest, state, report)
    info = ModelInfo(
        name=name,
        path=str(source),
        sha256=digest,
        architecture=header.architecture,
        quantisation=quantisation(header),
    )
    return LocalModel(info, source, loaded, None, (state, state_of(loaded)))


def _adapted(header: Header, digest: str, state: tuple[int, ...], report: Report) -> Path:
    """The adapted form of a file in the cache, written where it is not there as it was written.

    Beside it stands the hash that it had when it was written. `digest` is the
    source's, of the time when its state was `state`.
    """
    source = header.path
    # Cut, since a file's name has at most 255 bytes.
    path = cache_folder() / "adapted" / f"{source.stem[:50]}.{digest[:16]}.v{adapt.VERSION}.gguf"

    def progress(done: int, total: int) -> None:
        report(Progress("adapt", done, total, source.name))

    def check() -> None:
        report(Progress("load", note="hashing the adapted copy"))

    if _is_whole(path, check):
        return path  # with no lock: a cache that is there may be read-only
    try:
        waiting = Progress("adapt", note="another kernel adapts it")
        with exclusive(path, lambda: report(waiting)) as own:
            if not _is_whole(path, check):
                try:
                    adapt.adapt(header, path, progress, own)
                    if state_of(source) != state:  # it may hold other bytes than were hashed
                        raise ModelDamaged(f"{source.name}: the file has changed while it was read")
                    write_whole(_hash_beside(path), sha256(path, check))
                except BaseException:
                    discard(path)
                    raise
    except OSError as error:
        advice = f"; {IN_USE}" if is_held(error) else ""
        raise EngineFailed(
            f"{source.name} must be rewritten for ctransformers and the copy cannot be "
            f"written to {path.parent}: {error.strerror or error}{advice}"
        ) from None
    return path


def _hash_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_whole(path: Path, check: Check) -> bool:
    """Whether an adapted file is there with the bytes that it was written with."""
    try:
        return path.is_file() and sha256(path, check) == _hash_beside(path).read_text("utf-8")
    except (OSError, ValueError):  # as where its writer was killed before the hash was there
        return False


def _old_model(name: str, source: Path, model_type: str | None, report: Report) -> LocalModel:
    """A file of a format before GGUF, which does not say what it holds."""
    with source.open("rb") as file:
        old = file.read(4) in _OLD_MAGICS
    if not old:
        raise ModelNotSupported(f"{source.name} is no GGUF and no GGML file: it cannot be run")
    if model_type is None:
        raise ModelNotSupported(
            f"{source.name} is an old GGML file, which does not say its architecture: "
            f"give --model-type, one of {', '.join(OLD_FORMATS)}"
        )
    state = state_of(source)
    check_old_vocabulary(source, model_type)
    digest = sha256(source, lambda: report(Progress("load", note="hashing the file")))
    info = ModelInfo(
        name=name, path=str(source), sha256=digest, architecture=model_type, quantisation=""
    )
    return LocalModel(info, source, source, model_type, (state, state))


def _check_kind(path: Path) -> None:
    """Refuse what is no regular file: a pipe makes its reader wait, and a device may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ModelNotFound(f"{path} is {kind}, and a model is a regular file: name one")


def _find(name: str, aliases: Mapping[str, str], report: Report) -> Path:
    if not name or "\0" in name:
        raise ModelNotFound(f"{name!r} is not the name of a model")
    if name in aliases:
        return _find(aliases[name], {}, report)
    if name == DEFAULT_NAME:
        return fetch_default(report)
    try:
        path = Path(name).expanduser()
        if mode := _mode(path):
            return _only_file(path) if stat.S_ISDIR(mode) else path
    except OSError as error:
        raise ModelNotFound(f"{name}: {error.strerror or error}") from None
    except RuntimeError as error:  # there is no such user
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
    known = [DEFAULT_NAME, *aliases, *(path.stem for path in _spin_files())]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    raise ModelNotFound(
        f"no model '{name}': it is no file, no alias and no owner/repo of the hub; {hint}"
    )


def _mode(path: Path) -> int | None:
    """What kind of file a path leads to, None where there is nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ModelNotFound(
                f"{path} is a link to {os.readlink(path)}, which is not there"
            ) from None
    except ValueError:  # no path at all
        pass
    return None


def _looks_like_path(name: str) -> bool:
    """Whether a name that is no file is a mistyped path, which must not go to the network."""
    return (
        name.startswith((".", "~", os.sep))
        or (name.lower().endswith((".gguf", ".bin")) and ":" not in name)
        or os.path.isabs(name)
    )


def _only_file(folder: Path) -> Path:
    found = [folder / name for name in _names_in(folder) if name.endswith((".gguf", ".bin"))]
    files = [path for path in found if path.is_file()] or found
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
    """The model files in the nearest `.spin/ai-models` folder, where Spin keeps its models."""
    return (path for path in _in_spin_folders() if path.is_file())


def _in_spin_folders() -> Iterator[Path]:
    """All that is in it, but folders."""
    here = current_folder()
    for folder in (here, *here.parents) if here else ():
        models = folder / ".spin" / "ai-models"
        if models.is_dir():
            yield from sorted(path for path in models.rglob("*") if not path.is_dir())
            return


def _in_spin_folder(name: str) -> Path | None:
    """Spin names a model by its file, with or without the ending."""
    return next((path for path in _in_spin_folders() if name in (path.name, path.stem)), None)


def local_models(aliases: Mapping[str, str]) -> list[tuple[str, str, Path | None]]:
    """What can be named without a network: (name, kind, file); the file is None before a fetch."""
    default = cache_folder() / "models" / DEFAULT_NAME
    fetched = next(iter(default.glob("*.gguf")), None) if default.is_dir() else None
    models: list[tuple[str, str, Path | None]] = [(DEFAULT_NAME, "default", fetched)]
    models += [(name, "alias", Path(target)) for name, target in aliases.items()]
    models += [(path.stem, "spin", path) for path in _spin_files()]
    return models
