"""Stand-ins for what other systems answer."""

from __future__ import annotations

import ctypes
import sys
from typing import Any


class MacLibrary:
    """macOS's library, which knows some numbers by name, of 4 or 8 bytes."""

    def __init__(self, known: dict[str, int], size: int = 4) -> None:
        self.known, self.size = known, size

    def sysctlbyname(self, name: bytes, value: Any, size: Any, new: None, length: Any) -> int:
        number = self.known.get(name.decode())
        assert size._obj.value == 8
        if number is None:
            return -1
        ctypes.memmove(value, number.to_bytes(self.size, sys.byteorder), self.size)
        size._obj.value = self.size
        return 0
