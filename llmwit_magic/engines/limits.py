"""A limit on the memory of this process, for work whose size a model file decides."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """In the block, memory beyond `more` bytes on top of what is taken raises MemoryError.

    Only Linux counts and enforces this; elsewhere there is no limit.
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
