"""Files of the cache: their place, their hashes, and one writer at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from ..files import replacing

Check = Callable[[], None]
"""Called every now and then in a long wait; raises to give up."""


def cache_folder() -> Path:
    """Where fetched and adapted models are kept; everything in it can be made again."""
    return Path(platformdirs.user_cache_path("llmwit-magic", appauthor=False))


@contextmanager
def exclusive(target: Path, check: Check) -> Iterator[None]:
    """Hold the lock of `target` against other kernels while it is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    while True:
        try:
            lock.acquire(timeout=0.2)
            break
        except Timeout:
            check()
    try:
        yield
    finally:
        lock.release()


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that readers see the old or the new one, nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256(path: Path, check: Check) -> str:
    """The file's hash in hexadecimal, remembered while its size, time and inode stay."""
    stat = path.stat()
    state = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino]
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    memory = cache_folder() / "hashes" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["state"] == state:
            return str(known["sha256"])
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 24):
            digest.update(block)
            check()
    value = digest.hexdigest()
    # A cache that cannot be written costs time, not the run.
    with suppress(OSError):
        write_whole(memory, json.dumps({"state": state, "sha256": value}))
    return value
