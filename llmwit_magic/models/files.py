"""Files of the cache: their place, their hashes, and one writer at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import BaseFileLock, FileLock, Timeout

from ..base.filesystem import lock_failure, replacing

CLOCK_STEP_SECONDS = 0.02
"""More than the step in which a file system tells the time of a change."""

IN_USE = (
    "Windows replaces no model that is loaded: %infer_unload in each notebook that uses it, and "
    "run again"
)
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What a system says of a disk that has no locks."""

Check = Callable[[], None]
"""Called every now and then in a long wait; raises to give up."""


def cache_folder() -> Path:
    """Where fetched and adapted models are kept; everything in it can be made again."""
    return Path(platformdirs.user_cache_path("llmwit-magic", appauthor=False))


@contextmanager
def exclusive(target: Path, check: Check) -> Iterator[str]:
    """Hold the lock of `target` against other kernels while it is written.

    Yields an ending for the names of what is written before it is renamed to
    `target`: an empty one, so that what a killed writer left is overwritten.
    Where the disk locks no files, as some of networks, nothing is held, and the
    ending is like no other's: whoever ends last replaces a file by an equal one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = None if lock_failure(target.parent, "flock") else _locked(target, check)
    try:
        yield "" if lock else f".{secrets.token_hex(4)}"
    finally:
        if lock:
            lock.release()


def _locked(target: Path, check: Check) -> BaseFileLock | None:
    """The lock of a file, awaited; None where there are no locks."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    while True:
        try:
            lock.acquire(timeout=0.2)
            return lock
        except Timeout:
            check()
        except NotImplementedError:
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return None


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
