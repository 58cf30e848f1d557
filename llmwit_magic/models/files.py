"""Files of the cache: their place, their hashes, and one writer at a time."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from ..files import replacing

CLOCK_STEP_SECONDS = 0.02
"""More than the step in which a file system tells the time of a change."""

IN_USE = (
    "Windows replaces no model that is loaded: %infer_unload in each notebook that uses it, and "
    "run again"
)

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


def state_of(path: Path) -> tuple[int, int, int, int]:
    """What changes with a file's bytes: size, times of the bytes and of the inode, inode.

    The time of the bytes can be set back by anyone, as copying tools do; that
    of the inode cannot.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that readers see the old or the new one, nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256(path: Path, check: Check) -> str:
    """The file's hash in hexadecimal, remembered while its state stays."""
    state = [str(path), *state_of(path)]
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    memory = cache_folder() / "hashes" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["state"] == state:
            return str(known["sha256"])
    # A change within one step of the file system's clock would leave the times as they are.
    age = time.time() - path.stat().st_ctime
    if 0 <= age < CLOCK_STEP_SECONDS:
        time.sleep(CLOCK_STEP_SECONDS - age)
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
