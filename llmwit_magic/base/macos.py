"""Facts about a Mac, from macOS's `sysctlbyname` (sys/sysctl.h)."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def sysctl(name: str, room: int) -> bytes | None:
    """The value of that name, at most `room` bytes long; None where macOS gives none."""
    value, size = ctypes.create_string_buffer(room), ctypes.c_size_t(room)
    with suppress(OSError, AttributeError):
        ask = ctypes.CDLL(None).sysctlbyname
        if not ask(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0)):
            return value.raw[: size.value]
    return None
