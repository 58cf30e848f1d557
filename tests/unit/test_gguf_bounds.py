"""Reading a header takes memory and time in proportion to the size of the file."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from llmwit_magic.errors import ModelDamaged
from llmwit_magic.models import gguf
from llmwit_magic.models.gguf import MAX_HEADER, MAX_TENSORS, MAX_VALUES, read_header
from tests.support.gguf_parts import ARRAY, BOOL, F64, STRING, U8, Parts, Tensor, array, text

#: Bytes of memory for each byte of header, where few values or tensors stand in it.
FACTOR = 7
#: And what each value and each tensor may take beside that.
EACH = 700
LIES = (2**31, 2**32, 2**63, 2**64 - 1)


def with_array(kind: int, count: int, items: bytes) -> Parts:
    return Parts([(b"k", ARRAY, array(kind, count, items))], [], b"")


HONEST: dict[str, Callable[[int], Parts]] = {
    "bytes": lambda size: with_array(U8, size, bytes(size)),
    "reals": lambda size: with_array(F64, size // 8, bytes(size)),
    "empty texts": lambda size: with_array(STRING, size // 8, bytes(size // 8 * 8)),
    "short texts": lambda size: with_array(STRING, size // 10, text("ab") * (size // 10)),
    "long texts": lambda size: with_array(STRING, size // 1008, text("a" * 1000) * (size // 1008)),
    "one text": lambda size: Parts([(b"k", STRING, text("é" * (size // 2)))], [], b""),
    "values": lambda size: Parts(
        [(b"%d" % n, BOOL, b"\1") for n in range(min(size // 20, MAX_VALUES))], [], b""
    ),
    "tensors": lambda size: Parts(
        [], [Tensor(b"%d" % n, (1,), 0, 32 * n) for n in range(min(size // 37, MAX_TENSORS))],
        bytes(32 * (size // 37)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [100_000, 2_000_000])
@pytest.mark.parametrize("kind", HONEST)
def test_memory_and_time_grow_with_the_file(kind: str, size: int, tmp_path: Path) -> None:
    """Seven bytes of memory and half a microsecond per byte are enough, whatever the header holds."""
    parts = HONEST[kind](size)
    path = tmp_path / "m.gguf"
    path.write_bytes(parts.join())
    begin = time.process_time()
    header = read_header(path)
    seconds = time.process_time() - begin
    count = len(parts.values) + len(parts.tensors)
    assert len(header.metadata) + len(header.tensors) == count
    assert seconds < 0.1 + size * 0.5e-6
    assert peak_of(path) < 1_000_000 + FACTOR * size + EACH * count


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("kind", [U8, F64, STRING])
def test_a_lie_costs_no_more_than_the_truth(kind: int, lie: int, tmp_path: Path) -> None:
    """A count beyond the file is refused with less memory than the file has bytes."""
    path = tmp_path / "m.gguf"
    path.write_bytes(with_array(kind, lie, text("ab") * 100_000).join())
    begin = time.process_time()
    assert peak_of(path, refused="the file ends inside") < 500_000
    assert time.process_time() - begin < 0.2


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (STRING, struct.pack("<Q", 2**33)),
        (ARRAY, array(U8, 2**33)),
        (ARRAY, array(F64, 2**30)),
        (ARRAY, array(STRING, 2**30)),
        (ARRAY, array(STRING, 1, struct.pack("<Q", 2**33))),
    ],
)
def test_a_file_that_has_room_for_its_lies(kind: int, payload: bytes, tmp_path: Path) -> None:
    """Of a sparse file of 16 GB, no more is read than the longest header that is allowed."""
    path = tmp_path / "m.gguf"
    path.write_bytes(Parts([(b"k", kind, payload)], [], b"").join())
    os.truncate(path, 2**34)
    begin = time.process_time()
    refused = f"the header is longer than {MAX_HEADER:,} bytes"
    assert peak_of(path, refused=refused) < 1_000_000
    assert time.process_time() - begin < 0.2


@pytest.mark.parametrize("counts", [(MAX_TENSORS + 1, 0), (0, MAX_VALUES + 1)])
def test_more_values_than_any_model_has(counts: tuple[int, int], tmp_path: Path) -> None:
    """Too many values or tensors are refused, even if the file has room for them."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + struct.pack("<QQ", *counts) + bytes(4_000_000))
    assert peak_of(path, refused="there can be 65,536 and 65,536") < 1_000_000


@pytest.mark.parametrize("left", [100, 5_001, 9_000])
def test_a_file_that_shrinks_while_it_is_read(left: int, tmp_path: Path) -> None:
    """A file that shrinks while it is read is damaged, wherever it ends now."""
    path = tmp_path / "m.gguf"
    path.write_bytes(with_array(STRING, 1000, text("ab") * 1000).join())
    with path.open("rb", buffering=0) as file:
        reader = gguf._Reader(path, file)
        os.truncate(path, left)
        with pytest.raises(ModelDamaged, match="the file ends inside"):
            reader.header()


def peak_of(path: Path, refused: str | None = None) -> int:
    """The peak of memory, in bytes, while a header is read, or is refused with the text `refused`."""
    tracemalloc.start()
    try:
        if refused is None:
            read_header(path)
        else:
            with pytest.raises(ModelDamaged, match=refused):
                read_header(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
