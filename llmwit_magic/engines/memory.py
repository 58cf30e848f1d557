"""The memory that this process can still take, and a limit for what a block of code takes.

The limit is for work whose memory a model file decides.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
# For each version of Linux control groups (2, then 1): the file with the limit, the file with the
# usage, and the prefix of the counters of file cache in `memory.stat`.
_FILES = (
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)


def available_memory() -> int:
    """Bytes that this process can still take.

    They are the machine's free bytes, or those that its container has left where these are fewer.
    File cache counts as free, since the system gives it back where memory is needed.
    """
    left = [psutil.virtual_memory().available]
    for folder in _groups():
        for limit, taken, prefix in _FILES:
            with suppress(OSError, ValueError):  # another version, or "max", which is no limit
                most = int((folder / limit).read_text())
                left.append(most - int((folder / taken).read_text()) + _cache(folder, prefix))
    return max(0, min(left))


def _cache(folder: Path, prefix: str) -> int:
    """Bytes of file cache in a control group; 0 where they are not told."""
    with suppress(OSError, ValueError):
        stat = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
        return sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return 0


def _groups() -> Iterator[Path]:
    """The folders of this process's control groups for memory, and of the groups around them."""
    try:
        lines = _OWN_GROUPS.read_text(errors="surrogateescape").split("\n")
    except OSError:  # not Linux
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" or "memory" in controllers.split(","):
            root = _GROUPS / "memory" if controllers else _GROUPS
            # In a container the path may be the one on the host, which does not exist here. The
            # root is then the container's own group.
            folder = root / path.lstrip("/")
            yield from (folder, *(up for up in folder.parents if up.is_relative_to(root)))


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """A block in which the process can take at most `more` bytes beyond what it has at the start.

    Taking more raises `MemoryError`. Only Linux counts and enforces this. Elsewhere there is no
    limit.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old, most = resource.getrlimit(resource.RLIMIT_AS)
    new = pages * resource.getpagesize() + more
    limits = [limit for limit in (new, old, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (old, most))
