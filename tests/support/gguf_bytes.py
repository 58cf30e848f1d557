"""The bytes of a GGUF file, written piece by piece.

`raw` writes any bytes in the order of the format. So a test can make files that no writer makes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

#: The type numbers of values in the format.
U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def text(data: bytes | str) -> bytes:
    """A string: its length in bytes, then its bytes."""
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("<Q", len(data)) + data


def value(key: bytes | str, kind: int, data: bytes) -> bytes:
    """A metadata value of a type."""
    return text(key) + struct.pack("<I", kind) + data


def u32(key: str, number: int) -> bytes:
    """A metadata value that is a 32-bit number."""
    return value(key, U32, struct.pack("<I", number))


def items(key: str, kind: int, count: int, data: bytes = b"") -> bytes:
    """A metadata value that is an array. Its count need not fit its data."""
    return value(key, ARRAY, struct.pack("<IQ", kind, count) + data)


def tensor(
    name: bytes | str = "t", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0
) -> bytes:
    """The info of a tensor: its name, shape, type number and offset in the data."""
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def raw(
    values: Iterable[bytes] = (),
    tensors: Iterable[bytes] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 64,
) -> bytes:
    """A file: the values and tensor infos as given, padding to 32 bytes, then `data` zero bytes.

    `counts` are the numbers of tensors and of values that the file claims to have.
    """
    values, tensors = list(values), list(tensors)
    tensor_count, value_count = counts or (len(tensors), len(values))
    head = magic + struct.pack("<IQQ", version, tensor_count, value_count)
    head += b"".join(values) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)
