"""Compiled components, kept in the cache.

Compiling a component of Python takes ten seconds, and loading its compiled form milliseconds. That
form is native code. So it lies in a private folder, and is loaded only where file and folder are
this user's alone and the bytes have the hash that they had when they were written. Else it is made
again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import sys
import threading
import weakref
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import wasmtime
from wasmtime import component

from ..base.filesystem import discard, replace
from ..errors import ComponentFailed
from ..models.cache import cache_folder
from .compiler import compile_apart
from .sandbox import Engine

_FORM = b"llmwit-compiled-1\n"
_DIGEST_BYTES = 32
MOST_KEPT = 20
"""Compiled forms in the cache; the one that was not used for longest goes first. A component of
Python takes 33 MB."""

_loaded: weakref.WeakValueDictionary[tuple[int, str], component.Component] = (
    weakref.WeakValueDictionary()
)
"""The compiled components in memory, by process and hash. Equal ones are the same object."""
_locks: dict[str, threading.Lock] = {}
_locks_lock = threading.Lock()
_POLL_SECONDS = 0.05
"""How often one who waits for another's compiling can be interrupted. On Windows a lock that is
waited for without a limit lets no interrupt through."""


def compiled(engine: Engine, source: bytes, digest: str) -> component.Component:
    """The compiled form of a component. `digest` is the SHA-256 of `source` in hexadecimal.

    It is taken from memory or from the cache, or else made and kept. Raises what `compile_apart`
    does, and `ComponentFailed` where this process cannot load what was compiled.
    """
    with _locks_lock:
        lock = _locks.setdefault(digest, threading.Lock())
    while not lock.acquire(timeout=_POLL_SECONDS):
        pass
    try:  # who comes second finds it made
        key = (engine.pid, digest)
        found = _loaded.get(key) or _kept(engine, digest)
        if found is None:
            data = compile_apart(source)
            found = _of_bytes(engine, data)
            _keep(data, digest)
        _loaded[key] = found
        return found
    finally:
        lock.release()


def _renew() -> None:
    """Replace the locks in a forked process: the thread that held one is not there."""
    global _loaded, _locks, _locks_lock
    _loaded, _locks, _locks_lock = weakref.WeakValueDictionary(), {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def path_of(digest: str) -> Path:
    """Where the compiled form of a component is kept: for this version of wasmtime alone."""
    return cache_folder() / "components" / f"{digest}.{metadata.version('wasmtime')}.compiled"


def _of_bytes(engine: Engine, data: bytes) -> component.Component:
    try:
        return component.Component.deserialize(engine.engine, data)
    except wasmtime.WasmtimeError as error:
        why = " ".join(str(error).split())
        raise ComponentFailed(f"its compiled form cannot be loaded: {why}") from None


def _kept(engine: Engine, digest: str) -> component.Component | None:
    """The compiled form in the cache; None where there is none, or where it is doubtful."""
    with suppress(OSError, ValueError, wasmtime.WasmtimeError):
        path = path_of(digest)
        if is_private(path.parent.lstat(), stat.S_ISDIR):
            found = component.Component.deserialize(engine.engine, _bytes_of(path, digest))
            with suppress(OSError):
                os.utime(path)  # so that it is not the next to be removed
            return found
    return None


def _bytes_of(path: Path, digest: str) -> bytes:
    """The compiled bytes of a file. Raises `ValueError` where they are not what was written.

    The checks are of the open file, so that no other can come in its place.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
        found = os.fstat(file.fileno())
        if not is_private(found, stat.S_ISREG) or found.st_nlink != 1:
            raise ValueError("the file is not this user's alone")
        data = file.read()
    start = len(_FORM) + _DIGEST_BYTES
    if data[:start] != _FORM + _hash(digest, memoryview(data)[start:]):
        raise ValueError("the file has changed since it was written")
    return data[start:]


def is_private(found: os.stat_result, kind: object = stat.S_ISREG) -> bool:
    """Whether a file or folder is this user's, and no other one can read or write it.

    On Windows the folder of the user's cache is private, and there is nothing to ask.
    """
    assert callable(kind)
    if not kind(found.st_mode):
        return False
    if sys.platform == "win32":
        return True
    return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077


def _hash(digest: str, data: bytes | memoryview) -> bytes:
    """The hash of compiled bytes together with their source's, so that none stands for another."""
    made = hashlib.sha256(digest.encode())
    made.update(data)
    return made.digest()


def _keep(data: bytes, digest: str) -> None:
    """Write the compiled form into the cache. Where that fails, it is made again the next time."""
    with suppress(OSError):
        path = path_of(digest)
        folder = path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(folder.lstat(), stat.S_ISDIR):
            _make_private(folder)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with open(os.open(part, flags, 0o600), "wb") as file:
                file.write(_FORM + _hash(digest, data) + data)
            replace(part, path)
        finally:
            discard(part)
        _forget_old(folder)


def _forget_old(folder: Path) -> None:
    """Remove the forms beyond `MOST_KEPT`, and what a killed writer has left."""
    files = sorted(folder.iterdir(), key=lambda file: file.lstat().st_mtime, reverse=True)
    for file in files[MOST_KEPT:]:
        discard(file)


def _make_private(folder: Path) -> None:
    """Make a folder this user's alone, without what lay there. Raises `OSError` where it cannot be."""
    if folder.is_symlink() or (sys.platform != "win32" and folder.lstat().st_uid != os.geteuid()):
        raise PermissionError(f"{folder} is not this user's")
    folder.chmod(0o700)
    for file in folder.iterdir():
        discard(file)
