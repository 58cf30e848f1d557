"""Files of the cache: their folder, locks with one writer at a time, and remembered hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import BaseFileLock, FileLock, Timeout

from ..base.filesystem import lock_failure, replacing

CLOCK_STEP_SECONDS = 0.02
"""Longer than the resolution of the times of change that file systems keep."""

IN_USE = (
    "Windows replaces no model that is loaded: %infer_unload in each notebook that uses it, and "
    "run again"
)
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of a disk that does not support locks."""

Check = Callable[[], None]
"""Called repeatedly during a long wait. It raises to end the wait."""


def cache_folder() -> Path:
    """The folder of fetched and adapted models. All of its files can be made again."""
    return Path(platformdirs.user_cache_path("llmwit-magic", appauthor=False))


@contextmanager
def exclusive(target: Path, check: Check) -> Iterator[str]:
    """Hold the lock of `target` while it is written, so that other kernels wait.

    Yields a suffix for the names of temporary files that are later renamed to `target`. With the
    lock held the suffix is empty, so that the remains of a killed writer are overwritten.

    Some network disks have no locks. There no lock is held, and the suffix is unique. Several
    kernels may then write at once, and the last one replaces the file by an equal one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = None if lock_failure(target.parent, "flock") else _locked(target, check)
    try:
        yield "" if lock else f".{secrets.token_hex(4)}"
    finally:
        if lock:
            lock.release()


def _locked(target: Path, check: Check) -> BaseFileLock | None:
    """The lock of a file, once it is free; None if the disk has no locks."""
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


def state_of(*paths: Path) -> tuple[int, ...]:
    """Values that change when the bytes of files change: size, mtime, ctime and inode of each, in ns.

    mtime alone is not enough, because anyone can set it back, as copying tools do. ctime cannot be
    set.
    """
    stats = [path.stat() for path in paths]
    return tuple(
        number
        for stat in stats
        for number in (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    )


def write_whole(path: Path, text: str) -> None:
    """Write a small file such that a reader sees either the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256_of_parts(paths: Sequence[Path], check: Check) -> str:
    """The SHA-256 of a model in hexadecimal: of its one file.

    Of several parts it is the SHA-256 of theirs, in hexadecimal and in order, each with a line end.
    """
    digests = [sha256(path, check) for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def sha256(path: Path, check: Check) -> str:
    """The SHA-256 of a file in hexadecimal. It is remembered until `state_of` changes."""
    state = [str(path), *state_of(path)]
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    memory = cache_folder() / "hashes" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["state"] == state:
            return str(known["sha256"])
    # A file that changes twice within the resolution of its times keeps its state. So the first
    # change must be older than that before the file is read.
    age = time.time() - path.stat().st_ctime
    if 0 <= age < CLOCK_STEP_SECONDS:
        time.sleep(CLOCK_STEP_SECONDS - age)
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 24):
            digest.update(block)
            check()
    value = digest.hexdigest()
    # Without a cache the hash is only computed again the next time, so a failure is ignored.
    with suppress(OSError):
        write_whole(memory, json.dumps({"state": state, "sha256": value}))
    return value
