"""Where llama.cpp puts the layers and the buffers of a model, by what it logs while it loads it.

Only its log tells that. A driver's free memory also changes by what other programs do, and that of
a device in software never changes.
"""

from __future__ import annotations

import re
from collections import Counter

_BUFFER = re.compile(r"(\S+) (?:\S+ )?buffer size = *([\d.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/\d+ layers to GPU")
_REFUSED = re.compile(r"failed to allocate (\S+) buffer of size (\d+)")


class Placed:
    """What was placed since the last `forget`."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin again, before another model is loaded."""
        self.layers = 0
        """How many layers were put on GPUs, the output among them."""
        self.refused: tuple[str, int] | None = None
        """The first buffer that a device did not give: the device's name, and its bytes."""
        self._buffers: Counter[str] = Counter()

    def read(self, line: str) -> None:
        """Take what a line of the log says, a line with single spaces."""
        if "buffer" in line:
            if found := _BUFFER.search(line):
                self._buffers[found[1]] += round(float(found[2]) * 2**20)
            elif self.refused is None and (found := _REFUSED.search(line)):
                self.refused = found[1], int(found[2])
        elif found := _OFFLOADED.search(line):
            self.layers = int(found[1])

    def bytes_on(self, device: str) -> int:
        """Bytes of the weights, the caches and the work buffers on the device of that name."""
        # Some kinds of memory on a device have names of their own, such as `MTL0_Mapped`.
        return sum(
            size for name, size in self._buffers.items()
            if name == device or name.startswith(f"{device}_")
        )  # fmt: skip
