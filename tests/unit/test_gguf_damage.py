"""GGUF files that are damaged, or of a form that is not read: each is refused in one line."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from llmwit_magic.engines.backends.ctransformers.checks import check_runnable
from llmwit_magic.errors import InferenceError, ModelDamaged, ModelNotSupported
from llmwit_magic.models.gguf import read_header
from tests.support.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    STRING,
    U32,
    U64,
    items,
    raw,
    tensor,
    text,
    u32,
    value,
)
from tests.support.tiny_models import write_llama_gguf


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


HUGE = (2**31, 2**32, 2**63, 2**64 - 1)


def refusal(path: Path, data: bytes, expected: type[InferenceError] = ModelDamaged) -> str:
    """The message of the refusal, which is one line that names the file."""
    path.write_bytes(data)
    with pytest.raises(ModelNotSupported) as caught:
        read_header(path)
    assert type(caught.value) is expected
    message = str(caught.value)
    assert message.startswith(path.name + ": ")
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) < 1100
    return message


@contextmanager
def cheap(most: int = 4_000_000) -> Iterator[None]:
    """What is done inside takes less than a second, and at no time more than `most` bytes."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begin < 1
    assert peak < most


def test_truncated_at_every_byte(path: Path) -> None:
    """A file that ends at any byte before the end of its last tensor is damaged."""
    whole = raw(
        [
            u32("general.alignment", 32),
            value("general.architecture", STRING, text("llama")),
            value("flag", BOOL, b"\1"),
            items("tokenizer.ggml.tokens", STRING, 3, text("a") + text("") + text("ccc")),
            items("tokenizer.ggml.scores", F32, 3, bytes(12)),
        ],
        [tensor("a", (8, 2)), tensor("b", (32,), 8, 64)],
        data=64 + 34,
    )
    path.write_bytes(whole)
    read_header(path)
    for length in range(len(whole)):
        refusal(path, whole[:length])


