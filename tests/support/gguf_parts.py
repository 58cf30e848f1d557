"""A GGUF file taken to pieces, and put together again from pieces that no writer would write.

Independent of the package's own reader: nothing here checks anything.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any, Literal

#: The format's numbers of the types of values, and the bytes of the scalar ones.
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SIZES = {U8: 1, I8: 1, U16: 2, I16: 2, U32: 4, I32: 4, F32: 4, BOOL: 1, U64: 8, I64: 8, F64: 8}

Role = Literal["number", "text", "data"]
Region = Literal["magic and counts", "metadata", "token arrays", "tensor infos", "tensor data"]


@dataclass(frozen=True, slots=True)
class Field:
    """Bytes `start` to `end` of a file: a count, length, type, offset or dimension, or a text."""

    start: int
    end: int
    role: Role
    region: Region


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's description; the offset counts from the beginning of the data."""

    name: bytes
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Parts:
    """What a file consists of. `values` has key, type and the bytes of each metadata value."""

    values: list[tuple[bytes, int, bytes]]
    tensors: list[Tensor]
    data: bytes
    alignment: int = 32
    fields: list[Field] = field(default_factory=list, compare=False, repr=False)

    def with_value(self, key: str, kind: int, payload: bytes) -> Parts:
        """The parts with a value set: in its place, or at the end."""
        new, name = (key.encode(), kind, payload), key.encode()
        values = [new if value[0] == name else value for value in self.values]
        return replace(self, values=values if new in values else [*values, new])

    def without(self, key: str) -> Parts:
        """The parts without a metadata value."""
        return replace(self, values=[v for v in self.values if v[0] != key.encode()])

    def payload(self, key: str) -> bytes:
        """The bytes of a value."""
        return next(payload for name, _, payload in self.values if name == key.encode())

    def strings(self, key: str) -> list[bytes]:
        """The items of an array of strings."""
        walker = _Walker(self.payload(key))
        walker.number(4, "metadata")
        return [walker.text("metadata") for _ in range(walker.number(8, "metadata"))]

    def join(self) -> bytes:
        """The file."""
        pieces = [b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.values))]
        for key, kind, payload in self.values:
            pieces += text(key), struct.pack("<I", kind), payload
        for tensor in self.tensors:
            dimensions = len(tensor.shape)
            pieces += text(tensor.name), struct.pack(f"<I{dimensions}Q", dimensions, *tensor.shape)
            pieces.append(struct.pack("<IQ", tensor.kind, tensor.offset))
        head = b"".join(pieces)
        return head + bytes(-len(head) % self.alignment) + self.data


def text(data: bytes | str) -> bytes:
    """A string as the format has it: its length, then its bytes."""
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("<Q", len(data)) + data


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    """The payload of an array whose count may be a lie."""
    return struct.pack("<IQ", kind, count) + items


def string_array(strings: list[bytes]) -> bytes:
    """The payload of an array of strings."""
    return array(STRING, len(strings), b"".join(map(text, strings)))


def take_apart(data: bytes) -> Parts:
    """The parts of a sound file, and each field of its header in order.

    Of an array's items the first, second and last have fields; those between are one.
    """
    walker = _Walker(data)
    walker.skip(4, "data", "magic and counts")
    walker.number(4, "magic and counts")
    tensor_count = walker.number(8, "magic and counts")
    value_count = walker.number(8, "magic and counts")
    values = [_value(walker) for _ in range(value_count)]
    tensors = [_tensor(walker) for _ in range(tensor_count)]
    start = -(-walker.position // 32) * 32
    return Parts(values, tensors, data[start:], fields=walker.fields)


def _value(walker: _Walker) -> tuple[bytes, int, bytes]:
    key = walker.text("metadata")
    kind = walker.number(4, "metadata")
    start = walker.position
    if kind == STRING:
        walker.text("metadata")
    elif kind == ARRAY:
        _array(walker, "token arrays" if key.startswith(b"tokenizer.ggml.") else "metadata")
    else:
        walker.skip(SIZES[kind], "data", "metadata")
    return key, kind, walker.data[start : walker.position]


def _array(walker: _Walker, region: Region) -> None:
    kind = walker.number(4, region)
    count = walker.number(8, region)
    inner, start = 0, 0
    for index in range(count):
        if index == 2:
            inner, start = len(walker.fields), walker.position
        if 2 < index == count - 1:
            walker.fields[inner:] = [Field(start, walker.position, "data", region)]
        if kind == STRING:
            walker.text(region)
        else:
            walker.skip(SIZES[kind], "data", region)


def _tensor(walker: _Walker) -> Tensor:
    name = walker.text("tensor infos")
    dimensions = walker.number(4, "tensor infos")
    shape = tuple(walker.number(8, "tensor infos") for _ in range(dimensions))
    return Tensor(name, shape, walker.number(4, "tensor infos"), walker.number(8, "tensor infos"))


class _Walker:
    """A position in a sound file that notes what it passes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.fields: list[Field] = []

    def skip(self, count: int, role: Role, region: Region) -> bytes:
        start, self.position = self.position, self.position + count
        self.fields.append(Field(start, self.position, role, region))
        return self.data[start : self.position]

    def number(self, size: int, region: Region) -> int:
        return int.from_bytes(self.skip(size, "number", region), "little")

    def text(self, region: Region) -> bytes:
        return self.skip(self.number(8, region), "text", region)


def scalar(kind: int, value: Any) -> bytes:
    """The bytes of a number of a type."""
    codes = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B",
             U64: "Q", I64: "q", F64: "d"}  # fmt: skip
    return struct.pack("<" + codes[kind], value)
