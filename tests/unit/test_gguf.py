"""Headers of GGUF files, sound and broken.

`raw` writes any bytes in the format's order, so that files no writer makes can be tried.
"""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from llmwit_magic.errors import InferenceError, ModelDamaged, ModelNotFound, ModelNotSupported
from llmwit_magic.models.checks import check_runnable
from llmwit_magic.models.gguf import is_gguf, read_header
from llmwit_magic.models.tensor_types import TENSOR_TYPES
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf

#: The format's numbers of the types of values.
U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
HUGE = (2**31, 2**32, 2**63, 2**64 - 1)


def text(data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("<Q", len(data)) + data


def value(key: bytes | str, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def u32(key: str, number: int) -> bytes:
    return value(key, U32, struct.pack("<I", number))


def items(key: str, kind: int, count: int, data: bytes = b"") -> bytes:
    return value(key, ARRAY, struct.pack("<IQ", kind, count) + data)


def tensor(
    name: bytes | str = "t", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0
) -> bytes:
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
    """A file: its values and tensor infos as given, the padding to 32, `data` zeros."""
    values, tensors = list(values), list(tensors)
    tensor_count, value_count = counts or (len(tensors), len(values))
    head = magic + struct.pack("<IQQ", version, tensor_count, value_count)
    head += b"".join(values) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


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
    """Less than a second, and less than `most` bytes at any time."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begin < 1
    assert peak < most


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize(
    ("writer", "options"),
    [
        (write_llama_gguf, {}),
        (write_llama_gguf, {"vocabulary": "spm", "tensor_type": "Q8_0"}),
        (write_llama_gguf, {"vocabulary": "spm", "tensor_type": "F16"}),
        (write_falcon_gguf, {"kv_heads": 2, "parallel_norm": True}),
    ],
)
def test_reads_what_was_written(writer: object, options: dict[str, object], path: Path) -> None:
    """Every value and every tensor's name, shape, type and place are those that gguf reads."""
    writer(path, extra_metadata={"a.bool": True, "a.float": 0.5, "a.negative": -7}, **options)  # type: ignore[operator]
    header, reader = read_header(path), GGUFReader(path)

    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for key, field in fields.items():
        ours = header.metadata[key]
        if isinstance(ours, list):
            assert ours == [bytes(field.parts[index]) for index in field.data]
        elif isinstance(ours, array):
            assert ours.tolist() == field.contents()
        else:
            assert (type(ours), ours) == (type(field.contents()), field.contents())
        assert header.types[key] == field.types[-1]

    assert header.data_offset == reader.data_offset
    assert (header.version, header.alignment) == (3, 32)
    assert len(header.tensors) == len(reader.tensors) > 10
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert ours.name == theirs.name
        assert ours.shape == tuple(theirs.shape.tolist())
        assert ours.type.name == theirs.tensor_type.name
        assert header.data_offset + ours.offset == theirs.data_offset
        assert ours.nbytes == theirs.n_bytes


def test_tensor_types_are_those_of_gguf() -> None:
    """Number, name, block and size of each tensor type are those that the gguf package has."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {theirs.value: theirs for theirs in GGMLQuantizationType}
    assert len(known.keys() & TENSOR_TYPES.keys()) > 28  # an older package lacks the newest
    for number in known.keys() & TENSOR_TYPES.keys():
        kind, theirs = TENSOR_TYPES[number], known[number]
        assert (kind.name, kind.block, kind.size) == (theirs.name, *GGML_QUANT_SIZES[theirs])


def test_reads_scalars_of_every_type(path: Path) -> None:
    """Each scalar type keeps its value at the ends of its range, version 2 as well as 3."""
    numbers = {0: ("B", 255), 1: ("b", -128), 2: ("H", 65535), 3: ("h", -32768)}
    numbers |= {4: ("I", 2**32 - 1), 5: ("i", -(2**31)), 6: ("f", -0.5), 7: ("B", 1)}
    numbers |= {10: ("Q", 2**64 - 1), 11: ("q", -(2**63)), 12: ("d", 1e300)}
    values = [value(f"k{n}", n, struct.pack("<" + f, v)) for n, (f, v) in numbers.items()]
    values += [value("text", STRING, text("né")), items("none", U32, 0)]
    values += [items(f"a{n}", n, 2, struct.pack("<2" + f, v, v)) for n, (f, v) in numbers.items()]
    for version in (2, 3):
        path.write_bytes(raw(values, version=version))
        header = read_header(path)
        assert {n: header.metadata[f"k{n}"] for n in numbers} == {
            n: v for n, (_, v) in numbers.items()
        }
        assert {n: header.metadata[f"a{n}"].tolist() for n in numbers} == {
            n: [v, v] for n, (_, v) in numbers.items()
        }
        assert header.metadata["k7"] is True
        assert header.metadata["text"] == "né"
        assert len(header.metadata["none"]) == 0
        assert header.version == version


def test_strings_need_not_be_utf8(path: Path) -> None:
    """Tokens come back as the bytes that they are."""
    tokens = [b"", b"\xff\xfe", b"a\0b", "é".encode()]
    path.write_bytes(raw([items("tokens", STRING, 4, b"".join(map(text, tokens)))]))
    assert read_header(path).metadata["tokens"] == tokens


def test_alignment_of_the_file_is_used(path: Path) -> None:
    """`general.alignment` decides where the data begins."""
    head = raw([u32("general.alignment", 256)], [tensor()], data=0)
    path.write_bytes(head + bytes(-len(head) % 256) + bytes(32))
    header = read_header(path)
    assert header.alignment == 256
    assert header.data_offset == 256


def test_truncated_at_every_byte(path: Path) -> None:
    """A file that ends anywhere before its last tensor does is damaged, and nothing else."""
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
    """So is a real header at some hundred places, and so is real tensor data."""
    write_llama_gguf(path)
    whole, header = path.read_bytes(), read_header(path)
    ends = np.linspace(0, header.data_offset, 200, dtype=int).tolist()
    for length in [*ends, len(whole) // 2, len(whole) - 1]:
        refusal(path, whole[:length])


@pytest.mark.parametrize("region", ["beginning", "metadata", "tensors"])
def test_flipped_bits(region: str, path: Path, tmp_path: Path) -> None:
    """With any bit flipped, a header is either runnable still or refused as a model."""
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
    """Noise behind a sound beginning is refused."""
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
    """A count, a length or an offset that the file cannot hold costs no memory and no time."""
    data = PLACES[place](number)
    with cheap():
        refusal(path, data)


@pytest.mark.parametrize("version", [0, 1, *HUGE[:1], 2**32 - 1])
def test_unknown_versions(version: int, path: Path) -> None:
    """Only the versions 2 and 3 are read; version 1 says what to do."""
    if version == 1:
        message = refusal(path, raw(version=1), ModelNotSupported)
        assert "GGUF version 1" in message
        assert "convert" in message
    else:
        assert f"version {version}" in refusal(path, raw(version=version))


def test_many_counted_values_that_fit_by_size(path: Path) -> None:
    """Counts that the file could just hold, but does not, end at the first broken value."""
    for data in (
        raw(counts=(0, 200_000), data=14 * 200_000),
        raw(counts=(80_000, 0), data=33 * 80_000),
    ):
        with cheap():
            refusal(path, data)


@pytest.mark.parametrize("count", [0, 1])
def test_small_counts(count: int, path: Path) -> None:
    """Nought and one are counts as any other."""
    path.write_bytes(raw([items("k", U32, count, bytes(4 * count))], [tensor()] * count))
    header = read_header(path)
    assert len(header.metadata["k"]) == len(header.tensors) == count


def test_empty_names(path: Path) -> None:
    """A key or a tensor's name has at least one byte."""
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
    """What the native loader would trust is refused, with its reason."""
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
    """A form that nothing is wrong with and that is not read is not called damaged."""
    message = refusal(path, OTHER[reason], ModelNotSupported)
    assert reason in message
    assert "damaged" not in message
    assert "fetch it again" not in message


def test_every_type_has_one_place() -> None:
    """A type's number is read, given up, or newer than the engine; gguf has no other below 43."""
    from gguf.constants import GGMLQuantizationType

    from llmwit_magic.models.tensor_types import NEWEST_TYPES, RETIRED_TYPES

    assert sorted([*TENSOR_TYPES, *NEWEST_TYPES, *RETIRED_TYPES]) == list(range(43))
    named = {n: kind.name for n, kind in TENSOR_TYPES.items()} | NEWEST_TYPES
    theirs = {int(kind): kind.name for kind in GGMLQuantizationType}
    assert {number: named.get(number) for number in theirs if number < 43} == {
        number: name for number, name in theirs.items() if number < 43
    }


@pytest.mark.parametrize("alignment", [0, 1, 7, 12, 65544, 2**31, 2**32 - 1])
def test_bad_alignments(alignment: int, path: Path) -> None:
    """An alignment is a multiple of 8 up to 65536, so nothing is divided by zero."""
    message = refusal(path, raw([u32("general.alignment", alignment)], [tensor()]))
    assert f"alignment {alignment}" in message


def test_alignment_of_a_wrong_type(path: Path) -> None:
    """An alignment that is a text, another number or a list is refused as one."""
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
    """A name that the loader would read as a shorter one is refused."""
    refusal(path, raw((), [tensor(b"t\0u")]))
    refusal(path, raw([value(b"k\0l", U32, bytes(4))]))


def test_names_cannot_spoil_the_message(path: Path) -> None:
    """A name with line ends, terminal codes or a great length leaves the message one short line."""
    for name in ("a\nb", "a\r\x1b[2Jb", "a\u2028b"):
        refusal(path, raw((), [tensor(name, kind=4)]), ModelNotSupported)
        refusal(path, raw([u32(name, 1), u32(name, 2)]))
        refusal(path, raw([value(name, BOOL, b"\2")]))
    refusal(path, raw([value("k" * 60_000, BOOL, b"\2")]))


def test_tensors_may_lie_in_any_order(path: Path) -> None:
    """The order of the infos is not the order of the data."""
    path.write_bytes(raw((), [tensor("b", offset=32), tensor("a")]))
    assert [t.name for t in read_header(path).tensors] == ["b", "a"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and a folder are not found; neither is taken for a GGUF file."""
    for path in (tmp_path / "missing.gguf", tmp_path):
        assert not is_gguf(path)
        with pytest.raises(ModelNotFound, match=path.name):
            read_header(path)


def test_is_gguf(path: Path) -> None:
    """Only the magic number decides."""
    path.write_bytes(b"GGUF")
    assert is_gguf(path)
    path.write_bytes(b"GGU")
    assert not is_gguf(path)


def test_a_header_is_read_fast(path: Path) -> None:
    """200,000 tokens take less than a second."""
    tokens = b"".join(text(b"%d" % index) for index in range(200_000))
    path.write_bytes(raw([items("tokens", STRING, 200_000, tokens)]))
    begin = time.perf_counter()
    header = read_header(path)
    assert time.perf_counter() - begin < 1
    assert header.metadata["tokens"][-1] == b"199999"