def test_truncated_tiny_model(path: Path) -> None:
    """A model that ends within its header or its tensor data is damaged."""
    write_llama_gguf(path)
    whole, header = path.read_bytes(), read_header(path)
    ends = np.linspace(0, header.data_offset, 200, dtype=int).tolist()
    for length in [*ends, len(whole) // 2, len(whole) - 1]:
        refusal(path, whole[:length])


@pytest.mark.parametrize("region", ["beginning", "metadata", "tensors"])
def test_flipped_bits(region: str, path: Path, tmp_path: Path) -> None:
    """A header with flipped bits either is still that of a model, or is refused in one line."""
    write_llama_gguf(path)
    whole, header = path.read_bytes(), read_header(path)
    infos = whole.index(b"token_embd.weight")
    low, high = {
        "beginning": (0, 1200),
        "metadata": (0, infos),
        "tensors": (infos - 8, header.data_offset),
    }[region]
    numbers = random.Random(region)
    messages = []
    for _ in range(200):
        flipped = bytearray(whole)
        for _ in range(numbers.choice((1, 1, 1, 2, 8))):
            bit = numbers.randrange(low * 8, high * 8)
            flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            check_runnable(read_header(path))
        except ModelNotSupported as error:
            messages.append(str(error))
    assert len(messages) > 10
    for message in messages:
        assert message.startswith(path.name + ": ")
        assert message.isprintable()


def test_random_bytes(path: Path) -> None:
    """Random bytes after a valid beginning are refused."""
    numbers = random.Random(1)
    for _ in range(300):
        head = b"GGUF" + struct.pack("<IQQ", 3, numbers.randrange(3), numbers.randrange(1, 4))
        refusal(path, head + numbers.randbytes(numbers.randrange(400)))


PLACES = {
    "tensor count": lambda n: raw(counts=(n, 0)),
    "value count": lambda n: raw(counts=(0, n)),
    "both counts": lambda n: raw(counts=(n, n)),
    "key length": lambda n: raw([struct.pack("<Q", n) + b"key"]),
    "string length": lambda n: raw([value("k", STRING, struct.pack("<Q", n))]),
    "items": lambda n: raw([items("k", U32, n)]),
    "wide items": lambda n: raw([items("k", U64, n)]),
    "byte items": lambda n: raw([items("k", 0, n)]),
    "strings": lambda n: raw([items("k", STRING, n)]),
    "item length": lambda n: raw([items("k", STRING, 1, struct.pack("<Q", n))]),
    "name length": lambda n: raw((), [struct.pack("<Q", n) + b"name"]),
    "dimension": lambda n: raw((), [tensor(shape=(n,))]),
    "two dimensions": lambda n: raw((), [tensor(shape=(n, n))]),
    "four dimensions": lambda n: raw((), [tensor(shape=(n, n, n, n))]),
    "quantised dimension": lambda n: raw((), [tensor(shape=(n // 32 * 32, n), kind=2)]),
    "offset": lambda n: raw((), [tensor(offset=n)]),
}


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("place", PLACES)
def test_huge_numbers(place: str, number: int, path: Path) -> None:
    """A count, length or offset that is too great for the file is refused at once, without memory."""
    data = PLACES[place](number)
    with cheap():
        refusal(path, data)


@pytest.mark.parametrize("version", [0, 1, *HUGE[:1], 2**32 - 1])
def test_unknown_versions(version: int, path: Path) -> None:
    """Only versions 2 and 3 are read. For version 1 the message says what to do."""
    if version == 1:
        message = refusal(path, raw(version=1), ModelNotSupported)
        assert "GGUF version 1" in message
        assert "convert" in message
    else:
        assert f"version {version}" in refusal(path, raw(version=version))


def test_many_counted_values_that_fit_by_size(path: Path) -> None:
    """A count that would fit into the file, but is wrong, is refused at the first broken value."""
    for data in (
        raw(counts=(0, 200_000), data=14 * 200_000),
        raw(counts=(80_000, 0), data=33 * 80_000),
    ):
        with cheap():
            refusal(path, data)


def test_empty_names(path: Path) -> None:
    """An empty key and an empty name of a tensor are refused."""
    refusal(path, raw([u32("", 1)]))
    refusal(path, raw((), [tensor("")]))


BROKEN = {
    "not a GGUF file": raw(magic=b"GGML"),
    "the key 'k' occurs twice": raw([u32("k", 1), u32("k", 2)]),
    "the tensor 't' occurs twice": raw((), [tensor(), tensor(offset=32)]),
    "tensor 'u' overlaps another one": raw((), [tensor(shape=(16,)), tensor("u", offset=32)]),
    "'k' has the unknown type 13": raw([value("k", 13, bytes(8))]),
    "'k' is a bool of value 2": raw([value("k", BOOL, b"\2")]),
    "'k' is an array of the unsupported type 77": raw([items("k", 77, 1, bytes(12))]),
    "tensor 't' has the unknown type 1024": raw((), [tensor(kind=1024)]),
    "tensor 't' has the unknown type 4294967295": raw((), [tensor(kind=2**32 - 1)]),
    "tensor 't' is not aligned to 32 bytes": raw((), [tensor(offset=16)]),
    "tensor 't' has 0 dimensions": raw((), [tensor(shape=())]),
    "tensor 't' has 5 dimensions": raw((), [tensor(shape=(1,) * 5)]),
    "tensor 't' of type F32 has the shape (0,)": raw((), [tensor(shape=(0,))]),
    "tensor 't' of type Q4_0 has the shape (33,)": raw((), [tensor(shape=(33,), kind=2)]),
    "tensor 't' of type Q4_K has the shape (32, 8)": raw((), [tensor(shape=(32, 8), kind=12)]),
    "tensor 't' lies 4 bytes beyond the end": raw((), [tensor(shape=(17,))], data=64),
    "the name of tensor 0 is not UTF-8": raw((), [tensor(b"\xff")]),
    "the name of tensor 0 is not a name of 1 to 63 bytes": raw((), [tensor("t" * 64)]),
    "the key of metadata value 0 is not UTF-8": raw([value(b"\xff", U32, bytes(4))]),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_contradictions(reason: str, path: Path) -> None:
    """A contradiction that the native loader would trust is refused, and the reason is given."""
    assert reason in refusal(path, BROKEN[reason])


OTHER = {
    "Q4_2, which ggml has given up": raw((), [tensor(kind=4)]),
    "Q4_3, which ggml has given up": raw((), [tensor(kind=5)]),
    "Q4_0_4_4, which ggml has given up": raw((), [tensor(kind=31)]),
    "Q4_0_4_8, which ggml has given up": raw((), [tensor(kind=32)]),
    "Q4_0_8_8, which ggml has given up": raw((), [tensor(kind=33)]),
    "IQ4_NL_4_4, which ggml has given up": raw((), [tensor(kind=36)]),
    "IQ4_NL_4_8, which ggml has given up": raw((), [tensor(kind=37)]),
    "IQ4_NL_8_8, which ggml has given up": raw((), [tensor(kind=38)]),
    "NVFP4, newer than ctransformers": raw((), [tensor(kind=40)]),
    "Q1_0, newer than ctransformers": raw((), [tensor(kind=41)]),
    "Q2_0, newer than ctransformers": raw((), [tensor(kind=42)]),
    "has the type 43, which this version does not know: newer than it": raw((), [tensor(kind=43)]),
    "has the type 230, which this version does not know": raw((), [tensor(kind=230)]),
    "a big-endian file": raw(version=3 << 24),
    "GGUF version 4, newer than this engine": raw(version=4),
    "'k' is an array of arrays": raw([items("k", ARRAY, 1, bytes(12))]),
}


@pytest.mark.parametrize("reason", OTHER)
def test_whole_files_of_another_form(reason: str, path: Path) -> None:
    """An undamaged file of a form that is not read is refused, but not called damaged."""
    message = refusal(path, OTHER[reason], ModelNotSupported)
    assert reason in message
    assert "damaged" not in message
    assert "fetch it again" not in message


@pytest.mark.parametrize("alignment", [0, 1, 7, 12, 65544, 2**31, 2**32 - 1])
def test_bad_alignments(alignment: int, path: Path) -> None:
    """An alignment that is not a multiple of 8 from 8 to 65536 is refused. Zero is one such."""
    message = refusal(path, raw([u32("general.alignment", alignment)], [tensor()]))
    assert f"alignment {alignment}" in message


def test_alignment_of_a_wrong_type(path: Path) -> None:
    """An alignment that is a text, a list, or a number of another type is refused as an alignment."""
    key = "general.alignment"
    for wrong in (
        value(key, STRING, text("32")),
        value(key, U64, struct.pack("<Q", 32)),
        value(key, F32, struct.pack("<f", 32)),
        items(key, U32, 1, struct.pack("<I", 32)),
        items(key, STRING, 1, text("32")),
    ):
        assert "alignment" in refusal(path, raw([wrong], [tensor()]))


def test_names_with_nul(path: Path) -> None:
    """A name with a NUL is refused, because the loader would end it there."""
    refusal(path, raw((), [tensor(b"t\0u")]))
    refusal(path, raw([value(b"k\0l", U32, bytes(4))]))


def test_names_cannot_spoil_the_message(path: Path) -> None:
    """The message stays one short line, even for a long name or one with line ends or escape codes."""
    for name in ("a\nb", "a\r\x1b[2Jb", "a\u2028b"):
        refusal(path, raw((), [tensor(name, kind=4)]), ModelNotSupported)
        refusal(path, raw([u32(name, 1), u32(name, 2)]))
        refusal(path, raw([value(name, BOOL, b"\2")]))
    refusal(path, raw([value("k" * 60_000, BOOL, b"\2")]))
