"""The header of a GGUF file, read strictly before native code sees the file.

The native loader trusts every count, length and offset. Most damaged files kill its process, and
some load and compute garbage. Here each number is checked against the size of the file before it
is used. So the file's size limits time and memory, and for a large file the constants below do.
The format is specified in the ggml project's `docs/gguf.md`.
"""

from __future__ import annotations

import array
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ModelDamaged, ModelNotFound, ModelNotSupported
from .tensor_types import TENSOR_TYPES, TensorType, unread_type

# Far beyond any real model: the largest vocabularies take about 15 MB of header, and the largest
# models have about 2,000 tensors. The limits matter because the header is read in the kernel's own
# process, and takes up to six times its bytes in memory.
MAX_HEADER = 64 * 2**20
MAX_VALUES = MAX_TENSORS = 2**16
MAX_NAME = 63  # bytes of a tensor's name; the loader's buffer has 64
MAX_VERSION = 255  # a greater one is damage, because versions of the format come years apart
_STRING, _ARRAY, _BOOL = 8, 9, 7
# The type numbers of scalars in the file, each with its struct format and its array typecode.
_SCALARS = {
    0: ("<B", "B"), 1: ("<b", "b"), 2: ("<H", "H"), 3: ("<h", "h"),
    4: ("<I", "I"), 5: ("<i", "i"), 6: ("<f", "f"), _BOOL: ("<B", "B"),
    10: ("<Q", "Q"), 11: ("<q", "q"), 12: ("<d", "d"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header describes it.

    `shape` begins with the innermost dimension. `offset` is in bytes from the start of the data.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.type.block * self.type.size


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header.

    In `metadata`, a string is a `str`, an array of strings is a list of `bytes` (tokens need not
    be UTF-8), and an array of numbers is an `array.array`. `types` has the type number of each
    value; for an array it is the type number of the items. `data_offset` is the position in the
    file, in bytes, at which the tensors' data begins.
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    types: Mapping[str, int]
    tensors: Sequence[TensorInfo]
    alignment: int
    data_offset: int
    part_count: int = 1
    """How many files the model has. `tensors` are those of all, each with its offset in its own."""

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def hyperparameter(self, name: str, default: Any = None) -> Any:
        """The value of `<architecture>.<name>`."""
        return self.metadata.get(f"{self.architecture}.{name}", default)


def is_gguf(path: Path) -> bool:
    """Whether the file begins with GGUF's magic number. False for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """The header of the file.

    Raises `ModelDamaged` with what is wrong and where, `ModelNotSupported` for an undamaged file
    of a form that is not read, and `ModelNotFound` for a file that cannot be opened.
    """
    try:
        with path.open("rb", buffering=1 << 18) as file:
            return _Reader(path, file).header()
    except OSError as error:
        raise ModelNotFound(f"{path}: {error.strerror or error}") from None


class _Reader:
    """A position in the file. It goes neither past the end of the file nor past `MAX_HEADER`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.end = min(self.size, MAX_HEADER)
        self.left = self.end

    def bad(self, what: str) -> ModelDamaged:
        return ModelDamaged(
            f"{self.path.name}: {what} (at byte {self.end - self.left:,} of {self.size:,}); "
            "the file is damaged or incomplete: fetch it again"
        )

    def other(self, what: str) -> ModelNotSupported:
        """The error for an undamaged file of a form that is not read."""
        return ModelNotSupported(f"{self.path.name}: {what}")

    def short(self, what: str) -> ModelDamaged:
        """The error if the file, or the part of it that may be read, ends inside `what`."""
        if self.end < self.size:
            return self.bad(f"with {what} the header is longer than {MAX_HEADER:,} bytes")
        return self.bad(f"the file ends inside {what}")

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise self.short(what)
        data = self.file.read(count)
        if len(data) != count:
            raise self.short(what)
        self.left -= count
        return data

    def number(self, format: str, what: str) -> Any:
        return struct.unpack(format, self.take(struct.calcsize(format), what))[0]

    def string(self, what: str) -> bytes:
        return self.take(self.number("<Q", what), what)

    def name(self, what: str, longest: int) -> str:
        data = self.string(what)
        if not 0 < len(data) <= longest or b"\0" in data:
            raise self.bad(f"{what} is not a name of 1 to {longest} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.bad(f"{what} is not UTF-8") from None

    def header(self) -> Header:
        if self.take(4, "the magic number") != b"GGUF":
            raise self.bad("not a GGUF file")
        version = self.number("<I", "the version")
        if version not in (2, 3):
            raise self._unknown_version(version)
        tensor_count = self.number("<Q", "the number of tensors")
        value_count = self.number("<Q", "the number of metadata values")
        # The shortest tensor takes 33 bytes of header, the shortest value 14.
        most_tensors = min(self.left // 33, MAX_TENSORS)
        most_values = min(self.left // 14, MAX_VALUES)
        if tensor_count > most_tensors or value_count > most_values:
            raise self.bad(
                f"{tensor_count:,} tensors and {value_count:,} metadata values: there can be "
                f"{most_tensors:,} and {most_values:,}"
            )
        metadata, types = self._metadata(value_count)
        alignment = metadata.get("general.alignment", 32)
        whole = isinstance(alignment, int) and types.get("general.alignment", 4) == 4
        if not whole or not 8 <= alignment <= 65536 or alignment % 8:
            raise self.bad(f"alignment {alignment!r} is not a multiple of 8 up to 65536")
        tensors = self._tensors(tensor_count)
        position = self.end - self.left
        data_offset = -(-position // alignment) * alignment
        self._check_data(tensors, alignment, data_offset)
        return Header(
            path=self.path,
            version=version,
            metadata=metadata,
            types=types,
            tensors=tensors,
            alignment=alignment,
            data_offset=data_offset,
        )

    def _unknown_version(self, version: int) -> ModelNotSupported:
        """The error for a version that is too old, too new, of the other byte order, or nonsense."""
        swapped = struct.unpack("<I", struct.pack(">I", version))[0]
        known = "ctransformers runs versions 2 and 3"
        if version == 1:
            return self.other(f"GGUF version 1: {known}; convert the model again")
        if 3 < version <= MAX_VERSION:
            return self.other(f"GGUF version {version}, newer than this engine: {known}")
        if swapped in (1, 2, 3):
            return self.other(
                "a big-endian file: ctransformers reads little-endian ones; take the model's other "
                "file, or convert it again"
            )
        return self.bad(f"GGUF version {version} is not known")

    def _metadata(self, count: int) -> tuple[dict[str, Any], dict[str, int]]:
        metadata: dict[str, Any] = {}
        types: dict[str, int] = {}
        for index in range(count):
            key = self.name(f"the key of metadata value {index}", 65535)
            if key in metadata:
                raise self.bad(f"the key '{key}' occurs twice")
            kind = self.number("<I", f"'{key}'")
            if kind == _ARRAY:
                kind = self.number("<I", f"'{key}'")
                metadata[key] = self._array(key, kind, self.number("<Q", f"'{key}'"))
            else:
                metadata[key] = self._scalar(key, kind)
            types[key] = kind
        return metadata, types

    def _scalar(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self.string(f"'{key}'").decode(errors="replace")
        if kind not in _SCALARS:
            raise self.bad(f"'{key}' has the unknown type {kind}")
        value = self.number(_SCALARS[kind][0], f"'{key}'")
        if kind == _BOOL:
            if value > 1:
                raise self.bad(f"'{key}' is a bool of value {value}")
            return bool(value)
        return value

    def _array(self, key: str, kind: int, count: int) -> Any:
        what = f"the {count:,} items of '{key}'"
        if kind == _STRING:
            if count > self.left // 8:
                raise self.short(what)
            return self._string_array(count, what)
        if kind == _ARRAY:
            raise self.other(f"'{key}' is an array of arrays, which ctransformers does not read")
        if kind not in _SCALARS:
            raise self.bad(f"'{key}' is an array of the unsupported type {kind}")
        values = array.array(_SCALARS[kind][1])
        values.frombytes(self.take(count * values.itemsize, what))
        return values

    def _string_array(self, count: int, what: str) -> list[bytes]:
        # The loop in which reading a header spends its time: a vocabulary has 100,000 strings.
        read, unpack, left = self.file.read, struct.Struct("<Q").unpack, self.left
        strings = []
        try:
            for _ in range(count):
                (length,) = unpack(read(8))
                left -= 8 + length
                if left < 0:
                    raise self.short(what)
                strings.append(read(length))
        except struct.error:  # fewer than eight bytes are left, or the file has shrunk since
            raise self.short(what) from None
        self.left = left
        return strings

    def _tensors(self, count: int) -> list[TensorInfo]:
        tensors: list[TensorInfo] = []
        names: set[str] = set()
        for index in range(count):
            name = self.name(f"the name of tensor {index}", MAX_NAME)
            if name in names:
                raise self.bad(f"the tensor '{name}' occurs twice")
            names.add(name)
            dimensions = self.number("<I", f"tensor '{name}'")
            if not 1 <= dimensions <= 4:
                raise self.bad(f"tensor '{name}' has {dimensions} dimensions")
            data = self.take(8 * dimensions, f"tensor '{name}'")
            shape = struct.unpack(f"<{dimensions}Q", data)
            number = self.number("<I", f"tensor '{name}'")
            kind = TENSOR_TYPES.get(number)
            if kind is None:
                why = unread_type(number)
                if why is None:
                    raise self.bad(f"tensor '{name}' has the unknown type {number}")
                raise self.other(
                    f"tensor '{name}' has the type {why}; take another file of the model, such "
                    "as Q4_K_M or Q8_0"
                )
            if min(shape) < 1 or math.prod(shape) > 2**48 or shape[0] % kind.block:
                raise self.bad(f"tensor '{name}' of type {kind.name} has the shape {shape}")
            offset = self.number("<Q", f"tensor '{name}'")
            tensors.append(TensorInfo(name, shape, kind, offset))
        return tensors

    def _check_data(self, tensors: Sequence[TensorInfo], alignment: int, data_offset: int) -> None:
        end = 0
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.offset % alignment:
                raise self.bad(f"tensor '{tensor.name}' is not aligned to {alignment} bytes")
            if tensor.offset < end:
                raise self.bad(f"tensor '{tensor.name}' overlaps another one")
            end = tensor.offset + tensor.nbytes
            if data_offset + end > self.size:
                missing = data_offset + end - self.size
                raise self.bad(
                    f"tensor '{tensor.name}' lies {missing:,} bytes beyond the end of the file"
                )
