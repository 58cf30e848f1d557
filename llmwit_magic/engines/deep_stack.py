"""A thread with a large stack, for code of libraries that calls itself for each part of a text."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from ..errors import EngineFailed

STACK_BYTES = 512 * 2**20
"""Bytes of the stack. Memory is taken as far as it is used."""


def pool_with_stack(what: str) -> ThreadPoolExecutor:
    """A pool of one thread, whose stack has `STACK_BYTES`.

    Raises `EngineFailed` where the process may not have so much of address space. `what` is named
    in it: the code that needs the stack.
    """
    before = threading.stack_size(STACK_BYTES)
    try:
        pool = ThreadPoolExecutor(1)
        pool.submit(int).result()  # starts the thread
    except RuntimeError as error:
        raise EngineFailed(
            f"{what} is run with {STACK_BYTES // 2**20} MiB of address space for its stack "
            f"({error}): raise the limit of this process (ulimit -v)"
        ) from None
    finally:
        threading.stack_size(before)
    return pool
